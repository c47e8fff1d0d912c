"""OpenInference spans (semantic conventions 0.1.42: Phoenix, Arize) -> nodes: flat `llm.input_messages.N.message.*`."""

from __future__ import annotations

from typing import Any

from fairtrial.formats.otel_genai import about
from fairtrial.formats.otel_spans import Span
from fairtrial.formats.part_messages import Memo, chat_call, chat_messages, chat_tools
from fairtrial.formats.span_attributes import comparable, iso_time, model_call, nested, parsed
from fairtrial.formats.span_rows import Message
from fairtrial.formats.span_tree import Kind, Node

KIND = "openinference.span.kind"
_KINDS: dict[str, Kind] = {"LLM": "llm", "TOOL": "tool", "AGENT": "agent"}
_COUNT = "llm.token_count."
_REASONING = frozenset({"reasoning", "thinking"})


def node_of(span: Span, memo: Memo) -> Node:
    """What a span says by these conventions."""
    attributes = _flattened(span["attributes"])
    left = dict(attributes)
    kind = _KINDS.get(str(left.get(KIND) or (span.get("rest") or {}).get("span_kind")).upper(), "other")
    node = Node(
        id=span["id"],
        parent=span["parent"],
        kind=kind,
        name=_name(left, span, kind),
        whole=about(span, span["attributes"], span["events"]),
        left={},
        began=comparable(span["start"]),
        ended=comparable(span["end"]),
        timestamp=iso_time(span["start"]),
        failed=span["failed"],
    )
    if kind == "llm":
        _llm(node, left, memo)
    elif kind == "tool":
        _tool(node, left)
    else:
        node.prompt = _messages(nested(left, "llm.input_messages")) or chat_messages(_value(left, "input"), "user")
        output = _messages(nested(left, "llm.output_messages")) or chat_messages(_value(left, "output"), "assistant")
        node.output = output
    node.left = about(span, left, span["events"])
    return node


def _name(left: dict[str, Any], span: Span, kind: Kind) -> str | None:
    told = left.get({"tool": "tool.name", "agent": "agent.name"}.get(kind, ""))
    return str(told) if told else span["name"] or None


def _flattened(attributes: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of attributes that an export nested (`{"llm": {"model_name": ...}}`)."""
    if not any(isinstance(attributes.get(key), dict) for key in ("llm", "openinference", "input", "output", "tool")):
        return attributes
    flat: dict[str, Any] = {}
    for key, value in attributes.items():
        if key in ("llm", "openinference", "input", "output", "tool", "session", "agent") and isinstance(value, dict):
            _flatten(key, value, flat)
        else:
            flat[key] = value
    return flat


def _flatten(prefix: str, value: Any, flat: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(f"{prefix}.{key}", inner, flat)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            _flatten(f"{prefix}.{number}", inner, flat)
    else:
        flat[prefix] = value


def _value(left: dict[str, Any], which: str) -> Any:
    """`input.value` or `output.value`; JSON where its type or its look says so."""
    value = left.pop(f"{which}.value", None)
    left.pop(f"{which}.mime_type", None)
    return parsed(value)


def _llm(node: Node, left: dict[str, Any], memo: Memo) -> None:
    node.prompt = _messages(nested(left, "llm.input_messages"), memo)
    output = _messages(nested(left, "llm.output_messages"))
    if not node.prompt:
        node.prompt = _texts(nested(left, "llm.prompts"), "prompt", "user")
    if not output:
        output = _texts(nested(left, "llm.choices"), "completion", "assistant")
    # input.value and output.value repeat the request and the response as the library had them: used where nothing else
    if not node.prompt:
        node.prompt = chat_messages(_value(left, "input"), "user")
    if not output:
        output = chat_messages(_value(left, "output"), "assistant")
    node.output = output[:1]
    if len(output) > 1:
        left["choices"] = output[1:]
    tools = nested(left, "llm.tools")
    schemas = [tool["tool"].get("json_schema", tool["tool"]) for tool in tools or () if _has(tool, "tool")]
    node.offered = chat_tools(schemas)
    sampling = parsed(left.pop("llm.invocation_parameters", None))
    model = left.pop("llm.response.model_name", None) or left.pop("llm.model_name", None)
    node.model_call = model_call(
        model or left.pop("llm.request.model_name", None),
        sent=left.pop(f"{_COUNT}prompt", None),
        given=left.pop(f"{_COUNT}completion", None),
        cached=left.pop(f"{_COUNT}prompt_details.cache_read", None),
        cost=left.pop("llm.cost.total", None),
        sampling=sampling if isinstance(sampling, dict) else {"parameters": sampling} if sampling else None,
        finish=left.pop("llm.finish_reason", None),
    )


def _tool(node: Node, left: dict[str, Any]) -> None:
    left.pop("tool.name", None)
    call_id = left.pop("tool.id", None) or left.pop("tool_call.id", None)
    node.call_id = None if call_id is None else str(call_id)
    arguments = left.pop("tool.parameters", None) if "input.value" not in left else _value(left, "input")
    node.arguments = parsed(arguments)
    node.result = left.pop("output.value", None)
    left.pop("output.mime_type", None)


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), dict)


def _texts(value: Any, key: str, role: str) -> list[Message]:
    """`llm.prompts.N.prompt.text`: the older completion API."""
    found = [entry[key].get("text") for entry in value or () if _has(entry, key)] if isinstance(value, list) else []
    return [{"role": role, "content": str(text)} for text in found if text is not None]


def _messages(value: Any, memo: Memo | None = None) -> list[Message]:
    if not isinstance(value, list):
        return []
    if memo is not None:
        return memo.read(value, "user", _entry)
    return [message for entry in value for message in _entry(entry, "user")]


def _entry(entry: Any, role: str) -> list[Message]:
    if not isinstance(entry, dict):
        return []
    return [_message(entry["message"] if _has(entry, "message") else entry)]


def _message(given: dict[str, Any]) -> Message:
    """One message; its `contents` in their order, reasoning apart."""
    role = str(given.get("role") or "user")
    rest = {k: v for k, v in given.items() if k not in ("role", "content", "contents", "tool_calls") and v is not None}
    calls = []
    for entry in given.get("tool_calls") or ():
        if isinstance(entry, dict):
            calls.append(chat_call(entry["tool_call"] if _has(entry, "tool_call") else entry))
    if rest.get("function_call_name"):
        arguments = str(rest.pop("function_call_arguments_json", "{}"))
        calls.append({"type": "function", "function": {"name": rest.pop("function_call_name"), "arguments": arguments}})
    content: Any = given.get("content")
    if content is not None and not isinstance(content, str):
        content = [_part(part) for part in content] if isinstance(content, list) else str(content)
    parts = given.get("contents")
    if isinstance(parts, list):
        content, reasoning = _contents(parts, content)
        if reasoning:
            rest["reasoning_content"] = reasoning
    message: Message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = calls
    if role == "tool" and "tool_call_id" in rest:
        rest["tool_call_id"] = str(rest["tool_call_id"])
    return message | rest


def _contents(parts: list[Any], content: Any) -> tuple[Any, str]:
    made: list[Any] = []
    reasoning: list[str] = []
    for entry in parts:
        part = entry["message_content"] if _has(entry, "message_content") else entry
        if isinstance(part, dict) and part.get("type") in _REASONING and isinstance(part.get("text"), str):
            reasoning.append(part["text"])
        else:
            made.append(_part(part))
    if isinstance(content, str) and content and not made:
        return content, "\n\n".join(reasoning)
    if len(made) == 1 and made[0].keys() == {"type", "text"} and made[0]["type"] == "text":
        return made[0]["text"], "\n\n".join(reasoning)
    return made or None, "\n\n".join(reasoning)


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        return {"type": "text", "text": str(part)}
    image = part.get("image")
    if isinstance(image, dict):
        image = image.get("image", image)
        url = image.get("url") if isinstance(image, dict) else None
        if isinstance(url, str):
            return {"type": "image_url", "image_url": {"url": url}}
    return part if isinstance(part.get("type"), str) else {"type": "unknown", **part}
