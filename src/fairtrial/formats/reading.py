"""From a path (file, folder or a data set's name on the hub) to trajectories: finds files, detects formats, decodes.

Every value that a file holds comes out as one `Reading`: a trajectory, a value left out by the format's own rules, or
a problem with its file and line. Nothing else happens to a value.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fairtrial.core.errors import UserError, did_you_mean, one_line
from fairtrial.core.registry import names
from fairtrial.formats import source
from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError, Skip, decode, named

_SAMPLE = 8
_SURE = 20
HUB = "hf:"


@dataclass(frozen=True, slots=True)
class Options:
    """How to read. `faithful`, `endings`: see `Notes`. `limit` is the largest value in bytes."""

    format: str | None = None
    faithful: bool = False
    endings: bool = False
    limit: int = source.MAX_VALUE


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one value. Exactly one of `row`, `skipped` and `problem` is set."""

    file: str
    line: int
    row: Row | None = None
    skipped: str | None = None
    problem: str | None = None
    value: Any = None
    """The value as the file has it; for a problem on the level of bytes, those."""
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file (or folder of one session) with the format that it is read as."""

    name: str
    """Relative to what was asked for; in messages and manifests."""
    path: Path | None
    format: Format
    how: Literal["named", "detected"]
    values: Callable[[], Iterator[Numbered]]


def find(target: str, options: Options) -> list[SourceFile | Reading]:
    """The files behind a path or `hf:OWNER/NAME[@CONFIG][:SPLIT]`, each with its format.

    In a folder, a data file that cannot be read or recognised is a problem in its place. Raises UserError where a
    single file cannot be read, and where a folder holds none that can.
    """
    if target.startswith(HUB):
        return [_hub(target, options)]
    path = Path(target)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    claimed = _claim(path, path.name, options)
    if claimed is not None:
        return [claimed]
    if path.is_file():
        return [_file(path, path.name, options)]
    found = list(_walk(path, path, options))
    if not any(isinstance(item, SourceFile) for item in found):
        reason = next((f"; {item.file}: {item.problem}" for item in found if isinstance(item, Reading)), "")
        kinds = ", ".join(source.SUFFIXES)
        raise UserError(f"{path}: holds no file that can be read ({kinds}, .eval, a session's folder){reason}")
    return found


def read(target: str, options: Options | None = None) -> Iterator[Reading]:
    """Every value of a path as a `Reading`, streamed. Raises UserError where nothing there can be read."""
    options = options or Options()
    found = find(target, options)
    for file in found:
        yield from read_found(file, options, alone=len(found) == 1)


def read_found(file: SourceFile | Reading, options: Options, *, alone: bool) -> Iterator[Reading]:
    """Every value of one of the files found. One of many that turns out to be unreadable is a problem in its place."""
    if isinstance(file, Reading):
        yield file
        return
    try:
        yield from read_file(file, options)
    except UserError as error:
        if alone:
            raise
        yield Reading(file.name, 0, problem=str(error).removeprefix(f"{file.path}: "))


def read_file(file: SourceFile, options: Options) -> Iterator[Reading]:
    """Every value of one file as a `Reading`, streamed. Raises UserError where the file itself cannot be read."""
    repeats: dict[str, int] = {}
    numbered = file.values()
    if file.format.gather is not None:
        numbered = file.format.gather(numbered)
    for item in numbered:
        if item.problem is not None:
            yield Reading(file.name, item.line, problem=item.problem, value=item.raw)
            continue
        notes = Notes(faithful=options.faithful, endings=options.endings or options.faithful, repeats=repeats)
        try:
            row = decode(file.format, item.value, notes)
        except RowError as error:
            yield Reading(file.name, item.line, problem=one_line_of(error), value=item.value, notes=notes)
            continue
        if isinstance(row, Skip):
            yield Reading(file.name, item.line, skipped=row.reason, value=item.value, notes=notes)
        else:
            yield Reading(file.name, item.line, row=row, value=item.value, notes=notes)


def one_line_of(error: RowError) -> str:
    """The reason on one line."""
    return " ".join(str(error).split())


def detect(values: list[Any], *, array: bool = False) -> tuple[Format, bool] | None:
    """The format of a file's first values, and whether the array that they are in is one value; None if unknown.

    Raises UserError where two formats are equally sure.
    """
    scores: dict[tuple[str, bool], float] = {}
    for name in names("formats"):
        format = named(name)
        if format.decode is None:
            continue
        scores[name, False] = sum(format.likes(value) for value in values) / max(1, len(values))
        if array:
            scores[name, True] = format.likes(values)
    best = max(scores.values(), default=0)
    if best < _SURE:
        return None
    winners = [key for key, score in scores.items() if score == best]
    if len(winners) > 1:
        likely = " or ".join(name for name, _ in winners)
        raise UserError(f"the format could be {likely}; name it with --as")
    name, whole = winners[0]
    return named(name), whole


def _walk(folder: Path, root: Path, options: Options) -> Iterator[SourceFile | Reading]:
    """Files below a folder, sorted. A folder of a session file's name holds its companions: it takes them along."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    stems = {entry.name.split(".")[0] for entry in entries if entry.is_file() and ".jsonl" in entry.name}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = str(entry.relative_to(root))
        claimed = _claim(entry, name, options)
        if claimed is not None:
            yield claimed
        elif entry.is_dir():
            if not (entry.name in stems and (entry / "subagents").is_dir()):
                yield from _walk(entry, root, options)
        elif source.readable_name(entry.name):
            try:
                yield _file(entry, name, options)
            except UserError as error:
                yield Reading(name, 0, problem=str(error).removeprefix(f"{entry}: "))


def _claim(path: Path, name: str, options: Options) -> SourceFile | None:
    """The file or folder as one source of a format that reads more than plain values."""
    wanted = [options.format] if options.format is not None else names("formats")
    how = "named" if options.format is not None else "detected"
    for format in map(named, wanted):
        if format.claims is not None and format.open is not None and format.claims(path):
            return SourceFile(name, path, format, how, partial(format.open, path))
    return None


def _named(name: str) -> Format:
    format = named(name)
    if format.decode is None:
        readable = [other for other in names("formats") if named(other).decode is not None]
        raise UserError(f"{name} can be written only{did_you_mean(name, readable)}")
    return format


def _file(path: Path, name: str, options: Options) -> SourceFile:
    if options.format is not None:
        format, how = _named(options.format), "named"
        document = _takes_whole(format, path, options) if source.is_array(path) else False
    else:
        how = "detected"
        sample = _sample(path, options)
        try:
            found = detect(sample, array=source.is_array(path))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if found is None:
            raise UserError(f"{path}: no known format; name one with --as (fairtrial import --formats lists them)")
        format, document = found
    return SourceFile(name, path, format, how, lambda: source.values(path, document=document, limit=options.limit))


def _takes_whole(format: Format, path: Path, options: Options) -> bool:
    """Whether a named format takes an array as one value rather than its elements."""
    sample = _sample(path, options)
    return format.likes(sample) > max((format.likes(value) for value in sample), default=0)


def _sample(path: Path, options: Options) -> list[Any]:
    numbered = itertools.islice(source.values(path, limit=options.limit), 4 * _SAMPLE)
    seen = list(numbered)
    sample = [item.value for item in seen if item.problem is None][:_SAMPLE]
    if not sample:
        why = f" (line {seen[0].line}: {seen[0].problem})" if seen else ""
        raise UserError(f"{path}: holds no readable value{why}")
    return sample


def _hub(target: str, options: Options) -> SourceFile:
    """Rows of a data set by its name on the Hugging Face hub, streamed."""
    try:
        library = importlib.import_module("datasets")
    except ImportError:
        raise UserError('the hub needs datasets; install it with: pip install "fairtrial[hub]"') from None
    place, _, split = target.removeprefix(HUB).partition(":")
    owner, _, config = place.partition("@")

    def values() -> Iterator[Numbered]:
        try:
            rows = library.load_dataset(owner, config or None, split=split or "train", streaming=True)
            yield from (Numbered(number, dict(row)) for number, row in enumerate(rows, 1))
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{target}: cannot be loaded from the hub: {one_line(error)[:200]}") from None

    if options.format is not None:
        return SourceFile(target, None, _named(options.format), "named", values)
    sample = [item.value for item in itertools.islice(values(), _SAMPLE)]
    found = detect(sample)
    if found is None:
        raise UserError(f"{target}: no known format; name one with --as (fairtrial import --formats lists them)")
    return SourceFile(target, None, found[0], "detected", values)
