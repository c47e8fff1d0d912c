"""Messages of typed parts (OpenTelemetry GenAI, Traceloop, Anthropic blocks in a trace) -> OpenAI chat messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from fairtrial.formats.span_attributes import parsed
from fairtrial.formats.span_rows import Message

_REASONING = frozenset({"reasoning", "thinking"})
_CALLS = frozenset({"tool_call", "tool_use"})
_RESULTS = frozenset({"tool_call_response", "tool_result"})
_TEXTS = frozenset({"text", "input_text", "output_text"})
_MESSAGE = frozenset({"role", "parts", "content", "tool_calls"})


class Memo:
    """The messages of the last prompt read: the next prompt mostly begins with them and need not be read again."""

    __slots__ = ("_given", "_made", "_role")

    def __init__(self) -> None:
        self._given: list[Any] = []
        self._made: list[list[Message]] = []
        self._role = ""

    def read(self, given: list[Any], role: str, make: Callable[[Any, str], list[Message]]) -> list[Message]:
        """The messages of a list, each read by `make` unless the last list had it in the same place."""
        known = self._given if role == self._role else []
        made: list[list[Message]] = []
        same = True
        for place, element in enumerate(given):
            same = same and place < len(known) and known[place] == element
            made.append(self._made[place] if same else make(element, role))
        self._given, self._made, self._role = given, made, role
        return [message for messages in made for message in messages]


def chat_messages(value: Any, role: str, memo: Memo | None = None) -> list[Message]:
    """The messages of an attribute's value: a list, one message, or bare text (then of this role)."""
    value = parsed(value)
    if value is None:
        return []
    if isinstance(value, dict):
        inner = value.get("messages")
        return chat_messages(inner, role) if isinstance(inner, list) else messages_of(value, role)
    if not isinstance(value, list):
        return [{"role": role, "content": value if isinstance(value, str) else orjson.dumps(value).decode()}]
    if memo is not None:
        return memo.read(value, role, _element)
    return [message for element in value for message in _element(element, role)]


def _element(element: Any, role: str) -> list[Message]:
    if isinstance(element, dict):
        return messages_of(element, role)
    return chat_messages(element, role) if isinstance(element, list) else [{"role": role, "content": str(element)}]


def messages_of(message: dict[str, Any], role: str) -> list[Message]:
    """One message of parts as chat messages: each result in it is a message of its own."""
    parts = message.get("parts", message.get("content"))
    spoken = message.get("role")
    spoken = spoken if isinstance(spoken, str) and spoken else role
    rest = {key: value for key, value in message.items() if key not in _MESSAGE and value is not None}
    calls = [chat_call(call) for call in message.get("tool_calls") or () if isinstance(call, dict)]
    if isinstance(parts, str):
        parts = structured if isinstance(structured := parsed(parts), list) and _are_parts(structured) else parts
    if not isinstance(parts, list):
        text = parts if isinstance(parts, str) or parts is None else orjson.dumps(parts).decode()
        return [_message(spoken, text, calls, None, rest)]
    content: list[Any] = []
    reasoning: list[str] = []
    results: list[Message] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind is None:
            content.append({"type": "text", "text": part if isinstance(part, str) else orjson.dumps(part).decode()})
        elif kind in _REASONING and isinstance(text := _first(part, "content", "thinking", "text", "reasoning"), str):
            reasoning.append(text)
        elif kind in _CALLS:
            calls.append(chat_call(part))
        elif kind in _RESULTS:
            results.append(_result(part))
        else:
            content.append(_part(part))
    said = _message(spoken, _content(content), calls, "\n\n".join(reasoning) or None, rest)
    if results and not content and not calls and not reasoning:
        results[0].update(rest)
        return results
    return [*results, said]


def _message(role: str, content: Any, calls: list[Any], reasoning: str | None, rest: dict[str, Any]) -> Message:
    message: Message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = calls
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    for key, value in rest.items():
        message.setdefault(key, value)
    return message


def _content(parts: list[Any]) -> Any:
    if not parts:
        return None
    if len(parts) == 1 and parts[0].get("type") == "text" and len(parts[0]) == 2:
        return parts[0]["text"]
    return parts


def _are_parts(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in value)


def _first(part: dict[str, Any], *names: str) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """Text and images as chat parts; any other part as it is."""
    kind = part["type"]
    if kind in _TEXTS:
        text = _first(part, "content", "text")
        if isinstance(text, str):
            rest = {key: value for key, value in part.items() if key not in ("type", "content", "text")}
            return {"type": "text", "text": text, **{k: v for k, v in rest.items() if v is not None}}
    mime = str(part.get("mime_type") or "")
    if part.get("modality") == "image" or mime.startswith("image/"):
        if kind == "blob" and isinstance(part.get("content"), str):
            return {"type": "image_url", "image_url": {"url": f"data:{mime or 'image/png'};base64,{part['content']}"}}
        if kind == "uri" and isinstance(part.get("uri"), str):
            return {"type": "image_url", "image_url": {"url": part["uri"]}}
    source = part.get("source")
    if kind == "image" and isinstance(source, dict) and isinstance(source.get("data"), str):
        return {"type": "image_url", "image_url": {"url": f"data:{source.get('media_type')};base64,{source['data']}"}}
    return part


def chat_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call in any of its shapes as a chat message has it: {id, type, function: {name, arguments}}."""
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    name = _first(inner, "name") or (function if isinstance(function, str) else "")
    made: dict[str, Any] = {"type": "function", "function": {"name": str(name), "arguments": _arguments(inner)}}
    if (call_id := _first(call, "id", "tool_call_id")) is not None:
        made = {"id": str(call_id), **made}
    return made


def _arguments(call: dict[str, Any]) -> str:
    source = _first(call, "arguments", "input", "args")
    if isinstance(source, str):
        return source
    return orjson.dumps({} if source is None else source).decode()


def _result(part: dict[str, Any]) -> Message:
    given = _first(part, "response", "result", "content")
    message: Message = {"role": "tool", "content": result_text(given)}
    if (call_id := _first(part, "id", "tool_use_id", "tool_call_id")) is not None:
        message["tool_call_id"] = str(call_id)
    if part.get("name"):
        message["name"] = str(part["name"])
    return message


def result_text(result: Any) -> str:
    """A tool's result as text: blocks of text are joined, values are JSON."""
    if isinstance(result, str):
        return result
    if (
        isinstance(result, list)
        and result
        and all(
            isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str)
            for block in result
        )
    ):
        return "".join(block["text"] for block in result)
    return "" if result is None else orjson.dumps(result).decode()


def chat_tools(value: Any) -> list[dict[str, Any]]:
    """Tool definitions in any of their shapes as OpenAI function schemas."""
    value = parsed(value)
    if isinstance(value, dict):
        value = [value]
    tools: list[dict[str, Any]] = []
    for tool in value if isinstance(value, list) else ():
        tool = parsed(tool)
        if not isinstance(tool, dict):
            continue
        if isinstance(tool.get("function"), dict):
            tools.append(tool)
        elif tool.get("name"):
            schema = parsed(_first(tool, "parameters", "input_schema", "inputSchema"))
            rest = {k: v for k, v in tool.items() if k not in ("type", "parameters", "input_schema", "inputSchema")}
            tools.append({"type": "function", "function": rest | ({} if schema is None else {"parameters": schema})})
    return tools
