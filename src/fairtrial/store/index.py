"""The index: one SQLite row for each attempt, so that summaries read no segment. A cache, rebuilt at will.

The driver is its only writer (WAL, `BEGIN IMMEDIATE`). Names are interned in order of appearance, which keeps the rows
of a run together on a few pages while it is appended to; the view `attempts` shows them spelled out.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from fairtrial.core.errors import CorruptError, LockedError, StorageError
from fairtrial.core.ids import canonical_json
from fairtrial.core.record import Outcome
from fairtrial.store.frames import Frame

FILE = "index.db"
VERSION = 2
_APPLICATION = 0x46545231
_OUTCOMES: tuple[Outcome, ...] = tuple(Outcome)
_SCHEMA = """
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE segments (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, indexed INTEGER NOT NULL);
CREATE TABLE trials (
    arm INTEGER, task INTEGER, repeat INTEGER, attempt INTEGER,
    latest INTEGER, outcome INTEGER, cause INTEGER,
    calls INTEGER, input_tokens INTEGER, output_tokens INTEGER, cached_tokens INTEGER, cost_usd REAL,
    started REAL, wall_s REAL, working_s REAL, waiting_s REAL,
    segment INTEGER, offset INTEGER, length INTEGER, line INTEGER, marks INTEGER,
    PRIMARY KEY (arm, task, repeat, attempt)) WITHOUT ROWID;
CREATE TABLE scores (
    score INTEGER, arm INTEGER, task INTEGER, repeat INTEGER, attempt INTEGER, value REAL,
    PRIMARY KEY (score, arm, task, repeat, attempt)) WITHOUT ROWID;
CREATE VIEW attempts AS SELECT
    a.name AS arm, t.name AS task, repeat, attempt, latest,
    CASE outcome WHEN 0 THEN 'scored' WHEN 1 THEN 'failed' WHEN 2 THEN 'errored' ELSE 'skipped' END AS outcome,
    c.name AS cause, calls, input_tokens, output_tokens, cached_tokens, cost_usd, started, wall_s, working_s, waiting_s,
    s.name AS segment, offset, length, line
  FROM trials JOIN names a ON a.id = arm JOIN names t ON t.id = task LEFT JOIN names c ON c.id = cause
  JOIN segments s ON s.id = segment;
"""
_INSERT = "INSERT OR IGNORE INTO trials VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_HAS = "SELECT 1 FROM trials WHERE arm = ? AND task = ? AND repeat = ? AND attempt = ?"
_HIGHEST = "SELECT max(attempt) FROM trials WHERE arm = ? AND task = ? AND repeat = ?"
_MARK_LATEST = "UPDATE trials SET latest = (attempt = ?4) WHERE arm = ?1 AND task = ?2 AND repeat = ?3"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index keeps of one record."""

    arm: str
    task: str
    repeat: int
    attempt: int
    outcome: str
    cause: str | None
    usage: tuple[int, int, int, int, float]
    """calls, input, output and cached tokens, dollars."""
    timings: tuple[float | None, float, float, float]
    """Start (Unix time), wall, working and waiting seconds."""
    scores: Mapping[str, float]
    marks: str | None
    """Flags and provenance as JSON (few different ones in a run, so it is interned like a name); None without any."""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """(arm, task, repeat, attempt)."""
        return (self.arm, self.task, self.repeat, self.attempt)


def entry(value: Mapping[str, Any]) -> Entry:
    """The entry of a record's JSON. Raises KeyError, TypeError or ValueError where it is no record."""
    key, timings = value["key"], value.get("timings")
    usage = cast("dict[str, Any]", value.get("usage") or {})
    when = (None, 0.0, 0.0, 0.0)
    if timings is not None:
        started = datetime.fromisoformat(timings["started"]).timestamp()
        when = (started, float(timings["wall_s"]), float(timings["working_s"]), float(timings.get("waiting_s", 0)))
    scores = cast("dict[str, Any]", value.get("scores") or {})
    return Entry(
        str(key["arm"]),
        str(key["task"]),
        int(key["repeat"]),
        int(key.get("attempt", 1)),
        Outcome(value["outcome"]).value,
        value.get("cause"),
        (
            int(usage.get("calls", 0)),
            int(usage.get("input_tokens", 0)),
            int(usage.get("output_tokens", 0)),
            int(usage.get("cached_tokens", 0)),
            float(usage.get("cost_usd", 0.0)),
        ),
        when,
        {str(name): float(score) for name, score in scores.items()},
        _marks(value),
    )


def _marks(value: Mapping[str, Any]) -> str | None:
    flags: object = value.get("flags") or []
    provenance: object = value.get("provenance") or {}
    if not flags and not provenance:
        return None
    return canonical_json({"flags": flags, "provenance": provenance}).decode()


@contextlib.contextmanager
def indexing(path: Path) -> Generator[None]:
    """Turn SQLite's errors inside into LockedError, StorageError or CorruptError, in one line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LockedError(f"{path}: another process keeps the index busy; try again") from error
        if name.startswith("SQLITE_FULL"):
            raise StorageError(f"{path}: cannot be written: the disk is full; free some space and resume") from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
            raise StorageError(f"{path}: cannot be written ({error}); check the disk, then resume") from error
        raise CorruptError(f"{path}: damaged ({error}); `fairtrial reindex` rebuilds it from the segments") from error


class Index:
    """The writing side. Use from one thread at a time."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self.db, self.path = db, path
        self._names: dict[str, int] = {}
        self._segments: dict[str, int] = {}

    @classmethod
    def create(cls, path: Path, *, wal: bool = True) -> Index:
        """A new index at `path`; `:memory:` for one that lives in memory."""
        with indexing(path):
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            db.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION}; "
                f"PRAGMA user_version = {VERSION}; COMMIT;"
            )
        return cls(db, path)

    @classmethod
    def open(cls, path: Path) -> Index:
        """An existing index, for writing. Raises CorruptError where it is not a sound index of this version."""
        with indexing(path):
            if not path.is_file():
                raise sqlite3.DatabaseError("the file is missing")
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            try:
                check(db)
                if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                    raise sqlite3.DatabaseError(verdict)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                db.close()
                raise
        return cls(db, path)

    def segments(self) -> dict[str, int]:
        """Segment name -> the offset up to which it is indexed."""
        with indexing(self.path):
            return dict(self.db.execute("SELECT name, indexed FROM segments"))

    def has(self, key: tuple[str, str, int, int]) -> bool:
        """Whether an attempt is stored."""
        with indexing(self.path):
            arm, task = self._known(key[0]), self._known(key[1])
            if arm is None or task is None:
                return False
            return self.db.execute(_HAS, (arm, task, key[2], key[3])).fetchone() is not None

    def add(self, segment: str, frames: Iterable[tuple[Frame, list[Entry]]]) -> list[Entry]:
        """Index frames of one segment in one transaction and return the entries whose key was there already."""
        repeated: list[Entry] = []
        with indexing(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                end, segment_id = 0, self._segment(segment)
                for frame, entries in frames:
                    for line, one in enumerate(entries):
                        if not self._insert(one, (segment_id, frame.offset, frame.length, line)):
                            repeated.append(one)
                    end = frame.offset + frame.length
                self.db.execute("UPDATE segments SET indexed = max(indexed, ?) WHERE id = ?", (end, segment_id))
                self.db.execute("COMMIT")
            except BaseException:
                self._names.clear()
                self._segments.clear()
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
        return repeated

    def mark(self, segment: str, end: int) -> None:
        """Say that a segment holds nothing more to index before offset `end`."""
        with indexing(self.path):
            self.db.execute("UPDATE segments SET indexed = max(indexed, ?) WHERE name = ?", (end, segment))

    def _insert(self, one: Entry, place: tuple[int, int, int, int]) -> bool:
        key = (self._name(one.arm), self._name(one.task), one.repeat, one.attempt)
        cause = self._name(one.cause) if one.cause else None
        marks = self._name(one.marks) if one.marks else None
        row = (*key, 1, _OUTCOMES.index(Outcome(one.outcome)), cause, *one.usage, *one.timings, *place, marks)
        if self.db.execute(_INSERT, row).rowcount != 1:
            return False
        self.db.executemany(
            "INSERT INTO scores VALUES (?,?,?,?,?,?)",
            [(self._name(name), *key, value) for name, value in one.scores.items()],
        )
        highest = self.db.execute(_HIGHEST, key[:3]).fetchone()[0]
        if highest > 1:
            self.db.execute(_MARK_LATEST, (*key[:3], highest))
        return True

    def _known(self, name: str) -> int | None:
        """The number of a name that is interned already."""
        if name not in self._names:
            row = self.db.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            self._names[name] = cast("int", row[0])
        return self._names[name]

    def _name(self, name: str) -> int:
        found = self._known(name)
        if found is None:
            found = cast("int", self.db.execute("INSERT INTO names (name) VALUES (?)", (name,)).lastrowid)
            self._names[name] = found
        return found

    def _segment(self, name: str) -> int:
        found = self._segments.get(name)
        if found is None:
            self.db.execute("INSERT OR IGNORE INTO segments (name, indexed) VALUES (?, 0)", (name,))
            found = cast("int", self.db.execute("SELECT id FROM segments WHERE name = ?", (name,)).fetchone()[0])
            self._segments[name] = found
        return found

    def close(self) -> None:
        """Fold the write-ahead log into the file, so that readers need no side files."""
        with contextlib.suppress(sqlite3.DatabaseError):
            # readers in the way or a full disk: then the log stays, and is read as it is
            self.db.execute("PRAGMA busy_timeout = 200")
            self.db.execute("PRAGMA journal_mode = DELETE")
        self.db.close()


def outcome_of(code: int) -> Outcome:
    """The outcome that the index stores as `code`."""
    return _OUTCOMES[code]


def check(db: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError where `db` is not an index of this version."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) != (_APPLICATION, VERSION):
        raise sqlite3.DatabaseError(f"not an index of version {VERSION}")


def remove(path: Path) -> None:
    """Delete an index with its side files."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
