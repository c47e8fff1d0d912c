"""What went into a model call and came out of it, as tracing SDKs record it, as chat messages.

The request and the response are those of whichever library was called: OpenAI chat and Responses, Anthropic, LangChain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from fairtrial.formats.langchain_messages import langchain_fields, langchain_messages
from fairtrial.formats.part_messages import Memo, chat_call, chat_messages, chat_tools, messages_of, result_text
from fairtrial.formats.span_attributes import parsed
from fairtrial.formats.span_rows import Message

_PROMPTS = ("messages", "input", "prompts", "prompt", "contents", "question", "query")
_ITEMS = frozenset(
    {"function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output", "reasoning"}
)
_SPEAKERS = {"user": "user", "human": "user", "system": "system", "ai": "assistant", "assistant": "assistant"}


@dataclass(slots=True)
class Payload:
    """Messages, and what the payload says beside them."""

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finish: Any = None
    model: Any = None
    usage: Any = None
    rest: Any = None
    """What of the payload none of this says; None where nothing is left."""


def prompt_of(value: Any, memo: Memo | None = None) -> Payload:
    """A request: text, a list of messages, or an object around one."""
    value = parsed(value)
    if isinstance(value, dict) and not _is_message(value):
        rest = dict(value)
        system = [rest.pop(key) for key in ("system", "instructions") if rest.get(key)]
        key = next((key for key in _PROMPTS if rest.get(key)), None)
        told = rest.pop(key) if key is not None else None
        if key is None and not system:
            return Payload(_bare(value, "user"))
        payload = prompt_of(told, memo) if told is not None else Payload([])
        payload.messages[:0] = [message for text in system for message in _system(text)]
        payload.tools += chat_tools(rest.pop("tools", None)) or chat_tools(rest.pop("functions", None))
        payload.model = rest.pop("model", None)
        payload.rest = _left(rest, payload.rest)
        return payload
    if isinstance(value, list) and len(value) > 1 and all(isinstance(batch, list) for batch in value):
        # several prompts in one call: the first is the conversation
        return Payload(_messages(value[0], "user"), rest=value[1:])
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = _pair(value[0]) or value[0]
    if memo is not None and isinstance(value, list) and all(isinstance(e, dict) and _is_message(e) for e in value):
        messages = memo.read(value, "user", _one)
    else:
        messages = _messages(value, "user")
    tools = [tool for message in messages if (tool := _offered(message)) is not None]
    return Payload([message for message in messages if _offered(message) is None], chat_tools(tools))


def output_of(value: Any) -> Payload:
    """A response: text, a message, choices, generations, output items."""
    value = parsed(value)
    if not isinstance(value, dict):
        return Payload(_messages(value, "assistant"))
    rest = dict(value)
    usage = rest.pop("usage", None) or rest.pop("usage_metadata", None)
    model = rest.pop("model", None)
    told: Any = rest.pop("llm_output", None)
    if isinstance(told, dict):
        usage = usage or told.get("token_usage") or told.get("usage")
        model = model or told.get("model_name") or told.get("model")
        told = {k: v for k, v in told.items() if k not in ("token_usage", "usage", "model_name", "model")}
        rest |= {"llm_output": told}
    if isinstance(choices := rest.get("choices"), list) and choices:
        del rest["choices"]
        return _chosen(choices, rest, usage, model)
    if isinstance(generations := rest.get("generations"), list) and generations:
        del rest["generations"]
        first: list[Any] = generations[0] if isinstance(generations[0], list) else generations
        payload = _chosen(first, rest, usage, model)
        more = {"generations": generations[1:]} if first is not generations else {}
        payload.rest = _left(more, payload.rest)
        return payload
    if _is_message(value):
        fields = (langchain_fields(value) or ("", {}))[1]
        finish = rest.pop("stop_reason", None) or rest.pop("finish_reason", None)
        usage = usage or fields.get("usage_metadata")
        return Payload(_one(rest, "assistant"), finish=finish, model=model, usage=usage)
    for key in ("messages", "message", "output", "text", "content"):
        if key in rest:
            messages = _messages(parsed(rest.pop(key)), "assistant")
            finish = rest.pop("stop_reason", None) or rest.pop("finish_reason", None)
            return Payload(messages, finish=finish, model=model, usage=usage, rest=_left(rest))
    return Payload(_bare(value, "assistant"), model=model, usage=usage) if value else Payload([])


def _chosen(choices: list[Any], rest: dict[str, Any], usage: Any, model: Any) -> Payload:
    """The first choice is the output, the others are left."""
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    if "lc" in first and isinstance(first.get("kwargs"), dict):
        first = first["kwargs"]
    inner, info = first.get("message"), first.get("generation_info")
    messages = _messages([inner] if inner is not None else first.get("text"), "assistant")
    fields = (langchain_fields(inner) or ("", {}))[1]
    told = fields.get("response_metadata")
    told = told if isinstance(told, dict) else {}
    info = info if isinstance(info, dict) else {}
    finish = first.get("finish_reason") or info.get("finish_reason") or told.get("finish_reason")
    usage = fields.get("usage_metadata") or usage or told.get("token_usage") or told.get("usage")
    model = model or told.get("model_name") or told.get("model")
    left: dict[str, Any] = {"choices": choices[1:]} if len(choices) > 1 else {}
    beside = {k: v for k, v in first.items() if k not in ("message", "finish_reason", "index", "text", "type") and v}
    if beside:
        left["choice"] = beside
    return Payload(messages, finish=finish or told.get("stop_reason"), model=model, usage=usage, rest=_left(rest, left))


def _left(*parts: Any) -> Any:
    """What is left of objects, merged; None where that is nothing."""
    merged: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, dict):
            merged.update({key: value for key, value in part.items() if value not in (None, "", [], {})})
        elif part:
            merged["prompts"] = part
    return merged or None


def _is_message(value: dict[str, Any]) -> bool:
    if langchain_fields(value) is not None:
        return True
    return isinstance(value.get("role"), str) and bool(value.keys() & {"content", "parts", "tool_calls"})


def _system(value: Any) -> list[Message]:
    if isinstance(value, list) and all(isinstance(part, dict) and "role" not in part for part in value):
        return messages_of({"role": "system", "content": value}, "system")
    return chat_messages(value, "system")


def _bare(value: Any, role: str) -> list[Message]:
    """An object that is no request: its only text, or itself as JSON."""
    if isinstance(value, dict):
        texts = [inner for inner in value.values() if isinstance(inner, str) and inner]
        if len(texts) == 1 and len(value) == 1:
            return [{"role": role, "content": texts[0]}]
    return [{"role": role, "content": orjson.dumps(value, default=str).decode()}]


def _offered(message: Message) -> Any:
    """Langfuse's LangChain handler lists the tools offered as messages of role tool, without a call's id."""
    if message.get("role") != "tool" or message.get("tool_call_id") is not None:
        return None
    told = parsed(message.get("content"))
    if not isinstance(told, dict):
        return None
    function = told.get("function", told)
    schema = isinstance(function, dict) and function.keys() & {"parameters", "input_schema"}
    return told if schema and function.get("name") else None


def _messages(value: Any, role: str) -> list[Message]:
    value = parsed(value)
    if value is None or value == "":
        return []
    if isinstance(value, dict):
        return _one(value, role) if _is_message(value) or value.get("type") in _ITEMS else _bare(value, role)
    if not isinstance(value, list):
        return chat_messages(value, role)
    if value and all(isinstance(part, dict) and _is_part(part) for part in value):
        return messages_of({"role": role, "content": value}, role)
    found: list[Message] = []
    reasoning: str | None = None
    for element in value:
        if isinstance(element, list):
            found += _pair(element) or _messages(element, role)
            continue
        if not isinstance(element, dict):
            found += chat_messages(element, role)
            continue
        if element.get("type") == "reasoning" and "role" not in element:
            reasoning = _reasoning(element)
            continue
        made = _messages(element, role)
        if reasoning and made and made[0]["role"] == "assistant":
            made[0].setdefault("reasoning_content", reasoning)
            reasoning = None
        goes_on = made and found and element.get("type") in _ITEMS and "tool_calls" in made[0]
        if goes_on and found[-1]["role"] == "assistant":  # a call of the Responses API: the same response goes on
            found[-1].setdefault("tool_calls", []).extend(made[0]["tool_calls"])
            continue
        found += made
    if reasoning:
        found.append({"role": "assistant", "content": "", "reasoning_content": reasoning})
    return found


def _pair(element: list[Any]) -> list[Message]:
    """LangChain's short form of a message: (role, text)."""
    if len(element) == 2 and isinstance(element[0], str) and isinstance(element[1], str) and element[0] in _SPEAKERS:
        return [{"role": _SPEAKERS[element[0]], "content": element[1]}]
    return []


def _is_part(value: dict[str, Any]) -> bool:
    kind = value.get("type")
    return isinstance(kind, str) and "role" not in value and kind not in _ITEMS and langchain_fields(value) is None


def _one(value: dict[str, Any], role: str) -> list[Message]:
    made = langchain_messages(value)
    if made is not None:
        return made
    kind = value.get("type")
    if kind in ("function_call", "custom_tool_call"):
        call = {**value, "id": value.get("call_id") or value.get("id")}
        return [{"role": "assistant", "content": None, "tool_calls": [chat_call(call)]}]
    if kind in ("function_call_output", "custom_tool_call_output"):
        message: Message = {"role": "tool", "content": result_text(value.get("output"))}
        return [message | ({"tool_call_id": str(value["call_id"])} if value.get("call_id") else {})]
    if kind == "reasoning" and "role" not in value:
        return [{"role": "assistant", "content": "", "reasoning_content": _reasoning(value)}]
    rest = {key: inner for key, inner in value.items() if (key, inner) != ("type", "message")}
    return messages_of(rest, role)


def _reasoning(item: dict[str, Any]) -> str:
    blocks = item.get("summary") or item.get("content") or ()
    if isinstance(blocks, str):
        return blocks
    return "\n\n".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))
