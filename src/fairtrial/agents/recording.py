"""A log as a trajectory (what every room reads), and as JSON lines (all of it, prompts included, to be read back).

The JSON lines hold no time, so equal runs give equal bytes. A prompt is stored as the messages that it does not share
with the prompt of the call of its kind before it: linear in an agent that appends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson

from fairtrial.agents.accounting import called_with
from fairtrial.agents.context import tags
from fairtrial.agents.log import (
    Answered,
    Asked,
    Called,
    Event,
    Folded,
    Limited,
    Log,
    Noted,
    Planned,
    Rejected,
    Result,
    Step,
)
from fairtrial.agents.planners.plan import Node, Plan, Ref, Template
from fairtrial.core.errors import CorruptError, one_line
from fairtrial.core.limits import Usage
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import ApiAction, Item, MessageAction, ModelCall, TextObservation, Trajectory
from fairtrial.models.model import Message, Reply, Request, Sampling

OWN = "fairtrial"
_TOLD = Limited | Noted


def trajectory_of(log: Log, id: str) -> Trajectory:
    """The run as actions and observations in order, with the table of its model calls.

    Folds, rejections and limits are kept: a fold under `extra.fairtrial.fold` of the action beside which it was made (a
    summary: of a note from the system), a rejected turn as the message that it was and the answer that it got.
    """
    writer = _Writer(log)
    return Trajectory(
        id=id,
        content=tuple(writer.items()),
        tools=log.asked.tools,
        model_calls=tuple(model_calls(log)),
    )


def model_calls(log: Log) -> list[ModelCall]:
    """The table of model calls, prompts as deltas of token ids where the model gives ids."""
    table: list[ModelCall] = []
    earlier: list[tuple[int, ...]] = []
    for call in log.calls():
        made = call.reply.call(earlier)
        table.append(made.model_copy(update={"sampling": {**made.sampling, "purpose": call.purpose}}))
        earlier.append((*(call.reply.prompt_ids or ()), *(call.reply.completion_ids or ())))
    return table


class _Writer:
    """Walks a log and writes items."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._steps = {step.number: step for step in log.steps}
        self._nodes: dict[str, Node] = {}
        self._calls = -1
        self._turn: Called | None = None
        self._turn_index: int | None = None
        self._fold: Folded | None = None
        self._summary = False

    def items(self) -> list[Item]:
        """All items in order."""
        asked = self._log.asked
        items: list[Item] = []
        if asked.rules:
            items.append(TextObservation(content=asked.rules, source="system"))
        items.append(TextObservation(content=asked.question, source="user"))
        for event in self._log.events[1:]:
            items += self._item(event)
        return items

    def _item(self, event: Event) -> Sequence[Item]:
        if isinstance(event, Called):
            self._calls += 1
            self._summary = event.purpose == "summary"
            if event.purpose == "turn":
                self._turn, self._turn_index = event, self._calls
        elif isinstance(event, Folded):
            if self._summary:
                return [TextObservation(content=event.text, source="system", extra=_own(fold=_range(event)))]
            self._fold = event
        elif isinstance(event, Rejected):
            return self._rejected(event)
        elif isinstance(event, Planned):
            return self._planned(self._steps[event.step])
        elif isinstance(event, Result):
            return [self._result(event)]
        elif isinstance(event, Answered):
            return [self._action(MessageAction(content=event.text))]
        elif isinstance(event, _TOLD):
            if isinstance(event, Noted) and event.code == "summary-failed":
                self._summary = True
            named = {"limit": event.limit} if isinstance(event, Limited) else {"code": event.code}
            text = f"limit reached: {event.limit}" if isinstance(event, Limited) else event.text
            return [TextObservation(content=text, source="system", extra=_own(**named))]
        return []

    def _rejected(self, event: Rejected) -> Sequence[Item]:
        assert self._turn is not None
        said = self._turn.reply.message
        written = "\n".join([said.content, *(f"{call.name}({call.arguments})" for call in said.tool_calls)]).strip()
        extra = _own(rejected=event.code)
        return [
            MessageAction(content=written, reasoning=said.reasoning, model_call=self._turn_index, extra=extra),
            TextObservation(content=event.message, source="environment", is_error=True, extra=extra),
        ]

    def _planned(self, step: Step) -> Sequence[Item]:
        nodes = step.planned.plan.nodes
        self._nodes = {node.id: node for node in nodes}
        items: list[Item] = []
        for index, node in enumerate(nodes):
            args = called_with(node, step.results)
            action = ApiAction(
                function=node.tool,
                kwargs=written(node.args) if args is None else args,
                malformed=node.malformed,
                call_id=_call_id(step.number, node.id),
                joined=index > 0,
                extra=_own(node=node.id, **({"deps": list(node.deps)} if node.deps else {})),
            )
            items.append(
                self._action(action) if index == 0 else action.model_copy(update={"model_call": self._turn_index})
            )
        return items

    def _action(self, action: Any) -> Any:
        """The first action of a turn carries what was said beside it: thinking, why, and the fold."""
        assert self._turn is not None
        said = self._turn.reply.message
        thought = said.reasoning or tags.apart(said.content)[1] or None
        why = self._log.steps[-1].planned.explanation if isinstance(action, MessageAction) else None
        if isinstance(action, ApiAction):
            why = self._steps[int((action.call_id or "0.").split(".", 1)[0])].planned.explanation
        extra = dict(action.extra)
        if self._fold is not None:
            extra[OWN] = {**extra.get(OWN, {}), "fold": {**_range(self._fold), "text": self._fold.text}}
            self._fold = None
        return action.model_copy(
            update={"reasoning": thought, "description": why or None, "model_call": self._turn_index, "extra": extra}
        )

    def _result(self, event: Result) -> Item:
        return TextObservation(
            content=event.text,
            source="environment",
            name=self._nodes[event.node].tool,
            call_id=_call_id(event.step, event.node),
            is_error=event.status != "ok",
            extra=_own(status=event.status) if event.status != "ok" else {},
        )


def _call_id(step: int, node: str) -> str:
    return f"{step}.{node}"


def _own(**fields: Any) -> dict[str, Any]:
    return {OWN: fields}


def _range(fold: Folded) -> dict[str, Any]:
    return {"start": fold.start, "end": fold.end}


def written(value: Any) -> Any:
    """Arguments as JSON, with `{"$ref": [node, ...path]}` and `{"$text": [...]}` where other nodes' values belong."""
    if isinstance(value, Ref):
        return {"$ref": [value.node, *value.path]}
    if isinstance(value, Template):
        return {"$text": [part if isinstance(part, str) else written(part) for part in value.parts]}
    if isinstance(value, Mapping):
        return {str(key): written(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [written(inner) for inner in value]
    return value


def _read_args(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$ref"}:
            return Ref(value["$ref"][0], tuple(value["$ref"][1:]))
        if set(value) == {"$text"}:
            return Template(tuple(part if isinstance(part, str) else _read_args(part) for part in value["$text"]))
        return {key: _read_args(inner) for key, inner in value.items()}
    return [_read_args(inner) for inner in value] if isinstance(value, list) else value


_KINDS: dict[str, type[Any]] = {
    kind.__name__.lower(): kind for kind in (Asked, Rejected, Folded, Planned, Result, Answered, Limited, Noted)
}


def dump_log(log: Log, redactor: Redactor | None = None) -> bytes:
    """The log as JSON lines; see `load_log`. With a `redactor`, secrets are replaced and then no token ids are kept."""
    rows = list(_rows(log))
    if redactor is not None:
        rows = redactor.trace(rows)
    return b"\n".join(map(_line, rows)) + b"\n"


def _rows(log: Log) -> Iterator[dict[str, Any]]:
    last: dict[str, tuple[Message, ...]] = {}
    for event in log.events:
        if isinstance(event, Called):
            yield _call_data(event, last.get(event.purpose, ()))
            last[event.purpose] = event.request.messages or ()
        else:
            yield {"kind": type(event).__name__.lower(), **_event_data(event)}


def _line(data: Any) -> bytes:
    try:
        return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # integers beyond 64 bits, halves of characters: models write such things
        return json.dumps(data, sort_keys=True).encode()


def _event_data(event: Event) -> dict[str, Any]:
    if isinstance(event, Planned):
        nodes = [{**asdict(node), "args": written(node.args)} for node in event.plan.nodes]
        return {"step": event.step, "nodes": nodes, "explanation": event.explanation, "action": event.action}
    data = asdict(event)
    if isinstance(event, Result):
        del data["started"], data["ended"]
    return data


def _call_data(event: Called, before: Sequence[Message]) -> dict[str, Any]:
    messages, request, reply = event.request.messages or (), event.request, event.reply
    keep = next(
        (at for at, (mine, its) in enumerate(zip(messages, before, strict=False)) if mine is not its and mine != its),
        min(len(messages), len(before)),
    )
    return {
        "kind": "called",
        "purpose": event.purpose,
        "keep": keep,
        "append": [message.model_dump(mode="json", exclude_defaults=True) for message in messages[keep:]],
        "tools": bool(request.tools),
        "sampling": request.sampling.model_dump(mode="json", exclude_defaults=True),
        "message": reply.message.model_dump(mode="json", exclude_defaults=True),
        "finish": reply.finish,
        "model": reply.model,
        "completion_ids": reply.completion_ids,
        "logprobs": reply.logprobs,
        "usage": reply.usage.model_dump(mode="json", exclude_defaults=True),
        "weights_version": reply.weights_version,
        "used": reply.sampling,
    }


def load_log(content: bytes) -> Log:
    """The log that `dump_log` wrote, without times, prompt ids and the provider's waits.

    Raises CorruptError for what is not such a log.
    """
    last: dict[str, tuple[Message, ...]] = {}
    log: Log | None = None
    for number, line in enumerate(content.splitlines(), 1):
        try:
            data = json.loads(line)
            if log is None:
                log = Log(_read_event(data))
            else:
                log.add(_read_call(data, last, log.asked) if data["kind"] == "called" else _read_event(data))
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            raise CorruptError(f"line {number} of a run's log cannot be read: {one_line(error)[:300]}") from None
    if log is None:
        raise CorruptError("a run's log is empty")
    return log


def _read_event(data: dict[str, Any]) -> Any:
    fields = dict(data)
    kind = _KINDS[fields.pop("kind")]
    if kind is Planned:
        nodes = [
            Node(**{**node, "args": _read_args(node["args"]), "deps": tuple(node["deps"])})
            for node in fields.pop("nodes")
        ]
        return Planned(plan=Plan(tuple(nodes)), **fields)
    event = kind(**fields)
    return replace(event, tools=tuple(event.tools)) if isinstance(event, Asked) else event


def _read_call(data: dict[str, Any], last: dict[str, tuple[Message, ...]], asked: Asked) -> Called:
    kept = last.get(data["purpose"], ())[: data["keep"]]
    messages = (*kept, *(Message.model_validate(message) for message in data["append"]))
    last[data["purpose"]] = messages
    request = Request(
        messages=messages,
        tools=asked.tools if data["tools"] else (),
        sampling=Sampling.model_validate(data["sampling"]),
    )
    ids, logprobs = data["completion_ids"], data["logprobs"]
    reply = Reply(
        message=Message.model_validate(data["message"]),
        finish=data["finish"],
        model=data["model"],
        completion_ids=None if ids is None else tuple(ids),
        logprobs=None if logprobs is None else tuple(logprobs),
        usage=Usage.model_validate(data["usage"]),
        weights_version=data["weights_version"],
        sampling=data["used"],
    )
    return Called(request, reply, data["purpose"])
