"""Items <-> turns of plain text: what ShareGPT, LLaMA-Factory and ChatML write. Calls and thoughts stand in the text.

A call is `{"name": ..., "arguments": ...}` as JSON, hidden reasoning stands in `<think>` before the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from fairtrial.formats.chat_writing import HELD, HELD_BY_ACTIONS, groups, plain_items, tell_dropped
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import ACTIONS, Item, arguments

Role = Literal["system", "user", "assistant", "tool"]
_SAID, _SEEN = HELD_BY_ACTIONS - {"call_id"}, HELD - {"call_id"}
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "agent": "user", "environment": "tool"}


@dataclass(slots=True)
class Turn:
    """One message as text. `own` are the writing format's own fields of its first item."""

    role: Role
    text: str
    reasoning: str | None = None
    calls: list[Item] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)
    loss: bool | None = None
    """Of a response: whether training may learn from it, where that is said."""


def turns_of_items(items: list[Item], notes: Notes, space: str) -> Iterator[Turn]:
    """The turns of a trajectory's items. What text cannot hold (images, ids, rewards) is told in the notes."""
    waiting: list[str] = []
    for group in _in_call_order(list(groups(list(plain_items(items, notes)))), notes):
        own = (group[0].get("extra") or {}).get(space) or {}
        action = group[0]["class_"] in ACTIONS
        texts: list[str] = []
        for item in group:
            tell_dropped(item, _SAID if action else _SEEN, notes, space)
            if item["class_"] == "image_observation":
                notes.drop("image", item["content"])
                continue
            content = item.get("content") if item["class_"] in ("message_action", "text_observation") else None
            texts += [text for text in (item.get("description"), content) if text]
        if len(texts) > 1:
            notes.rewrite("several texts as one", "\n\n".join(texts))
        if action:
            calls = [item for item in group if item["class_"] != "message_action"]
            waiting = [_name(call) for call in calls]
            thoughts = [item["reasoning"] for item in group if item.get("reasoning") is not None]
            losses = {item.get("loss") for item in group}
            loss = False if False in losses else True if True in losses else None
            yield Turn("assistant", "\n\n".join(texts), "\n\n".join(thoughts) if thoughts else None, calls, own, loss)
        else:
            source = group[0]["source"]
            derived = waiting.pop(0) if waiting and source == "environment" else None
            if (name := group[0].get("name")) not in (None, derived):
                notes.drop("name", str(name))
            yield Turn(_ROLES[source], "\n\n".join(texts), own=own)


def _in_call_order(messages: list[list[Item]], notes: Notes) -> list[list[Item]]:
    """The messages with the results of parallel calls in the order of the calls: in text, nothing else pairs them."""
    place: dict[str, int] = {}
    for index, group in enumerate(messages):
        if group[0]["class_"] in ACTIONS:
            place = {item["call_id"]: number for number, item in enumerate(group) if "call_id" in item}
        elif index and (here := group[0].get("call_id")) in place:
            other = index
            while other and place.get(messages[other - 1][0].get("call_id", ""), -1) > place[here]:
                if messages[other - 1][0]["class_"] in ACTIONS:
                    break
                messages[other - 1], messages[other] = messages[other], messages[other - 1]
                other -= 1
            if other != index:
                notes.rewrite("results in the order of their calls", str(here))
    return messages


def _name(call: Item) -> str:
    return call["language"] if call["class_"] == "code_action" else call["function"]


def learnable(turns: list[Turn], notes: Notes) -> list[Turn]:
    """The turns up to the last response that training may use, for forms that have no mask for one turn.

    Raises RowError where there is none, or where a response before it must not be learned from.
    """
    responses = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    learned = [index for index in responses if turns[index].loss is not False]
    if not learned:
        raise RowError("nothing to learn from: no response of the agent that training may use")
    if any(index < learned[-1] and turns[index].loss is False for index in responses):
        raise RowError("a response that must not be learned from stands before one that may")
    for turn in turns[learned[-1] + 1 :]:
        notes.drop("after the last response to learn from", turn.text)
        for call in turn.calls:
            notes.drop("after the last response to learn from", call_json([call], notes, ()))
    return turns[: learned[-1] + 1]


def call_object(call: Item) -> dict[str, Any]:
    """A call as {name, arguments}; malformed arguments are the text that was written."""
    if call["class_"] == "code_action":
        return {"name": call["language"], "arguments": {"code": call["content"]}}
    return {"name": call["function"], "arguments": call.get("malformed", call["kwargs"])}


def call_of_object(value: Any, notes: Notes) -> Item | None:
    """The call that {name, arguments} says; None where it says none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given = value.get("arguments", value.get("parameters"))
    return {"class_": "api_action", "function": value["name"], **arguments(given, value["name"], notes)}


def response(text: str, reasoning: str | None, calls: list[Item]) -> list[Item]:
    """The items of a response."""
    if not calls:
        calls = [{"class_": "message_action", "content": text}]
    elif text:
        calls[0]["description"] = text
    if reasoning is not None:
        calls[0]["reasoning"] = reasoning
    for call in calls[1:]:
        call["joined"] = True
    return calls


def with_thought(reasoning: str | None, text: str) -> str:
    """The text with hidden reasoning before it."""
    return text if reasoning is None else f"<think>\n{reasoning}\n</think>\n\n{text}"


def split_thought(text: str) -> tuple[str | None, str]:
    """The reasoning that a text begins with, and the rest."""
    if not text.startswith("<think>"):
        return None, text
    end = text.find("</think>")
    if end < 0:
        return None, text
    inner, rest = text[len("<think>") : end], text[end + len("</think>") :]
    inner = inner.removeprefix("\n").removesuffix("\n")
    return inner, rest.removeprefix("\n").removeprefix("\n")


def call_json(calls: list[Item], notes: Notes, markers: tuple[str, ...]) -> str:
    """Calls as JSON: one object, or a list of parallel ones. `markers` inside are escaped, with a note."""
    objects = [call_object(call) for call in calls]
    text = orjson.dumps(objects[0] if len(objects) == 1 else objects).decode()
    if any(marker in text for marker in markers):
        notes.rewrite("markers inside a call escaped", text)
        text = text.replace("<", "\\u003c")
    return text


def tools_of(value: Any, notes: Notes) -> list[dict[str, Any]] | None:
    """Tool schemas of a list or its JSON text, wrapped as OpenAI has them; None where there are none."""
    if isinstance(value, str) and value.strip():
        try:
            value = orjson.loads(value)
        except ValueError:
            notes.flaw("malformed tools", "the tools are no JSON")
    if not isinstance(value, list) or not value or not all(isinstance(tool, dict) for tool in value):
        return None
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]
