"""What a run cost and what it kept: a pure projection of its log, for every model, policy and planner alike.

Tokens come in three kinds: the prompts' total, what of them a perfect prefix cache would not have held (each prompt is
compared with all earlier prompts and completions of the same model in this run), and the output. A method that shortens
prompts saves the first and often not the second (folding changes the prefix), so all three are told.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fairtrial.agents.log import (
    WASTED,
    Block,
    Called,
    Folded,
    Limited,
    Log,
    Noted,
    Planned,
    Rejected,
    Result,
    Step,
    folded,
)
from fairtrial.agents.planners.plan import Node
from fairtrial.agents.resolve import UnresolvedError, resolve
from fairtrial.core.trajectory import token_delta
from fairtrial.models.model import Message

Counted = Literal["ids", "usage", "estimate"]
"""How tokens were counted. ids: the model's own, all of them; usage: the totals are the model's own, the uncached share
is that of the characters; estimate: characters by a fixed ratio."""
PER_MESSAGE = 4
"""Tokens that a message's role and marks are taken to cost in an estimate."""


def text_of(message: Message) -> str:
    """What of a message is in the prompt, as one text."""
    calls = "".join(f"\n{call.name}\n{call.arguments}" for call in message.tool_calls)
    return f"{message.reasoning or ''}{message.content}{calls}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Counts tokens by characters: what policies and limits on windows go by before a model has counted."""

    characters_per_token: float = 4.0

    def __call__(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt."""
        return sum(PER_MESSAGE + self.tokens(text_of(message)) for message in messages)

    def tokens(self, text: str) -> int:
        """Tokens of a text."""
        return math.ceil(len(text) / self.characters_per_token)


@dataclass(frozen=True, slots=True)
class CallTokens:
    """Tokens of one model call."""

    purpose: Literal["turn", "summary", "reader"]
    prompt: int
    uncached: int
    """What a perfect prefix cache would not have held."""
    output: int


def call_tokens(log: Log, estimate: Estimate) -> tuple[list[CallTokens], Counted]:
    """Tokens of each model call in order, and how they were counted."""
    calls = list(log.calls())
    if calls and all(call.reply.prompt_ids is not None and call.reply.completion_ids is not None for call in calls):
        return list(_by_ids(calls)), "ids"
    counted: Counted = "usage" if calls and all(call.reply.usage.input_tokens for call in calls) else "estimate"
    return list(_by_text(calls, log, estimate, counted)), counted


def _by_ids(calls: Sequence[Called]) -> Iterator[CallTokens]:
    earlier: dict[str, list[tuple[int, ...]]] = {}
    for call in calls:
        prompt, output = call.reply.prompt_ids or (), call.reply.completion_ids or ()
        known = earlier.setdefault(call.reply.model, [])
        yield CallTokens(call.purpose, len(prompt), len(token_delta(prompt, known).append), len(output))
        known.append((*prompt, *output))


def _by_text(calls: Sequence[Called], log: Log, estimate: Estimate, counted: Counted) -> Iterator[CallTokens]:
    earlier: dict[str, list[str]] = {}
    for call in calls:
        messages, reply = call.request.messages or (), call.reply
        text = "".join(f"\x00{message.role}\x00{text_of(message)}" for message in messages)
        if call.request.tools:
            text = json.dumps(call.request.tools) + text
        known = earlier.setdefault(reply.model, [])
        share = 1 - max((_common(text, other) for other in known), default=0) / len(text)
        if counted == "usage":
            prompt, output = reply.usage.input_tokens, reply.usage.output_tokens
        else:
            prompt = estimate(messages) + (estimate.tokens(json.dumps(call.request.tools)) if call.request.tools else 0)
            output = estimate.tokens(text_of(reply.message))
        yield CallTokens(call.purpose, prompt, round(prompt * share), output)
        known.append(f"{text}\x00assistant\x00{text_of(reply.message)}")


def _common(left: str, right: str) -> int:
    """Characters that two texts share from the start."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def blocks_by_turn(log: Log) -> list[int]:
    """For each model turn: blocks that folds have left and steps that no fold has told yet. A plain log grows by 1."""
    counts: list[int] = []
    blocks: list[Block] = []
    steps = 0
    for event in log.events:
        if isinstance(event, Folded):
            blocks = folded(blocks, event, latest=steps - 1)
        elif isinstance(event, Planned):
            steps += 1
        elif isinstance(event, Called) and event.purpose == "turn":
            counts.append(len(blocks) + steps - (blocks[-1].end + 1 if blocks else 0))
    return counts


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that the task turns on."""

    value: str
    """As its sources say it."""
    page: str | None = None
    """Title of the page that says it; None: any."""
    leads: tuple[int, ...] = ()
    """Indices of the facts that are found with its help: when all have been seen it may be dropped. None: it is needed
    to the end."""


def survival(log: Log, facts: Sequence[Fact]) -> list[tuple[int, int, int]]:
    """Which facts are still in the context, by their age: rows (age in steps, present, needed).

    A fact is seen at the first step with a result that says it and comes from its page. From then on each model turn
    counts it once while it is needed, present where its text is in the prompt (case and spaces aside). Facts that the
    question gives away are left out.
    """
    asked = _plain(log.asked.question)
    patterns = {index: _whole(fact.value) for index, fact in enumerate(facts) if _plain(fact.value)}
    patterns = {index: pattern for index, pattern in patterns.items() if not pattern.search(asked)}
    told = {(step.number, result.node): _plain(f"{args} {result.text}") for step, result, _, args in tool_calls(log)}
    seen: dict[int, int] = {}
    table: dict[int, list[int]] = {}
    step = 0
    for event in log.events:
        if isinstance(event, Planned):
            step = event.step + 1
        elif isinstance(event, Result):
            text = told.get((event.step, event.node), "")
            for index, pattern in patterns.items():
                if index not in seen and _plain(facts[index].page or "") in text and pattern.search(text):
                    seen[index] = event.step
        elif isinstance(event, Called) and event.purpose == "turn" and seen:
            prompt = _plain("\n".join(text_of(message) for message in event.request.messages or ()))
            for index, at in seen.items():
                if facts[index].leads and seen.keys() >= set(facts[index].leads):
                    continue
                row = table.setdefault(step - at, [0, 0])
                row[0] += patterns[index].search(prompt) is not None
                row[1] += 1
    return [(age, present, needed) for age, (present, needed) in sorted(table.items())]


def _whole(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(_plain(text))}(?!\w)")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of the run's clock in tools."""

    makespan_s: float
    """From the start of a step's first node to the end of its last, over all steps. Of a step that was streamed: from
    when the turn was accepted."""
    ahead_s: float
    """How long tools worked while the model still wrote, over all steps that were streamed."""
    critical_path_s: float
    """The longest chains of the same steps, with the nodes' measured durations: what no executor can beat."""
    work_s: float
    """All nodes' durations."""


def times(steps: Sequence[Step]) -> Times:
    """How long the tools took, and how long they would have had to."""
    ran = [step for step in steps if step.results]
    spans = [
        (min(r.started for r in step.results), step.planned.at, max(r.ended for r in step.results)) for step in ran
    ]
    makespan = sum(max(0.0, end - max(first, at)) for first, at, end in spans)
    ahead = sum(max(0.0, min(end, at) - first) for first, at, end in spans)
    work = sum(result.ended - result.started for step in ran for result in step.results)
    return Times(makespan, ahead, sum(_longest(step) for step in ran), work)


def _longest(step: Step) -> float:
    """The longest chain of a step's plan; the plan has no cycle (or it would not have run)."""
    took = {result.node: result.ended - result.started for result in step.results}
    nodes = {node.id: node for node in step.planned.plan.nodes}
    waiting = {node.id: len(set(node.deps)) for node in nodes.values()}
    after: dict[str, list[str]] = {}
    for node in nodes.values():
        for dep in set(node.deps):
            after.setdefault(dep, []).append(node.id)
    begins = dict.fromkeys(nodes, 0.0)
    ready = [name for name, left in waiting.items() if not left]
    longest = 0.0
    while ready:
        name = ready.pop()
        end = begins[name] + took.get(name, 0.0)
        longest = max(longest, end)
        for later in after.get(name, ()):
            begins[later] = max(begins[later], end)
            waiting[later] -= 1
            if not waiting[later]:
                ready.append(later)
    return longest


def called_with(node: Node, results: Sequence[Result]) -> dict[str, Any] | None:
    """The arguments that a node was called with, its references replaced; None where it could not be called."""
    try:
        return resolve(node.args, {result.node: result.value for result in results if result.status == "ok"})
    except UnresolvedError:
        return None


def tool_calls(log: Log) -> Iterator[tuple[Step, Result, str, Mapping[str, Any]]]:
    """Every node that was run: its step, its result, its tool, and the arguments that it was called with."""
    for step in log.steps:
        nodes = {node.id: node for node in step.planned.plan.nodes}
        for result in step.results:
            args = called_with(nodes[result.node], step.results)
            if args is not None and result.status != "skipped":
                yield step, result, nodes[result.node].tool, args


def visited(log: Log, tool: str = "visit", argument: str = "title") -> list[str]:
    """Titles of the pages that were opened, each once, in order."""
    titles = [
        str(args.get(argument)) for _, result, name, args in tool_calls(log) if name == tool and result.status == "ok"
    ]
    return list(dict.fromkeys(titles))


def account(log: Log, estimate: Estimate, *, facts: Sequence[Fact] = (), pages: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that is counted of a run, as JSON.

    Args:
        log: The run.
        estimate: For models that do not count their tokens.
        facts: What the task turns on; see `survival`.
        pages: Titles of the pages that are needed; for wasted visits. Empty where they are not known.
    """
    calls, counted = call_tokens(log, estimate)
    turns = [call for call in calls if call.purpose == "turn"]
    rejected = Counter(event.code for event in log.events if isinstance(event, Rejected))
    spent = times(log.steps)
    return {
        "turns": len(log.steps),
        "model_calls": dict(Counter(call.purpose for call in calls)),
        "rejected": dict(sorted(rejected.items())),
        "valid_turns": _ratio(len(log.steps), len(log.steps) + rejected.total()),
        "tokens": {
            "counted_by": counted,
            **_sums(calls),
            **{purpose: _sums([c for c in calls if c.purpose == purpose]) for purpose in ("turn", "summary", "reader")},
        },
        "context": [call.prompt for call in turns],
        "final_context": turns[-1].prompt if turns else 0,
        "largest_context": max((call.prompt for call in turns), default=0),
        "blocks": blocks_by_turn(log),
        "tools": _tools(log, pages),
        "time": {
            "makespan_s": spent.makespan_s,
            "ahead_s": spent.ahead_s,
            "critical_path_s": spent.critical_path_s,
            "work_s": spent.work_s,
            "ratio": _ratio(spent.makespan_s, spent.critical_path_s),
        },
        "survival": [list(row) for row in survival(log, facts)],
        "limits": [event.limit for event in log.events if isinstance(event, Limited)],
        "noted": dict(Counter(event.code for event in log.events if isinstance(event, Noted))),
    }


def _sums(calls: Sequence[CallTokens]) -> dict[str, int]:
    return {kind: sum(getattr(call, kind) for call in calls) for kind in ("prompt", "uncached", "output")}


def _tools(log: Log, pages: Sequence[str]) -> dict[str, Any]:
    """Calls of tools; those in vain (for a refused turn), failed, made again, or to pages not needed are wasted."""
    outcomes = Counter(result.status for step in log.steps for result in step.results)
    asked = Counter(
        json.dumps([tool, args], sort_keys=True) for _, result, tool, args in tool_calls(log) if result.status == "ok"
    )
    repeated = asked.total() - len(asked)
    failed = outcomes.total() - outcomes["ok"]
    beside = len(set(visited(log)) - set(pages)) if pages else 0
    in_vain = sum(isinstance(event, Noted) and event.code == WASTED for event in log.events)
    nodes = [len(step.planned.plan.nodes) for step in log.steps if step.planned.plan.nodes]
    return {
        "calls": outcomes.total(),
        "outcomes": dict(sorted(outcomes.items())),
        "repeated": repeated,
        "beside": beside,
        "in_vain": in_vain,
        "wasted": failed + repeated + beside + in_vain,
        "plans": len(nodes),
        "nodes_per_plan": _ratio(sum(nodes), len(nodes)),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
