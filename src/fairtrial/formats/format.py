"""What a format is: how its values are recognised, turned into trajectories, and written again.

Inside this room a trajectory is a `Row`: a dict in the shape that `core.trajectory.Trajectory` dumps to, with absent
fields left out. Validation (`check`) is core's own model, run once for each whole row (about 4 us an item).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fairtrial.core.config import explain
from fairtrial.core.errors import UserError, one_line
from fairtrial.core.registry import load, names
from fairtrial.core.trajectory import Trajectory

Row = dict[str, Any]
"""A trajectory as `Trajectory.model_dump` gives it, absent fields left out; each item of `content` has its `class_`."""


class RowError(ValueError):
    """This value cannot become a trajectory, or this trajectory cannot be written; one line that says why."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A value that the format's rules leave out on purpose (a failed run, an unfinished one). Counted by reason."""

    reason: str


@dataclass(slots=True)
class Notes:
    """What a conversion has to say about one row, and the settings that it reads.

    `flaws` are defects of the source that were survived: (code, message). Each is reported with file and line, counts
    towards the error budget, and the row is kept with the broken text in place. The three ledgers map a reason to the
    text concerned; characters that are neither found again in the row nor listed as dropped are unaccounted for.
    """

    faithful: bool = False
    """Reproduce the published standardised form, faults included; otherwise known faults are mended and tagged."""
    endings: bool = False
    """Close a trajectory that has no closing message with the paper's END exchange (synthetic). Faithful implies it."""
    repeats: dict[str, int] = field(default_factory=dict[str, int])
    """How often an id was seen in this file; see `repeat`. Shared by all rows of one file."""
    flaws: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    dropped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    rewritten: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    invented: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def flaw(self, code: str, message: str) -> None:
        """A defect of the source that the row survives."""
        self.flaws.append((code, message))

    def drop(self, reason: str, text: str) -> None:
        """Text of the source that is left out on purpose."""
        self.dropped.append((reason, text))

    def rewrite(self, reason: str, text: str) -> None:
        """Text of the source that is in the row in other words; `text` is the original."""
        self.rewritten.append((reason, text))

    def invent(self, reason: str, text: str) -> None:
        """Text in the row that the source does not have."""
        self.invented.append((reason, text))

    def repeat(self, id: str) -> int:
        """1 for the first row of this id in the file, then 2, 3 ..."""
        self.repeats[id] = count = self.repeats.get(id, 0) + 1
        return count


@dataclass(slots=True)
class Ledgers:
    """What the conversions of many rows did to text: characters by reason."""

    dropped: Counter[str] = field(default_factory=Counter[str])
    rewritten: Counter[str] = field(default_factory=Counter[str])
    invented: Counter[str] = field(default_factory=Counter[str])

    def count(self, notes: Notes) -> None:
        """Add one row's notes."""
        for total, entries in (
            (self.dropped, notes.dropped),
            (self.rewritten, notes.rewritten),
            (self.invented, notes.invented),
        ):
            for reason, text in entries:
                total[reason] += len(text)

    def to_json(self) -> dict[str, dict[str, int]]:
        """Characters by reason."""
        return {"dropped": dict(self.dropped), "rewritten": dict(self.rewritten), "invented": dict(self.invented)}


@dataclass(frozen=True, slots=True)
class Numbered:
    """A value of a file, or what is wrong in its place. `line` counts from 1 (for an array: the element)."""

    line: int
    value: Any = None
    problem: str | None = None
    raw: bytes | None = None
    """The bytes of a line that could not be read; kept so that nothing is lost."""


Decode = Callable[[Any, Notes], "Row | Skip"]
"""One value -> one trajectory. Raises RowError. Anything else that it raises is a bug in the format."""
Encode = Callable[[Row, Notes], Iterable[Any]]
"""One trajectory -> the values written for it (mostly one). Raises RowError where the format cannot hold it."""
Gather = Callable[[Iterator[Numbered]], Iterator[Numbered]]
"""Groups a file's values into those that `decode` takes (a session's lines, a trace's spans). Problems pass through."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format of the world. Pure functions; nothing is read or written here but in `open`."""

    name: str
    title: str
    """What it is, with the version of the writing program that was read, for people."""
    likes: Callable[[Any], int]
    """How sure one is that a file's first value is of this format: 0 (no) to 100 (nothing else looks like it)."""
    decode: Decode | None = None
    encode: Encode | None = None
    gather: Gather | None = None
    open: Callable[[Path], Iterator[Numbered]] | None = None
    """Reads files that are no JSON, or a session spread over several files. Default: `source.values`."""
    claims: Callable[[Path], bool] | None = None
    """Whether a folder or a file of another kind is one source of this format; read with `open`."""
    kind: Literal["format", "dataset", "export"] = "format"
    tools: tuple[Mapping[str, Any], ...] = ()
    """For a data set: the functions that its agents call, as OpenAI schemas."""
    beside: Callable[[str], Mapping[str, str]] | None = None
    """For an export: file name -> content of small files that belong beside a written file of this name."""
    sessions: bool = False
    """Whether a written file holds one trajectory only (its values are the lines of one session)."""


@cache
def named(name: str) -> Format:
    """The format of this name. Raises UserError for an unknown one."""
    return load("formats", name)


def readable() -> list[str]:
    """Names of the formats that can be read."""
    return [name for name in names("formats") if named(name).decode is not None]


def writable() -> list[str]:
    """Names of the formats that can be written."""
    return [name for name in names("formats") if named(name).encode is not None]


def check(row: Row) -> Trajectory:
    """The row as core's model. Raises RowError, one line, where it is none."""
    try:
        return Trajectory.model_validate(row)
    except ValidationError as error:
        raise RowError(explain(error, Trajectory)) from None
    except RecursionError:
        raise RowError("nested too deeply") from None


def decode(format: Format, value: Any, notes: Notes) -> Row | Skip:
    """A checked row of one value. Raises RowError where the value is not of this format."""
    if format.decode is None:
        raise UserError(f"{format.name} can be written only")
    try:
        row = format.decode(value, notes)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        # a value of another shape than the format's: the row's fault, reported with its place
        raise RowError(f"not a row of {format.title}: {_shape_error(error)}") from error
    if isinstance(row, dict):
        check(row)
    return row


def _shape_error(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f'no field "{error.args[0]}"'
    deep = isinstance(error, RecursionError) or "Recursion limit" in str(error)  # the second is orjson's
    return "nested too deeply" if deep else one_line(error)
