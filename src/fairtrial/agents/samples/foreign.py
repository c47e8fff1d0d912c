"""Runs of trajectories in the vocabulary of all formats: as chats, each message of the agent a turn.

Prompts are what stands before a turn, which is what an agent that appends saw. Where the trajectory has the token ids
of its model calls, they are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fairtrial.agents.samples.runs import Act, Call, Exchange, Run, texts_in
from fairtrial.agents.samples.segmenting import spans_of
from fairtrial.core.trajectory import (
    ApiAction,
    CodeAction,
    Item,
    MessageAction,
    TextObservation,
    Trajectory,
    WebObservation,
)
from fairtrial.models.model import Message, ToolCall

_ACTIONS = (ApiAction, CodeAction, MessageAction)
_TEXTS = (TextObservation, WebObservation)
_CODE = "execute_code"
"""The tool that code is shown as a call of; the language is its argument."""


def run_of_trajectory(trajectory: Trajectory, *, scores: Mapping[str, float] | None = None) -> Run:
    """The run of a trajectory; images make it unusable, which `problem` says."""
    groups = _groups(trajectory.content)
    graded = dict(scores or {})
    if trajectory.reward is not None:
        graded.setdefault("reward", trajectory.reward)
    unread = next((item for group in groups for item in group if _text(item) is None), None)
    if unread is not None:
        return Run(trajectory.id, (), "", (), scores=graded, problem=f"{unread.class_}: samples hold text only")
    observed = [item for item in trajectory.content if isinstance(item, _TEXTS) and _is_result(item)]
    return Run(
        trajectory.id,
        tuple(_exchanges(trajectory, groups)),
        _known(trajectory.content),
        tuple(_acts(groups)),
        ran=len(observed),
        failed=sum(item.is_error is True for item in observed),
        scores=graded,
        problem=None if any(isinstance(group[0], _ACTIONS) for group in groups) else "the agent did nothing",
    )


def _groups(items: Sequence[Item]) -> list[list[Item]]:
    """Items of one message each: what is joined, and a message of the agent with the calls that follow it."""
    groups: list[list[Item]] = []
    for item in items:
        if groups and item.joined and isinstance(item, _ACTIONS) == isinstance(groups[-1][0], _ACTIONS):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _is_result(item: TextObservation | WebObservation) -> bool:
    return item.call_id is not None or isinstance(item, WebObservation) or item.source == "environment"


def _text(item: Item) -> str | None:
    """What is to be read of an observation (of a page its accessibility tree, else its HTML); of an action ""."""
    if isinstance(item, WebObservation):
        return item.axtree or item.html
    if isinstance(item, TextObservation):
        return item.content
    return "" if isinstance(item, _ACTIONS) else None


def _known(items: Sequence[Item]) -> str:
    """What the agent was told before it began."""
    told: list[str] = []
    for item in items:
        if isinstance(item, _ACTIONS):
            break
        told.append(_text(item) or "")
    return "\n".join(told)


def _exchanges(trajectory: Trajectory, groups: Sequence[Sequence[Item]]) -> list[Exchange]:
    found: list[Exchange] = []
    messages: list[Message] = []
    tools = tuple(trajectory.tools)
    open_calls: set[str] = set()
    for group in groups:
        if not isinstance(group[0], _ACTIONS):
            messages += [_heard(item, open_calls) for item in group if isinstance(item, _TEXTS)]
            continue
        said = _said(group, len(found))
        open_calls |= {call.id for call in said.tool_calls}
        prompt, completion, pieces = _ids(trajectory, group)
        found.append(
            Exchange(
                len(found),
                "turn",
                tuple(messages),
                tools,
                said,
                tuple(spans_of(said, acts="answer")),
                _refused(group),
                False,
                prompt,
                completion,
                pieces,
            )
        )
        messages.append(said)
    return found


def _refused(group: Sequence[Item]) -> str | None:
    if any(item.loss is False for item in group):
        return "marked as not to be learned"
    if any(item.synthetic for item in group):
        return "written by a converter"
    if any(isinstance(item, ApiAction) and item.malformed is not None for item in group):
        return "format: malformed arguments"
    if any("rejected" in item.extra.get("fairtrial", {}) for item in group):
        return "format: rejected"
    return None


def _ids(trajectory: Trajectory, group: Sequence[Item]) -> tuple[Any, Any, None]:
    """(prompt ids, completion ids, no bytes) of the call that a turn came from, where all is there."""
    numbers = {item.model_call for item in group if isinstance(item, _ACTIONS)}
    if len(numbers) == 1 and (number := numbers.pop()) is not None:
        call = trajectory.model_calls[number]
        if call.prompt is not None and call.completion_ids is not None:
            return trajectory.prompt_ids(number), call.completion_ids, None
    return None, None, None


def _said(group: Sequence[Item], number: int) -> Message:
    """The agent's message: what it stated, said and called."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for item in group:
        assert isinstance(item, _ACTIONS)
        if item.reasoning and item.reasoning not in thoughts:
            thoughts.append(item.reasoning)
        if item.description and item.description not in texts:
            texts.append(item.description)
        if isinstance(item, MessageAction):
            texts.append(item.content)
            continue
        name, args = (item.function, item.kwargs) if isinstance(item, ApiAction) else (_CODE, _code(item))
        arguments = item.malformed if isinstance(item, ApiAction) and item.malformed is not None else _json(args)
        calls.append(ToolCall(id=item.call_id or f"call_{number}_{len(calls)}", name=name, arguments=arguments))
    reasoning = "\n".join(thoughts) or None
    return Message(role="assistant", content="\n".join(texts), reasoning=reasoning, tool_calls=tuple(calls))


def _heard(item: TextObservation | WebObservation, open_calls: set[str]) -> Message:
    text = _text(item) or ""
    if item.call_id is not None and item.call_id in open_calls:
        name = item.name if isinstance(item, TextObservation) else None
        return Message(role="tool", content=text, tool_call_id=item.call_id, name=name)
    source = item.source if isinstance(item, TextObservation) else "environment"
    return Message(role="system" if source == "system" else "assistant" if source == "agent" else "user", content=text)


def _acts(groups: Sequence[Sequence[Item]]) -> list[Act]:
    acts: list[Act] = []
    for group in groups:
        if isinstance(group[0], _ACTIONS):
            calls = tuple(call for item in group if (call := _call(item)) is not None)
            if calls:
                acts.append(Act(calls, ()))
        elif acts:
            texts = tuple(_text(item) or "" for item in group)
            acts[-1] = Act(acts[-1].calls, acts[-1].results + texts)
    return acts


def _call(item: Item) -> Call | None:
    if isinstance(item, ApiAction):
        return Call(item.function, tuple(texts_in(item.kwargs)), free=True)
    return Call(_CODE, (item.content,), free=True) if isinstance(item, CodeAction) else None


def _code(item: CodeAction) -> dict[str, Any]:
    return {"language": item.language, "code": item.content}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
