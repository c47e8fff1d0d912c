"""A message as items of a trajectory, and the key by which a message that comes back is known again.

The key is made of the items alone, so that what was read back from disk is known as well as what was just recorded.
Two messages are the same one when role, text, name and calls are. Of an assistant's message neither white space
around the text, nor the reasoning, nor white space inside the arguments counts: agents change those on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from fairtrial.models.model import Message, Request

SPACE = "gateway"
"""Where the gateway's own facts are kept in `extra`."""
ROOT = b""
"""The chain before the first message."""
ACTIONS = frozenset({"api_action", "message_action"})

Item = dict[str, Any]


def items_of(message: Message, names: dict[str, str]) -> list[Item]:
    """The items of one message; the second and later ones are joined to the first. `names`: call id -> function."""
    if message.role == "assistant":
        return _said(message)
    item: Item = {"class_": "text_observation", "content": text(message.content)}
    item["source"] = "environment" if message.role == "tool" else message.role
    name = message.name if message.name is not None else names.get(message.tool_call_id or "")
    if name is not None:
        item["name"] = text(name)
    if message.tool_call_id is not None:
        item["call_id"] = text(message.tool_call_id)
    return [item]


def _said(message: Message) -> list[Item]:
    items: list[Item] = []
    for call in message.tool_calls:
        item: Item = {"class_": "api_action", "function": text(call.name), **_arguments(text(call.arguments))}
        item["call_id"] = text(call.id)
        if items:
            item["joined"] = True
        elif message.content:
            item["description"] = text(message.content)
        items.append(item)
    if not items:
        items.append({"class_": "message_action", "content": text(message.content)})
    if message.reasoning is not None:
        items[0]["reasoning"] = text(message.reasoning)
    return items


def _arguments(source: str) -> dict[str, Any]:
    """`kwargs`, and `malformed` where the arguments are no JSON object."""
    if not source:
        return {"kwargs": {}}
    try:
        value = orjson.loads(source)
        if isinstance(value, dict) and orjson.dumps(value):
            return {"kwargs": value}
    except (ValueError, TypeError):  # TypeError: nested too deeply to be written again
        pass
    return {"kwargs": {}, "malformed": source}


def prompt_items(request: Request) -> list[Item]:
    """What stands for a prompt that is no conversation: a text, or token ids."""
    item: Item = {"class_": "text_observation", "content": text(request.prompt or ""), "source": "user"}
    own: dict[str, Any] = {"prompt": "text"}
    if request.prompt_ids is not None:
        own = {"prompt": "token ids", "token_ids": list(request.prompt_ids)}
    return [item | {"extra": {SPACE: own}}]


def text(source: str) -> str:
    """The text as UTF-8 can hold it: half a surrogate pair becomes a question mark."""
    try:
        source.encode()
    except UnicodeEncodeError:
        return source.encode("utf-8", "replace").decode()
    return source


def groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items of each message."""
    group: list[Item] = []
    for item in items:
        if group and not item.get("joined"):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def key(group: Sequence[Item]) -> bytes:
    """What tells a message apart: the same for the same message, whoever sends it."""
    first = group[0]
    if first["class_"] not in ACTIONS:
        own = (first.get("extra") or {}).get(SPACE) or {}
        name = first.get("name") if first.get("call_id") is None else None
        facts: list[Any] = [first["source"], name, first.get("call_id"), first["content"], own.get("prompt")]
        return _digest([*facts, own.get("token_ids")])
    words = first.get("description") or first.get("content") or ""
    calls = [
        [item.get("call_id"), item["function"], item["kwargs"], item.get("malformed")]
        for item in group
        if item["class_"] == "api_action"
    ]
    return _digest(["agent", words.strip(), calls])


def chain(keys: Iterable[bytes], start: bytes = ROOT) -> list[bytes]:
    """A name for each prefix of a conversation: equal prefixes have equal names. `start`: the prefix before `keys`."""
    at, found = start, list[bytes]()
    for one in keys:
        at = hashlib.blake2b(at + one, digest_size=16).digest()
        found.append(at)
    return found


def _digest(facts: list[Any]) -> bytes:
    return hashlib.blake2b(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
