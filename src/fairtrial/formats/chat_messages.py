"""Chat messages <-> items: the role / content / tool_calls list that OpenAI's chat API made common; reading.

What a message says beyond the usual shape is kept in `extra[space]` of the message's first item (`fields` that differ
from what `chat_writing` would write, `absent` ones, part and call shapes), so that writing gives the same message
again. `space` is the name of the format that reads: each one sees only its own.
"""

from __future__ import annotations

from typing import Any

import orjson

from fairtrial.formats.chat_writing import OPENAI, call_of_item, message_of_group, messages_of_items
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item, arguments

__all__ = ["OPENAI", "items_of_messages", "messages_of_items"]

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "function",
}
_SPEAKERS = ("environment", "agent")
_MISSING = object()
_IMAGE_KEYS = ("url", "image", "image_url", "path", "base64")


def items_of_messages(messages: Any, notes: Notes, space: str = OPENAI) -> list[Item]:
    """The items of a message list.

    Defects (results without a call, malformed arguments, repeated call ids, unknown roles) are flaws in `notes`.
    Raises RowError where `messages` is no list of objects with a role.
    """
    if not isinstance(messages, list):
        raise RowError("the messages are no list")
    items: list[Item] = []
    names: dict[str, str] = {}
    for number, message in enumerate(messages):
        if type(message) is not dict or not _usual(message, items, names):
            items += _unusual(message, number, names, notes, space)
    return items


def _usual(message: dict[str, Any], items: list[Item], names: dict[str, str]) -> bool:
    """Append the items of a message that has exactly the common keys; False (nothing appended) for any other."""
    role, content, size = message.get("role"), message.get("content"), len(message)
    if role == "assistant":
        if size == 2 and type(content) is str:
            items.append({"class_": "message_action", "content": content})
            return True
        return size == 3 and _usual_calls(message, content, items, names)
    if type(content) is not str:
        return False
    if role == "tool":
        call_id = message.get("tool_call_id")
        if size != 3 or type(call_id) is not str or (name := names.get(call_id)) is None:
            return False
        items.append(
            {
                "class_": "text_observation",
                "content": content,
                "source": "environment",
                "name": name,
                "call_id": call_id,
            }
        )
        return True
    if size == 2 and (role == "user" or role == "system"):
        items.append({"class_": "text_observation", "content": content, "source": role})
        return True
    return False


def _usual_calls(message: dict[str, Any], content: Any, items: list[Item], names: dict[str, str]) -> bool:
    """The same for {role, content, tool_calls} with well-formed function calls."""
    calls = message.get("tool_calls")
    if type(calls) is not list or not calls or (type(content) is not str and (content or "content" not in message)):
        return False
    made: list[Item] = []
    fresh: dict[str, str] = {}
    for call in calls:
        if type(call) is not dict or len(call) != 3 or call.get("type") != "function":
            return False
        function, call_id = call.get("function"), call.get("id")
        if type(function) is not dict or len(function) != 2 or type(call_id) is not str or call_id in names:
            return False
        name, source = function.get("name"), function.get("arguments")
        if type(name) is not str or type(source) is not str or call_id in fresh:
            return False
        try:
            kwargs = orjson.loads(source)
        except ValueError:
            return False
        if type(kwargs) is not dict:
            return False
        fresh[call_id] = name
        item: Item = {"class_": "api_action", "function": name, "kwargs": kwargs, "call_id": call_id}
        if made:
            item["joined"] = True
        elif content is not None:
            item["description"] = content
        made.append(item)
    items += made
    names.update(fresh)
    return True


def _unusual(message: Any, number: int, names: dict[str, str], notes: Notes, space: str) -> list[Item]:
    """The items of any other message; what `message_of_group` would write differently is kept in the first one."""
    if not isinstance(message, dict):
        raise RowError(f"message {number} is no object")
    role = message.get("role")
    if not isinstance(role, str):
        raise RowError(f"message {number} has no role")
    kind = _ROLES.get(role)
    if kind is None:
        notes.flaw("unknown role", f"message {number} has the role {role[:40]!r}")
    if kind == "assistant":
        group = _response(message, number, names, notes, space)
    else:
        group = _seen(message, kind, number, names, notes, space)
    written = message_of_group(group, names, space)
    fields = {key: value for key, value in message.items() if written.get(key, _MISSING) != value}
    if kind == "assistant":  # calls are items; what is odd in them is kept there
        for key, shape in (("tool_calls", list), ("function_call", dict)):
            if message.get(key) and isinstance(message[key], shape):
                fields.pop(key, None)
    absent = [key for key in written if key not in message]
    if fields:
        _own(group[0], space)["fields"] = fields
    if absent:
        _own(group[0], space)["absent"] = absent
    return group


def _own(item: Item, space: str) -> dict[str, Any]:
    """This format's own fields of an item, made where there are none."""
    return item.setdefault("extra", {}).setdefault(space, {})


Text = tuple[str, dict[str, Any]]
"""A text and what its part says beyond it."""


def _texts(content: Any, number: int, notes: Notes) -> list[Text]:
    """The texts of an assistant's content."""
    if isinstance(content, str):
        return [(content, {})]
    if content is None:
        return []
    if not isinstance(content, list):
        return [(_foreign(content, number, notes), {})]
    texts: list[Text] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "refusal") and isinstance(part.get(kind), str):
            rest = {key: value for key, value in part.items() if key != kind}
            texts.append((part[kind], {"part": rest} if kind == "refusal" or len(part) > 2 else {}))
        else:
            texts.append(("", {"part": part, "whole": True}))
    if len(texts) == 1 and not texts[0][1]:
        texts[0][1]["parts"] = True
    return texts


def _foreign(content: Any, number: int, notes: Notes) -> str:
    notes.flaw("content", f"the content of message {number} is neither text nor a list of parts")
    return orjson.dumps(content).decode()


def _response(message: dict[str, Any], number: int, names: dict[str, str], notes: Notes, space: str) -> list[Item]:
    """A model response: its texts and calls."""
    texts = _texts(message.get("content"), number, notes)
    if isinstance(refusal := message.get("refusal"), str):
        texts.append((refusal, {"refusal": True}))
    audio = message.get("audio")
    if not texts and isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
        texts.append((audio["transcript"], {}))
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowError(f"the tool_calls of message {number} are no list")
    made = [_called(call, number, names, notes, space) for call in calls]
    if isinstance(legacy := message.get("function_call"), dict):
        item = _function(legacy, {"legacy": True}, number, notes, space)
        rest = legacy.keys() - {"name", "arguments"}
        if rest or not isinstance(legacy.get("name"), str):
            _own(item, space)["call"] = {key: value for key, value in legacy.items() if key != "arguments"}
        made.append(item)
    if made and texts:
        made[0]["description"], own = texts.pop()
        if own:
            made[0]["extra"] = {space: own | made[0].get("extra", {}).get(space, {})}
    elif not made and not texts:
        texts.append(("", {}))
    group: list[Item] = [*(_said(text, own, space) for text, own in texts), *made]
    for item in group[1:]:
        item["joined"] = True
    for key in ("reasoning_content", "reasoning"):
        if isinstance(message.get(key), str):
            group[0]["reasoning"] = message[key]
            if key != "reasoning_content":
                _own(group[0], space)["reasoning_key"] = key
            break
    weight = message.get("weight")
    if type(weight) is int and weight in (0, 1):
        for item in group:
            item["loss"] = weight == 1
    return group


def _said(text: str, own: dict[str, Any], space: str) -> Item:
    item: Item = {"class_": "message_action", "content": text}
    if own:
        item["extra"] = {space: own}
    return item


def _called(call: Any, number: int, names: dict[str, str], notes: Notes, space: str) -> Item:
    """One tool call; its shape is kept where it is not {id, type, function: {name, arguments}}."""
    if not isinstance(call, dict):
        raise RowError(f"a tool call of message {number} is no object")
    custom = call.get("custom")
    if isinstance(custom, dict) and isinstance(custom.get("input"), str) and "function" not in call:
        item: Item = {"class_": "api_action", "function": str(custom.get("name")), "kwargs": {"input": custom["input"]}}
        shape = {**call, "custom": {key: value for key, value in custom.items() if key != "input"}}
    else:
        function = call.get("function")
        if not isinstance(function, dict):
            raise RowError(f"a tool call of message {number} has no function")
        item = _function(function, {}, number, notes, space)
        shape = {**call, "function": {key: value for key, value in function.items() if key != "arguments"}}
    if (call_id := call.get("id")) is not None:
        item["call_id"] = call_id = str(call_id)
        if call_id in names:
            notes.flaw("repeated call id", f"the call id {call_id[:60]!r} is used more than once")
        names[call_id] = item["function"]
    written = call_of_item(item, space)
    written["function"].pop("arguments", None)
    if written != shape or call_id is None:
        _own(item, space)["call"] = shape
    return item


def _function(function: dict[str, Any], own: dict[str, Any], number: int, notes: Notes, space: str) -> Item:
    """The call of {name, arguments}; how `arguments` was written is kept where it is no JSON text of an object."""
    name, source = function.get("name"), function.get("arguments", _MISSING)
    if not isinstance(name, str):
        notes.flaw("call without a name", f"a call of message {number} has no name")
        name = ""
    if source is _MISSING:
        own["arguments"], source = "absent", None
    elif not isinstance(source, str) or source == "":
        style = "null" if source is None else "object" if isinstance(source, dict) else "empty"
        own["arguments"] = style if style != "empty" or source == "" else "value"
    item: Item = {"class_": "api_action", "function": name, **arguments(source, name, notes)}
    if own:
        item["extra"] = {space: own}
    return item


def _seen(
    message: dict[str, Any], kind: str | None, number: int, names: dict[str, str], notes: Notes, space: str
) -> list[Item]:
    """What a user, an operator or a tool put before the agent: its texts and images."""
    name, call_id = message.get("name"), None
    name = name if isinstance(name, str) else None
    source = "system" if kind in ("system", "developer") else "user" if kind == "user" else "environment"
    if kind == "developer":
        name = "developer"
    elif kind == "user" and name in _SPEAKERS:
        source, name = name, None
    elif kind == "tool":
        call_id = message.get("tool_call_id")
        if call_id is not None:
            call_id = str(call_id)
            name = names.get(call_id) if name is None else name
        if call_id not in names:
            notes.flaw("result without a call", f"message {number} answers no call: {str(call_id)[:60]}")
    group: list[Item] = []
    for item, own in _parts(message.get("content"), number, notes):
        item["source"] = source
        if name is not None and item["class_"] == "text_observation":
            item["name"] = name
        if call_id is not None:
            item["call_id"] = call_id
        if group:
            item["joined"] = True
        if kind == "function":
            own["legacy"] = True
        if own:
            item["extra"] = {space: own}
        group.append(item)
    return group


def _parts(content: Any, number: int, notes: Notes) -> list[tuple[Item, dict[str, Any]]]:
    """The parts of a content as observations without a source, each with what its part says beyond it."""
    if not isinstance(content, list) or not content:
        text = content if isinstance(content, str) else "" if not content else _foreign(content, number, notes)
        return [({"class_": "text_observation", "content": text}, {})]
    found = [_part(part) for part in content]
    if len(found) == 1 and found[0][0]["class_"] == "text_observation" and not found[0][1]:
        found[0][1]["parts"] = True
    return found


def _part(part: Any) -> tuple[Item, dict[str, Any]]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        rest = {key: value for key, value in part.items() if key != "text"}
        return {"class_": "text_observation", "content": part["text"]}, {"part": rest} if len(rest) > 1 else {}
    image = part.get("image_url") if kind == "image_url" else None
    if isinstance(image, dict) and isinstance(image.get("url"), str):
        inner = {key: value for key, value in image.items() if key != "url"}
        own = {"part": {**part, "image_url": inner}} if inner or len(part) > 2 else {}
        return {"class_": "image_observation", "content": image["url"]}, own
    if kind in ("image", "image_url", "input_image"):
        for key in _IMAGE_KEYS:
            if isinstance(part.get(key), str):
                rest = {other: value for other, value in part.items() if other != key}
                return {"class_": "image_observation", "content": part[key]}, {"part": rest, "at": key}
    return {"class_": "text_observation", "content": ""}, {"part": part, "whole": True}
