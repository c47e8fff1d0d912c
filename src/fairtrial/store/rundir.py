"""RunDir: reading a run directory, and the ways to create one or open it for writing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.core.ids import digest
from fairtrial.core.record import Record, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.store import index as indexes
from fairtrial.store import recovery, snapshot
from fairtrial.store.blobs import BlobStore
from fairtrial.store.codec import decode
from fairtrial.store.disk import TEMPORARY, Disk, Lock, storing
from fairtrial.store.frames import read_frame
from fairtrial.store.index import Index
from fairtrial.store.queries import ArmSummary, Done, Marked, Place, Queries, Row, ScoreRow, Totals
from fairtrial.store.segments import FOLDER, ROLL_BYTES, SUMS, write_sums
from fairtrial.store.writer import RunWriter

MANIFEST = "manifest.json"
STUDY = "study.toml"
LOCK = "lock"
BLOBS = "blobs"
_FOLDERS = (FOLDER, BLOBS, "report")


class RunDir:
    """A run directory, for reading. Use from one thread; close it, or use it as a context manager."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, redactor: Redactor | None = None, disk: Disk | None = None
    ) -> None:
        self.path = path
        self.blobs = BlobStore(path / BLOBS, redactor, disk=disk)
        self._queries = Queries(db, path / indexes.FILE)
        self._last: tuple[tuple[str, int], list[bytes]] = (("", -1), [])

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether a run directory was created at `path` (an unfinished creation is none)."""
        return (path / MANIFEST).is_file()

    @classmethod
    def create(
        cls,
        path: Path,
        manifest: Mapping[str, Any],
        study_text: str,
        redactor: Redactor,
        *,
        writer: str = "driver",
        disk: Disk | None = None,
        roll_bytes: int = ROLL_BYTES,
    ) -> RunWriter:
        """Create a run directory and open it for writing.

        The manifest is written last: a creation that was killed leaves no manifest, and the next one starts over it.
        Raises UserError where `path` holds anything else (a finished run directory, too), LockedError, StorageError.
        """
        disk = disk or Disk()
        if cls.exists(path):
            raise UserError(f"{path}: is a run directory already; resume it, or choose another folder")
        _refuse_foreign(path)
        with storing(path):
            disk.make_folder(path)
        lock = Lock(path / LOCK)
        try:
            if cls.exists(path):
                raise UserError(f"{path}: another driver has just created it; resume it, or choose another folder")
            _refuse_foreign(path)
            files = {
                STUDY: redactor.text(study_text).encode(),
                MANIFEST: json.dumps(redactor.value(manifest), indent=2, sort_keys=True, allow_nan=False).encode()
                + b"\n",
            }
            with storing(path):
                for leftover in path.glob(f"{TEMPORARY}*"):
                    leftover.unlink()
                for name in _FOLDERS:
                    disk.make_folder(path / name)
                disk.write_whole(path / STUDY, files[STUDY])
                write_sums(path, {name: digest(content) for name, content in files.items()}, disk)
                indexes.remove(path / indexes.FILE)
                Index.create(path / indexes.FILE).close()
                disk.write_whole(path / MANIFEST, files[MANIFEST])
            return _writer(path, lock, redactor, disk, writer, roll_bytes)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_writer(
        cls,
        path: Path,
        redactor: Redactor | None = None,
        *,
        writer: str = "driver",
        disk: Disk | None = None,
        roll_bytes: int = ROLL_BYTES,
    ) -> RunWriter:
        """Open an existing run directory for writing, after recovery (see `RunWriter.recovery`).

        Raises UserError where there is none, LockedError where another driver is at work, CorruptError for damage
        that a resume would build upon, StorageError.
        """
        _require(path)
        lock = Lock(path / LOCK)
        try:
            return _writer(path, lock, redactor or Redactor(), disk or Disk(), writer, roll_bytes)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open for reading, also while a driver writes; nothing in the directory is changed.

        Where the index lags behind the segments, is lost or damaged, a complete one is built in memory.
        Raises UserError where `path` is no run directory.
        """
        _require(path)
        return cls(path, snapshot.connect(path))

    def close(self) -> None:
        """Close the index."""
        self._queries.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was resolved before the run began, secrets redacted. Raises CorruptError where it is unreadable."""
        try:
            value = json.loads((self.path / MANIFEST).read_bytes())
            if not isinstance(value, dict):
                raise ValueError("not an object")
        except (OSError, ValueError, RecursionError) as error:
            raise CorruptError(f"{self.path / MANIFEST}: damaged ({error}); restore it from a copy") from None
        return cast("dict[str, Any]", value)

    @cached_property
    def study_text(self) -> str:
        """The study file as it was read, secrets redacted. Raises CorruptError where it is unreadable."""
        try:
            return (self.path / STUDY).read_bytes().decode("utf-8")
        except (OSError, ValueError) as error:
            raise CorruptError(f"{self.path / STUDY}: damaged ({error}); restore it from a copy") from None

    def __len__(self) -> int:
        return self._queries.count()

    def get(self, key: TrialKey) -> Record:
        """The record of one attempt. Raises KeyError where there is none, CorruptError where it is damaged."""
        found = self._queries.place(key.arm, key.task, key.repeat, key.attempt)
        if found is None:
            raise KeyError(str(key))
        return self._record(found[0])

    def latest(self, arm: str, task: str, repeat: int) -> Record | None:
        """The record of a trial's latest attempt, or None where the trial was not run."""
        found = self._queries.place(arm, task, repeat, None)
        return self._record(found[0]) if found else None

    def _record(self, place: Place) -> Record:
        return decode(self._lines(place)[place.line], self.blobs)

    def _lines(self, place: Place) -> list[bytes]:
        """The lines of a frame; the last frame read is kept, since neighbours are often asked for next."""
        frame = (place.segment, place.offset)
        if self._last[0] != frame:
            self._last = (frame, read_frame(self.path / FOLDER / place.segment, place.offset, place.length))
        return self._last[1]

    def lines(self, *, latest: bool = False, arm: str | None = None) -> Iterator[bytes]:
        """Stored lines as they are on disk (large strings still in blobs), oldest first."""
        for place, wanted in self._queries.places(latest=latest, arm=arm):
            frame = read_frame(self.path / FOLDER / place.segment, place.offset, place.length)
            yield from (frame[line] for line in wanted)

    def records(self, *, latest: bool = False, arm: str | None = None) -> Iterator[Record]:
        """Records, oldest first: every attempt or each trial's latest, of one arm or all. Memory: one frame."""
        return (decode(line, self.blobs) for line in self.lines(latest=latest, arm=arm))

    def rows(self, *, latest: bool = True) -> Iterator[Row]:
        """What the index knows of each trial's latest attempt, or of all attempts."""
        return self._queries.rows(latest=latest)

    def done(self) -> dict[tuple[str, str, int], Done]:
        """(arm, task, repeat) -> attempt and outcome of the latest attempt, for every trial that has one."""
        return self._queries.done()

    def arms(self) -> list[ArmSummary]:
        """A summary of each arm, in the order in which the arms first appeared."""
        return self._queries.arms()

    def score_rows(self, score: str) -> Iterator[ScoreRow]:
        """Each trial's latest attempt with its value of `score`; None where it has none (errored, skipped)."""
        return self._queries.score_rows(score)

    def marks(self) -> Iterator[Marked]:
        """Flags and provenance of the latest attempts, by arm, with the trials that share them."""
        return self._queries.marks()

    def score_names(self) -> list[str]:
        """The names of all scores, sorted."""
        return self._queries.score_names()

    def totals(self) -> Totals:
        """What was spent over all attempts, so that a budget survives resumes."""
        return self._queries.totals()


def _require(path: Path) -> None:
    if RunDir.exists(path):
        return
    if not path.exists():
        raise UserError(f"{path}: no such run directory")
    if (path / LOCK).exists():
        raise UserError(f"{path}: its creation was interrupted and it holds no results; run the study again into it")
    raise UserError(f"{path}: not a run directory (it has no {MANIFEST})")


def _refuse_foreign(path: Path) -> None:
    """Raise UserError unless `path` is free, empty or the rest of an interrupted creation."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file; choose another place for the run directory")
    ours = {STUDY, SUMS, LOCK, indexes.FILE, *(indexes.FILE + end for end in ("-wal", "-shm", "-journal"))}
    for entry in sorted(path.iterdir()):
        empty = entry.name in _FOLDERS and entry.is_dir() and not any(entry.iterdir())
        if not (empty or entry.name in ours or entry.name.startswith(TEMPORARY)):
            raise UserError(f"{path}: holds other content ({entry.name}); choose an empty or new folder")
    names = {entry.name for entry in path.iterdir()}
    if names and LOCK not in names:
        raise UserError(f"{path}: holds other content ({min(names)}); choose an empty or new folder")


def _writer(path: Path, lock: Lock, redactor: Redactor, disk: Disk, writer: str, roll_bytes: int) -> RunWriter:
    index, found = recovery.recover(path, disk)
    with contextlib.ExitStack() as undo:
        undo.callback(index.close)
        run = RunDir(path, snapshot.read_only(path), redactor, disk)
        opened = RunWriter(run, index, lock, redactor, found, writer=writer, disk=disk, roll_bytes=roll_bytes)
        undo.pop_all()
    return opened
