"""Logs of runs, written step by step as a runtime would, and every policy with settings under which it acts."""

from collections.abc import Sequence
from typing import Any

import pytest

from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.log import Answered, Asked, Called, Folded, Limited, Log, Planned, Rejected, Result
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.models.model import Message, Reply, Request, ToolCall

ASKED = Request(prompt="?")


def words(messages: Sequence[Message]) -> int:
    """Tokens of a prompt: words, and one for each message and call."""
    return sum(len(message.content.split()) + 1 + len(message.tool_calls) for message in messages)


class Run:
    """A log and shorter ways to write it."""

    def __init__(self, question: str = "Who?", *, native: bool = False, seed: int = 0, rules: str = "") -> None:
        self.native = native
        self.log = Log(Asked(question, (), rules, native, seed))

    def says(self, text: str, *, calls: Sequence[tuple[str, str]] = (), reasoning: str | None = None) -> Message:
        """A model call of a turn; `calls` are (id, arguments)."""
        message = Message(
            role="assistant",
            content=text,
            reasoning=reasoning,
            tool_calls=tuple(ToolCall(id=name, name="look", arguments=arguments) for name, arguments in calls),
        )
        self.log.add(Called(ASKED, Reply(message, "stop", "scripted")))
        return message

    def step(
        self,
        *results: str | Result,
        text: str | None = None,
        fold: tuple[int, int, str] | None = None,
        why: str = "",
        reasoning: str | None = None,
        nodes: int | None = None,
        ids: Sequence[str] = (),
    ) -> "Run":
        """An accepted turn of `nodes` calls (as many as results) and what came back."""
        number = len(self.log.steps)
        count = len(results) if nodes is None else nodes
        names = list(ids) or [f"n{number}{chr(97 + index)}" for index in range(count)]
        action = f"look({number})"
        calls = [(name, f'{{"at": {number}}}') for name in names] if self.native else []
        said = text if text is not None else ("" if self.native else action)
        self.says(said, calls=calls, reasoning=reasoning)
        if fold is not None:
            self.log.add(Folded(*fold))
        unique = names if len(set(names)) == len(names) and all(names) else [str(n) for n in range(1, count + 1)]
        plan = Plan(tuple(Node(name, "look", {"at": number}) for name in unique))
        self.log.add(Planned(number, plan, why, "" if self.native else action))
        for name, result in zip(unique, results, strict=False):
            self.log.add(Result(number, name, "ok", result) if isinstance(result, str) else result)
        return self

    def rejected(self, text: str, code: str, message: str, *, calls: Sequence[tuple[str, str]] = ()) -> "Run":
        """A turn that could not be read."""
        self.says(text, calls=calls)
        self.log.add(Rejected(code, message))
        return self

    def limited(self, limit: str = "turns") -> "Run":
        """A limit that asks for the answer."""
        self.log.add(Limited(limit))
        return self

    def answered(self, text: str) -> "Run":
        """The end."""
        self.says(text)
        self.log.add(Planned(len(self.log.steps), Plan(), "", text))
        self.log.add(Answered(text))
        return self


SPECS: dict[str, dict[str, Any]] = {
    "append": {"id": "append"},
    "append, oldest dropped": {"id": "append", "full": "drop_oldest", "window": 60},
    "last-n": {"id": "last-n", "n": 2},
    "clear-results": {"id": "clear-results", "keep": 1, "placeholder": "-"},
    "summarise-at": {"id": "summarise-at", "trigger": 40, "keep_first": 1, "keep_last": 1, "least": 0.1},
    "rewrite": {"id": "rewrite"},
    "fold": {"id": "fold"},
    "fold, released": {"id": "fold", "dialect": "released"},
    "fold-fixed": {"id": "fold-fixed", "period": 3},
    "fold-random": {"id": "fold-random", "deep": 0.5},
}


@pytest.fixture(scope="session")
def new_run() -> type[Run]:
    """The builder."""
    return Run


@pytest.fixture(scope="session")
def count():
    """Counts words."""
    return words


@pytest.fixture(params=SPECS)
def policy(request: pytest.FixtureRequest) -> ContextPolicy:
    """Each policy in turn."""
    return open_policy(SPECS[request.param], words)


@pytest.fixture(scope="session")
def policies() -> dict[str, ContextPolicy]:
    """All policies."""
    return {name: open_policy(spec, words) for name, spec in SPECS.items()}
