"""Import: any known format into a collection, streamed, with an account of what was kept, mended and refused."""

from __future__ import annotations

import base64
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from fairtrial.core.errors import UserError
from fairtrial.core.ids import file_digest
from fairtrial.core.redact import Redactor
from fairtrial.formats.collection import MANIFEST, PROBLEMS, TRAJECTORIES, Collection
from fairtrial.formats.format import Ledgers, Row
from fairtrial.formats.gates import Card, check_row
from fairtrial.formats.own import NAME
from fairtrial.formats.reading import HUB, Options, Reading, SourceFile, find, read_found
from fairtrial.store import storing, whole_file, whole_folder

_RAW_LIMIT = 1 << 20
"""Bytes of a refused value that are copied into the list of problems; a longer one is named by its place."""
_SHOWN = 10


@dataclass(slots=True)
class Summary:
    """Counts of one import."""

    values: int = 0
    trajectories: int = 0
    items: int = 0
    rejected: int = 0
    flawed: int = 0
    """Trajectories that were kept with a flaw."""
    redacted: int = 0
    """Trajectories in which a secret was replaced by a mark."""
    skipped: Counter[str] = field(default_factory=Counter[str])
    flaws: Counter[str] = field(default_factory=Counter[str])
    text: Ledgers = field(default_factory=Ledgers)
    formats: Counter[str] = field(default_factory=Counter[str])
    """Files by format."""
    first_problems: list[str] = field(default_factory=list[str])

    @property
    def errors(self) -> int:
        """Values that were rejected, and trajectories with a flaw."""
        return self.rejected + self.flawed

    @property
    def error_share(self) -> float:
        """Errors as a share of the values read; values left out by a format's own rules are no errors."""
        return self.errors / self.values if self.values else 0.0

    def to_json(self) -> dict[str, Any]:
        """The counts, without the first problems."""
        return {
            "values": self.values,
            "trajectories": self.trajectories,
            "items": self.items,
            "rejected": self.rejected,
            "flawed": self.flawed,
            "redacted": self.redacted,
            "skipped": dict(self.skipped),
            "flaws": dict(self.flaws),
            "text": self.text.to_json(),
            "formats": dict(self.formats),
        }


def import_trajectories(
    target: str,
    out: Path,
    options: Options | None = None,
    *,
    card: bool = True,
    strict: bool = False,
    replace: bool = False,
    progress: Callable[[Summary, str], None] | None = None,
) -> tuple[Collection, Summary]:
    """Read `target` (a path, or `hf:OWNER/NAME`) into a new collection at `out`.

    The folder appears when it is complete, or not at all. `card` runs the gates and writes the quality card; `strict`
    leaves out every trajectory that fails a gate, with the reason in the list of problems.
    Raises UserError where nothing can be read or `out` is taken, StorageError where the disk refuses.
    """
    options = options or Options()
    _check_free(out, replace)
    found = find(target, options)
    with whole_folder(out) as folder:
        with ExitStack() as stack:
            work = _Import(
                stack.enter_context(whole_file(folder / TRAJECTORIES)),
                stack.enter_context(whole_file(folder / PROBLEMS)),
                Card(target if target.startswith(HUB) else Path(target).name) if card else None,
                strict,
            )
            for file in found:
                work.file(file, options, alone=len(found) == 1)
                if progress is not None:
                    progress(work.summary, file.file if isinstance(file, Reading) else file.name)
        if not work.summary.values:
            raise UserError(f"{target}: holds nothing to import")
        work.finish(folder, found, options, target)
        if replace and out.exists():
            with storing(out):
                shutil.rmtree(out)
    return Collection.open(out), work.summary


def _check_free(out: Path, replace: bool) -> None:
    if not out.exists():
        return
    if not Collection.exists(out):
        raise UserError(f"{out} exists and is no collection; choose another place with --out")
    if not replace:
        raise UserError(f"{out} exists; choose another place with --out, or --replace it")


class _Import:
    """One import in progress."""

    def __init__(self, trajectories: BinaryIO, problems: BinaryIO, card: Card | None, strict: bool) -> None:
        self._trajectories, self._problems, self._card, self._strict = trajectories, problems, card, strict
        self._redactor = Redactor()
        self._ids: dict[str, int] = {}
        self._format = ""
        self.summary = Summary()

    def file(self, file: SourceFile | Reading, options: Options, *, alone: bool) -> None:
        """Take one file's values in."""
        if isinstance(file, SourceFile):
            self._format = file.format.name
            self.summary.formats[self._format] += 1
        for reading in read_found(file, options, alone=alone):
            self._take(reading)

    def _take(self, reading: Reading) -> None:
        summary, notes = self.summary, reading.notes
        summary.values += 1
        summary.text.count(notes)
        if reading.row is not None:
            self._keep(reading, reading.row)
        elif reading.problem is not None:
            summary.rejected += 1
            self._tell(reading, "rejected", reading.problem, raw=True)
        else:
            summary.skipped[reading.skipped or ""] += 1
            self._tell(reading, "left out", reading.skipped or "")

    def _keep(self, reading: Reading, row: Row) -> None:
        summary, notes = self.summary, reading.notes
        if self._strict and (found := check_row(row, raw=reading.value, notes=notes)):
            summary.skipped[f"gate: {found[0].code}"] += 1
            self._tell(reading, "left out", "; ".join(f"gate {one.code}: {one.message}" for one in found), id=row["id"])
            return
        seen = self._ids[row["id"]] = self._ids.get(row["id"], 0) + 1
        if seen > 1:
            notes.flaw("duplicate id", f'id "{row["id"]}" was there before; this one is "{row["id"]}~{seen}"')
            row = {**row, "id": f"{row['id']}~{seen}"}
        origin = {"imported from": f"{reading.file}:{reading.line}", "as": self._format}
        extra: dict[str, Any] = row.get("extra") or {}
        row = {**row, "extra": {**extra, NAME: extra.get(NAME, origin)}}
        try:
            line = self._line(row)
        except TypeError:  # orjson's own limit on depth
            summary.rejected += 1
            self._tell(reading, "rejected", "nested too deeply to be written")
            return
        self._trajectories.write(line)
        summary.trajectories += 1
        summary.items += len(row["content"])
        if notes.flaws:
            summary.flawed += 1
            for code, message in notes.flaws:
                summary.flaws[code] += 1
                self._tell(reading, f"flaw: {code}", message, id=row["id"])
        if self._card is not None:
            self._card.add(row, reading.value, notes)

    def _line(self, row: Row) -> bytes:
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        if not self._redactor.suspects(line.decode()):
            return line
        clean = orjson.dumps(self._redactor.value(row), option=orjson.OPT_APPEND_NEWLINE)
        self.summary.redacted += clean != line
        return clean

    def _tell(self, reading: Reading, kind: str, message: str, *, id: str | None = None, raw: bool = False) -> None:
        entry: dict[str, Any] = {"file": reading.file, "line": reading.line, "kind": kind, "message": message}
        if id is not None:
            entry["id"] = id
        if raw and reading.value is not None:
            entry |= self._raw(reading.value)
        self._problems.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        if kind != "left out" and len(self.summary.first_problems) < _SHOWN:
            self.summary.first_problems.append(f"{reading.file}:{reading.line}: {message}")

    def _raw(self, value: Any) -> dict[str, Any]:
        """The refused value itself, so that nothing is lost: as JSON, else as text, else as base64."""
        try:
            content = value if isinstance(value, bytes) else orjson.dumps(value)
        except TypeError:
            return {"value": "(nested too deeply to be copied)"}
        if len(content) > _RAW_LIMIT:
            return {"bytes": len(content)}
        if not isinstance(value, bytes):
            return {"value": self._redactor.value(value)}
        content = self._redactor.content(content)
        try:
            return {"text": content.decode()}
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(content).decode()}

    def finish(self, folder: Path, found: list[SourceFile | Reading], options: Options, target: str) -> None:
        """Write the quality card and, last, the manifest."""
        from fairtrial import __version__

        if self._card is not None:
            with whole_file(folder / "quality.json") as file:
                file.write(orjson.dumps(self._card.to_json(), option=orjson.OPT_INDENT_2))
            with whole_file(folder / "quality.html") as file:
                file.write(self._card.to_html().encode())
        manifest = {
            "fairtrial": __version__,
            "source": target if target.startswith(HUB) else Path(target).name,
            "files": [_described(file) for file in found if isinstance(file, SourceFile)],
            "settings": {"faithful": options.faithful, "endings": options.endings},
            **self.summary.to_json(),
        }
        with whole_file(folder / MANIFEST) as file:
            file.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def _described(file: SourceFile) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": file.name, "format": file.format.name, "how": file.how}
    if file.path is not None and file.path.is_file():
        facts |= {"bytes": file.path.stat().st_size, "sha256": file_digest(file.path)}
    return facts
