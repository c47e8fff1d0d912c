"""A trajectory put together from a list of events: items in order, and beside them what no agent saw or did.

Events of one kind of harness come as a list, a JSON line each, or a file each; all their fields are foreign and any of
them may be missing or of another type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from fairtrial.core.ids import digest
from fairtrial.formats.format import Gather, Notes, Numbered
from fairtrial.formats.items import Item

_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_TOKENS: dict[str, tuple[tuple[str, ...], ...]] = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "cached_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        ("cache_read_tokens",),
    ),
}


class EventLog:
    """Collects items. `space` is the format whose name the leftovers of an event are kept under."""

    __slots__ = ("_end", "_response", "beside", "items", "model_calls", "notes", "responses", "space")

    def __init__(self, space: str, notes: Notes) -> None:
        self.space, self.notes = space, notes
        self.items: list[Item] = []
        self.beside: list[dict[str, Any]] = []
        """Events that are no items: `at` is the number of items before it."""
        self.model_calls: list[dict[str, Any]] = []
        self.responses: dict[str, int | None] = {}
        """Response id -> index of its model call, where its model is known."""
        self._response: str | None = None
        self._end = 0

    def put_beside(self, event: Any) -> None:
        """Keep an event that neither the agent did nor its model saw."""
        self.beside.append({"at": len(self.items), "event": event})

    def see(self, items: Iterable[Item], rest: dict[str, Any]) -> None:
        """What the agent saw in one event: the later items are joined to the first, which keeps the leftovers."""
        for number, item in enumerate(items):
            if number:
                item["joined"] = True
            elif rest:
                item["extra"] = {self.space: rest}
            self.items.append(item)

    def act(self, item: Item, rest: dict[str, Any], response: str | None = None) -> None:
        """What the agent did. Actions of one response stand together, before the results of its first ones."""
        if rest:
            item["extra"] = {self.space: rest}
        if response is not None:
            if (index := self.responses.get(response)) is not None:
                item["model_call"] = index
            if response == self._response:
                item["joined"] = True
                self.items.insert(self._end, item)
                for entry in self.beside:
                    entry["at"] += entry["at"] >= self._end
                self._end += 1
                return
        self.items.append(item)
        self._response, self._end = response, len(self.items)


def at(value: Any, *path: str | int) -> Any:
    """What a path of keys and indices leads to, or None where it leads nowhere."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def as_text(value: Any) -> str:
    """A value that should be a text: None is empty, anything else stands as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def left(fields: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The fields that `said` does not hold with the same value; absent ones (None) are left out."""
    return {name: value for name, value in fields.items() if value is not None and said.get(name) != value}


def usage(tokens: Any, cost: Any = None) -> dict[str, Any]:
    """Core's usage of one model call from a provider's `usage` (OpenAI's two shapes, OpenHands') and dollars."""
    found: dict[str, Any] = {"calls": 1}
    for name, ways in _TOKENS.items():
        for way in ways:
            count = at(tokens, *way)
            if type(count) is int and count > 0:
                found[name] = count
                break
    if isinstance(cost, int | float) and not isinstance(cost, bool) and cost > 0:
        found["cost_usd"] = float(cost)
    return found


def iso(seconds: Any) -> str | None:
    """A Unix time as ISO 8601 in UTC; None for anything that is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def row_id(space: str, value: Any, id: Any) -> tuple[str, dict[str, Any]]:
    """A row's id and what to say of it: the source's, or one made of the value."""
    if (isinstance(id, str) and id) or (isinstance(id, int) and not isinstance(id, bool)):
        return str(id), {}
    return f"{space}-{digest(orjson.dumps(value, option=_SORTED))[:16]}", {"id": "made"}


def gathered(is_event: Callable[[Any], bool]) -> Gather:
    """Groups all the events of a file into one list; other values and problems pass."""

    def gather(values: Iterator[Numbered]) -> Iterator[Numbered]:
        events: list[Any] = []
        first = 1
        for numbered in values:
            if numbered.problem is None and is_event(numbered.value):
                if not events:
                    first = numbered.line
                events.append(numbered.value)
            else:
                yield numbered
        if events:
            yield Numbered(first, events)

    return gather
