"""Items -> turns of a conversation with Anthropic's roles: calls get ids, results ride on the user's turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

import orjson

from fairtrial.formats.anthropic_blocks import kept
from fairtrial.formats.format import Notes, Row
from fairtrial.formats.items import ACTIONS, Item

Role = Literal["assistant", "user", "system"]

_HELD = frozenset({"id", "content", "tools", "extra", "model_calls", "subagents"})
_ITEM_HELD = frozenset(
    {"class_", "content", "source", "name", "call_id", "joined", "is_error", "extra", "description", "reasoning"}
    | {"function", "kwargs", "malformed", "language", "model_call", "annotations", "subagents"}
    | {"html", "axtree", "url", "image_observation"}
)


def turns(content: Iterable[Item], ns: str) -> list[tuple[Role, list[Item]]]:
    """Items grouped into turns; every call has a `call_id`, and every result that of its call."""
    found: list[tuple[Role, list[Item]]] = []
    for item in _with_ids(content):
        before = found[-1][0] if found else None
        role = _role(item, ns, before)
        if item.get("joined") and role != "assistant" and before in ("user", "system"):
            role = before  # whatever it shows, it lies in the same message
        if found and before == role and _continues(item, found[-1][1], ns):
            found[-1][1].append(item)
        else:
            found.append((role, [item]))
    return found


def _role(item: Item, ns: str, before: Role | None) -> Role:
    if item["class_"] in ACTIONS:
        return "assistant"
    if item.get("source") == "system":
        return "system"
    block = kept(item, ns).get("block") if item.get("joined") and "call_id" in item else None
    in_response = isinstance(block, dict) and block.get("type") != "tool_result" and "tool_use_id" in block
    return "assistant" if in_response and before == "assistant" else "user"


def _continues(item: Item, turn: list[Item], ns: str) -> bool:
    if item.get("joined"):
        return True
    # results of parallel calls belong on one user turn, whether or not they came in one message
    results = "call_id" in item and "call_id" in turn[-1] and item["class_"] not in ACTIONS
    return results and not kept(item, ns).get("turn")


def _with_ids(content: Iterable[Item]) -> Iterable[Item]:
    waiting = deque[str]()
    content = list(content)
    used = {item["call_id"] for item in content if "call_id" in item}
    last: Item | None = None
    for number, item in enumerate(content):
        if item["class_"] in ACTIONS:
            if last is not None and last["class_"] not in ACTIONS:
                waiting.clear()
            if "call_id" not in item and item["class_"] != "message_action":
                made = f"call_{number}"
                while made in used:
                    made += "_"
                item = {**item, "call_id": made}
                waiting.append(made)
        elif "call_id" not in item and (item["class_"] == "web_observation" or item["source"] == "environment"):
            if item.get("joined") and last is not None and last["class_"] not in ACTIONS and "call_id" in last:
                item = {**item, "call_id": last["call_id"]}
            elif waiting:
                item = {**item, "call_id": waiting.popleft()}
        yield item
        last = item


def tell_what_is_left_out(row: Row, notes: Notes, ns: str, what: str, holds: frozenset[str] = frozenset()) -> None:
    """Notes every field of a row that a format of messages has no place for. `holds`: those that it has one for.

    `what` is the format for people; `ns` its name, under which `extra` is its own.
    """
    for part in (row, *row["content"]):
        for name, fields in (part.get("extra") or {}).items():
            if name != ns:
                notes.drop(f"what {name} keeps: {what} has no place for it", _json(fields))
    for name in row.keys() - _HELD - holds:
        if row[name]:
            notes.drop(f"{name}: {what} has no place for it", _json(row[name]))
    counts: dict[str, list[Any]] = {}
    for item in row["content"]:
        for name in item.keys() - _ITEM_HELD - holds:
            counts.setdefault(name, []).append(item[name])
    for name, values in counts.items():
        notes.drop(f"{name} of items: {what} has no place for it", _json(values))


def _json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
