"""What a world is: episodes with a question, tools over what can be known, a verifier, and the gold plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fairtrial.core.clock import Clock
from fairtrial.core.config import Config
from fairtrial.core.trial import TaskInfo


@dataclass(frozen=True, slots=True)
class GoldStep:
    """One step of a gold plan."""

    id: str
    question: str
    """With {id} where the value of an earlier step belongs, such as `population of {s1}`."""
    value: str
    deps: tuple[str, ...] = ()
    page: str | None = None
    """Title of the page that says it."""


@dataclass(frozen=True, slots=True)
class SkillText:
    """A skill as texts, as the Agent Skills specification divides it: name and description, body, further files."""

    name: str
    description: str
    body: str
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path within the skill, such as `references/steps.md`, -> text."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything of it that can be read."""
        return self.description, self.body, *self.files.values()


@dataclass(frozen=True, slots=True)
class Episode:
    """One task of a world."""

    info: TaskInfo
    question: str
    answers: tuple[str, ...]
    """Each of them is right. Of a table or of several questions: see `facts`."""
    plan: tuple[GoldStep, ...] = ()
    """In an order in which each step comes behind those that it needs; empty where it is not known."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON about the episode for the world's own verifier and for reports (family, hops, branches ...)."""
    skills: tuple[SkillText, ...] = ()
    """What teaches how to solve it; the arm says which of it, and of what else, an agent gets to see."""

    @property
    def steps(self) -> int:
        """Steps of the gold plan."""
        return len(self.plan)

    @property
    def critical_path(self) -> int:
        """Steps of its longest chain: with it `steps` says how much can run at the same time at all."""
        depth: dict[str, int] = {}
        for step in self.plan:
            depth[step.id] = 1 + max((depth[dep] for dep in step.deps), default=0)
        return max(depth.values(), default=0)


@dataclass(frozen=True, slots=True)
class Function:
    """A tool that a world offers: an async function with named arguments, its schema, and that it changes nothing."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[[Mapping[str, Any]], Awaitable[Any]]


class World(Protocol):
    """A family of episodes. Registered under `fairtrial.worlds`; built from its settings."""

    settings_type: type[Config]

    def __init__(self, settings: Any, base: Path) -> None: ...

    def episodes(self) -> Sequence[Episode]:
        """All episodes in a fixed order. Raises UserError for files that cannot be read."""
        ...

    def functions(self, episode: Episode, clock: Clock, seed: int) -> Sequence[Function]:
        """Make the tools for one run.

        Latencies are slept on `clock` and drawn, like tool errors, from `seed` and
        the arguments, never from the order of calls.
        """
        ...

    def grade(self, episode: Episode, answer: str | None, visited: Sequence[str]) -> dict[str, float]:
        """Scores of an answer (None: there was none), all in 0 to 1; `visited` are titles of pages that were opened.

        The score "em" is exact match and the one that studies analyse; others: "f1", "provenance", "rows" ...
        """
        ...


class Teaching(Protocol):
    """What a world has beside `World` if its episodes carry skills."""

    def library(self) -> Sequence[SkillText]:
        """All skills of the world, those of its episodes among them; no two have the same name."""
        ...

    def practice(self, episode: Episode, count: int) -> Sequence[Episode]:
        """Other episodes that the same skills solve, none of them in `episodes()`: to learn from, not to be judged."""
        ...
