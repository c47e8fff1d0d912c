"""A run as training data sees it: its model calls with what became of them, and the facts that filters go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fairtrial.agents.context.append import Append
from fairtrial.agents.context.clear_results import ClearResults
from fairtrial.agents.context.last_n import LastN
from fairtrial.agents.context.policy import ContextPolicy, WindowFullError
from fairtrial.agents.log import Answered, Asked, Called, Event, Folded, Log, Noted, Planned, Rejected
from fairtrial.agents.planners.plan import Node, Ref, Template
from fairtrial.agents.samples.sample import Kind
from fairtrial.agents.samples.segmenting import Span, spans_of
from fairtrial.models.model import Message, Reply

Purpose = Literal["turn", "summary", "reader"]
REPLAYED = (Append, LastN, ClearResults)
"""Policies whose prompts need no text of the model's but its turns: runs can be shown under them again."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One model call: the prompt, the reply, and which spans of it are what."""

    call: int
    """Number of the call in its run, from 0."""
    purpose: Purpose
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    reply: Message
    spans: tuple[Span, ...]
    refused: str | None = None
    """Why nothing of it is learned; None: it is."""
    repair: bool = False
    """Whether the prompt ends with a turn that could not be read."""
    prompt_ids: tuple[int, ...] | None = None
    completion_ids: tuple[int, ...] | None = None
    pieces: tuple[bytes, ...] | None = None
    """The bytes of the completion's ids."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool as a plan says it."""

    tool: str
    texts: tuple[str, ...]
    """Texts and numbers among its arguments, without what refers to other calls."""
    free: bool
    """Whether it needs no other call of its plan (level 0)."""
    after: int = 0
    """The length of the longest chain of calls before it."""


@dataclass(frozen=True, slots=True)
class Act:
    """One plan and what came back."""

    calls: tuple[Call, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A run."""

    id: str
    exchanges: tuple[Exchange, ...]
    known: str
    """What the agent was told before it began: question and rules."""
    acts: tuple[Act, ...]
    ran: int = 0
    """Calls that ended ok, with an error, or too late."""
    failed: int = 0
    """Those of them that did not end ok: environment errors."""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    problem: str | None = None
    """Why no sample can be made of it."""


class ReplayError(ValueError):
    """A run cannot be shown under another policy."""


def run_of_log(
    log: Log, id: str, *, prompts: Sequence[tuple[int, ...] | None] = (), scores: Mapping[str, float] | None = None
) -> Run:
    """The run of a log.

    Args:
        log: As it was played, or as it was read back.
        id: Of the run.
        prompts: The prompts' token ids by model call, where the log does not hold them (read back, it does not).
        scores: What it was graded.
    """
    results = [result for step in log.steps for result in step.results]
    return Run(
        id,
        tuple(_exchanges(log, prompts)),
        f"{log.asked.question}\n{log.asked.rules}",
        tuple(_acts(log)),
        ran=sum(result.status in ("ok", "error", "timeout") for result in results),
        failed=sum(result.status in ("error", "timeout") for result in results),
        scores=scores or {},
    )


def replayed(log: Log, policy: ContextPolicy) -> Log:
    """The run of a log as it would look under another policy, if the model had said the same: without rejected turns.

    Raises ReplayError for a run whose turns hold folds, or where a prompt does not fit.
    """
    if any(isinstance(event, Folded) for event in log.events):
        raise ReplayError("its turns were said under folds")
    shown = Log(log.asked)
    for index, event in enumerate(log.events):
        if isinstance(event, Called) and event.purpose == "turn":
            if _fate(log.events, index)[0] is not None:
                continue
            try:
                messages = policy.render(shown)
            except WindowFullError:
                raise ReplayError("a prompt does not fit the policy's window") from None
            request = event.request.model_copy(update={"messages": messages})
            shown.add(Called(request, _without_ids(event), "turn"))
        elif not isinstance(event, Rejected | Asked | Called | Noted):
            shown.add(event)
    return shown


def _without_ids(called: Called) -> Reply:
    return replace(called.reply, prompt_ids=None, completion_ids=None, logprobs=None, token_bytes=None)


def _exchanges(log: Log, prompts: Sequence[tuple[int, ...] | None]) -> list[Exchange]:
    found: list[Exchange] = []
    events = log.events
    repair = False
    for index, event in enumerate(events):
        if not isinstance(event, Called):
            continue
        refused, action, acts = None, "", "act"
        if event.purpose == "turn":
            refused, planned, answered = _fate(events, index)
            action, acts = (planned.action if planned else ""), ("answer" if answered else "act")
        elif event.purpose == "summary" and not event.reply.text.strip():
            refused = "summary: empty"
        if refused is None and event.reply.finish == "length":
            refused = "cut off"
        number = len(found)
        prompt = event.reply.prompt_ids
        if prompt is None and number < len(prompts):
            prompt = prompts[number]
        found.append(
            Exchange(
                number,
                event.purpose,
                event.request.messages or (),
                event.request.tools,
                event.reply.message,
                tuple(_spans(event, action, acts)),
                refused,
                repair and event.purpose == "turn",
                prompt,
                event.reply.completion_ids,
                event.reply.token_bytes,
            )
        )
        if event.purpose == "turn":
            repair = refused is not None and refused.startswith("format")
    return found


def _spans(event: Called, action: str, acts: Kind) -> list[Span]:
    if event.purpose == "summary":
        return spans_of(event.reply.message, acts="summary", rest="summary")
    if event.purpose == "reader":
        return spans_of(event.reply.message, acts="answer", rest="answer")
    return spans_of(event.reply.message, action=action, acts=acts)


def _fate(events: Sequence[Event], call: int) -> tuple[str | None, Planned | None, bool]:
    """(why it is refused, its step, whether it answers) of a turn, by what comes behind its call."""
    for index in range(call + 1, len(events)):
        event = events[index]
        if isinstance(event, Rejected):
            return f"format: {event.code}", None, False
        if isinstance(event, Planned):
            behind = events[index + 1] if index + 1 < len(events) else None
            return None, event, isinstance(behind, Answered)
        if isinstance(event, Called):
            break
    return "not settled", None, False


def _acts(log: Log) -> list[Act]:
    return [
        Act(calls_of(step.planned.plan.nodes), tuple(result.text for result in step.results))
        for step in log.steps
        if step.planned.plan.nodes
    ]


def calls_of(nodes: Sequence[Node]) -> tuple[Call, ...]:
    """The calls of a plan (its nodes may refer ahead)."""
    known = {node.id: node for node in nodes}
    depth: dict[str, int] = {}
    waiting = {node.id: {dep for dep in node.deps if dep in known} for node in nodes}
    after: dict[str, list[str]] = {}
    for name, deps in waiting.items():
        for dep in deps:
            after.setdefault(dep, []).append(name)
    ready = [name for name, deps in waiting.items() if not deps]
    while ready:
        name = ready.pop()
        depth[name] = 1 + max((depth[dep] for dep in known[name].deps if dep in depth), default=-1)
        for later in after.get(name, ()):
            waiting[later].discard(name)
            if not waiting[later]:
                ready.append(later)
    return tuple(Call(node.tool, tuple(texts_in(node.args)), not node.deps, depth.get(node.id, 0)) for node in nodes)


def texts_in(value: Any) -> list[str]:
    """The texts and numbers in arguments, from left to right."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool | None | Ref):
        return []
    if isinstance(value, int | float):
        return [str(value)]
    if isinstance(value, Template):
        return ["".join(part if isinstance(part, str) else " " for part in value.parts)]
    inner = value.values() if isinstance(value, Mapping) else value
    return [text for each in inner for text in texts_in(each)]
