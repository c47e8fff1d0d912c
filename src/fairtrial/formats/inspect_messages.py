"""Chat messages of Inspect AI (0.3.285) as items of a row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fairtrial.formats import items
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item

_SOURCES = {"system": ("system", None), "developer": ("system", "developer"), "user": ("user", None)}
_MESSAGE = frozenset({"role", "content", "tool_calls", "tool_call_id", "function"})
_MEDIA = {"image": "image", "audio": "audio", "video": "video", "document": "document"}


def items_of(messages: Iterable[Any], notes: Notes) -> tuple[list[Item], dict[str, Item]]:
    """The items of all messages, and the first item of each message by the message's id."""
    content: list[Item] = []
    by_id: dict[str, Item] = {}
    asked: set[str] = set()
    for message in messages:
        if not isinstance(message, dict):
            raise RowError("a message is no JSON object")
        role = message.get("role")
        if role == "assistant":
            found = _assistant(message, notes, asked)
        elif role == "tool":
            found = _tool(message, notes, asked)
        elif role in _SOURCES:
            source, name = _SOURCES[role]
            found = _seen(message.get("content"), {"source": source, "name": name})
        else:
            raise RowError(f"a message has the role {role!r}")
        rest = {k: v for k, v in message.items() if k not in _MESSAGE and v is not None and v != {}}
        if role == "tool" and isinstance(error := rest.get("error"), dict) and not message.get("content"):
            rest["error"] = {k: v for k, v in error.items() if k != "message"}
        if role == "user" and message.get("tool_call_id"):
            rest["tool_call_id"] = message["tool_call_id"]
        if rest:
            found[0].setdefault("extra", {}).setdefault("inspect", {}).update(rest)
        if isinstance(message.get("id"), str):
            by_id[message["id"]] = found[0]
        content += found
    return content, by_id


def _parts(content: Any) -> list[dict[str, Any]]:
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content or ""}]
    if not isinstance(content, list):
        raise RowError("a message's content is neither text nor a list of parts")
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]


def _seen(content: Any, fields: dict[str, Any]) -> list[Item]:
    """Items of a message that the agent saw."""
    found: list[Item] = []
    for part in _parts(content):
        item = _seen_part(part, fields)
        if found:
            item["joined"] = True
        found.append(item)
    return found or [_plain("", fields)]


def _plain(text: str, fields: dict[str, Any]) -> Item:
    return {"class_": "text_observation", "content": text, **{k: v for k, v in fields.items() if v is not None}}


def _seen_part(part: dict[str, Any], fields: dict[str, Any]) -> Item:
    kind = part.get("type")
    if kind == "text":
        item, known = _plain(part["text"], fields), "text"
    elif kind == "image":
        item = {"class_": "image_observation", "content": part["image"]}
        item.update({k: v for k, v in fields.items() if v is not None and k != "name"})
        known = "image"
    elif kind == "reasoning":
        item, known = _plain(part["reasoning"], fields), "reasoning"
    else:
        item, known = _plain(str(part.get(_MEDIA.get(str(kind), ""), "")), fields), _MEDIA.get(str(kind), "")
    rest = {k: v for k, v in part.items() if k != known and v is not None and (k, v) != ("type", "text")}
    if kind == "image" and rest.get("detail") == "auto":
        del rest["detail"]
    if rest and rest != {"type": "image"}:
        item.setdefault("extra", {})["inspect"] = {"part": rest}
    return item


def _tool(message: dict[str, Any], notes: Notes, asked: set[str]) -> list[Item]:
    error, call_id = message.get("error"), message.get("tool_call_id")
    fields: dict[str, Any] = {"source": "environment", "name": message.get("function"), "call_id": call_id}
    if call_id is not None and call_id not in asked:
        notes.flaw("result without call", f"a result names the call {call_id!r}, which no earlier message makes")
    content = message.get("content")
    if isinstance(error, dict):
        fields["is_error"] = True
        if not content:
            content = error.get("message") or ""
    return _seen(content, fields)


def _assistant(message: dict[str, Any], notes: Notes, asked: set[str]) -> list[Item]:
    turn = _Turn()
    for part in _parts(message.get("content")):
        turn.take(part)
    for call in message.get("tool_calls") or ():
        if call.get("id") in asked:
            notes.flaw("duplicate call id", f"the call id {call['id']!r} is used twice")
        asked.add(call.get("id"))
        turn.call(call, notes)
    return turn.finish()


class _Turn:
    """Builds the items of one model response: text and reasoning wait for the action that they belong to."""

    def __init__(self) -> None:
        self.found: list[Item] = []
        self._text: str | None = None
        self._reasoning: str | None = None
        self._kept: list[dict[str, Any]] = []

    def take(self, part: dict[str, Any]) -> None:
        kind = part.get("type")
        if kind == "text":
            if self._text:
                self._flush()
            self._text = (self._text or "") + part["text"]
            rest = {k: v for k, v in part.items() if k not in ("type", "text") and v is not None}
        elif kind == "reasoning":
            if self._text:
                self._flush()
            text = part.get("summary") if part.get("redacted") else part.get("reasoning")
            if text:
                self._reasoning = text if self._reasoning is None else f"{self._reasoning}\n\n{text}"
            told = "summary" if part.get("redacted") else "reasoning"
            rest = {k: v for k, v in part.items() if k not in ("type", told) and v is not None and v is not False}
        elif kind == "tool_use":
            self._server_tool(part)
            return
        else:
            self._flush()
            self._text, rest = "", part
        if rest:
            self._kept.append({"type": kind, **rest})

    def call(self, call: dict[str, Any], notes: Notes) -> None:
        """A tool call; arguments that did not parse are what the log keeps of them."""
        function = call["function"]
        item: Item = {
            "class_": "api_action",
            "function": function,
            **items.arguments(call["arguments"], function, notes),
        }
        if call.get("id") is not None:
            item["call_id"] = call["id"]
        rest = {k: v for k, v in call.items() if k not in ("id", "function", "arguments") and v is not None}
        if rest.get("type") == "function":
            del rest["type"]
        if rest.get("parse_error"):
            notes.flaw("malformed arguments", f"the arguments of {function} did not parse: {rest['parse_error'][:80]}")
        if rest:
            item["extra"] = {"inspect": {"call": rest}}
        self._add(item, "description")

    def finish(self) -> list[Item]:
        """The items; text after the last call stands alone."""
        if self._text or self._reasoning is not None or self._kept or not self.found:
            self._flush()
        return self.found

    def _server_tool(self, part: dict[str, Any]) -> None:
        """A tool that the provider ran inside the response: the call, and what it gave back."""
        name = part.get("name") or part.get("tool_type") or "tool"
        arguments = part.get("arguments")
        item: Item = {"class_": "api_action", "function": name, **items.arguments(arguments, name, Notes())}
        rest = {
            k: v for k, v in part.items() if k not in ("type", "id", "name", "arguments", "result") and v is not None
        }
        item["extra"] = {"inspect": {"part": {"type": "tool_use", **rest}}}
        result = items.text(str(part.get("result") or ""), "environment", name)
        if part.get("error"):
            result["is_error"] = True
        if part.get("id"):
            item["call_id"] = result["call_id"] = part["id"]
        self._add(item, "description")
        self.found.append(result)

    def _flush(self) -> None:
        if self._text is not None or self._reasoning is not None or self._kept or not self.found:
            self._add({"class_": "message_action", "content": self._text or ""}, None)

    def _add(self, item: Item, thought: str | None) -> None:
        if thought is not None and self._text is not None:
            item[thought] = self._text
        if self._reasoning is not None:
            item["reasoning"] = self._reasoning
        if self._kept:
            item.setdefault("extra", {}).setdefault("inspect", {})["parts"] = self._kept
        if self.found:
            item["joined"] = True
        self.found.append(item)
        self._text, self._reasoning, self._kept = None, None, []
