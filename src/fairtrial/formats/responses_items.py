"""Items of OpenAI's Responses API <-> items of a trajectory; see `openai_responses`.

What an item says beyond the usual shape is kept in the extra of the item that it became: `text`, `tool` and `seen`
hold the fields in which it differs from what would be written, `reasoning` the reasoning items before an action.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.formats.chat_writing import (
    HELD,
    HELD_BY_ACTIONS,
    call_of_item,
    groups,
    plain_items,
    tell_dropped,
    with_call_ids,
)
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import ACTIONS, Item, arguments

RESPONSES = "openai-responses"
_OUTPUTS = {
    "function_call_output": "output",
    "custom_tool_call_output": "output",
    "local_shell_call_output": "output",
    "shell_call_output": "output",
    "apply_patch_call_output": "output",
    "computer_call_output": "output",
}
_CALLS = {
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
    "computer_call": "action",
    "web_search_call": "action",
    "file_search_call": "queries",
    "code_interpreter_call": "code",
    "image_generation_call": "",
    "mcp_call": "arguments",
    "mcp_approval_request": "arguments",
}
"""Calls other than of functions, and where their arguments stand."""
_RESULTS = {"mcp_call": ("output", "error"), "file_search_call": ("results",), "code_interpreter_call": ("outputs",)}
_OTHERS = frozenset({"compaction", "item_reference", "mcp_list_tools", "mcp_approval_response"})
SPECIAL = frozenset(_OUTPUTS) | frozenset(_CALLS) | _OTHERS
_SAID = HELD_BY_ACTIONS - {"loss"}
_MISSING = object()


def items_of_output(values: list[Any], names: dict[str, str], notes: Notes) -> list[Item]:
    """The trajectory's items of a list of Responses items. `names` (call id -> function) is read and added to."""
    return _Reader(names, notes).read(values)


def _changes(written: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """How an item differs from what would be written for it."""
    fields = {key: value for key, value in source.items() if written.get(key, _MISSING) != value}
    absent = [key for key in written if key not in source]
    return ({"fields": fields} if fields else {}) | ({"absent": absent} if absent else {})


def _changed(written: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    if changes:
        written.update(changes.get("fields") or {})
        for key in changes.get("absent") or ():
            written.pop(key, None)
    return written


class _Reader:
    """Reads the items of one list; what the model said is held until the action that it belongs to is known."""

    def __init__(self, names: dict[str, str], notes: Notes) -> None:
        self.names, self.notes = names, notes
        self.items: list[Item] = []
        self.thoughts: list[dict[str, Any]] = []
        self.spoken: Item | None = None
        self.running = False

    def read(self, values: list[Any]) -> list[Item]:
        for number, value in enumerate(values):
            if not isinstance(value, dict):
                raise RowError(f"item {number} is no object")
            kind = value.get("type", "message" if "role" in value else None)
            kind = kind if isinstance(kind, str) else None
            if kind == "reasoning":
                self.say(None)
                self.thoughts.append(value)
            elif kind == "message" and value.get("role") == "assistant":
                self.message(value)
            elif kind == "function_call":
                self.act(self.function(value, number))
            elif kind in _CALLS:
                self.special(kind, value, number)
            else:
                self.end()
                self.items += self.seen(value, kind, number)
        self.end()
        return self.items

    def say(self, text: Item | None) -> None:
        """Let go of the text held, and hold this one."""
        held, self.spoken = self.spoken, text
        if held is not None:
            self.append(held)

    def append(self, item: Item) -> None:
        if self.running:
            item["joined"] = True
        self.running = True
        self.items.append(item)

    def end(self) -> None:
        """The run of the model's items is over."""
        self.say(None)
        if self.thoughts:
            self.append(self.thought({"class_": "message_action", "content": "", "extra": {RESPONSES: {"mute": True}}}))
        self.running = False

    def thought(self, item: Item) -> Item:
        """The action with the reasoning before it."""
        if not self.thoughts:
            return item
        thoughts, self.thoughts = self.thoughts, []
        texts = [_reasoning_text(thought) for thought in thoughts]
        if given := [text for text in texts if text is not None]:
            item["reasoning"] = "\n\n".join(given)
        kept: list[dict[str, Any]] = []
        if len(thoughts) == 1 and given:
            changes = _changes(_reasoning(given[0]), thoughts[0])
            kept = [changes] if changes else []
        if len(thoughts) > 1 or not given or (kept and "summary" in kept[0].get("fields", {})):
            kept = [{"whole": thought} for thought in thoughts]
        if kept:
            _own(item)["reasoning"] = kept
        return item

    def message(self, value: dict[str, Any]) -> None:
        content = value.get("content")
        parts = content if isinstance(content, list) and content else [content]
        for index, part in enumerate(parts):
            text, own = (part or "", {}) if part is content and not isinstance(part, dict | list) else _text_of(part)
            if not isinstance(text, str):
                text, own = "", {"whole": part}
            item: Item = {"class_": "message_action", "content": text}
            if not index:
                own |= _changes({**_message(text), "content": content}, value)
                if not isinstance(content, list) or not content:
                    own["content"] = "text" if isinstance(content, str) else content
            else:
                own["continued"] = True
            if own:
                item["extra"] = {RESPONSES: {"text": own}}
            self.say(None)
            self.spoken = self.thought(item)

    def act(self, call: Item) -> None:
        """A call, with the text right before it as its description."""
        spoken, self.spoken = self.spoken, None
        call = self.thought(call)
        if spoken is not None:
            call["description"] = spoken["content"]
            if "reasoning" in spoken:
                call["reasoning"] = spoken["reasoning"]
            if "extra" in spoken:
                call["extra"] = {RESPONSES: spoken["extra"][RESPONSES] | _own(call)}
        self.append(call)

    def function(self, value: dict[str, Any], number: int) -> Item:
        name, source = value.get("name"), value.get("arguments")
        if not isinstance(name, str):
            self.notes.flaw("call without a name", f"item {number} is a call without a name")
            name = ""
        item: Item = {"class_": "api_action", "function": name, **arguments(source, name, self.notes)}
        self.identify(item, value)
        changes = _changes({**_call(item), "arguments": source}, value)
        if not isinstance(source, str) or not source:
            changes.setdefault("fields", {})["arguments"] = source
            if "arguments" not in value:
                del changes["fields"]["arguments"]
                changes.setdefault("absent", []).append("arguments")
        if changes or item.get("call_id") is None:
            _own(item)["tool"] = changes
        return item

    def identify(self, item: Item, value: dict[str, Any]) -> None:
        call_id = value.get("call_id")
        if isinstance(call_id, str):
            item["call_id"] = call_id
            if call_id in self.names:
                self.notes.flaw("repeated call id", f"the call id {call_id[:60]!r} is used more than once")
            self.names[call_id] = item["function"]

    def special(self, kind: str, value: dict[str, Any], number: int) -> None:
        """A call of another kind than of a function; its item is kept whole, its results stand after it."""
        name = value.get("name")
        item: Item = {"class_": "api_action", "function": name if isinstance(name, str) else kind.removesuffix("_call")}
        given = value.get(_CALLS[kind])
        if kind in ("mcp_call", "mcp_approval_request"):
            item |= arguments(given, item["function"], self.notes)
        else:
            item["kwargs"] = given if isinstance(given, dict) else {} if given is None else {_CALLS[kind]: given}
        self.identify(item, value)
        whole = value
        image = value.get("result") if kind == "image_generation_call" else None
        if isinstance(image, str):
            whole = {**value, "result": ""}
        item["extra"] = {RESPONSES: {"tool": {"whole": whole}}}
        self.act(item)
        results = [value[key] for key in _RESULTS.get(kind, ()) if value.get(key)]
        for result in results:
            self.within({"class_": "text_observation", "content": result if isinstance(result, str) else _json(result)})
        if isinstance(image, str):
            self.within({"class_": "image_observation", "content": f"data:image/png;base64,{image}"})

    def within(self, seen: Item) -> None:
        """What a call returned that the provider ran itself."""
        call = self.items[-1]
        seen |= {"source": "environment", "extra": {RESPONSES: {"within": True}}}
        if seen["class_"] == "text_observation":
            seen["name"] = call.get("function", "")
        self.running = False
        self.items.append(seen)

    def seen(self, value: dict[str, Any], kind: str | None, number: int) -> list[Item]:
        role = value.get("role")
        if kind == "message" and role in ("user", "system", "developer"):
            shared: Item = {"source": "user" if role == "user" else "system"}
            if role == "developer":
                shared["name"] = "developer"
            return self.parts(value, "content", shared)
        if kind in _OUTPUTS:
            call_id = value.get("call_id")
            if call_id not in self.names if isinstance(call_id, str) else True:
                self.notes.flaw("result without a call", f"item {number} answers no call: {str(call_id)[:60]}")
            shared = {"source": "environment"}
            if isinstance(call_id, str):
                shared["call_id"] = call_id
                if call_id in self.names:
                    shared["name"] = self.names[call_id]
            return self.parts(value, "output", shared)
        if kind not in _OTHERS:
            self.notes.flaw("unknown item", f"item {number} is of the unknown type {str(kind)[:60]!r}")
        item: Item = {"class_": "text_observation", "content": "", "source": "system", "name": str(kind)}
        return [item | {"extra": {RESPONSES: {"seen": {"whole": value}}}}]

    def parts(self, value: dict[str, Any], key: str, shared: Item) -> list[Item]:
        """The observations of a content or an output."""
        content = value.get(key)
        made: list[Item] = []
        for part in content if isinstance(content, list) and content else [content]:
            item: Item
            own: dict[str, Any]
            if part is content and (part is None or isinstance(part, str)):
                item, own = {"class_": "text_observation", "content": part or ""}, {}
            else:
                item, own = _seen_part(part)
            item |= {k: v for k, v in shared.items() if k != "name" or item["class_"] == "text_observation"}
            if own:
                item["extra"] = {RESPONSES: own}
            if made:
                item["joined"] = True
            made.append(item)
        if isinstance(content, list) and len(made) == 1 and content:
            _own(made[0])["parts"] = True
        elif isinstance(content, dict):
            _own(made[0])["bare"] = True
        written = _seen(made, self.names)
        changes = _changes(written, value)
        if changes:
            _own(made[0])["seen"] = changes
        return made


def _own(item: Item) -> dict[str, Any]:
    """This format's own fields of an item, made where there are none."""
    return item.setdefault("extra", {}).setdefault(RESPONSES, {})


def _of(item: Item) -> dict[str, Any]:
    return (item.get("extra") or {}).get(RESPONSES) or {}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _reasoning_text(value: dict[str, Any]) -> str | None:
    for key in ("content", "summary"):
        parts = value.get(key)
        if isinstance(parts, list):
            texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
            if texts:
                return "\n\n".join(texts)
    return None


def _text_of(part: Any) -> tuple[str, dict[str, Any]]:
    """The text of a part of the model's message, and what it says beyond it."""
    kind = part.get("type") if isinstance(part, dict) else None
    key = "refusal" if kind == "refusal" else "text"
    if kind not in ("output_text", "refusal") or not isinstance(part.get(key), str):
        return "", {"whole": part}
    rest = {other: value for other, value in part.items() if other not in ("type", key)}
    if kind == "refusal":
        rest["type"] = kind
    return part[key], {"part": rest} if rest else {}


def _seen_part(part: Any) -> tuple[Item, dict[str, Any]]:
    kind = part.get("type") if isinstance(part, dict) else None
    for wanted, key, class_ in (
        ("input_text", "text", "text_observation"),
        ("input_image", "image_url", "image_observation"),
        ("computer_screenshot", "image_url", "image_observation"),
    ):
        if kind == wanted and isinstance(part.get(key), str):
            rest = {other: value for other, value in part.items() if other not in ("type", key)}
            rest |= {"type": kind} if kind == "computer_screenshot" else {}
            return {"class_": class_, "content": part[key]}, {"part": rest} if rest else {}
    return {"class_": "text_observation", "content": ""}, {"whole": part}


def output_of_items(items: list[Item], names: dict[str, str], notes: Notes) -> list[dict[str, Any]]:
    """The Responses items of a trajectory's items. What has no place in them is told in the notes."""
    out: list[dict[str, Any]] = []
    for group in groups(with_call_ids(list(plain_items(items, notes)), notes, RESPONSES)):
        action = group[0]["class_"] in ACTIONS
        for item in group:
            tell_dropped(item, _SAID if action else HELD, notes, RESPONSES)
            if action:
                if "call_id" in item:
                    names[item["call_id"]] = item.get("function", "")
                for value in _said(item):
                    if value.pop("continued", False) and out and isinstance(out[-1].get("content"), list):
                        out[-1]["content"] += value["content"]
                    else:
                        out.append(value)
        if action:
            continue
        first = _of(group[0])
        if first.get("within"):
            if group[0]["class_"] == "image_observation" and out:
                out[-1]["result"] = group[0]["content"].partition(",")[2]
        elif "whole" in first.get("seen", {}):
            out.append(first["seen"]["whole"])
        else:
            if group[0]["source"] in ("environment", "agent") and "call_id" not in group[0] and not first.get("seen"):
                notes.rewrite(f"{group[0]['source']} as user", str(group[0].get("content")))
            out.append(_changed(_seen(group, names), first.get("seen")))
    return out


def _said(item: Item) -> Iterator[dict[str, Any]]:
    """The items of one action: its reasoning, its text, its call."""
    own = _of(item)
    if kept := own.get("reasoning"):
        for changes in kept:
            yield changes["whole"] if "whole" in changes else _changed(_reasoning(item["reasoning"]), changes)
    elif item.get("reasoning") is not None:
        yield _reasoning(item["reasoning"])
    shape = own.get("text", {})
    for text in (item.get("description"), item.get("content") if item["class_"] == "message_action" else None):
        if text is None or own.get("mute"):
            continue
        value = _message(text)
        part = value["content"][0] | shape.get("part", {})
        if part["type"] == "refusal":
            part = {"type": "refusal", "refusal": text, **shape["part"]}
        value["content"] = [shape["whole"]] if "whole" in shape else [part]
        if "content" in shape:
            value["content"] = text if shape["content"] == "text" else shape["content"]
        yield _changed(value, shape) | ({"continued": True} if shape.get("continued") else {})
    if item["class_"] != "message_action":
        changes = own.get("tool") or {}
        yield {**changes["whole"]} if "whole" in changes else _changed(_call(item), changes)


def _reasoning(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


def _message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def _call(item: Item) -> dict[str, Any]:
    function = call_of_item(item, RESPONSES)["function"]
    return {"type": "function_call", "call_id": item.get("call_id"), **function}


def _seen(group: list[Item], names: dict[str, str]) -> dict[str, Any]:
    """The message or output of what was put before the agent."""
    first = group[0]
    own = _of(first)
    if len(group) == 1 and first["class_"] == "text_observation" and not own.keys() & {"part", "parts", "whole"}:
        content: Any = first["content"]
    else:
        content = [_part(item) for item in group]
    if own.get("bare") or ("whole" in own and not own.get("parts") and len(group) == 1):
        content = _part(first)
    if first["source"] == "environment" and "call_id" in first:
        return {"type": "function_call_output", "call_id": first["call_id"], "output": content}
    role = "developer" if first.get("name") == "developer" else first["source"]
    return {"type": "message", "role": role if role in ("system", "developer") else "user", "content": content}


def _part(item: Item) -> Any:
    own = _of(item)
    if "whole" in own:
        return own["whole"]
    if item["class_"] == "text_observation":
        return {"type": "input_text", "text": item["content"], **own.get("part", {})}
    return {"type": "input_image", "image_url": item["content"], **own.get("part", {})}
