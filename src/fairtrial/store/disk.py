"""The few file operations that durability rests on, in one place, so that a test can put a failing disk under them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from fairtrial.core.errors import LockedError, StorageError, UserError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and resume",
    errno.EDQUOT: "the disk quota is used up; free some space and resume",
    errno.EFBIG: "the file size limit is reached; raise it and resume",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an input/output error; check the disk, then resume",
}

TEMPORARY = ".tmp-"
"""Files whose name starts so are unfinished writes."""


@contextlib.contextmanager
def storing(path: Path) -> Generator[None]:
    """Turn every OSError inside into a StorageError that names `path`, the reason and what to do."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()
        raise StorageError(f"{path}: cannot be written: {reason}") from error


class Disk:
    """The machine's file system."""

    def open_append(self, path: Path) -> int:
        """A file descriptor that writes at the end of `path`, which is created where it is missing."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, content: bytes) -> None:
        """Write all of `content`; the operating system may still hold it."""
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self, fd: int) -> None:
        """Return when everything written to `fd` would survive a power loss."""
        os.fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def replace(self, source: Path, target: Path) -> None:
        """Rename within one file system, atomically; an existing `target` is replaced."""
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in the folder `path` would survive a power loss."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def make_folder(self, path: Path) -> None:
        """Create `path` and its parents, durably; existing ones are left as they are."""
        missing: list[Path] = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            self.sync_folder(folder.parent)

    def write_whole(self, path: Path, content: bytes) -> None:
        """Write a file so that, whatever happens, `path` is either what it was before or all of `content`; durably."""
        temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                self.write(fd, content)
                self.sync(fd)
            finally:
                os.close(fd)
            self.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.sync_folder(path.parent)


class Lock:
    """The driver's lock on a run directory: an flock that dies with its process, and a note of who holds it."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises LockedError where another driver holds it, StorageError where it cannot be written."""
        import fcntl

        with storing(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 500, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(self._fd)
            raise LockedError(
                f"{path.parent}: a driver is already at work here ({holder}); wait for it or stop it first"
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise UserError(f"{path}: this file system has no locks ({error.strerror}); use a local disk") from error
        self._note(f"process {os.getpid()} on {os.uname().nodename}")

    def _note(self, text: str) -> None:
        # The note is a courtesy: on a full disk the lock itself still holds.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode() + b"\n" if text else b"", 0)

    def release(self) -> None:
        """Free the lock; a second call does nothing."""
        if self._fd >= 0:
            self._note("")
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def whole_file(out: Path) -> Generator[io.BufferedWriter]:
    """A file that gets its name only once everything is in it and durable."""
    temporary, disk = out.with_name(f"{TEMPORARY}{secrets.token_hex(8)}"), Disk()
    with storing(out):
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                yield file
                file.flush()
                disk.sync(file.fileno())
            disk.replace(temporary, out)
            disk.sync_folder(out.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def packed_file(out: Path) -> Generator[BinaryIO]:
    """`whole_file`, compressed where the name ends in `.zst`."""
    with whole_file(out) as file:
        if out.name.endswith(".zst"):
            compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
            with compressor.stream_writer(file, closefd=False) as packed:
                yield cast("BinaryIO", packed)
        else:
            yield file


@contextlib.contextmanager
def whole_folder(out: Path) -> Generator[Path]:
    """A folder that gets the name `out` only once everything is in it; nothing is left where that fails."""
    temporary = out.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with storing(out):
            temporary.mkdir(parents=True)
        yield temporary
        with storing(out):
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
