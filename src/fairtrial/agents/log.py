"""The append-only log of one run of an agent: all that a context policy renders prompts from, and nothing is ever lost.

Events come in canonical order (results in the order of the plan, never of completion), so a log does not depend on
latencies. Steps count from 0; a step is one accepted turn: what the model did and what came back. Folds are events too:
`blocks` is what they leave of the earlier steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fairtrial.agents.planners.plan import Plan
from fairtrial.models.model import Message, Reply, Request

Status = Literal["ok", "error", "timeout", "cancelled", "skipped"]
"""How a node of a plan ended; each node has exactly one. skipped: something that it depends on did not end ok."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The task as the agent was given it; first event of every log."""

    question: str
    tools: tuple[dict[str, Any], ...] = ()
    """OpenAI function schemas."""
    rules: str = ""
    """What planner and policy ask of the model's output; part of the system message."""
    native: bool = False
    """Whether tools go to the provider as schemas, and calls and results as messages of their own."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Called:
    """One answered model call."""

    request: Request
    reply: Reply
    purpose: Literal["turn", "summary", "reader"] = "turn"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A turn that could not be read: nothing of it was run. The model is told and may try again."""

    code: str
    """Machine-readable: "fold-range", "fold-json", "unknown-tool", "cycle", "schema" ..."""
    message: str
    """For the model, one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Folded:
    """Steps `start` to `end`, both included, are from now on told by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Planned:
    """An accepted turn begins step `step`: what the model said beside its action, and what is to be run."""

    step: int
    plan: Plan
    explanation: str = ""
    """Kept in later prompts (AgentFold's motivation). Thinking is not; it stays in the call's reply."""
    action: str = ""
    """The action as the model wrote it."""
    at: float = field(default=0.0, compare=False)
    """When it was accepted, in seconds of the run's clock; no part of the canonical log."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a node came to."""

    step: int
    node: str
    status: Status
    text: str
    """As the model sees it; of a failure, what went wrong."""
    value: Any = None
    """What later nodes refer to."""
    attempts: int = 1
    started: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)
    """Seconds of the run's clock; no part of the canonical log."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The agent's final answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Limited:
    """A limit was reached. `last` asks for the final answer now; without it the run ends here."""

    limit: str
    last: bool = True


@dataclass(frozen=True, slots=True)
class Noted:
    """What happened beside: a summary that failed, a trim that had to step in."""

    code: str
    text: str


WASTED = "wasted-call"
"""Code of the note on a call that was begun for a turn that then was refused."""
Event = Asked | Called | Rejected | Folded | Planned | Result | Answered | Limited | Noted


@dataclass(frozen=True, slots=True)
class Step:
    """One accepted turn as policies see it."""

    number: int
    message: Message
    """The model's own message."""
    planned: Planned
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Steps `start` to `end`, told by `text`; start == end is AgentFold's granular condensation."""

    start: int
    end: int
    text: str


class Log:
    """Append-only list of events."""

    def __init__(self, asked: Asked) -> None:
        self._events: list[Event] = [asked]
        self._steps: list[Step] = []
        self._results: list[Result] = []
        """Of the last step, not yet in it: steps are put together when they are asked for."""
        self._blocks: list[Block] = []
        self._pending: list[tuple[Message, Rejected]] = []
        self._message: Message | None = None

    def add(self, event: Event) -> None:
        """Append an event. Raises ValueError for one that does not fit what came before (a bug of the caller)."""
        if isinstance(event, Asked):
            raise ValueError("the task is given once")
        if isinstance(event, Called) and event.purpose == "turn":
            self._message = event.reply.message
        elif isinstance(event, Rejected):
            assert self._message is not None
            self._pending.append((self._message, event))
        elif isinstance(event, Planned):
            if event.step != len(self._steps) or self._message is None:
                raise ValueError(f"step {event.step} does not follow step {len(self._steps) - 1} and its model call")
            self._gather()
            self._steps.append(Step(event.step, self._message, event, ()))
            self._pending = []
        elif isinstance(event, Result):
            if event.step != len(self._steps) - 1:
                raise ValueError(f"a result of step {event.step} came in step {len(self._steps) - 1}")
            self._results.append(event)
        elif isinstance(event, Folded):
            self._blocks = folded(self._blocks, event, latest=len(self._steps) - 1)
        self._events.append(event)

    @property
    def asked(self) -> Asked:
        """The task."""
        first = self._events[0]
        assert isinstance(first, Asked)
        return first

    @property
    def events(self) -> tuple[Event, ...]:
        """All of it, in order."""
        return tuple(self._events)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All accepted turns with their results."""
        self._gather()
        return tuple(self._steps)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What folds have made of the earlier steps: contiguous, from step 0; steps behind the last are untold."""
        return tuple(self._blocks)

    @property
    def pending(self) -> tuple[tuple[Message, Rejected], ...]:
        """Rejected turns since the last accepted one, with what the model had said."""
        return tuple(self._pending)

    @property
    def limited(self) -> Limited | None:
        """The limit that asks for the final answer now, if any."""
        return next((event for event in reversed(self._events) if isinstance(event, Limited)), None)

    @property
    def answer(self) -> str | None:
        """The final answer, if there is one."""
        last = self._events[-1]
        return last.text if isinstance(last, Answered) else None

    def _gather(self) -> None:
        if self._results:
            step = self._steps[-1]
            results = (*step.results, *self._results)
            self._steps[-1], self._results = Step(step.number, step.message, step.planned, results), []

    def calls(self) -> Iterator[Called]:
        """All model calls in order."""
        return (event for event in self._events if isinstance(event, Called))

    def prefix(self, events: int) -> Log:
        """The log as it was when it held so many events: what a pure policy renders the same prompt from."""
        log = Log(self.asked)
        for event in self._events[1:events]:
            log.add(event)
        return log


class FoldError(ValueError):
    """A fold that would break the partition of steps; `code` as in `Rejected`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = "fold-range"


def folded(blocks: list[Block], fold: Folded, *, latest: int) -> list[Block]:
    """The blocks after a fold (AgentFold, 2510.24699, section 3.2): all blocks inside its range give way to one.

    The blocks partition the steps 0 .. end. Raises FoldError for a range that would split a block, leave a gap, or go
    beyond the latest step.
    """
    told = blocks[-1].end if blocks else -1
    if not 0 <= fold.start <= fold.end <= latest:
        raise FoldError(f"the range [{fold.start}, {fold.end}] is not within the steps 0 to {latest}")
    if fold.end < told:
        raise FoldError(f"the range [{fold.start}, {fold.end}] ends before step {told}, which is folded already")
    starts = {block.start for block in blocks} | set(range(told + 1, latest + 1))
    if fold.start not in starts:
        raise FoldError(f"the range [{fold.start}, {fold.end}] would split a block; it may start at {_list(starts)}")
    if fold.start > told + 1:
        raise FoldError(f"the range [{fold.start}, {fold.end}] leaves out step {told + 1}, which is not folded yet")
    kept = [block for block in blocks if block.end < fold.start]
    return [*kept, Block(fold.start, fold.end, fold.text)]


def _list(starts: set[int]) -> str:
    return ", ".join(str(start) for start in sorted(starts)[-12:])


def tool_names(asked: Asked) -> Mapping[str, dict[str, Any]]:
    """The offered tools' schemas by name."""
    return {tool["function"]["name"]: tool["function"] for tool in asked.tools}
