"""A trajectory that is written while it happens: a file of pieces, one JSON object a line, only ever appended to.

Joined, the pieces are the trajectory: lists (content, model_calls, tools, those inside extra) follow one another,
objects are merged, and of anything else the first one stays. A process that dies leaves at most a last line that is
cut off; readers leave it out, and the next writer removes it first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import orjson

from fairtrial.core.errors import CorruptError
from fairtrial.store.disk import Disk, storing

Piece = dict[str, Any]


def append(path: Path, piece: Piece) -> int:
    """Add a piece; a kill of this process cannot undo it. Returns the open file: sync it, then close it.

    Raises StorageError where the disk refuses; the file is then as it was.
    """
    disk = Disk()
    with storing(path):
        fd = disk.open_append(path)
        size = os.fstat(fd).st_size
        try:
            disk.write(fd, orjson.dumps(piece, option=orjson.OPT_APPEND_NEWLINE))
        except BaseException:
            disk.truncate(fd, size)
            os.close(fd)
            raise
    return fd


def settle(path: Path, fd: int) -> None:
    """Return when what was written to `fd`, the file at `path`, would survive a power loss; closes it."""
    with storing(path):
        try:
            Disk().sync(fd)
        finally:
            os.close(fd)


def pieces(path: Path) -> tuple[list[Piece], int]:
    """The whole pieces of a file, and the bytes that they take. Raises CorruptError for damage before its last line."""
    found: list[Piece] = []
    size = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                piece: Any = orjson.loads(line)
            except ValueError as error:
                raise CorruptError(f"{path}:{number}: not valid JSON: {error}") from None
            if not isinstance(piece, dict):
                raise CorruptError(f"{path}:{number}: not a piece of a trajectory")
            found.append(cast("Piece", piece))
            size += len(line)
    return found, size


def mend(path: Path, size: int) -> None:
    """Cut off what a killed writer left behind the whole pieces. Raises StorageError."""
    with storing(path):
        if path.stat().st_size > size:
            os.truncate(path, size)


def joined(parts: Iterable[Piece]) -> Piece:
    """The trajectory that pieces make, as a dict."""
    whole: Piece = {}
    for part in parts:
        _merge(whole, part)
    return whole


def _merge(into: Piece, part: Piece) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), cast("Piece", value))
        elif isinstance(value, list):
            into.setdefault(key, []).extend(cast("list[Any]", value))
        else:
            into.setdefault(key, value)
