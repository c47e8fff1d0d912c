"""Segments: files of frames with one writer each, and SHA256SUMS, the digests of what will not change again."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from fairtrial.core.errors import CorruptError
from fairtrial.core.ids import file_digest
from fairtrial.store.disk import Disk, storing

FOLDER = "segments"
SUMS = "SHA256SUMS"
ROLL_BYTES = 256 << 20
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)-(\d{6})\.jsonl\.zst")
_SUM = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")


def listed(root: Path) -> list[Path]:
    """The segment files of a run directory, by writer and number."""
    return sorted(path for path in (root / FOLDER).glob("*.jsonl.zst") if _NAME.fullmatch(path.name) and path.is_file())


def numbered(name: str) -> tuple[str, int]:
    """Writer and number of a segment's name. Raises ValueError for any other name."""
    if (match := _NAME.fullmatch(name)) is None:
        raise ValueError(f"not a segment's name: {name[:80]!r}")
    return match[1], int(match[2])


def read_sums(root: Path) -> dict[str, str]:
    """Path (relative to the run directory) -> sha256, from SHA256SUMS. Raises CorruptError where it is unreadable."""
    path = root / SUMS
    try:
        content = path.read_bytes().decode("ascii")
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path}: cannot be read ({type(error).__name__}); restore it from a copy") from None
    sums = {name: digest for digest, name in _SUM.findall(content)}
    if _rendered(sums) != content:
        raise CorruptError(f"{path}: damaged: it is not the sorted list of digests that was written")
    return sums


def write_sums(root: Path, sums: Mapping[str, str], disk: Disk) -> None:
    """Replace SHA256SUMS (what `sha256sum -c` reads), durably."""
    disk.write_whole(root / SUMS, _rendered(sums).encode("ascii"))


def _rendered(sums: Mapping[str, str]) -> str:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


class SegmentWriter:
    """Appends frames to one writer's segments, rolling to the next number above `roll_bytes`."""

    def __init__(self, root: Path, writer: str, disk: Disk, *, roll_bytes: int = ROLL_BYTES) -> None:
        self._root, self._writer, self._disk, self._roll = root, writer, disk, roll_bytes
        self._fd, self._size = -1, 0
        self._sums = read_sums(root)
        mine = [path.name for path in listed(root) if numbered(path.name)[0] == writer]
        self._number = numbered(mine[-1])[1] if mine else 0
        if mine and self._sealed(mine[-1]):
            self._number += 1

    @property
    def path(self) -> Path:
        """The segment that the next frame goes to; it may not exist yet."""
        return self._root / FOLDER / f"{self._writer}-{self._number:06d}.jsonl.zst"

    def _sealed(self, name: str) -> bool:
        return f"{FOLDER}/{name}" in self._sums

    def append(self, frames: bytes) -> int:
        """Write `frames` durably at the end and return the offset where they start.

        Raises StorageError where the disk refuses; what was half written is cut off again if the disk allows it,
        else by the next driver that opens the directory.
        """
        path = self.path
        with storing(path):
            if self._fd < 0:
                self._fd = self._disk.open_append(path)
                self._size = os.fstat(self._fd).st_size
                self._disk.sync_folder(path.parent)
            offset = self._size
            try:
                self._disk.write(self._fd, frames)
                self._disk.sync(self._fd)
            except OSError:
                self._cut(offset)
                raise
        self._size += len(frames)
        return offset

    def _cut(self, size: int) -> None:
        try:
            self._disk.truncate(self._fd, size)
        except OSError:
            # the disk is beyond use: the torn tail stays for the next opening, which removes it
            return

    def roll(self) -> None:
        """Seal the segment once it is full."""
        if self._size >= self._roll:
            self.seal()

    def seal(self) -> None:
        """Close the segment for good: its sha256 goes to SHA256SUMS, the next frame to a new segment."""
        path = self.path
        if self._fd < 0 and not path.exists():
            return
        self.close()
        with storing(path):
            self._sums[f"{FOLDER}/{path.name}"] = file_digest(path)
            write_sums(self._root, self._sums, self._disk)
        self._number, self._size = self._number + 1, 0

    def close(self) -> None:
        """Close the file without sealing it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
