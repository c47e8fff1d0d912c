"""Anthropic Messages: a request with its conversation, with or without the response to it.

Read against the API of 2023-06-01 and the Python client's types 0.70-1.x. Four shapes of a row: the request alone,
`{request, response}`, a request with the response's `content` and `stop_reason` beside it, and a request whose last
message already is the response. What is read is written again exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.core.ids import digest
from fairtrial.formats.anthropic_blocks import Names, keep, kept, read_response, read_user, write_response, write_user
from fairtrial.formats.anthropic_turns import Role, tell_what_is_left_out, turns
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import ACTIONS, Item, text

NS = "anthropic"
_ANSWER = frozenset({"content", "stop_reason", "stop_sequence", "usage", "role", "type"})
_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use", "document"})


def _likes(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    request = value.get("request")
    if isinstance(request, dict) and isinstance(request.get("messages"), list):
        answer = value.get("response")
        native = isinstance(answer, dict) and answer.get("type") == "message" and "choices" not in answer
        return 92 if native else min(_likes(request), 84)
    messages = value.get("messages")
    if not isinstance(messages, list):
        return 0
    if value.get("type") == "message" and "content" in value:
        return 90
    if any(isinstance(entry, dict) and entry.get("role") not in ("user", "assistant") for entry in messages[:8]):
        return 0
    tools = value.get("tools")
    if isinstance(tools, list) and tools and isinstance(tools[0], dict) and "input_schema" in tools[0]:
        return 90
    for entry in messages[:8]:
        content = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(content, list) and any(
            isinstance(block, dict)
            and (block.get("type") in _BLOCKS or (block.get("type") == "image" and "source" in block))
            for block in content[:8]
            if not isinstance(block, dict) or isinstance(block.get("type"), str)
        ):
            return 88
    model = value.get("model")
    if isinstance(model, str) and model.startswith("claude"):
        return 86
    if "system" in value and "max_tokens" in value:
        return 84
    return 60 if "system" in value else 30


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not a JSON object")
    request, answer, form = _parts(value)
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise RowError('no list "messages"')
    row: Row = {"id": "", "content": []}
    own: dict[str, Any] = {}
    content: list[Item] = row["content"]
    if "system" in request:
        content += _system(request["system"], notes, own)
    names: Names = {}
    calls: list[dict[str, Any]] = []
    before: str | None = None
    for message in messages:
        role = message["role"]
        items = _message(message, role, before, notes, names)
        if role == "assistant":
            _model_call(message, None, items, calls)
        content += items
        before = role
    if answer is not None:
        items = _message(answer, "assistant", None, notes, names)
        keep(items[0], NS, response=True)
        _model_call(answer, request.get("model"), items, calls)
        content += items
    held = {"messages", "system"}
    tools = request.get("tools")
    if isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools):
        held.add("tools")
        row["tools"] = _read_tools(tools, own)
        if not tools:
            own["tools"] = []
    if form == "beside":
        held |= _ANSWER
    rest = {k: v for k, v in request.items() if k not in held}
    own["form"], own["rest"] = form, rest
    if answer is not None and "role" in answer:
        own["role"] = answer["role"]
    if form == "pair":
        own["beside"] = {k: v for k, v in value.items() if k not in ("request", "response")}
    outer = own.get("beside", rest)
    given = outer.get("id")
    if isinstance(given, str) and given:
        row["id"] = given
    else:
        row["id"] = f"{NS}-{digest(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))[:16]}"
        own["id"] = "made"
    if calls:
        row["model_calls"] = calls
    row["extra"] = {NS: own}
    return row


def _parts(value: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """The request, the answer to it, and how they lie in the row."""
    if "messages" not in value and isinstance(value.get("request"), dict):
        answer = value.get("response")
        if "response" in value and not (isinstance(answer, dict) and "content" in answer):
            raise RowError("the response is no message (it has no content)")
        return value["request"], answer, "pair"
    if isinstance(value.get("content"), list):
        return value, {k: value[k] for k in value.keys() & _ANSWER}, "beside"
    return value, None, "request"


def _message(message: Any, role: Any, before: str | None, notes: Notes, names: Names) -> list[Item]:
    content = message.get("content")
    if role == "assistant":
        items = read_response(content, NS, notes, names)
    else:
        items = read_user(content, NS, notes, names, "system" if role == "system" else "user")
        if role == before and "call_id" in items[0]:
            keep(items[0], NS, turn=True)
        if role not in ("user", "system"):
            notes.flaw("unknown role", f"a message has the role {role!r}")
            keep(items[0], NS, role=role)
        elif role == "system":
            keep(items[0], NS, role=role)
    rest = {k: v for k, v in message.items() if k not in ("role", "content")}
    if rest:
        keep(items[0], NS, message=rest)
    if "content" not in message:
        keep(items[0], NS, bare=True)
    return items


def _system(system: Any, notes: Notes, own: dict[str, Any]) -> list[Item]:
    if isinstance(system, str):
        return [text(system, "system")]
    if not isinstance(system, list) or not system:
        own["system"] = system
        return []
    items = read_user(system, NS, notes, {}, "system")
    if any(item["source"] != "system" for item in items):
        own["system"] = system
        return []
    return items


def _model_call(message: dict[str, Any], model: Any, items: list[Item], calls: list[dict[str, Any]]) -> None:
    call = model_call(message, model)
    if call is not None:
        for item in items:
            if item["class_"] in ACTIONS:
                item["model_call"] = len(calls)
        calls.append(call)


def model_call(message: dict[str, Any], model: Any = None) -> dict[str, Any] | None:
    """A model call of a response's `model`, `usage` and `stop_reason`; None where it gives neither of the first two.

    Anthropic counts cached input tokens apart; here they are part of the input, as `Usage` has it.
    """
    usage, named = message.get("usage"), message.get("model")
    if not isinstance(named, str) and not isinstance(usage, dict):
        return None
    call: dict[str, Any] = {
        "model": named if isinstance(named, str) else model if isinstance(model, str) else "unknown"
    }
    if isinstance(message.get("stop_reason"), str):
        call["finish_reason"] = message["stop_reason"]
    if isinstance(usage, dict):
        cached = _count(usage, "cache_read_input_tokens")
        read = _count(usage, "input_tokens") + _count(usage, "cache_creation_input_tokens") + cached
        call["usage"] = {"calls": 1, "input_tokens": read, "output_tokens": _count(usage, "output_tokens")}
        if cached:
            call["usage"]["cached_tokens"] = cached
    return call


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _read_tools(tools: list[Any], own: dict[str, Any]) -> list[dict[str, Any]]:
    schemas, kept_of = [], {}
    for number, tool in enumerate(tools):
        function: dict[str, Any] = {"name": str(tool.get("name", tool.get("type", "")))}
        if isinstance(tool.get("description"), str):
            function["description"] = tool["description"]
        if "input_schema" in tool:
            function["parameters"] = tool["input_schema"]
        schemas.append({"type": "function", "function": function})
        plain = {"name": function["name"]} | {"description": function.get("description", "")}
        if tool != _write_tool(schemas[-1]):
            kept_of[str(number)] = {
                k: v for k, v in tool.items() if k != "input_schema" and (k not in plain or v != plain[k])
            }
            if "input_schema" not in tool:
                kept_of[str(number)] = {"whole": tool}
    if kept_of:
        own["of_tools"] = kept_of
    return schemas


def _write_tool(schema: Any, own: dict[str, Any] | None = None) -> dict[str, Any]:
    if own and "whole" in own:
        return own["whole"]
    function = schema.get("function", schema)
    tool = {"name": function["name"], "input_schema": function.get("parameters", {"type": "object", "properties": {}})}
    if "description" in function:
        tool["description"] = function["description"]
    if "strict" in function:
        tool["strict"] = function["strict"]
    return tool | (own or {})


def _encode(row: Row, notes: Notes) -> Iterator[dict[str, Any]]:
    own = kept(row, NS)
    request: dict[str, Any] = dict(own.get("rest", {}))
    tell_what_is_left_out(row, notes, NS, "a Messages request")
    for below in row.get("subagents") or ():
        notes.drop("a sub-agent's run: a Messages request has no place for it", orjson.dumps(below).decode())
    if not own:
        _tell(row, notes, request)
        request["id"] = row["id"]
    grouped = turns(row["content"], NS)
    if "system" in own:
        request["system"] = own["system"]
    elif grouped and grouped[0][0] == "system" and "role" not in kept(grouped[0][1][0], NS):
        request["system"] = _write_system(grouped, notes)
    answer: dict[str, Any] | None = None
    messages: list[dict[str, Any]] = []
    for role, items in grouped:
        message = _write_message(role, items, notes)
        if kept(items[0], NS).get("response") and role == "assistant" and answer is None and items is grouped[-1][1]:
            answer = message
        else:
            messages.append(message)
    request["messages"] = messages
    if row.get("tools") or "tools" in own:
        of_tools = own.get("of_tools", {})
        request["tools"] = [_write_tool(t, of_tools.get(str(n))) for n, t in enumerate(row.get("tools") or [])]
    yield _assembled(own, request, answer)


def _assembled(own: dict[str, Any], request: dict[str, Any], answer: dict[str, Any] | None) -> dict[str, Any]:
    form = own.get("form")
    if answer is not None:
        del answer["role"]
        if "role" in own:
            answer["role"] = own["role"]
    if form == "pair":
        value = {**own.get("beside", {}), "request": request}
        return value if answer is None else {**value, "response": answer}
    return request if answer is None else {**request, **answer}


def _write_system(grouped: list[tuple[Role, list[Item]]], notes: Notes) -> Any:
    prompts: list[Item] = []
    while grouped and grouped[0][0] == "system" and "role" not in kept(grouped[0][1][0], NS):
        prompts += grouped.pop(0)[1]
    for item in prompts:
        if item.get("name") and "block" not in kept(item, NS):
            notes.rewrite("a prompt's name is not written", item["name"])
    return write_user(prompts, NS, notes)


def _write_message(role: Role, items: list[Item], notes: Notes) -> dict[str, Any]:
    own = kept(items[0], NS)
    rest = own.get("message", {})
    content = write_response(items, NS, notes) if role == "assistant" else write_user(items, NS, notes)
    named = own.get("role", role)
    if role == "system" and "role" not in own:
        notes.rewrite("a system prompt inside the conversation is written as the user's", items[0].get("content", ""))
        named = "user"
    message = {"role": named, "content": content, **rest}
    if own.get("bare") and content is None:
        del message["content"]
    return message


def _tell(row: Row, notes: Notes, request: dict[str, Any]) -> None:
    """What a row of another format loses here; its model is written where all calls share one."""
    models = {call["model"] for call in row.get("model_calls") or ()}
    if len(models) == 1:
        request["model"] = models.pop()
    if row.get("model_calls"):
        used = orjson.dumps(row["model_calls"]).decode()
        notes.drop("usage and tokens of calls: a Messages request has no place for them", used)
    for item in row["content"]:
        if (
            item["class_"] == "text_observation"
            and item["source"] in ("agent", "environment")
            and "call_id" not in item
        ):
            notes.rewrite(f"text of the {item['source']} is written on the user's turn", item["content"])


ANTHROPIC = Format(
    name="anthropic", title="Anthropic Messages (API 2023-06-01)", likes=_likes, decode=_decode, encode=_encode
)
