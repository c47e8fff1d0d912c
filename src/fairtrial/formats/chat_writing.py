"""Items -> chat messages, as OpenAI's chat API takes them; the writing half of `chat_messages`.

What has no place in a message is told in the notes: see `tell_dropped`. A web page becomes its text (and screenshot),
code becomes a call of a tool named like its language, calls without an id get one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.formats.format import Notes
from fairtrial.formats.items import ACTIONS, Item, arguments_text

OPENAI = "openai-chat"
HELD = frozenset({"class_", "content", "source", "name", "call_id", "joined", "extra"})
"""Fields of what an agent saw that a message has a place for."""
HELD_BY_ACTIONS = frozenset(
    {
        "class_",
        "content",
        "description",
        "reasoning",
        "function",
        "kwargs",
        "malformed",
        "language",
        "call_id",
        "joined",
        "loss",
        "extra",
    }
)
"""The same of its actions."""
_WEB = frozenset({"html", "axtree", "url", "image_observation", "viewport_size"})


def messages_of_items(items: list[Item], notes: Notes, space: str = OPENAI) -> list[dict[str, Any]]:
    """The messages of a trajectory's items; `space` is the format whose own fields are followed."""
    messages: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for group in groups(with_call_ids(list(plain_items(items, notes)), notes, space)):
        action = group[0]["class_"] in ACTIONS
        for index, item in enumerate(group):
            if action and "call_id" in item:
                names[item["call_id"]] = item.get("function", "")
            if index and (later := item.get("description") or item.get("content")) and _calls(group[index - 1]):
                notes.rewrite("text after a call stands before it", later)
            tell_dropped(item, HELD_BY_ACTIONS if action else HELD, notes, space)
        if not action and group[0].get("name") and group[0]["source"] in ("agent", "environment"):
            _tell_name(group[0], notes, space)
        message = message_of_group(group, names, space)
        own = (group[0].get("extra") or {}).get(space)
        if own:
            message.update(own.get("fields") or {})
            for key in own.get("absent") or ():
                message.pop(key, None)
        messages.append(message)
    return messages


def _calls(item: Item) -> bool:
    return item["class_"] == "api_action" or item["class_"] == "code_action"


def _tell_name(item: Item, notes: Notes, space: str) -> None:
    if "call_id" not in item and not (item.get("extra") or {}).get(space):
        notes.drop("name of an observation that answers no call", item["name"])


def tell_dropped(item: Item, held: frozenset[str], notes: Notes, space: str) -> None:
    """Note each field of an item that is not among those `held`, and what other formats kept in it."""
    for key in item.keys() - held:
        value = item[key]
        notes.drop(key, value if isinstance(value, str) else orjson.dumps(value, default=str).decode())
    if "extra" in item:
        tell_extra(item["extra"], notes, space)


def tell_extra(extra: dict[str, Any], notes: Notes, space: str) -> None:
    """Note what other formats than `space` kept."""
    for name, fields in extra.items():
        if name != space:
            notes.drop(f"extra of {name}", orjson.dumps(fields, default=str).decode())


def plain_items(items: list[Item], notes: Notes) -> Iterator[Item]:
    """The items, web pages as text and screenshot."""
    for item in items:
        if item["class_"] != "web_observation":
            if item["class_"] == "code_action":
                notes.rewrite("code as a call", item["content"])
            yield item
            continue
        page = item.get("axtree") or item.get("html") or ""
        shared = {key: value for key, value in item.items() if key not in _WEB} | {"source": "environment"}
        shown = "\n\n".join(text for text in (item.get("url"), page) if text)
        notes.rewrite("web page as text", shown)
        if item.get("axtree") and item.get("html"):
            notes.drop("html beside the accessibility tree", item["html"])
        if item.get("viewport_size"):
            notes.drop("viewport_size", str(item["viewport_size"]))
        yield {**shared, "class_": "text_observation", "content": shown}
        if shot := item.get("image_observation"):
            beside = {key: shared[key] for key in ("call_id",) if key in shared}
            yield {**shot, **beside, "source": "environment", "joined": True}


def with_call_ids(items: list[Item], notes: Notes, space: str) -> list[Item]:
    """The items, calls without an id and the results that follow them in order given one."""
    taken: set[str] | None = None
    waiting: list[str] = []
    answered: str | None = None
    count = 0
    out: list[Item] = []
    for item in items:
        kind = item["class_"]
        if kind == "message_action" or "call_id" in item or (item.get("extra") or {}).get(space):
            if kind in ACTIONS and not item.get("joined"):
                waiting = []
            answered = None
        elif kind in ACTIONS:
            taken = taken or {other["call_id"] for other in items if "call_id" in other}
            count += 1
            while f"call_{count}" in taken:
                count += 1
            waiting = [*(waiting if item.get("joined") else ()), f"call_{count}"]
            notes.invent("call id", waiting[-1])
            item, answered = {**item, "call_id": waiting[-1]}, None
        elif item.get("source") == "environment" and (answered if item.get("joined") else waiting):
            answered = answered if item.get("joined") else waiting.pop(0)
            item = {**item, "call_id": answered}
        else:
            answered = None
        out.append(item)
    return out


def groups(items: list[Item]) -> Iterator[list[Item]]:
    """The items of each message: a response, or what a user or one tool result put before the agent."""
    group: list[Item] = []
    for item in items:
        if group and item.get("joined") and _together(group[0], item):
            group.append(item)
            continue
        if group:
            yield group
        group = [item]
    if group:
        yield group


def _together(first: Item, item: Item) -> bool:
    if (first["class_"] in ACTIONS) != (item["class_"] in ACTIONS):
        return False
    if item["class_"] in ACTIONS:
        return True
    return first.get("source") == item.get("source") and first.get("call_id") == item.get("call_id")


def message_of_group(group: list[Item], names: dict[str, str], space: str) -> dict[str, Any]:
    """One message of the items of one message. `names`: call id -> function, of the calls so far."""
    if group[0]["class_"] in ACTIONS:
        return _response(group, space)
    return _seen(group, names, space)


def _own(item: Item, space: str) -> dict[str, Any]:
    return (item.get("extra") or {}).get(space) or {}


def _response(group: list[Item], space: str) -> dict[str, Any]:
    parts: list[tuple[str, dict[str, Any]]] = []
    calls: list[dict[str, Any]] = []
    message: dict[str, Any] = {"role": "assistant", "content": None}
    reasoning: list[str] = []
    for item in group:
        own = _own(item, space)
        if item.get("reasoning") is not None:
            reasoning.append(item["reasoning"])
        texts = [item.get("description")]
        if item["class_"] == "message_action":
            texts.append(item["content"])
        elif own.get("legacy"):
            message["function_call"] = call_of_item(item, space)["function"]
        else:
            calls.append(call_of_item(item, space))
        for text in texts:
            if text is not None and own.get("refusal"):
                message["refusal"] = text
            elif text is not None:
                parts.append((text, own))
    if len(parts) == 1 and not parts[0][1].keys() & {"part", "parts"}:
        message["content"] = parts[0][0]
    elif parts:
        message["content"] = [_text_part(text, own) for text, own in parts]
    if reasoning:
        message[_own(group[0], space).get("reasoning_key", "reasoning_content")] = "\n\n".join(reasoning)
    if calls:
        message["tool_calls"] = calls
    losses = {item.get("loss") for item in group}
    if losses != {None}:
        message["weight"] = 0 if False in losses else 1
    return message


def _text_part(text: str, own: dict[str, Any]) -> Any:
    if own.get("whole"):
        return own["part"]
    part = own.get("part") or {"type": "text"}
    return {**part, part["type"]: text}


def call_of_item(item: Item, space: str) -> dict[str, Any]:
    """The tool call of an action."""
    if item["class_"] == "code_action":
        name, text = item["language"], orjson.dumps({"code": item["content"]}).decode()
    else:
        name, text = item["function"], arguments_text(item)
    own = _own(item, space)
    if not own:
        return {"id": item.get("call_id"), "type": "function", "function": {"name": name, "arguments": text}}
    shape = own.get("call")
    if own.get("legacy"):
        shape = {"function": shape if shape is not None else {"name": name}}
    call = {"id": item.get("call_id"), "type": "function", "function": {"name": name}} if shape is None else {**shape}
    if isinstance(call.get("id"), str):
        call["id"] = item.get("call_id")
    if "custom" in call and "function" not in call:
        call["custom"] = {**call["custom"], "input": item["kwargs"].get("input", text)}
        return call
    function = call["function"] = {**call["function"]}
    style = own.get("arguments")
    if style == "object":
        function["arguments"] = item["kwargs"]
    elif style in ("null", "empty") and not item["kwargs"]:
        function["arguments"] = None if style == "null" else ""
    elif style == "value" and "malformed" in item:
        function["arguments"] = orjson.loads(item["malformed"])
    elif style != "absent" or item["kwargs"]:
        function["arguments"] = text
    return call


def _seen(group: list[Item], names: dict[str, str], space: str) -> dict[str, Any]:
    first = group[0]
    source, name, call_id = first["source"], first.get("name"), first.get("call_id")
    message: dict[str, Any]
    if source == "system":
        message = {"role": "developer"} if name == "developer" else {"role": "system"}
        name = None if name == "developer" else name
    elif source == "environment" and call_id is not None:
        message = {"role": "tool", "tool_call_id": call_id}
        name = None if names.get(call_id) == name else name
    elif _own(first, space).get("legacy"):
        message = {"role": "function"}
    else:
        message = {"role": "user"}
        name = name if source == "user" else source
    if name is not None:
        message["name"] = name
    own = _own(first, space)
    if len(group) == 1 and first["class_"] == "text_observation" and not own.keys() & {"part", "parts"}:
        message["content"] = first["content"]
    else:
        message["content"] = [_part(item, space) for item in group]
    return message


def _part(item: Item, space: str) -> Any:
    own = _own(item, space)
    if own.get("whole"):
        return own["part"]
    if item["class_"] == "text_observation":
        return {**own.get("part", {"type": "text"}), "text": item["content"]}
    if "at" in own:
        return {**own["part"], own["at"]: item["content"]}
    part = own.get("part", {"type": "image_url", "image_url": {}})
    return {**part, "image_url": {"url": item["content"], **part["image_url"]}}
