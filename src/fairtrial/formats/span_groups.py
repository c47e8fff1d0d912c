"""Spans of a file -> one group per trace, with memory bounded by the traces that are open.

A group is handed on when its root span has come and none of its spans came among the last 4096, the rest at the end
of the file: memory is bounded by the open traces, which is the whole file where no trace has a root. Spans that come
later than that become a value of their own, marked as a later part.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fairtrial.formats.format import Gather, Notes, Numbered

IDLE = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where one span belongs. `conversation` joins several traces."""

    trace: str
    root: bool
    conversation: str | None = None


def is_group(value: Any) -> bool:
    """Whether this is what `gatherer` makes."""
    if not isinstance(value, dict) or not {"group", "spans"} <= value.keys() <= {"group", "part", "spans"}:
        return False
    return isinstance(value["spans"], list)


def group_id(value: dict[str, Any], notes: Notes) -> str:
    """The id of a group's row; a later part is told apart, and is a flaw."""
    id, part = str(value["group"]), value.get("part")
    if part is None:
        return id
    notes.flaw("late spans", f"spans of {id} come long after its others: they are part {part} of it")
    return f"{id}#{part}"


def gatherer(spans_of: Callable[[Any], Iterable[Any]], place_of: Callable[[Any], Place]) -> Gather:
    """A `gather` that makes one value per conversation or trace: `{"group": id, "spans": [...]}`.

    Values that hold no spans pass through, so that decoding reports them.
    """

    def gather(numbered: Iterator[Numbered]) -> Iterator[Numbered]:
        groups = _Groups()
        for item in numbered:
            spans = [] if item.problem is not None or is_group(item.value) else list(spans_of(item.value))
            if not spans:
                yield item
            for span in spans:
                groups.add(span, place_of(span), item.line)
                yield from groups.idle()
        yield from groups.rest()

    return gather


class _Group:
    __slots__ = ("last", "line", "rooted", "spans", "traces")

    def __init__(self, line: int) -> None:
        self.line, self.last, self.rooted = line, 0, False
        self.spans: list[Any] = []
        self.traces: set[str] = set()


class _Groups:
    def __init__(self) -> None:
        self._open: OrderedDict[str, _Group] = OrderedDict()
        self._key: dict[str, str] = {}
        self._parts: dict[str, int] = {}
        self._count = 0

    def add(self, span: Any, place: Place, line: int) -> None:
        trace, conversation = place.trace, place.conversation
        key = self._key.get(trace, trace)
        if conversation is not None and key == trace and conversation != trace:
            key = self._key[trace] = conversation
            self._join(trace, conversation)
        group = self._open.get(key)
        if group is None:
            group = self._open[key] = _Group(line)
        group.spans.append(span)
        group.traces.add(trace)
        group.rooted = group.rooted or place.root
        self._count += 1
        group.last = self._count
        self._open.move_to_end(key)

    def _join(self, trace: str, conversation: str) -> None:
        """A trace turns out to be part of a conversation."""
        early = self._open.pop(trace, None)
        if early is None:
            return
        group = self._open.setdefault(conversation, early)
        if group is not early:
            group.spans += early.spans
            group.traces |= early.traces
            group.rooted = group.rooted or early.rooted

    def idle(self) -> Iterator[Numbered]:
        """Groups that nothing was added to for long."""
        while self._open:
            key, group = next(iter(self._open.items()))
            if self._count - group.last < IDLE:
                return
            if not group.rooted:
                # waits for its root, out of the way of the others
                group.last = self._count
                self._open.move_to_end(key)
                return
            yield self._closed(key)

    def rest(self) -> Iterator[Numbered]:
        """What is still open, in the order of the file."""
        for key in sorted(self._open, key=lambda key: self._open[key].line):
            yield self._closed(key)

    def _closed(self, key: str) -> Numbered:
        group = self._open.pop(key)
        for trace in group.traces:
            self._key.pop(trace, None)
        part = self._parts[key] = self._parts.get(key, 0) + 1
        value: dict[str, Any] = {"group": key, "spans": group.spans}
        if part > 1:
            value["part"] = part
        return Numbered(group.line, value)
