"""LangChain's messages (langchain-core 1.7.2: constructors, `{type, data}`, dumps) -> OpenAI chat messages."""

from __future__ import annotations

from typing import Any

from fairtrial.formats.part_messages import messages_of
from fairtrial.formats.span_rows import Message

_ROLES = {
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "aimessagechunk": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "function",
    "chat": "user",
}
_FIELDS = frozenset(
    {"content", "type", "role", "tool_calls", "invalid_tool_calls", "additional_kwargs", "tool_call_chunks"}
)
_EMPTY: tuple[Any, ...] = (None, "", [], {}, False)


def langchain_fields(value: Any) -> tuple[str, dict[str, Any]] | None:
    """The type and the fields of a serialised LangChain message; None for anything else."""
    if not isinstance(value, dict):
        return None
    if "lc" in value or ("kwargs" in value and isinstance(value.get("id"), list)):
        path, fields = value.get("id"), value.get("kwargs")
        if not isinstance(path, list) or not path or not isinstance(fields, dict):
            return None
        name = str(path[-1]).lower()
        if "message" not in name:
            return None
        return str(fields.get("type") or name.removesuffix("chunk").removesuffix("message")).lower(), fields
    kind = value.get("type")
    if isinstance(kind, str) and kind.lower() in _ROLES:
        data = value.get("data")
        if isinstance(data, dict) and "content" in data:
            return kind.lower(), data
        if "content" in value and "role" not in value:
            return kind.lower(), value
    return None


def langchain_messages(value: Any) -> list[Message] | None:
    """The chat messages of one LangChain message; None where the value is none."""
    found = langchain_fields(value)
    if found is None:
        return None
    kind, fields = found
    role = _ROLES.get(kind, kind)
    spoken = fields.get("role")
    if kind == "chat" and isinstance(spoken, str):
        role = _ROLES.get(spoken, spoken)
    extra = dict(fields["additional_kwargs"]) if isinstance(fields.get("additional_kwargs"), dict) else {}
    message: Message = {"role": role, "content": fields.get("content")}
    calls = [call for call in fields.get("tool_calls") or () if isinstance(call, dict)]
    raw = extra.pop("tool_calls", None)
    bad = [call for call in fields.get("invalid_tool_calls") or () if isinstance(call, dict)]
    if calls or bad:
        message["tool_calls"] = [*calls, *bad]
    elif isinstance(raw, list):
        message["tool_calls"] = raw
    if isinstance(reasoning := extra.pop("reasoning_content", None), str) and reasoning:
        message["reasoning_content"] = reasoning
    message["content"] = _without_calls(message["content"], calls)
    rest = {key: value for key, value in fields.items() if key not in _FIELDS and value not in _EMPTY}
    for key in ("name", "tool_call_id"):
        if key in rest:
            message[key] = str(rest.pop(key))
    if extra:
        rest["additional_kwargs"] = extra
    if rest:
        message["langchain"] = rest
    return messages_of(message, role)


def _without_calls(content: Any, calls: list[dict[str, Any]]) -> Any:
    """Content blocks less those that the tool calls say again (Anthropic's tool_use)."""
    if not isinstance(content, list):
        return content
    ids = {call.get("id") for call in calls}
    left = [
        block
        for block in content
        if not (
            isinstance(block, dict)
            and block.get("type") in ("tool_use", "tool_call", "input_json_delta", "function_call")
            and (block.get("id") in ids or block.get("call_id") in ids or block.get("type") == "input_json_delta")
        )
    ]
    return left or ""
