"""OpenAI chat rows: `{messages, tools?, ...}`, logs of chat completions, or a bare list of messages.

Read: OpenAI's API reference as of openai-python 1.x/2.x: chat completions, the fine-tuning format with `weight`, the
older `functions` and `function_call`. Rows are written as they were read (white space inside `arguments` apart).
Training: an action that must not be learned from (`loss` false) is written as `weight: 0` of its message, as the
fine-tuning API reads it; synthetic text is not marked, and the notes say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.core.ids import digest
from fairtrial.formats.chat_messages import OPENAI, items_of_messages, messages_of_items
from fairtrial.formats.chat_writing import tell_extra
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import ACTIONS

CHAT_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_SAMPLING = ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "n", "stop", "reasoning_effort")


def made_id(value: Any, space: str) -> str:
    """The id of a value that has none: the same for the same value."""
    return f"{space}-{digest(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))[:16]}"


def chat_likeness(messages: Any) -> int:
    """How much a value looks like a list of chat messages: 0, 40 for roles and contents alone, 75 with tool calls."""
    if not isinstance(messages, list) or not messages:
        return 0
    calls = False
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return 0
        if message["role"] not in CHAT_ROLES:
            return 0
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and part.get("type") in ("tool_use", "tool_result", "tool_call", "thinking"):
                    return 0
        elif not isinstance(content, str | None):
            return 0
        calls = calls or isinstance(message.get("function_call"), dict) or _has_text_calls(message.get("tool_calls"))
    return 75 if calls else 40


def _has_text_calls(calls: Any) -> bool:
    """Whether these are tool calls with arguments as JSON text, as OpenAI gives them."""
    if not isinstance(calls, list) or not calls or not isinstance(calls[0], dict):
        return False
    function = calls[0].get("function")
    return isinstance(function, dict) and isinstance(function.get("arguments"), str)


def _likes(value: Any) -> int:
    if isinstance(value, list):
        return chat_likeness(value)
    if not isinstance(value, dict):
        return 0
    request, response = value.get("request"), value.get("response")
    if isinstance(request, dict) and isinstance(response, dict):
        return 85 if chat_likeness(request.get("messages")) and "choices" in response else 0
    likeness = chat_likeness(value.get("messages"))
    if not likeness:
        return 0
    if isinstance(value.get("choices"), list):
        return 85
    if isinstance(value.get("tools"), str):
        return 40
    if isinstance(value.get("functions"), list) or "parallel_tool_calls" in value:
        return 80
    return likeness


def _decode(value: Any, notes: Notes) -> Row:
    own: dict[str, Any] = {}
    if isinstance(value, list):
        own["shape"], value = "list", {"messages": value}
    elif not isinstance(value, dict):
        raise RowError("neither an object nor a list of messages")
    fields = dict(value)
    request, answer = fields, None
    if "messages" not in value and isinstance(value.get("request"), dict):
        own["shape"] = "log"
        request = dict(fields.pop("request"))
        if "response" in fields:
            own["answer"] = answer = fields.pop("response")
    elif isinstance(value.get("choices"), list):
        own["shape"] = "answered"
        own["answer"] = answer = {"choices": fields.pop("choices")}
    messages = request.pop("messages", None)
    said = _answer(answer, notes)
    if said is not None and isinstance(messages, list):
        messages = [*messages, said]
    row: Row = {"id": "", "content": items_of_messages(messages, notes)}
    _lift(request, row, own)
    if isinstance(answer, dict) and said is not None:
        if isinstance(answer.get("id"), str) and "id" not in fields:
            row["id"], own["id"] = answer["id"], "response"
        own["answer"], own["said"] = _without_message(answer), True
        _model_call(row, request, answer if own["shape"] == "log" else {**fields, **answer})
    if own.get("shape") == "log":
        own["request"] = request
    lift_reward(fields, row)
    name_row(row, fields, value, own, OPENAI)
    if fields:
        own["fields"] = fields
    if own:
        row["extra"] = {OPENAI: own}
    return row


def name_row(row: Row, fields: dict[str, Any], value: Any, own: dict[str, Any], space: str) -> None:
    """Give the row its source's id (taken out of `fields` where it is a text), or one made from the value."""
    ident = fields.get("id")
    if isinstance(ident, str) and ident:
        row["id"] = fields.pop("id")
    elif isinstance(ident, int | float):
        row["id"] = str(ident)
        own["id"] = "kept"
    elif not row["id"]:
        row["id"] = made_id(value, space)
        own["id"] = "made"


def lift_reward(fields: dict[str, Any], row: Row) -> None:
    """Take a run's reward out of a row's fields."""
    reward = fields.get("reward")
    if isinstance(reward, int | float) and not isinstance(reward, bool):
        row["reward"] = fields.pop("reward")


def _lift(request: dict[str, Any], row: Row, own: dict[str, Any]) -> None:
    """Take what core has a place for out of a request's fields: the tools, and `metadata`."""
    for key in ("tools", "functions"):
        offered = request.get(key)
        if "tools" not in row and isinstance(offered, list) and offered and all(isinstance(t, dict) for t in offered):
            if key == "functions":
                own["functions"] = True
                offered = [{"type": "function", "function": function} for function in offered]
            row["tools"] = offered
            del request[key]
    if isinstance(request.get("metadata"), dict) and request["metadata"]:
        row["details"] = request.pop("metadata")


def _choice(answer: Any) -> dict[str, Any] | None:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _answer(answer: Any, notes: Notes) -> dict[str, Any] | None:
    """The message of a response's first choice; further choices are other runs and stay beside."""
    if answer is None:
        return None
    choice = _choice(answer)
    if choice is None or not isinstance(choice.get("message"), dict):
        notes.flaw("response without a message", "the response of a chat completion has no message")
        return None
    return choice["message"]


def _without_message(answer: dict[str, Any]) -> dict[str, Any]:
    first = {key: value for key, value in answer["choices"][0].items() if key != "message"}
    return {**answer, "choices": [first, *answer["choices"][1:]]}


def _model_call(row: Row, request: dict[str, Any], answer: dict[str, Any]) -> None:
    """The usage, settings and token ids (where a server such as vLLM gives them) of the last response."""
    usage, choice = answer.get("usage"), _choice(answer) or {}
    model = answer.get("model") or request.get("model")
    if not isinstance(model, str) and not isinstance(usage, dict):
        return
    call: dict[str, Any] = {"model": model if isinstance(model, str) else "unknown"}
    if isinstance(choice.get("finish_reason"), str):
        call["finish_reason"] = choice["finish_reason"]
    if isinstance(usage, dict):
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        counts = {
            "input_tokens": usage.get("prompt_tokens"),
            "output_tokens": usage.get("completion_tokens"),
            "cached_tokens": cached,
        }
        call["usage"] = {"calls": 1} | {key: count for key, count in counts.items() if isinstance(count, int)}
    if sampling := {key: request[key] for key in _SAMPLING if request.get(key) is not None}:
        call["sampling"] = sampling
    ids, prompt = choice.get("token_ids"), answer.get("prompt_token_ids")
    if isinstance(prompt, list):
        call["prompt"] = {"append": prompt}
    if isinstance(ids, list):
        call["completion_ids"] = ids
        tokens = (choice.get("logprobs") or {}).get("content") or []
        if len(tokens) == len(ids):
            call["logprobs"] = [token["logprob"] for token in tokens]
    row["model_calls"] = [call]
    for item in reversed(row["content"]):
        if item["class_"] in ACTIONS:
            item["model_call"] = 0
        if not item.get("joined"):
            break


def _encode(row: Row, notes: Notes) -> Iterator[Any]:
    own = (row.get("extra") or {}).get(OPENAI) or {}
    shape = own.get("shape")
    tell_row(row, notes, OPENAI, held=("model_calls",) if "answer" in own else ())
    content = row.get("content") or []
    if "answer" in own:
        content = [{key: value for key, value in item.items() if key != "model_call"} for item in content]
    messages = messages_of_items(content, notes)
    if shape == "list":
        yield messages
        return
    answer = own.get("answer")
    if own.get("said") and messages and isinstance(answer, dict):
        first = {**answer["choices"][0], "message": messages.pop()}
        answer = {**answer, "choices": [first, *answer["choices"][1:]]}
    request: dict[str, Any] = {"messages": messages}
    around: dict[str, Any] = {} if shape == "log" else request
    if own.get("id") is None:
        around["id"] = row["id"]
    if tools := row.get("tools"):
        if own.get("functions"):
            request["functions"] = [tool.get("function", tool) for tool in tools]
        else:
            request["tools"] = tools
    if row.get("reward") is not None:
        around["reward"] = row["reward"]
    if row.get("details"):
        request["metadata"] = row["details"]
    around |= own.get("fields") or {}
    if shape == "log":
        around["request"] = request | (own.get("request") or {})
        if "answer" in own:
            around["response"] = answer
    elif isinstance(answer, dict):
        around |= answer
    yield around


def tell_row(row: Row, notes: Notes, space: str, held: tuple[str, ...] = ()) -> None:
    """Note what of a run has no place in a chat row."""
    if row.get("model_calls") and "model_calls" not in held:
        notes.drop("model_calls", orjson.dumps(row["model_calls"]).decode())
    for run in row.get("subagents") or ():
        notes.drop("sub-agent's run", orjson.dumps(run).decode())
    tell_extra(row.get("extra") or {}, notes, space)


OPENAI_CHAT = Format(
    name=OPENAI,
    title="OpenAI chat messages (chat completions and fine-tuning rows)",
    likes=_likes,
    decode=_decode,
    encode=_encode,
)
