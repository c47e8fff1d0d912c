"""Connections for readers: the index on disk where it is complete, one built in memory where it is not."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

from fairtrial.store import index as indexes
from fairtrial.store.index import Index
from fairtrial.store.recovery import fill
from fairtrial.store.segments import listed

_WAL_HEADER = 18
"""Byte of a SQLite file that says whether it needs a write-ahead log beside it (2) or not (1)."""


def connect(root: Path) -> sqlite3.Connection:
    """A connection that answers for every good frame of the segments. Changes nothing on disk."""
    db: sqlite3.Connection | None = None
    with contextlib.suppress(sqlite3.DatabaseError, OSError):
        db = sound(root)
    if db is None:
        return _in_memory(root, None)
    indexed = dict(db.execute("SELECT name, indexed FROM segments"))
    sizes = {path.name: path.stat().st_size for path in listed(root)}
    if all(indexed.get(name, 0) >= size for name, size in sizes.items()):
        return db
    with contextlib.closing(db):
        return _in_memory(root, db)


def read_only(root: Path) -> sqlite3.Connection:
    """A connection to the index that a driver of this process has open."""
    return _open(root / indexes.FILE, "mode=ro")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    # as_uri() quotes what would otherwise be read as options
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=30
    )
    db.execute("PRAGMA query_only = ON")
    return db


def sound(root: Path) -> sqlite3.Connection:
    """The index as it is on disk. Raises sqlite3.DatabaseError or OSError where it cannot be used."""
    path = root / indexes.FILE
    with path.open("rb") as file:
        header = file.read(_WAL_HEADER + 1)
    if len(header) <= _WAL_HEADER:
        raise sqlite3.DatabaseError("the file is empty")
    if header[_WAL_HEADER] == 2 and not path.with_name(f"{path.name}-wal").exists():
        # it wants a log and has none: SQLite would create one
        return _copied(path)
    try:
        return _checked(_open(path, "mode=ro"))
    except sqlite3.OperationalError:
        # a killed driver left work that SQLite finishes by writing, or the log cannot be read without writing
        return _copied(path)


def _checked(db: sqlite3.Connection) -> sqlite3.Connection:
    try:
        indexes.check(db)
        if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(verdict)
    except BaseException:
        db.close()
        raise
    return db


def _copied(path: Path) -> sqlite3.Connection:
    """The index in memory, by way of a copy that SQLite may recover as it likes."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path.with_name(path.name + suffix), Path(folder) / (path.name + suffix))
        with contextlib.closing(sqlite3.connect(Path(folder) / path.name, isolation_level=None)) as db:
            db.backup(memory)
    return _checked(memory)


def _in_memory(root: Path, known: sqlite3.Connection | None) -> sqlite3.Connection:
    """A copy of what is known, or nothing, brought up to the segments."""
    if known is None:
        index = Index.create(Path(":memory:"), wal=False)
    else:
        index = Index(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False), Path(":memory:"))
        known.backup(index.db)
    indexed = index.segments()
    for path in listed(root):
        fill(index, path, indexed.get(path.name, 0))
    return index.db
