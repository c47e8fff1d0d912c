"""What a context policy is: a pure function from the log to the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fairtrial.agents.log import Folded, Log
from fairtrial.core.config import Config
from fairtrial.models.model import Message

Count = Callable[[Sequence[Message]], int]
"""Tokens of a prompt, as the model counts them or as the run estimates them."""


class WindowFullError(Exception):
    """The prompt does not fit the policy's window and the policy does not shorten: the run asks for its answer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy takes out of a reply's text."""

    fold: Folded | None
    explanation: str
    """Kept in later prompts."""
    rest: str
    """The text that the planner reads; thinking and what belongs to the policy are gone."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A summary that the policy wants before the next turn: steps `start` to `end` are to be told by the answer."""

    start: int
    end: int
    messages: tuple[Message, ...]
    fallback: str
    """What stands for the steps if no summary comes: a trim that needs no model."""
    tokens: int | None = None
    """How many the answer may have."""


class ContextPolicy(Protocol):
    """A context policy. Registered under `fairtrial.policies`."""

    settings_type: type[Config]

    def __init__(self, settings: Any, count: Count) -> None: ...

    @property
    def rules(self) -> str:
        """What the system message says of the policy's own part of each reply; "" for none."""
        ...

    def render(self, log: Log) -> tuple[Message, ...]:
        """The prompt. Every call of a tool in it has exactly one result. Raises WindowFullError."""
        ...

    def read(self, text: str, log: Log) -> Turn:
        """Take the policy's part out of a reply. Raises RejectedTurn (planners.planner)."""
        ...

    def write(self, fold: Folded | None, explanation: str = "", thinking: str = "") -> str:
        """What a model says before its action: put in front of it, `read` takes fold and explanation out again."""
        ...

    def digest(self, log: Log) -> Digest | None:
        """The summary that is due before the next prompt, if any."""
        ...
