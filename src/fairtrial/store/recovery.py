"""Recovery: bring an index up to its segments, cut a torn tail, seal what should be sealed. And `reindex`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from fairtrial.core.errors import CorruptError
from fairtrial.core.ids import file_digest
from fairtrial.store import index as indexes
from fairtrial.store.disk import TEMPORARY, Disk, storing
from fairtrial.store.frames import Damage, Frame, read_frame, scan
from fairtrial.store.index import Entry, Index, entry
from fairtrial.store.segments import FOLDER, listed, numbered, read_sums, write_sums

_BATCH = 64
"""Frames to one transaction while indexing."""


@dataclass(slots=True)
class Recovery:
    """What opening a directory found and mended."""

    records: int = 0
    """Durable records that the index did not know."""
    torn_bytes: int = 0
    """Cut off from unfinished writes; never acknowledged."""
    set_aside: list[str] = field(default_factory=list[str])
    """Files that now hold a damaged tail which was no plain unfinished write."""
    rebuilt: str | None = None
    """Why the index was built anew, if it was."""
    repeated: int = 0
    """Stored records whose key an earlier record has; the first one counts."""


def recover(root: Path, disk: Disk) -> tuple[Index, Recovery]:
    """Open the index for writing, complete and in step with the segments.

    Raises CorruptError for damage before the end of a segment, StorageError where the disk refuses.
    """
    path, found = root / indexes.FILE, Recovery()
    for leftover in (root.glob(f"{TEMPORARY}*"), (root / FOLDER).glob(f"{TEMPORARY}*")):
        for file in leftover:
            file.unlink(missing_ok=True)
    try:
        index = Index.open(path)
    except CorruptError as error:
        found.rebuilt = str(error.__cause__)
        with storing(path):
            indexes.remove(path)
        index = Index.create(path)
    try:
        _catch_up(root, index, disk, found)
    except BaseException:
        index.db.close()
        raise
    return index, found


def _catch_up(root: Path, index: Index, disk: Disk, found: Recovery) -> None:
    indexed, sums = index.segments(), read_sums(root)
    paths = {path.name: path for path in listed(root)}
    for name in [*indexed, *(Path(name).name for name in sums if name.startswith(f"{FOLDER}/"))]:
        if name not in paths:
            raise CorruptError(f"{root / FOLDER / name}: missing; {_ADVICE}")
    newest = {numbered(name)[0]: name for name in paths}
    for name, path in paths.items():
        start, sealed = indexed.get(name, 0), f"{FOLDER}/{name}" in sums
        size = path.stat().st_size
        if size < start:
            raise CorruptError(f"{path}: {start - size} bytes are missing at its end; {_ADVICE}")
        if size > start:
            may_cut = not sealed and name == newest[numbered(name)[0]]
            _complete(path, start, index, disk, found, may_cut=may_cut)
        if not sealed and name != newest[numbered(name)[0]]:
            with storing(path):
                sums[f"{FOLDER}/{name}"] = file_digest(path)
                write_sums(root, sums, disk)


_ADVICE = (
    "`fairtrial verify` lists all damage, `fairtrial reindex` drops the records that are lost "
    "so that a resume runs them again"
)


def _complete(path: Path, start: int, index: Index, disk: Disk, found: Recovery, *, may_cut: bool) -> None:
    """Index the frames of one segment from `start`, and cut what follows the last one."""
    found_here = list(scan(path, start))
    damage = next((kind for kind in found_here if isinstance(kind, Damage)), None)
    if damage is not None and (damage is not found_here[-1] or not may_cut):
        raise CorruptError(f"{path}: damaged at byte {damage.offset}; {_ADVICE}")
    with storing(path):
        fd = disk.open_append(path)
        try:
            if damage is not None:
                if damage.kind == "bad":
                    aside = path.with_name(f"{path.name}.{damage.offset}.damaged")
                    disk.write_whole(aside, os.pread(fd, damage.length, damage.offset))
                    found.set_aside.append(aside.name)
                disk.truncate(fd, damage.offset)
                found.torn_bytes += damage.length
            # what a killed driver wrote may not have reached the disk: only after this may it count as done
            disk.sync(fd)
            disk.sync_folder(path.parent)
        finally:
            os.close(fd)
    records, repeated = fill(index, path, start)
    found.records += records
    found.repeated += repeated


def fill(index: Index, path: Path, start: int = 0) -> tuple[int, int]:
    """Index every good frame of a segment from `start`; returns how many records are new and how many are repeats."""
    records = repeated = 0
    batch: list[tuple[Frame, list[Entry]]] = []
    for frame, entries in entries_of(path, start):
        batch.append((frame, entries))
        records += len(entries)
        if len(batch) == _BATCH:
            repeated += len(index.add(path.name, batch))
            batch = []
    repeated += len(index.add(path.name, batch))
    return records - repeated, repeated


def entries_of(path: Path, start: int = 0) -> Iterator[tuple[Frame, list[Entry]]]:
    """The entries of every good frame of a segment from `start`; what is no frame of records is passed over."""
    for frame in scan(path, start):
        if isinstance(frame, Frame):
            try:
                lines = read_frame(path, frame.offset, frame.length)
                yield frame, [entry(orjson.loads(line)) for line in lines]
            except (CorruptError, ValueError, KeyError, TypeError, AttributeError):
                # `verify` names them; an index can do nothing with them
                continue
