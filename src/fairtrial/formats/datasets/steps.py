"""Data sets with one record a step: consecutive records of one trajectory are gathered into `{"steps": [...]}`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fairtrial.formats.format import Gather, Notes, Numbered, RowError

_NO_KEY = object()
_MOST = 5000
"""Steps that are held at once: no trajectory is that long, and memory is bounded whatever a file says."""


def gathered(key: Callable[[Any], Any]) -> Gather:
    """Groups consecutive records that have the same key.

    A record that cannot be read does not end its trajectory: the recipes count the steps, and one that lacks a step is
    rejected. A value without a key is a group of its own.
    """

    def gather(values: Iterator[Numbered]) -> Iterator[Numbered]:
        line, current, steps = 0, _NO_KEY, []
        for entry in values:
            if entry.problem is not None:
                yield entry
                continue
            try:
                found = key(entry.value)
            except (KeyError, TypeError, AttributeError, IndexError):
                found = _NO_KEY
            if found is _NO_KEY or found != current or len(steps) == _MOST:
                if steps:
                    yield Numbered(line, {"steps": steps})
                line, current, steps = entry.line, found, []
            steps.append(entry.value)
        if steps:
            yield Numbered(line, {"steps": steps})

    return gather


def repeated(id: str, notes: Notes) -> str:
    """The id, with `_2`, `_3` ... where the file has further trajectories of that id."""
    count = notes.repeat(id)
    return id if count == 1 or notes.faithful else f"{id}_{count}"


def tail(steps: list[Any], build: Callable[[Any], list[Any]]) -> list[Any]:
    """The items of the steps after the last one that cannot be built: as published, a trajectory is beheaded there."""
    content: list[Any] = []
    for step in steps:
        try:
            content += build(step)
        except (RowError, KeyError, IndexError, TypeError, ValueError):
            content = []
    return content
