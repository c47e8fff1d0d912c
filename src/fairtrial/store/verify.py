"""`verify` and `reindex`: is every byte as it was written, and how to go on where it is not. Garbage is reported."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.core.ids import file_digest
from fairtrial.store import index as indexes
from fairtrial.store import snapshot
from fairtrial.store.blobs import BlobStore
from fairtrial.store.codec import decode, references
from fairtrial.store.disk import TEMPORARY, Disk, Lock, storing
from fairtrial.store.frames import Damage, read_frame, scan
from fairtrial.store.index import Entry, Index, entry, outcome_of
from fairtrial.store.recovery import fill
from fairtrial.store.segments import FOLDER, SUMS, listed, numbered, read_sums, write_sums

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was written."""

    where: str
    """Path inside the run directory, with `@byte` where it helps."""
    what: str
    harmless: bool = False
    """The next resume mends it, and nothing that was acknowledged is touched (an unfinished write, an index behind)."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What `reindex` found."""

    records: int
    problems: list[Problem]
    """Damage whose records are gone from the index; a resume runs those trials again."""


def verify(path: Path) -> list[Problem]:
    """Every problem of a run directory; an empty list means that all of it is as it was written.

    Compares SHA256SUMS with the files it names, each frame with its checksum, each record with the index, each blob
    with its name, and looks for every blob that a record names. Changes nothing; works while a driver writes.
    """
    if not path.is_dir():
        return [Problem(str(path), "no such run directory")]
    try:
        sums = read_sums(path)
    except CorruptError as error:
        sums, problems = {}, [Problem(SUMS, _short(error))]
    else:
        problems = []
    db: sqlite3.Connection | None = None
    try:
        db = snapshot.sound(path)
    except (sqlite3.DatabaseError, OSError) as error:
        problems.append(Problem(indexes.FILE, f"cannot be used ({error}); `fairtrial reindex` rebuilds it"))
    problems += _sealed(path, sums)
    blobs: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        if db is not None:
            stack.enter_context(contextlib.closing(db))
        problems += _segments(path, db, blobs)
    problems += _blobs(path, blobs)
    return problems


def _short(error: BaseException) -> str:
    """The message without the path that it starts with."""
    return str(error).split(": ", 1)[-1]


def _sealed(root: Path, sums: dict[str, str]) -> Iterator[Problem]:
    for name in sorted({"manifest.json", "study.toml", *sums}):
        try:
            actual = file_digest(root / name)
        except OSError as error:
            yield Problem(name, f"cannot be read ({error.strerror})")
            continue
        if name not in sums:
            yield Problem(name, f"has no digest in {SUMS}")
        elif actual != sums[name]:
            yield Problem(name, f"damaged: its sha256 is not the one in {SUMS}")


def _segments(root: Path, db: sqlite3.Connection | None, blobs: dict[str, int]) -> Iterator[Problem]:
    paths = {path.name: path for path in listed(root)}
    with contextlib.suppress(OSError):
        for path in sorted((root / FOLDER).iterdir()):
            if path.name not in paths:
                harmless = path.name.endswith(".damaged") or path.name.startswith(TEMPORARY)
                what = "left over from an unfinished or damaged write" if harmless else "does not belong here"
                yield Problem(f"{FOLDER}/{path.name}", what, harmless)
    yield from _gaps(list(paths))
    try:
        indexed = dict(db.execute("SELECT name, indexed FROM segments")) if db else {}
        for name in sorted(set(indexed) - set(paths)):
            yield Problem(f"{FOLDER}/{name}", "missing, and the index knows of records in it")
        for name, path in paths.items():
            try:
                yield from _segment(path, _IndexRows(db, name) if db else None, indexed.get(name, 0), blobs)
            except OSError as error:
                yield Problem(f"{FOLDER}/{name}", f"cannot be read ({error.strerror})")
        if db and (wrong := db.execute(_WRONG_LATEST).fetchone()[0]):
            yield Problem(indexes.FILE, f"{wrong} attempts are wrongly marked as latest; run `fairtrial reindex`")
    except (sqlite3.Error, ValueError, TypeError) as error:
        yield Problem(indexes.FILE, f"damaged ({error}); `fairtrial reindex` rebuilds it")


_WRONG_LATEST = (
    "SELECT count(*) FROM trials t WHERE latest != (attempt = (SELECT max(attempt) FROM trials o"
    " WHERE o.arm = t.arm AND o.task = t.task AND o.repeat = t.repeat))"
)


def _gaps(names: list[str]) -> Iterator[Problem]:
    last: dict[str, int] = {}
    for name in names:
        writer, number = numbered(name)
        for missing in range(last.get(writer, -1) + 1, number):
            yield Problem(f"{FOLDER}/{writer}-{missing:06d}.jsonl.zst", "missing")
        last[writer] = number


class _IndexRows:
    """The index's rows of one segment in the order of the segment, compared with the records as they go by."""

    def __init__(self, db: sqlite3.Connection, segment: str) -> None:
        self._db = db
        self._names: dict[int, str] = dict(db.execute("SELECT id, name FROM names"))
        self._scores = [row[0] for row in db.execute("SELECT DISTINCT score FROM scores")]
        self._cursor = db.execute(
            "SELECT offset, line, length, arm, task, repeat, attempt, outcome, cause, calls, input_tokens,"
            " output_tokens, cached_tokens, cost_usd, started, wall_s, working_s, waiting_s, marks FROM trials"
            " WHERE segment = (SELECT id FROM segments WHERE name = ?) ORDER BY offset, line",
            (segment,),
        )
        self._row: Any = self._cursor.fetchone()

    def before(self, offset: float, line: int) -> int:
        """How many rows lie before a place: records that the index knows and the segment no longer has."""
        count = 0
        while self._row is not None and (self._row[0], self._row[1]) < (offset, line):
            count += 1
            self._row = self._cursor.fetchone()
        return count

    def differs(self, offset: int, line: int, length: int, one: Entry) -> str | None:
        """What is wrong with the row of a record, or None."""
        row: tuple[Any, ...] | None = self._row
        if row is None or (row[0], row[1]) != (offset, line):
            return "unindexed"
        self._row = self._cursor.fetchone()
        key = (self._names.get(row[3]), self._names.get(row[4]), row[5], row[6])
        scores: dict[str | None, float] = {
            self._names.get(score): value
            for score in self._scores
            for (value,) in self._db.execute(
                "SELECT value FROM scores WHERE score = ? AND arm = ? AND task = ? AND repeat = ? AND attempt = ?",
                (score, *row[3:7]),
            )
        }
        known: tuple[Any, ...] = (
            row[2],
            key,
            outcome_of(row[7]),
            self._names.get(row[8]),
            row[9:14],
            row[14:18],
            scores,
            self._names.get(row[18]),
        )
        written = (length, one.key, one.outcome, one.cause, one.usage, one.timings, dict(one.scores), one.marks)
        return None if known == written else "differs"


def _segment(path: Path, rows: _IndexRows | None, indexed: int, blobs: dict[str, int]) -> Iterator[Problem]:
    name, end = f"{FOLDER}/{path.name}", 0
    for frame in scan(path):
        end = frame.offset + frame.length
        where = f"{name}@{frame.offset}"
        if isinstance(frame, Damage):
            if frame.kind == "torn" and frame.offset >= indexed and rows is not None:
                yield Problem(where, f"{frame.length} bytes of an unfinished write; a resume cuts them", harmless=True)
            else:
                yield Problem(where, f"{frame.length} bytes are damaged")
            continue
        try:
            lines = read_frame(path, frame.offset, frame.length)
        except CorruptError as error:
            yield Problem(where, _short(error))
            continue
        if rows is not None and (lost := rows.before(frame.offset, 0)):
            yield Problem(where, f"{lost} records that the index knows are missing before this place")
        yield from _lines(path, lines, frame.offset, frame.length, rows, indexed, blobs)
    if rows is not None and (lost := rows.before(float("inf"), 0)):
        yield Problem(name, f"{lost} records that the index knows are missing")
    if indexed > end:
        yield Problem(name, f"{indexed - end} bytes are missing at its end")


def _lines(
    path: Path,
    lines: list[bytes],
    offset: int,
    length: int,
    rows: _IndexRows | None,
    indexed: int,
    blobs: dict[str, int],
) -> Iterator[Problem]:
    root, where = path.parent.parent, f"{FOLDER}/{path.name}@{offset}"
    store, behind, wrong = BlobStore(root / "blobs"), 0, 0
    for number, line in enumerate(lines):
        try:
            named = references(line)
            blobs.update({ref.sha256: ref.size for ref in named})
            if all(ref in store for ref in named):
                decode(line, store)
            one = entry(orjson.loads(line))
        except (CorruptError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            yield Problem(where, f"line {number} is not a record: {str(error).splitlines()[0][:200]}")
            continue
        verdict = rows.differs(offset, number, length, one) if rows is not None else None
        behind += verdict == "unindexed"
        wrong += verdict == "differs"
    if wrong:
        yield Problem(indexes.FILE, f"disagrees with {wrong} records at {where}; `fairtrial reindex` rebuilds it")
    if behind and offset >= indexed:
        yield Problem(where, f"{behind} records are not in the index yet; a resume adds them", harmless=True)
    elif behind:
        yield Problem(where, f"{behind} records are missing in the index, or repeat a key; run `fairtrial reindex`")


def _blobs(root: Path, named: dict[str, int]) -> Iterator[Problem]:
    found: dict[str, int] = {}
    for path in BlobStore(root / "blobs").files():
        where = path.relative_to(root).as_posix()
        if path.name.startswith(TEMPORARY):
            yield Problem(where, "left over from an unfinished write", harmless=True)
            continue
        if not _DIGEST.fullmatch(path.name) or path.parent.name != path.name[:2] or path.is_symlink():
            yield Problem(where, "does not belong here")
            continue
        try:
            actual, size = file_digest(path), path.stat().st_size
        except OSError as error:
            yield Problem(where, f"cannot be read ({error.strerror})")
            continue
        found[path.name] = size
        if actual != path.name:
            yield Problem(where, "damaged: its sha256 is not its name")
    for sha256, size in sorted(named.items()):
        if sha256 not in found:
            yield Problem(f"blobs/sha256/{sha256[:2]}/{sha256}", "missing, and a record names it")
        elif found[sha256] != size:
            yield Problem(f"blobs/sha256/{sha256[:2]}/{sha256}", f"{found[sha256]} bytes where a record says {size}")


def reindex(path: Path) -> Reindexed:
    """Build the index anew from the segments, passing over what is damaged, and report the damage.

    Raises UserError where there is no run directory, LockedError while a driver is at work, StorageError.
    """
    if not (path / FOLDER).is_dir():
        raise UserError(f"{path}: not a run directory (it has no {FOLDER} folder)")
    lock = Lock(path / "lock")
    try:
        return _rebuild(path, Disk())
    finally:
        lock.release()


def _rebuild(root: Path, disk: Disk) -> Reindexed:
    target, temporary = root / indexes.FILE, root / f"{TEMPORARY}index"
    with storing(target):
        problems, records = list(_forget_missing(root, disk)), 0
        indexes.remove(temporary)
    index = Index.create(temporary, wal=False)
    try:
        paths = listed(root)
        newest = {numbered(path.name)[0]: path for path in paths}
        for path in paths:
            name = f"{FOLDER}/{path.name}"
            held = 0
            for frame in scan(path):
                if isinstance(frame, Damage):
                    problems.append(Problem(f"{name}@{frame.offset}", f"{frame.length} bytes are damaged"))
                else:
                    held += frame.lines
            new, repeated = fill(index, path)
            records += new
            if repeated:
                problems.append(Problem(name, f"{repeated} records repeat a key; the first of each counts"))
            if held > new + repeated:
                problems.append(Problem(name, f"{held - new - repeated} lines are no records of this version"))
            if path != newest[numbered(path.name)[0]] or _is_sealed(root, name):
                index.mark(path.name, path.stat().st_size)
    finally:
        index.close()
    with storing(target):
        indexes.remove(target)
        disk.replace(temporary, target)
        disk.sync_folder(root)
    return Reindexed(records, problems)


def _is_sealed(root: Path, name: str) -> bool:
    with contextlib.suppress(CorruptError):
        return name in read_sums(root)
    return False


def _forget_missing(root: Path, disk: Disk) -> Iterator[Problem]:
    """Take segments that are gone out of SHA256SUMS, so that the run can go on; rebuild a damaged SHA256SUMS."""
    try:
        sums = read_sums(root)
    except CorruptError as error:
        yield Problem(SUMS, f"{_short(error)}: digests taken anew from the files as they are now")
        sums = {name: file_digest(root / name) for name in ("manifest.json", "study.toml") if (root / name).is_file()}
        write_sums(root, sums, disk)
        return
    gone = [name for name in sums if not (root / name).is_file()]
    for name in gone:
        yield Problem(name, "missing")
    if gone:
        write_sums(root, {name: value for name, value in sums.items() if name not in gone}, disk)
