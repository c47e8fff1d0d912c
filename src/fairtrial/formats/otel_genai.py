"""OpenTelemetry's GenAI conventions (semantic-conventions 1.38 to 0.66b2, all "Development") in spans -> nodes.

Messages are read from attributes (`gen_ai.input.messages` ...), from the details event, from the older events per
message, from `gen_ai.prompt` and `gen_ai.completion`, and from Traceloop's flat `gen_ai.prompt.N.*` attributes.
"""

from __future__ import annotations

from typing import Any

from fairtrial.formats.otel_spans import Span
from fairtrial.formats.part_messages import Memo, chat_messages, chat_tools, messages_of
from fairtrial.formats.span_attributes import comparable, iso_time, model_call, nested, parsed
from fairtrial.formats.span_rows import Message
from fairtrial.formats.span_tree import Kind, Node

_KINDS: dict[str, Kind] = {
    "chat": "llm",
    "text_completion": "llm",
    "completion": "llm",
    "generate_content": "llm",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "tool": "tool",
    "agent": "agent",
}
_MESSAGE_EVENTS = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_DETAILS = "gen_ai.client.inference.operation.details"
_REQUEST = "gen_ai.request."


def node_of(span: Span, memo: Memo) -> Node:
    """What a span says by these conventions."""
    left = dict(span["attributes"])
    kind = _kind(left, span["name"])
    events = [dict(event, attributes=dict(event["attributes"])) for event in span["events"]]
    node = Node(
        id=span["id"],
        parent=span["parent"],
        kind=kind,
        name=_name(span, kind),
        whole={},
        left={},
        began=comparable(span["start"]),
        ended=comparable(span["end"]),
        timestamp=iso_time(span["start"]),
        failed=span["failed"] or bool(left.get("error.type")),
    )
    events = [event for event in events if not _details(event, left)]
    if kind == "tool":
        _tool(node, left)
    else:
        _conversation(node, left, events, memo)
        if kind == "llm":
            node.model_call = _model_call(left)
    node.whole = about(span, span["attributes"], span["events"])
    node.left = about(span, left, events)
    return node


def about(span: Span, attributes: dict[str, Any], events: list[Any]) -> dict[str, Any]:
    """What is kept of a span."""
    kept = {key: span[key] for key in ("name", "start", "end", "message", "rest") if span.get(key) is not None}
    if span["failed"]:
        kept["failed"] = True
    if attributes:
        kept["attributes"] = attributes
    if events:
        kept["events"] = events
    return kept


def speaks(attributes: dict[str, Any]) -> bool:
    """Whether a span's attributes are of these conventions."""
    return any(key.startswith(("gen_ai.", "traceloop.", "llm.request.")) for key in attributes)


def _kind(attributes: dict[str, Any], name: str) -> Kind:
    operation = attributes.get("gen_ai.operation.name")
    if isinstance(operation, str):
        return _KINDS.get(operation, "other")
    if attributes.get("llm.request.type") in ("chat", "completion"):
        return "llm"
    entity = attributes.get("traceloop.span.kind")
    if isinstance(entity, str):
        return _KINDS.get(entity, "other")
    verb = name.split(" ", 1)[0]
    if verb in ("execute_tool", "invoke_agent"):
        return _KINDS[verb]
    if attributes.get("gen_ai.tool.name") is not None or attributes.get("gen_ai.tool.call.id") is not None:
        return "tool"
    asked = attributes.get("gen_ai.request.model") or attributes.get("gen_ai.response.model")
    return "llm" if asked and not name.startswith(("embed", "create_agent")) else "other"


def _name(span: Span, kind: Kind) -> str | None:
    attributes = span["attributes"]
    key = {"tool": "gen_ai.tool.name", "agent": "gen_ai.agent.name"}.get(kind)
    told = attributes.get(key) if key else None
    if told is None and kind in ("tool", "agent"):
        told = attributes.get("traceloop.entity.name")
    if told is not None:
        return str(told)
    verb, _, rest = span["name"].partition(" ")
    return rest if rest and verb in _KINDS else span["name"] or None


def _details(event: dict[str, Any], left: dict[str, Any]) -> bool:
    """Take over what the details event says; True where the event is used up."""
    if event["name"] != _DETAILS:
        return False
    for key, value in event["attributes"].items():
        if key in left and left[key] != value:
            return False
    left.update(event["attributes"])
    return True


def _conversation(node: Node, left: dict[str, Any], events: list[dict[str, Any]], memo: Memo) -> None:
    """Prompt, output and tools of a model call or an agent; what is used is taken out."""
    node.prompt = _system(left.pop("gen_ai.system_instructions", None))
    node.prompt += chat_messages(left.pop("gen_ai.input.messages", None), "user", memo)
    output = chat_messages(left.pop("gen_ai.output.messages", None), "assistant")
    node.offered = chat_tools(left.pop("gen_ai.tool.definitions", None))
    if not node.prompt and not output:
        output = _older(node, left, events)
    if not node.prompt and not output:
        node.prompt = chat_messages(_entity(left, "traceloop.entity.input"), "user")
        output = chat_messages(_entity(left, "traceloop.entity.output"), "assistant")
    _choose(node, output, left)


def _choose(node: Node, output: list[Message], left: dict[str, Any]) -> None:
    """The first of several choices is the output; the others are kept."""
    reasons = [message.pop("finish_reason", None) for message in output]
    node.output = output[:1] if all(message["role"] == "assistant" for message in output) else output
    if len(output) > len(node.output):
        left["choices"] = output[1:]
    if reasons and reasons[0] and "gen_ai.response.finish_reasons" not in left:
        left["gen_ai.response.finish_reasons"] = [reasons[0]]


def _system(value: Any) -> list[Message]:
    value = parsed(value)
    if not value:
        return []
    if isinstance(value, list) and all(isinstance(part, dict) and "role" not in part for part in value):
        return messages_of({"role": "system", "parts": value}, "system")
    return chat_messages(value, "system")


def _older(node: Node, left: dict[str, Any], events: list[dict[str, Any]]) -> list[Message]:
    """Prompt and output as older versions and Traceloop write them."""
    output: list[Message] = []
    used: list[dict[str, Any]] = []
    for event in events:
        said = event["attributes"]
        if event["name"] in _MESSAGE_EVENTS:
            node.prompt += _event_message(said, _MESSAGE_EVENTS[event["name"]])
        elif event["name"] == "gen_ai.choice":
            output += _choice(said)
        elif event["name"] == "gen_ai.content.prompt" or (not event["name"] and "gen_ai.prompt" in said):
            node.prompt += chat_messages(said.get("gen_ai.prompt"), "user")
        elif event["name"] == "gen_ai.content.completion":
            output += chat_messages(said.get("gen_ai.completion"), "assistant")
        else:
            continue
        used.append(event)
    events[:] = [event for event in events if not any(event is gone for gone in used)]
    if not node.prompt:
        node.prompt = chat_messages(_flat(left, "gen_ai.prompt"), "user")
    if not output:
        output = chat_messages(_flat(left, "gen_ai.completion"), "assistant")
    functions = nested(left, "llm.request.functions")
    if functions and not node.offered:
        node.offered = chat_tools(functions)
    return output


def _flat(left: dict[str, Any], prefix: str) -> Any:
    """`prefix.N.role` ... as messages, or the text at the prefix itself."""
    tree = nested(left, prefix)
    if tree is None:
        return left.pop(prefix, None)
    return tree if isinstance(tree, list) else [tree]


def _event_message(said: dict[str, Any], role: str) -> list[Message]:
    message = {key: parsed(value) if key in ("tool_calls", "content") else value for key, value in said.items()}
    message = {key: value for key, value in message.items() if key not in ("gen_ai.system", "gen_ai.provider.name")}
    if role == "tool" and "id" in message:
        message["tool_call_id"] = str(message.pop("id"))
    found = messages_of({"role": role, "content": None, **message}, role)
    return found


def _choice(said: dict[str, Any]) -> list[Message]:
    message = parsed(said.get("message"))
    if not isinstance(message, dict):
        message = (
            {"content": message} if message is not None else {k: parsed(v) for k, v in said.items() if k == "content"}
        )
        if "tool_calls" in said:
            message["tool_calls"] = parsed(said["tool_calls"])
    found = messages_of({"content": None, **message}, "assistant")
    if said.get("finish_reason") and found:
        found[-1]["finish_reason"] = said["finish_reason"]
    return found


def _entity(left: dict[str, Any], key: str) -> Any:
    """Traceloop's record of what went into and came out of a function: JSON text of its arguments."""
    value = parsed(left.pop(key, None))
    if isinstance(value, dict) and value.keys() <= {"inputs", "outputs", "tags", "metadata", "kwargs", "args"}:
        inner = next((value[name] for name in ("inputs", "outputs") if value.get(name)), None)
        return inner.get("input", inner) if isinstance(inner, dict) else inner if inner is not None else value
    return value


def _tool(node: Node, left: dict[str, Any]) -> None:
    left.pop("gen_ai.tool.name", None)
    call_id = left.pop("gen_ai.tool.call.id", None)
    node.call_id = None if call_id is None else str(call_id)
    node.arguments = left.pop("gen_ai.tool.call.arguments", None)
    node.result = left.pop("gen_ai.tool.call.result", None)
    if node.arguments is None and "traceloop.entity.input" in left:
        node.arguments = _entity(left, "traceloop.entity.input")
    if node.result is None and "traceloop.entity.output" in left:
        node.result = _entity(left, "traceloop.entity.output")


def _model_call(left: dict[str, Any]) -> dict[str, Any]:
    model = left.pop("gen_ai.response.model", None)
    asked = left.get("gen_ai.request.model")
    if model is None or asked == model:
        model = left.pop("gen_ai.request.model", model)
    sent = _first(left, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
    given = _first(left, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
    cached = _first(left, "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens")
    sampling = {
        key.removeprefix(_REQUEST): left.pop(key)
        for key in [key for key in left if key.startswith(_REQUEST) and key != "gen_ai.request.model"]
    }
    reasons = left.pop("gen_ai.response.finish_reasons", None)
    reasons = parsed(reasons)
    finish = reasons[0] if isinstance(reasons, list) and reasons else reasons
    if isinstance(reasons, list) and len(reasons) > 1:
        left["gen_ai.response.finish_reasons"] = reasons
    return model_call(model, sent=sent, given=given, cached=cached, sampling=sampling, finish=finish)


def _first(left: dict[str, Any], *names: str) -> Any:
    return next((left.pop(name) for name in names if left.get(name) is not None), None)
