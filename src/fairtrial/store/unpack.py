"""The one function that unpacks archives from strangers. It refuses; it never repairs a name and goes on."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import secrets
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

import zstandard
from pydantic import Field

from fairtrial.core.config import Config
from fairtrial.core.errors import UserError, one_line
from fairtrial.store.disk import TEMPORARY, storing

_BLOCK = 1 << 16
_HEADER_BYTES = 1 << 20
"""No name or extended header of an honest archive is longer."""
_DRIVE = re.compile(r"[A-Za-z]:")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class UnpackLimits(Config):
    """Caps on an archive from elsewhere."""

    members: int = Field(default=10_000, ge=1)
    """Files and folders."""
    total_bytes: int = Field(default=1 << 30, ge=1)
    """Unpacked; of a tar, headers included."""
    ratio: float = Field(default=200.0, ge=1)
    """Unpacked to packed bytes; not applied below 1 MiB unpacked."""
    depth: int = Field(default=32, ge=1)
    """Folders inside folders."""


class _RefusedError(Exception):
    """Why the archive is not unpacked."""


_UNREADABLE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, struct.error,
    EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError,
)  # fmt: skip


def unpack(archive: Path, target: Path, limits: UnpackLimits | None = None) -> str:
    """Unpack a zip, tar, tar.gz or tar.zst into the new folder `target` and return the archive's sha256.

    Only plain files and folders with plain relative names come out, the executable bit kept; `target` appears
    complete or not at all. Raises UserError for a target that exists, for what is no archive, and for links, devices,
    encrypted members, names that leave the folder or that some file system takes for one, and whatever overruns
    `limits`; StorageError where the disk refuses.
    """
    limits = limits or UnpackLimits()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists already; choose a new folder to unpack into")
    try:
        file = archive.open("rb")
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror})") from None
    temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with file, storing(target):
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            temporary.mkdir(parents=True)
            for member in _members(file, limits):
                _place(member, temporary)
            temporary.replace(target)
        except _RefusedError as refusal:
            raise UserError(f"{archive}: refused: {refusal}") from None
        except _UNREADABLE as error:
            raise UserError(f"{archive}: refused: it cannot be read ({one_line(error)[:200]})") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return digest


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    content: Iterator[bytes] | None
    """None for a folder."""
    executable: bool = False


def _place(member: _Member, folder: Path) -> None:
    path = folder / member.name
    if member.content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777 if member.executable else 0o666)
    with os.fdopen(fd, "wb") as file:
        for block in member.content:
            file.write(block)


def _members(file: BinaryIO, limits: UnpackLimits) -> Iterator[_Member]:
    packed = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(6)
    file.seek(0)
    budget, names = _Budget(limits, packed), _Names(limits)
    if start.startswith(b"PK"):
        return _zip_members(file, limits, budget, names)
    if start.startswith(b"\x1f\x8b"):
        return _tar_members(_Counted(cast("IO[bytes]", gzip.GzipFile(fileobj=file)), budget), budget, names)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True)
        return _tar_members(_Counted(cast("IO[bytes]", reader), budget), budget, names)
    if start.startswith((b"BZh", b"\xfd7zXZ")):
        raise _RefusedError("bz2 and xz archives are not read; repack it as .tar.gz or .zip")
    return _tar_members(_Counted(file, budget), budget, names)


class _Budget:
    """Counts real bytes as they come out of the decompressor; what headers claim is not trusted."""

    def __init__(self, limits: UnpackLimits, packed: int) -> None:
        self._limits, self._packed, self._bytes, self._members = limits, max(packed, 1), 0, 0

    def spend(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.total_bytes:
            raise _RefusedError(f"it unpacks to more than {self._limits.total_bytes} bytes")
        if self._bytes > _HEADER_BYTES and self._bytes > self._limits.ratio * self._packed:
            raise _RefusedError(f"it unpacks to more than {self._limits.ratio:g} times its size")

    def member(self) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise _RefusedError(f"it has more than {self._limits.members} members")


class _Names:
    """Checks names, and that no two of them are one file on some file system."""

    def __init__(self, limits: UnpackLimits) -> None:
        self._depth = limits.depth
        self._seen: dict[str, tuple[str, bool]] = {}
        self._files: set[str] = set()

    def add(self, name: str, *, folder: bool) -> str:
        """The name without a leading `./` and a folder's closing slash; "" for the root."""
        shown = ascii(name[:120])
        if _FORBIDDEN.search(name):
            raise _RefusedError(f"the name {shown} has characters that no name should have")
        if "\\" in name or name.startswith("/") or _DRIVE.match(name):
            raise _RefusedError(f"the name {shown} is not a plain relative path")
        parts = (name.removesuffix("/") if folder else name).split("/")
        if parts[0] == ".":
            parts = parts[1:]
        if not parts and folder:
            return ""
        if not parts or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
            raise _RefusedError(f"the name {shown} is not a plain relative path")
        if len(parts) > self._depth:
            raise _RefusedError(f"the name {shown} is more than {self._depth} folders deep")
        for count in range(1, len(parts) + 1):
            self._claim(parts[:count], folder=folder or count < len(parts))
        return "/".join(parts)

    def _claim(self, parts: list[str], *, folder: bool) -> None:
        path = "/".join(parts)
        earlier, was_folder = self._seen.setdefault("/".join(map(_folded, parts)), (path, folder))
        if earlier == path and was_folder and folder:
            return
        if earlier == path and not was_folder and not folder:
            if path in self._files:
                raise _RefusedError(f"the name {path[:120]!a} is there twice")
            self._files.add(path)
            return
        raise _RefusedError(f"the names {earlier[:120]!a} and {path[:120]!a} are one on some file systems")


def _folded(part: str) -> str:
    """What every file system makes of a name at the least: no case, no composition, no closing dots and spaces."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", part).casefold()).rstrip(". ")


def _zip_members(file: BinaryIO, limits: UnpackLimits, budget: _Budget, names: _Names) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > limits.total_bytes:
            raise _RefusedError(f"it unpacks to more than {limits.total_bytes} bytes")
        for info in infos:
            budget.member()
            mode = info.external_attr >> 16
            folder = info.orig_filename.endswith("/")
            name = names.add(info.orig_filename, folder=folder)
            if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
                raise _RefusedError(f"{name[:120]!a} is a link or a device")
            if info.flag_bits & 0x1:
                raise _RefusedError(f"{name[:120]!a} is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _RefusedError(f"{name[:120]!a} is compressed in a way that is not read")
            if folder:
                yield _Member(name, None)
                continue
            with archive.open(info) as content:
                yield _Member(name, _blocks(content, info.file_size, budget), bool(mode & 0o111))


def _tar_members(stream: _Counted, budget: _Budget, names: _Names) -> Iterator[_Member]:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:", encoding="utf-8") as archive:
        for info in archive:
            budget.member()
            if info.sparse is not None or not (info.isreg() or info.isdir()):  # pyright: ignore[reportUnknownMemberType]
                raise _RefusedError(f"{info.name[:120]!a} is a link, a device or a sparse file")
            name = names.add(info.name, folder=info.isdir())
            content = archive.extractfile(info) if info.isreg() else None
            blocks = None if content is None else _blocks(content, info.size, None)
            yield _Member(name, blocks, bool(info.mode & 0o111))


def _blocks(content: IO[bytes], size: int, budget: _Budget | None) -> Iterator[bytes]:
    """The content in blocks, exactly `size` bytes of it. A tar's stream counts its bytes itself (budget None)."""
    left = size
    while block := content.read(_BLOCK):
        if budget is not None:
            budget.spend(len(block))
        left -= len(block)
        yield block
    if left:
        raise _RefusedError("a member is cut short")


class _Counted:
    """A stream that only goes forward, counts what comes out of it, and reads no header of unlikely size."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget, self._at = stream, budget, 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise _RefusedError("it has a header of unlikely size")
        content = b""
        while len(content) < size and (block := self._stream.read(size - len(content))):
            content += block
        self._at += len(content)
        self._budget.spend(len(content))
        return content

    def tell(self) -> int:
        return self._at

    def seek(self, place: int) -> int:
        if place < self._at:
            raise _RefusedError("its headers point backwards")
        while self._at < place and self.read(min(_BLOCK, place - self._at)):
            pass
        return self._at
