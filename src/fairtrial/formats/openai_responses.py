"""OpenAI Responses: response objects, requests with their input items, logs of both, bare lists of items.

Read: the item types of openai-python 2.x. A run of items by the model (reasoning, messages, calls) is one response: a
message right before a call is that call's description, reasoning goes to the action after it. Calls that the provider
runs itself (web and file search, MCP, code interpreter, image generation) keep their item whole; what they returned
stands after them as an observation. Items of unknown types are kept. Rows are written as they were read.
Training: a row has no mask; that an action must not be learned from is told in the notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.openai_chat import name_row, tell_row
from fairtrial.formats.responses_items import RESPONSES, SPECIAL, items_of_output, output_of_items

_NAMES = frozenset({"function_call", "function_call_output", "message", "reasoning"}) | SPECIAL


def _typed(items: Any) -> int:
    """How many of a list's values are Responses items by their type; -1 where it is no list of objects."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return -1
    return sum(isinstance(item.get("type"), str) and item["type"] in _NAMES for item in items)


def _likes(value: Any) -> int:
    if isinstance(value, list):
        return 88 if value and _typed(value) == len(value) else 0
    if not isinstance(value, dict):
        return 0
    request, response = value.get("request"), value.get("response")
    if isinstance(request, dict) and isinstance(response, dict):
        return 90 if "input" in request and _typed(response.get("output")) >= 0 else 0
    if value.get("object") == "response" and _typed(value.get("output")) >= 0:
        return 97
    given, made = value.get("input"), value.get("output")
    if _typed(made) > 0 and isinstance(given, list | str | None):
        return 88
    if (count := _typed(given)) > 0:
        return 88
    return 40 if count == 0 and given and all("role" in item and "content" in item for item in given) else 0


def _decode(value: Any, notes: Notes) -> Row:
    own: dict[str, Any] = {}
    if isinstance(value, list):
        own["shape"], value = "list", {"input": value}
    elif not isinstance(value, dict):
        raise RowError("neither an object nor a list of items")
    fields = dict(value)
    request = answer = fields
    if isinstance(value.get("request"), dict) and "input" in value["request"]:
        own["shape"] = "log"
        request = dict(fields.pop("request"))
        answer = dict(fields.pop("response")) if isinstance(fields.get("response"), dict) else {}
        own["answered"] = "response" in value and "response" not in fields
    elif "input" not in fields and "output" not in fields:
        raise RowError("neither input nor output items")
    given, made = request.pop("input", None), answer.pop("output", None)
    if "input" in (value if request is fields else value["request"]) and not (isinstance(given, list) and given):
        own["input"] = "text" if isinstance(given, str) else "null" if given is None else "empty"
    if isinstance(request.get("instructions"), str):
        own["instructions"] = True
        said = {"type": "message", "role": "system", "content": request.pop("instructions")}
        given = [said, *(_items(given))]
    names: dict[str, str] = {}
    content = items_of_output(_items(given), names, notes)
    if made is not None:
        output = items_of_output(_items(made), names, notes)
        own["output"] = len(output)
        content += output
    row: Row = {"id": "", "content": content}
    _lift(request, answer, row, own)
    if own.get("shape") == "log":
        own["request"], own["response"] = request, answer
        if isinstance(answer.get("id"), str) and "id" not in fields:
            row["id"], own["id"] = answer["id"], "response"
    name_row(row, fields, value, own, RESPONSES)
    if fields:
        own["fields"] = fields
    if own:
        row["extra"] = {RESPONSES: own}
    return row


def _items(given: Any) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        raise RowError("the input or output is no list of items")
    return given


def _lift(request: dict[str, Any], answer: dict[str, Any], row: Row, own: dict[str, Any]) -> None:
    """Tools, metadata, and the model call of a response."""
    tools = request.get("tools")
    if isinstance(tools, list) and tools and all(isinstance(tool, dict) and "function" not in tool for tool in tools):
        row["tools"] = [_wrapped(tool) for tool in request.pop("tools")]
    if isinstance(request.get("metadata"), dict) and request["metadata"]:
        row["details"] = request.pop("metadata")
    usage, model = answer.get("usage"), answer.get("model") or request.get("model")
    if not own.get("output") or not (isinstance(usage, dict) or isinstance(model, str)):
        return
    call: dict[str, Any] = {"model": model if isinstance(model, str) else "unknown"}
    if isinstance(usage, dict):
        details = usage.get("input_tokens_details")
        counts = {
            "input_tokens": usage.get("input_tokens"),
            "output_tokens": usage.get("output_tokens"),
            "cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else None,
        }
        call["usage"] = {"calls": 1} | {key: count for key, count in counts.items() if isinstance(count, int)}
    if isinstance(answer.get("status"), str):
        call["finish_reason"] = answer["status"]
    row["model_calls"] = [call]
    for item in row["content"][-own["output"] :]:
        if item["class_"].endswith("_action"):
            item["model_call"] = 0


def _wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    """A function as chat completions have it; tools that the provider runs as they are."""
    if tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _flat(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", **tool["function"]} if isinstance(tool.get("function"), dict) else tool


def _encode(row: Row, notes: Notes) -> Iterator[Any]:
    own = (row.get("extra") or {}).get(RESPONSES) or {}
    answered = "output" in own
    tell_row(row, notes, RESPONSES, held=("model_calls",) if answered else ())
    content = row.get("content") or []
    if answered:
        content = [{key: value for key, value in item.items() if key != "model_call"} for item in content]
    split = max(0, len(content) - own["output"]) if answered else len(content)
    names: dict[str, str] = {}
    given = output_of_items(content[:split], names, notes)
    made = output_of_items(content[split:], names, notes)
    if own.get("shape") == "list":
        yield given
        return
    around: dict[str, Any] = {}
    request: dict[str, Any] = {} if own.get("shape") == "log" else around
    if own.get("instructions") and given:
        request["instructions"] = given.pop(0)["content"]
    if own.get("input") == "text" and len(given) == 1:
        request["input"] = given[0]["content"]
    elif own.get("input") == "null":
        request["input"] = None
    elif given or own.get("input") or not answered or own.get("shape") == "log":
        request["input"] = given
    if tools := row.get("tools"):
        request["tools"] = [_flat(tool) for tool in tools]
    if row.get("details"):
        request["metadata"] = row["details"]
    if own.get("id") is None:
        around["id"] = row["id"]
    if row.get("reward") is not None:
        notes.drop("reward", str(row["reward"]))
    around |= own.get("fields") or {}
    if own.get("shape") == "log":
        around["request"] = request | (own.get("request") or {})
        if own.get("answered"):
            around["response"] = (own.get("response") or {}) | ({"output": made} if answered else {})
    elif answered:
        around["output"] = made
    yield around


OPENAI_RESPONSES = Format(
    name=RESPONSES,
    title="OpenAI Responses (response objects and input items)",
    likes=_likes,
    decode=_decode,
    encode=_encode,
)
