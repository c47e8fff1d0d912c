"""Connections for readers: the index on disk where it is complete, one built in memory where it is not."""

from __future__ import annotations

import contextlib
import sqlite3
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
    settled = header[_WAL_HEADER] == 2 and not path.with_name(f"{path.name}-wal").exists()
    # a file that wants a log and has none would make SQLite create one: read it as it is instead
    db = _open(path, "immutable=1" if settled else "mode=ro")
    try:
        if settled:
            memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            with contextlib.closing(db):
                db.backup(memory)
            db = memory
        indexes.check(db)
        if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(verdict)
    except BaseException:
        db.close()
        raise
    return db


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
