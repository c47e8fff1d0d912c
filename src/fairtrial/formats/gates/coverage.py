"""Which characters of a source are in the trajectory made from it (Agent Data Protocol, trap 8).

Each text of the source is looked up in the trajectory and in the ledgers of its conversion: first whole, then line by
line, then the longest pieces of a line. What is found nowhere is unaccounted for. Linear: whole texts and lines are set
lookups, and looking for pieces has a budget; what is beyond it counts as unaccounted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import orjson

from fairtrial.formats.format import Notes, Row

_STRUCTURE = frozenset({"role", "from", "type", "class_", "source", "kind", "object"})
"""Fields whose value is a word of the form, not text."""
_LEAST = 8
"""Characters that a piece of a line must have to be found as such."""
_SCANS = 40
_FREE = 4_000_000


@dataclass(slots=True)
class Coverage:
    """Characters of source text by what became of them; white space at the ends of lines is not counted."""

    kept: int = 0
    rewritten: int = 0
    dropped: int = 0
    unaccounted: int = 0

    @property
    def total(self) -> int:
        """All characters that were looked for."""
        return self.kept + self.rewritten + self.dropped + self.unaccounted

    @property
    def accounted_share(self) -> float:
        """The share of characters that are kept, rewritten or dropped; 1 where there is no text."""
        return 1 - self.unaccounted / self.total if self.total else 1.0

    def add(self, other: Coverage) -> None:
        """Add another count."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def cover(raw: Any, row: Row, notes: Notes | None = None) -> Coverage:
    """What became of the text of `raw` in `row`."""
    notes = notes or Notes()
    row_side = _Texts([row["id"], *texts(row.get("content")), *texts({**row, "content": None, "id": None})])
    rewritten = _Texts([text for _, text in notes.rewritten])
    dropped = _Texts([text for _, text in notes.dropped])
    places = (("kept", row_side), ("rewritten", rewritten), ("dropped", dropped))
    count = Coverage()
    leftover: list[str] = []
    for text in texts(raw):
        if _look_up(text, len(text.strip()), places, count):
            continue
        for line in text.splitlines():
            stripped = line.strip()
            if stripped and not _look_up(stripped, len(stripped), places, count):
                leftover.append(stripped)
    if leftover:
        _pieces(leftover, places, count)
    # what was personal stands in the ledger as stars
    hidden = sum(len(text) for _, text in notes.dropped if text and not text.strip("*"))
    hidden = min(hidden, count.unaccounted)
    count.dropped += hidden
    count.unaccounted -= hidden
    return count


class _Texts:
    """Texts of one side: whole, as lines, and joined for looking up pieces."""

    __slots__ = ("_joined", "_lines", "_whole")

    def __init__(self, whole: Iterable[str]) -> None:
        self._whole = frozenset(whole)
        self._lines: frozenset[str] | None = None
        self._joined: str | None = None

    def has(self, text: str) -> bool:
        """Whether the text is one of these, or one of their lines."""
        if text in self._whole:
            return True
        if self._lines is None:
            self._lines = frozenset(line.strip() for each in self._whole for line in each.splitlines())
        return text in self._lines

    @property
    def joined(self) -> str:
        """All texts in one, for looking up pieces."""
        if self._joined is None:
            self._joined = "\n".join(self._whole)
        return self._joined


def _look_up(text: str, size: int, places: tuple[tuple[str, _Texts], ...], count: Coverage) -> bool:
    for name, place in places:
        if place.has(text):
            setattr(count, name, getattr(count, name) + size)
            return True
    return False


def _pieces(lines: list[str], places: tuple[tuple[str, _Texts], ...], count: Coverage) -> None:
    """Accounts for lines that are no line of the other side: the longest pieces first found count where they are."""
    budget = _FREE + _SCANS * sum(len(place.joined) for _, place in places)
    for line in lines:
        at = 0
        while at < len(line):
            if line[at].isspace():
                at += 1
                continue
            best, where = 0, ""
            for name, place in places:
                if budget <= 0:
                    break
                size, spent = _longest(line, at, place.joined)
                budget -= spent
                if size > best:
                    best, where = size, name
            if best >= min(_LEAST, len(line) - at) or (best and at + best == len(line)):
                setattr(count, where, getattr(count, where) + best)
                at += best
            else:
                stop = line.find(" ", at)
                stop = len(line) if stop < 0 else stop + 1
                # a short word between two pieces: kept if it is anywhere, else lost
                place = where if best >= len(line[at:stop].strip()) and where else "unaccounted"
                setattr(count, place, getattr(count, place) + stop - at)
                at = stop


def _longest(line: str, at: int, joined: str) -> tuple[int, int]:
    """The longest start of `line[at:]` that stands in `joined`, and the characters that were scanned for it."""
    low, high, spent = 0, len(line) - at, 0
    place = 0
    while low < high:
        middle = (low + high + 1) // 2
        # a longer start stands nowhere before the first place of a shorter one
        found = joined.find(line[at : at + middle], place)
        spent += (found if found >= 0 else len(joined)) - place
        if found >= 0:
            low, place = middle, found
        else:
            high = middle - 1
    return low, max(spent, 1)


def texts(value: Any, key: str = "") -> Iterator[str]:
    """The texts in a JSON value; JSON as text is looked into. Names of fields and words of the form are no text."""
    stack: list[tuple[Any, str]] = [(value, key)]
    while stack:
        value, key = stack.pop()
        if isinstance(value, str):
            if key in _STRUCTURE or not value or value.isspace():
                continue
            inside = _inside(value)
            if inside is None:
                yield value
            else:
                stack.append((inside, key))
        elif isinstance(value, dict):
            stack.extend((each, name) for name, each in value.items())
        elif isinstance(value, list | tuple):
            stack.extend((each, key) for each in value)


def _inside(text: str) -> Any:
    """The object or list that a text is as JSON, or None."""
    if text[0] not in "{[" or text[-1] not in "}]":
        return None
    try:
        found = orjson.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) and found else None
