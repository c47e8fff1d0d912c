"""Export: trajectories into one file of any format that can be written, with an account of what it could not hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from fairtrial.core.errors import UserError
from fairtrial.core.ids import digest
from fairtrial.formats.collection import Collection
from fairtrial.formats.format import Format, Ledgers, Notes, Row, RowError
from fairtrial.formats.own import NAME
from fairtrial.formats.reading import Options, one_line_of, read
from fairtrial.store import packed_file, whole_file, whole_folder

_SHOWN = 10


@dataclass(slots=True)
class Written:
    """Counts of one export."""

    trajectories: int = 0
    values: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    """Trajectories that the format cannot hold, by reason."""
    text: Ledgers = field(default_factory=Ledgers)
    flaws: Counter[str] = field(default_factory=Counter[str])
    first_problems: list[str] = field(default_factory=list[str])

    @property
    def error_share(self) -> float:
        """Refused trajectories as a share of all."""
        total = self.trajectories + sum(self.refused.values())
        return sum(self.refused.values()) / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """The counts."""
        return {
            "trajectories": self.trajectories,
            "values": self.values,
            "refused": dict(self.refused),
            "flaws": dict(self.flaws),
            "text": self.text.to_json(),
        }


def rows_of(path: Path) -> Iterator[Row]:
    """Trajectories of a collection, or of a file in any readable format.

    Raises UserError where there are none, and at the first value of a file that is no trajectory: import it first to
    have an account of what is wrong with it.
    """
    if Collection.exists(path):
        yield from Collection.open(path).rows()
        return
    for reading in read(str(path), Options()):
        if reading.problem is not None:
            raise UserError(f"{path}: {reading.file}:{reading.line}: {reading.problem}; import it first")
        if reading.row is not None:
            yield reading.row


def export_trajectories(rows: Iterable[Row], out: Path, format: Format, *, endings: bool = False) -> Written:
    """Write rows as `format` to `out`: .jsonl (one value a line), .json (an array); .zst compresses.

    Formats of one file a session (claude-code, codex) get a new folder. What is written appears when it is complete.
    Raises UserError for a format that cannot be written and for another ending.
    """
    if format.encode is None:
        raise UserError(f"{format.name} can be read only; fairtrial import --formats lists what can be written")
    written = Written()
    if format.sessions:
        _write_sessions(rows, out, format, endings, written)
        return written
    ending = out.name.removesuffix(".zst").rpartition(".")[2]
    if ending not in ("jsonl", "json"):
        raise UserError(f"{out}: name it .jsonl or .json (or with .zst behind)")
    with packed_file(out) as file:
        encoded = (value for row in rows for value in _encoded(row, format, endings, written))
        if ending == "jsonl":
            for value in encoded:
                file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        else:
            before = b"[\n"
            for value in encoded:
                file.write(before + orjson.dumps(value))
                before = b",\n"
            file.write(b"[]\n" if before == b"[\n" else b"\n]\n")
    for name, content in (format.beside(out.name) if format.beside else {}).items():
        with whole_file(out.with_name(name)) as file:
            file.write(content.encode())
    return written


def _write_sessions(rows: Iterable[Row], out: Path, format: Format, endings: bool, written: Written) -> None:
    """One file for each trajectory, in a new folder."""
    if out.exists() or out.suffix:
        raise UserError(f"{out}: {format.name} is one file a session; name a new folder")
    with whole_folder(out) as folder:
        for row in rows:
            values = _encoded(row, format, endings, written)
            if values:
                with whole_file(folder / f"{_file_name(row['id'])}.jsonl") as file:
                    file.writelines(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def _file_name(id: str) -> str:
    """The id as a file's name; ids that a file system cannot hold, or that another id would share, get a digest."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", id)[:100].lstrip(".-")
    return plain if plain == id else f"{plain or 'session'}-{digest(id)[:12]}"


def _encoded(row: Row, format: Format, endings: bool, written: Written) -> list[Any]:
    """The values of one trajectory; none where the format cannot hold it, which is counted."""
    assert format.encode is not None
    notes = Notes(endings=endings)
    if format.name != NAME and NAME in (extra := row.get("extra") or {}):
        # where the import had it from: nothing that the source said
        row = {**row, "extra": {name: value for name, value in extra.items() if name != NAME}}
    try:
        values = list(format.encode(row, notes))
    except RowError as error:
        reason = one_line_of(error)
        written.refused[reason] += 1
        if len(written.first_problems) < _SHOWN:
            written.first_problems.append(f"{row['id']}: {reason}")
        return []
    written.trajectories += 1
    written.values += len(values)
    for code, _ in notes.flaws:
        written.flaws[code] += 1
    written.text.count(notes)
    return values
