"""ChatML rows: `{text}` of <|im_start|>role, a line break, content, <|im_end|>; with the calls of Qwen and Hermes.

Read: the layout of the chat templates of Qwen 2.5 and 3 and of Hermes 2 Pro: <think> before a response's text, a
<tool_call> block of JSON for each call after it, results as <tool_response> blocks in a user or tool turn, tool
schemas as JSON in <tools> in the system text. Tools are written as such a block at the end of the system text, without
a template's wording around it.

Loss: a text has no mask. Responses with `loss` false at the end are cut off (with a note); a row with one elsewhere
is refused, as is one whose texts contain the marks, so that what is written would read back differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import Item
from fairtrial.formats.openai_chat import lift_reward, name_row, tell_row
from fairtrial.formats.text_turns import (
    Turn,
    call_json,
    call_object,
    call_of_object,
    learnable,
    response,
    split_thought,
    tools_of,
    turns_of_items,
    with_thought,
)

NAME = "chatml"
_START, _END = "<|im_start|>", "<|im_end|>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_RESULT, _RESULT_END = "<tool_response>", "</tool_response>"
_TOOLS, _TOOLS_END = "<tools>\n", "\n</tools>"
_MARKS = (_START, _END, _CALL, _CALL_END)


def _likes(value: Any) -> int:
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str) or _START not in text:
        return 0
    return 90 if text.lstrip().startswith(_START) else 60


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not an object")
    fields = dict(value)
    text = fields.pop("text")
    if not isinstance(text, str) or _START not in text:
        raise RowError(f"the text has no {_START} in it")
    own: dict[str, Any] = {}
    row: Row = {"id": "", "content": []}
    content: list[Item] = row["content"]
    waiting: list[str] = []
    before, *blocks = text.split(_START)
    if before:
        own["before"] = before
    for number, block in enumerate(blocks):
        role, _, rest = block.partition("\n")
        body, closed, after = rest.partition(_END)
        if not closed and not body and number == len(blocks) - 1:
            own["after"] = _START + block  # the prompt for a response that was not made
            break
        if not number and role == "system":
            body = _take_tools(body, row, own)
            if body is None:
                continue
        made = _items(role, body, number, waiting, notes)
        if made[0]["class_"] == "api_action":
            waiting = [item["function"] for item in made if item["class_"] == "api_action"]
        if after != "\n" or not closed:
            made[0].setdefault("extra", {}).setdefault(NAME, {})["after"] = closed + after
        content += made
    lift_reward(fields, row)
    name_row(row, fields, value, own, NAME)
    if fields:
        own["fields"] = fields
    if own:
        row["extra"] = {NAME: own}
    return row


def _take_tools(body: str, row: Row, own: dict[str, Any]) -> str | None:
    """The system text without the block of tools at its end; None where nothing else was in it."""
    start, end = body.rfind(_TOOLS), body.rfind(_TOOLS_END)
    if not 0 <= start < end:
        return body
    block = body[start + len(_TOOLS) : end]
    try:
        values = [orjson.loads(line) for line in block.split("\n") if line.strip()]
    except ValueError:
        return body
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    tools = tools_of(values, Notes())
    if tools is None:
        return body
    row["tools"] = tools
    if body == _with_tools(body[:start].removesuffix("\n\n"), tools) and tools == values:
        return body[:start].removesuffix("\n\n") if start else None
    own["tools"] = "in text"
    return body


def _with_tools(text: str, tools: list[dict[str, Any]]) -> str:
    lines = "\n".join(orjson.dumps(tool).decode() for tool in tools)
    return f"{text}\n\n{_TOOLS}{lines}{_TOOLS_END}" if text else f"{_TOOLS}{lines}{_TOOLS_END}"


def _items(role: str, body: str, number: int, waiting: list[str], notes: Notes) -> list[Item]:
    if role == "assistant":
        return _response(body, number, notes)
    if role in ("user", "tool"):
        results = _results(body)
        if results is not None or role == "tool":
            extra: dict[str, Any] = {"role": role} if role == "tool" else {}
            made: list[Item] = []
            for text in [body] if results is None else results:
                item: Item = {"class_": "text_observation", "content": text, "source": "environment"}
                if waiting:
                    item["name"] = waiting.pop(0)
                made.append(item)
            if results is None:
                extra["bare"] = True
            if extra:
                made[0]["extra"] = {NAME: extra}
            return made
    if role not in ("user", "system"):
        notes.flaw("unknown role", f"turn {number} has the role {role[:40]!r}")
    source = role if role in ("user", "system") else "environment"
    seen: Item = {"class_": "text_observation", "content": body, "source": source}
    if source != role:
        seen["extra"] = {NAME: {"role": role, "bare": True}}
    return [seen]


def _response(body: str, number: int, notes: Notes) -> list[Item]:
    reasoning, rest = split_thought(body)
    calls: list[Item] = []
    start = rest.find(_CALL)
    text, at = rest[:start].removesuffix("\n") if start >= 0 else rest, start
    while at >= 0:
        end = rest.find(_CALL_END, at)
        call = _call(rest[at + len(_CALL) : end], notes) if end >= 0 else None
        if call is None:
            notes.flaw("malformed call", f"a call of turn {number} is no JSON of a call: {rest[at : at + 80]!r}")
            return response(rest, reasoning, [])
        calls.append(call)
        end += len(_CALL_END)
        at = rest.find(_CALL, end)
        between = rest[end : at if at >= 0 else len(rest)].strip("\n")
        if between and at >= 0:
            text = f"{text}\n{between}" if text else between
            notes.rewrite("text between calls stands before them", between)
        elif between:
            calls.append({"class_": "message_action", "content": between})
    return response(text, reasoning, calls)


def _call(text: str, notes: Notes) -> Item | None:
    try:
        return call_of_object(orjson.loads(text), notes)
    except ValueError:
        return None


def _results(body: str) -> list[str] | None:
    """The texts of a turn that is nothing but results; None for any other."""
    text = body.strip("\n")
    if not (text.startswith(_RESULT) and text.endswith(_RESULT_END)):
        return None
    texts: list[str] = []
    for block in text.split(_RESULT)[1:]:
        inner, closed, after = block.partition(_RESULT_END)
        if not closed or after.strip("\n"):
            return None
        texts.append(inner.removeprefix("\n").removesuffix("\n"))
    return texts


def _encode(row: Row, notes: Notes) -> Iterator[Any]:
    own = (row.get("extra") or {}).get(NAME) or {}
    tell_row(row, notes, NAME)
    if row.get("details"):
        notes.drop("details", orjson.dumps(row["details"]).decode())
    turns = list(turns_of_items(row.get("content") or [], notes, NAME))
    if any(turn.loss is not None for turn in turns):
        turns = learnable(turns, notes)
    tools: list[dict[str, Any]] = [] if own.get("tools") else list(row.get("tools") or ())
    text = own.get("before", "") + _text(turns, tools, notes) + own.get("after", "")
    back = _decode({"text": text}, Notes())
    read = list(turns_of_items(back["content"], Notes(), NAME))
    if _said(read) != _said(turns) or (tools and back.get("tools") != tools):
        raise RowError(
            "a text contains ChatML's marks (<|im_start|>, <tool_call>, <think> ...): it would read otherwise"
        )
    value: dict[str, Any] = {"text": text}
    if own.get("id") is None:
        value["id"] = row["id"]
    if row.get("reward") is not None:
        value["reward"] = row["reward"]
    yield value | (own.get("fields") or {})


def _said(turns: list[Turn]) -> list[Any]:
    return [(turn.role, turn.text, turn.reasoning, [call_object(call) for call in turn.calls]) for turn in turns]


def _text(turns: list[Turn], tools: list[dict[str, Any]], notes: Notes) -> str:
    """The turns as one text; results in a row are one user turn."""
    out: list[str] = []
    after = ""
    if tools and (not turns or turns[0].role != "system"):
        out.append(f"{_START}system\n{_with_tools('', tools)}{_END}\n")
    for number, turn in enumerate(turns):
        if turn.role != "tool" or turn.own or not number or turns[number - 1].role != "tool":
            after = turn.own.get("after", f"{_END}\n")
        if turn.role == "tool":
            body = turn.text if turn.own.get("bare") else f"{_RESULT}\n{turn.text}\n{_RESULT_END}"
            if number and turns[number - 1].role == "tool" and not turn.own and not turns[number - 1].own.get("bare"):
                out.append(f"{out.pop().removesuffix(after)}\n{body}{after}")
            else:
                out.append(f"{_START}{turn.own.get('role', 'user')}\n{body}{after}")
            continue
        body = turn.text
        if not number and turn.role == "system" and tools:
            body = _with_tools(body, tools)
        blocks = [f"{_CALL}\n{call_json([call], notes, _MARKS)}\n{_CALL_END}" for call in turn.calls]
        body = "\n".join([body, *blocks] if body or not blocks else blocks)
        out.append(f"{_START}{turn.role}\n{with_thought(turn.reasoning, body)}{after}")
    return "".join(out)


CHATML = Format(name=NAME, title="ChatML texts (Qwen 2.5 and 3, Hermes)", likes=_likes, decode=_decode, encode=_encode)
