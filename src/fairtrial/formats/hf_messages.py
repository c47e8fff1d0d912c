"""Hugging Face conversational rows, and the export that TRL trains on.

Read: rows as `datasets` 2 to 5 hold them, `{messages | conversations | conversation, tools, ...}` with role / content
messages. Arrow gives every struct of a column the same keys and fills the missing ones with null: such nulls in
messages, tool schemas and arguments that are objects are cleared away. Arguments may be objects (the chat template
convention) or JSON text; both they and `tools` are written as JSON text, which Arrow leaves alone.

TRL: read 1.16.0 with datasets 5.2.0. Its training templates (the ones with `{% generation %}`) print `arguments |
tojson`, so arguments are objects here, contents are text (a template drops a list silently), and `tools` is JSON text,
which its trainers parse. `load_dataset("json", ...)` of datasets 4.8 and later keeps objects as they are.

Loss: a message list has no mask of its own; TRL learns from all assistant messages. So an export must not contain
responses with `loss` false: those at the end are cut off (with a note); where others follow that must be learned from,
the row is refused. TRL_PROMPT_COMPLETION holds such rows: one row for each run of responses to learn from, all before
it as the prompt. Use it with `completion_only_loss` (TRL's default for it) and `assistant_only_loss`, so that tool
results inside a completion are not learned. Synthetic text is learned unless its `loss` is false.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.formats.chat_messages import items_of_messages, messages_of_items
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.openai_chat import chat_likeness, lift_reward, name_row, tell_row

HF = "hf-messages"
_KEYS = ("messages", "conversations", "conversation")
_NULLABLE = frozenset({"tool_calls", "tool_call_id", "name", "function_call", "reasoning_content", "thinking"})


def _likes(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    key = next((key for key in _KEYS if isinstance(value.get(key), list)), None)
    if key is None or not value[key] or "choices" in value or not chat_likeness(value[key]):
        return 0
    if key != "messages" or _is_json_list(value.get("tools")):
        return 82
    filled = all(message.keys() == value[key][0].keys() for message in value[key])
    if filled and any(message.get(name, "") is None for message in value[key] for name in _NULLABLE):
        return 80
    return 78 if any(_has_object_calls(message.get("tool_calls")) for message in value[key]) else 35


def _has_object_calls(calls: Any) -> bool:
    """Whether these are tool calls with objects as arguments, as chat templates take them."""
    if not isinstance(calls, list) or not calls or not isinstance(calls[0], dict):
        return False
    function = calls[0].get("function")
    return isinstance(function, dict) and isinstance(function.get("arguments"), dict)


def _is_json_list(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] == "["


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not an object")
    key = next((key for key in _KEYS if isinstance(value.get(key), list)), None)
    if key is None:
        raise RowError("no list of messages")
    fields = {name: inner for name, inner in value.items() if name != key}
    own: dict[str, Any] = {} if key == "messages" else {"key": key}
    row: Row = {"id": "", "content": []}
    _tools(fields, row, own, notes)
    schemas = {tool["function"].get("name"): tool["function"].get("parameters") for tool in row.get("tools", ())}
    row["content"] = items_of_messages([_cleared(message, schemas, notes) for message in value[key]], notes, HF)
    lift_reward(fields, row)
    if isinstance(fields.get("metadata"), dict) and fields["metadata"]:
        row["details"] = fields.pop("metadata")
    name_row(row, fields, value, own, HF)
    if fields:
        own["fields"] = fields
    if own:
        row["extra"] = {HF: own}
    return row


def _tools(fields: dict[str, Any], row: Row, own: dict[str, Any], notes: Notes) -> None:
    """Take the tools out of a row's fields: a list or its JSON text; schemas with or without their wrapper."""
    tools = fields.get("tools")
    if isinstance(tools, str) and tools:
        try:
            tools = orjson.loads(tools)
        except ValueError:
            notes.flaw("malformed tools", "the tools are neither a list nor the JSON text of one")
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        return
    del fields["tools"]
    tools = without_nulls(tools)
    if all("function" not in tool and "name" in tool for tool in tools):
        own["bare_tools"] = True
        tools = [{"type": "function", "function": tool} for tool in tools]
    elif not all(isinstance(tool.get("function"), dict) for tool in tools):
        raise RowError("a tool has no function")
    row["tools"] = tools


def without_nulls(value: Any) -> Any:
    """The value without keys that are null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def _cleared(message: Any, schemas: dict[Any, Any], notes: Notes) -> Any:
    """A message without the keys that Arrow filled in."""
    if not isinstance(message, dict):
        return message
    cleared = {key: value for key, value in message.items() if value is not None or key == "content"}
    if isinstance(content := cleared.get("content"), list):
        cleared["content"] = [without_nulls(part) for part in content]
    if isinstance(calls := cleared.get("tool_calls"), list):
        cleared["tool_calls"] = [_cleared_call(call, schemas, notes) for call in calls]
        if not calls:
            del cleared["tool_calls"]
    return cleared


def _cleared_call(call: Any, schemas: dict[Any, Any], notes: Notes) -> Any:
    if not isinstance(call, dict):
        return call
    call = {key: value for key, value in call.items() if value is not None}
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    function = call["function"] = {key: value for key, value in function.items() if value is not None}
    if isinstance(arguments := function.get("arguments"), dict):
        schema = schemas.get(function.get("name"))
        properties = schema.get("properties") if isinstance(schema, dict) else None
        known = properties if isinstance(properties, dict) else {}
        kept = {}
        for key, value in arguments.items():
            if value is None and not _may_be_null(known.get(key)):
                notes.drop("null filled in by Arrow", f"{function.get('name')}({key})")
            else:
                kept[key] = without_nulls(value)
                if kept[key] != value:
                    notes.drop("null filled in by Arrow", f"{function.get('name')}({key}): {value}")
        function["arguments"] = kept
    return call


def _may_be_null(schema: Any) -> bool:
    """Whether a parameter's schema allows null in so many words."""
    if not isinstance(schema, dict):
        return False
    types = schema.get("type")
    if schema.get("nullable") is True or types == "null" or (isinstance(types, list) and "null" in types):
        return True
    return any(_may_be_null(choice) for key in ("anyOf", "oneOf") for choice in schema.get(key) or ())


def _encode(row: Row, notes: Notes) -> Iterator[Any]:
    own = (row.get("extra") or {}).get(HF) or {}
    tell_row(row, notes, HF)
    messages = messages_of_items(row.get("content") or [], notes, HF)
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call.get("function")
            if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
                function["arguments"] = orjson.dumps(function["arguments"]).decode()
    value: dict[str, Any] = {own.get("key", "messages"): messages}
    if tools := row.get("tools"):
        if own.get("bare_tools"):
            tools = [tool.get("function", tool) for tool in tools]
        value["tools"] = orjson.dumps(tools).decode()
    if own.get("id") is None:
        value["id"] = row["id"]
    if row.get("reward") is not None:
        value["reward"] = row["reward"]
    if row.get("details"):
        value["metadata"] = row["details"]
    yield value | (own.get("fields") or {})


HF_MESSAGES = Format(
    name=HF,
    title="Hugging Face messages and tools (datasets 2 to 5)",
    likes=_likes,
    decode=_decode,
    encode=_encode,
)

TRL_NAME = "trl"


def _trl_messages(row: Row, notes: Notes) -> tuple[list[dict[str, Any]], list[bool | None]]:
    """The messages in TRL's convention, and of each whether it is learned (None: not the agent's)."""
    tell_row(row, notes, TRL_NAME)
    if row.get("reward") is not None:
        notes.drop("reward", str(row["reward"]))
    if row.get("details"):
        notes.drop("details", orjson.dumps(row["details"]).decode())
    messages = messages_of_items(row.get("content") or [], notes, TRL_NAME)
    learned: list[bool | None] = []
    for message in messages:
        weight = message.pop("weight", 1)
        learned.append(weight != 0 if message["role"] == "assistant" else None)
        message["content"] = _text(message["content"], notes)
        if message["role"] == "developer":
            notes.rewrite("developer as system", message["content"])
            message["role"] = "system"
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = _object(call["function"]["arguments"])
    if True not in learned:
        raise RowError("nothing to learn from: no response of the agent that training may use")
    return messages, learned


def _object(text: str) -> Any:
    """The object that a call's arguments say; malformed ones stay text."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _text(content: Any, notes: Notes) -> str:
    """A content as one text: templates that train take nothing else."""
    if not isinstance(content, list):
        return content or ""
    texts: list[str] = []
    for part in content:
        if part.get("type") == "text":
            texts.append(part["text"])
        else:
            notes.drop("no text", orjson.dumps(part).decode())
    text = "\n\n".join(texts)
    if len(texts) > 1:
        notes.rewrite("several texts as one", text)
    return text


def _trl_row(row: Row, value: dict[str, Any]) -> dict[str, Any]:
    tools = row.get("tools")
    return {"id": row["id"], **value, "tools": orjson.dumps(tools).decode() if tools else None}


def _encode_trl(row: Row, notes: Notes) -> Iterator[Any]:
    messages, learned = _trl_messages(row, notes)
    last = len(learned) - 1 - learned[::-1].index(True)
    if False in learned[:last]:
        raise RowError("a response that must not be learned from stands before one that may: use prompt and completion")
    if False in learned[last:]:
        for message in messages[last + 1 :]:
            notes.drop("not to be learned from", orjson.dumps(message).decode())
        messages = messages[: last + 1]
    yield _trl_row(row, {"messages": messages})


def _encode_prompt_completion(row: Row, notes: Notes) -> Iterator[Any]:
    messages, learned = _trl_messages(row, notes)
    start = last = 0
    while True in learned[start:]:
        first = learned.index(True, start)
        end = learned.index(False, first) if False in learned[first:] else len(learned)
        last = end - 1 - learned[first:end][::-1].index(True)
        yield _trl_row(row, {"prompt": messages[:first], "completion": messages[first : last + 1]})
        start = end
    for message in messages[last + 1 :]:
        notes.drop("not to be learned from", orjson.dumps(message).decode())


TRL = Format(
    name=TRL_NAME,
    title="TRL conversational rows: messages (TRL 1.16)",
    likes=lambda value: 0,
    encode=_encode_trl,
    kind="export",
)
TRL_PROMPT_COMPLETION = Format(
    name="trl-prompt-completion",
    title="TRL conversational rows: prompt and completion (TRL 1.16)",
    likes=lambda value: 0,
    encode=_encode_prompt_completion,
    kind="export",
)
