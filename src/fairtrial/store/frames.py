"""Frames: how lines lie in a segment, and how a segment is scanned.

A segment is a plain zstd file (`zstdcat segment | jq` works). Each group of lines is one zstd frame (level 3, content
size and checksum on), preceded by a zstd *skippable* frame of 36 bytes, all little-endian:

    0x184D2A5E (4)  28 (4)  "FTR1" (4)  lines (4)  bytes of the zstd frame (4)  blake2b-128 of these two and it (16)

The header makes a scan cheap (no decompression), tells a torn tail from damage, and covers every stored bit: a zstd
checksum covers the content only, and some bits of a zstd frame do not change the content.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard

from fairtrial.core.errors import CorruptError

FRAME_LINES = 64
FRAME_BYTES = 1 << 20
_LARGEST = 1 << 30
"""No frame of ours is larger, unpacked; a larger claim is damage or an attack."""
_HEAD = struct.Struct("<II4sII16s")
_MARK = struct.pack("<II4s", 0x184D2A5E, _HEAD.size - 8, b"FTR1")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame lies: `offset` and `length` include the header; `lines` is how many records it holds."""

    offset: int
    length: int
    lines: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are no frame. torn: an unfinished write at the very end; bad: anything else."""

    kind: Literal["torn", "bad"]
    offset: int
    length: int


class Packer:
    """Turns lines into frames; one compressor, so not for use by several threads at once."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True)

    def pack(self, lines: Sequence[bytes]) -> bytes:
        """One frame, header included. Lines come without their newline."""
        data = self._zstd.compress(b"\n".join(lines) + b"\n")
        return _HEAD.pack(*_head_fields(len(lines), len(data)), _checksum(len(lines), data)) + data


def _head_fields(lines: int, length: int) -> tuple[int, int, bytes, int, int]:
    return 0x184D2A5E, _HEAD.size - 8, b"FTR1", lines, length


def _checksum(lines: int, data: bytes | memoryview) -> bytes:
    hasher = hashlib.blake2b(struct.pack("<II", lines, len(data)), digest_size=16)
    hasher.update(data)
    return hasher.digest()


def unpack_frame(raw: bytes | memoryview) -> list[bytes]:
    """The lines of one frame, every byte checked. Raises ValueError where it is not exactly what `Packer.pack` made."""
    if len(raw) < _HEAD.size or bytes(raw[: len(_MARK)]) != _MARK:
        raise ValueError("no frame starts here")
    *_, count, length, checksum = _HEAD.unpack_from(raw)
    data = raw[_HEAD.size :]
    if len(data) != length or _checksum(count, data) != checksum:
        raise ValueError("the checksum does not match")
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if size > _LARGEST:
            raise ValueError("the frame claims to be larger than any frame is")
        content = zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"the frame cannot be unpacked ({error})") from None
    lines = content.split(b"\n")
    if lines.pop() != b"" or len(lines) != count:
        raise ValueError("the number of lines does not match")
    return lines


def scan(path: Path, start: int = 0) -> Iterator[Frame | Damage]:
    """Every frame (checksum verified) and every damaged stretch of a segment from byte `start`, in order."""
    with path.open("rb") as file:
        at, size = start, os.fstat(file.fileno()).st_size
        while at < size:
            found = _frame_at(file, at, size)
            if found is None:
                following = _next_frame(file, at + 1, size)
                found = Damage(
                    "torn" if following == size and _unfinished(file, at, size) else "bad", at, following - at
                )
            yield found
            at += found.length


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _frame_at(file: BinaryIO, at: int, size: int) -> Frame | None:
    head = _read(file, at, _HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(_MARK):
        return None
    *_, lines, length, checksum = _HEAD.unpack(head)
    if at + _HEAD.size + length > size:
        return None
    data = file.read(length)
    return Frame(at, _HEAD.size + length, lines) if _checksum(lines, data) == checksum else None


def _next_frame(file: BinaryIO, at: int, size: int) -> int:
    """Where the next good frame starts, or `size`."""
    while at < size:
        window = _read(file, at, FRAME_BYTES)
        place = window.find(_MARK)
        while place >= 0:
            if _frame_at(file, at + place, size) is not None:
                return at + place
            place = window.find(_MARK, place + 1)
        if at + len(window) >= size or len(window) < len(_MARK):
            break
        at += len(window) - len(_MARK) + 1
    return size


def _unfinished(file: BinaryIO, at: int, size: int) -> bool:
    """Whether the bytes from `at` are the beginning of a frame whose rest was never written."""
    head = _read(file, at, _HEAD.size)
    if not head.startswith(_MARK[: len(head)]):
        return False
    return len(head) < _HEAD.size or at + _HEAD.size + _HEAD.unpack(head)[4] > size


def read_frame(path: Path, offset: int, length: int) -> list[bytes]:
    """The lines of the frame at `offset`. Raises CorruptError where it is not there or not what was written."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read(length)
        if len(raw) != length:
            raise ValueError("the file is too short")
        return unpack_frame(raw)
    except (ValueError, OSError) as error:
        raise CorruptError(
            f"{path}: damaged at byte {offset}: {error}; `fairtrial verify` lists all damage, "
            "`fairtrial reindex` drops the records that are lost so that a resume runs them again"
        ) from None
