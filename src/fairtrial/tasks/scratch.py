"""Temporary folders of trials: all under one parent, owned by a lock, cleaned on the next start after a kill.

Also the careful copying and removing of folders that an agent could write: links are never followed, special files
(which could block a reader for ever) are never copied, unreadable folders do not stop the removal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from fairtrial.core.errors import InfraError

_LOCK = "owner.lock"
_COPY_CHUNK = 1 << 24


def scratch_parent() -> Path:
    """The one folder that holds the temporary folders of all fairtrial processes of this user."""
    return Path(tempfile.gettempdir()) / f"fairtrial-{os.getuid()}"


class Scratch:
    """The temporary folders of one process. `folder()` gives a fresh one; `close()` removes all of them.

    An flock on a file inside tells the next start whether the owner still lives, so nothing stays after `kill -9`.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.parent = parent or scratch_parent()
        self.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.parent.is_symlink() or self.parent.stat().st_uid != os.getuid():
            raise InfraError(f"{self.parent} belongs to somebody else", cause="sandbox", retryable=False)
        self.removed = clean_abandoned(self.parent)
        self.root = Path(tempfile.mkdtemp(prefix="run-", dir=self.parent))
        self._lock = (self.root / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def folder(self, name: str) -> Path:
        """A fresh folder for one trial."""
        safe = "".join(letter if letter.isalnum() else "-" for letter in name)[:40]
        return Path(tempfile.mkdtemp(prefix=f"{safe}-", dir=self.root))

    def close(self) -> None:
        """Remove everything; may be called twice."""
        remove_tree(self.root)
        self._lock.close()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def clean_abandoned(parent: Path) -> int:
    """Remove the folders whose owner is dead; returns how many."""
    removed = 0
    for folder in sorted(parent.glob("run-*")):
        try:
            lock = (folder / _LOCK).open("r+")
        except FileNotFoundError:
            # Just being made by somebody else, or half removed: only what is old is nobody's.
            try:
                age = _now() - folder.lstat().st_mtime
            except FileNotFoundError:
                continue
            if age > 60:
                remove_tree(folder)
                removed += 1
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            remove_tree(folder)
            removed += 1
    return removed


def _now() -> float:
    import time

    return time.time()


def remove_tree(path: Path) -> None:
    """Remove a folder whatever permissions an agent left in it; a missing one is fine. Links are not followed."""

    def unlock(function: Callable[..., object], name: str, info: object) -> None:
        try:
            Path(name).parent.chmod(0o700)
            if not Path(name).is_symlink() and Path(name).is_dir():
                Path(name).chmod(0o700)
                if function is not os.rmdir:
                    shutil.rmtree(name, ignore_errors=True)
                    return
            function(name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                raise InfraError(f"a temporary folder cannot be removed: {error}", cause="sandbox") from None

    if path.is_symlink() or (path.exists() and not path.is_dir()):
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, onerror=unlock)


@dataclass(slots=True)
class Copied:
    """What a copy did."""

    files: int = 0
    size: int = 0
    """Bytes on disk."""
    special: list[str] = field(default_factory=list)
    """FIFOs, sockets and devices, which are left out."""


def copy_tree(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> Copied:
    """Copy a folder as a box sees it: links as links, modes and times kept, never hard-linked to the source.

    `leave_out` names top-level entries to skip. Data is shared where the file system can (reflink), holes stay holes.
    Raises InfraError(cause="disk") when the disk is full.
    """
    done = Copied()
    try:
        _copy_folder(source, target, done, leave_out, "")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InfraError("no space left for the trial's files", cause="disk") from None
        raise
    return done


def _copy_folder(source: Path, target: Path, done: Copied, leave_out: frozenset[str], prefix: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in entries(source):
        if entry.name in leave_out:
            continue
        info = entry.stat(follow_symlinks=False)
        to, name = target / entry.name, f"{prefix}/{entry.name}"
        if stat.S_ISLNK(info.st_mode):
            to.symlink_to(Path(entry.path).readlink())
        elif stat.S_ISDIR(info.st_mode):
            _copy_folder(Path(entry.path), to, done, frozenset(), name)
        elif stat.S_ISREG(info.st_mode):
            _copy_file(Path(entry.path), to, info)
            done.files += 1
            done.size += info.st_blocks * 512
        else:
            done.special.append(name)
    _copy_meta(source, target)


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, by name; a folder that an agent made unreadable is made readable first."""
    try:
        listing = os.scandir(folder)
    except PermissionError:
        folder.chmod(0o700)
        listing = os.scandir(folder)
    with listing:
        yield from sorted(listing, key=lambda entry: entry.name)


def _copy_meta(source: Path, target: Path) -> None:
    info = source.lstat()
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
    target.chmod(stat.S_IMODE(info.st_mode) & 0o777 | 0o700)


_FICLONE = 0x40049409


def _copy_file(source: Path, target: Path, info: os.stat_result) -> None:
    try:
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        source.chmod(0o600)
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            try:
                fcntl.ioctl(writer, _FICLONE, reader)
            except OSError:
                _copy_data(reader, writer, info.st_size)
            os.fchmod(writer, stat.S_IMODE(info.st_mode) & 0o777)
            os.utime(writer, ns=(info.st_atime_ns, info.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_data(reader: int, writer: int, size: int) -> None:
    """Copy only the parts that hold data."""
    at = 0
    while at < size:
        try:
            start = os.lseek(reader, at, os.SEEK_DATA)
            end = os.lseek(reader, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            start, end = at, size
        os.lseek(reader, start, os.SEEK_SET)
        os.lseek(writer, start, os.SEEK_SET)
        while start < end:
            block = os.read(reader, min(_COPY_CHUNK, end - start))
            if not block:
                break
            view = memoryview(block)
            while view:
                view = view[os.write(writer, view) :]
            start += len(block)
        if start < end:
            break
        at = end
    os.ftruncate(writer, size)


def read_inside(root: Path, path: str, limit: int) -> bytes | None:
    """The content of a regular file of a box, `path` being absolute in the box; None if there is none.

    No component may be a link, so an agent cannot make the driver read a file of the host. Raises ValueError when the
    file is longer than `limit` bytes or is not a regular file.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise ValueError(f"{path} is not a path inside the box")
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path} cannot be read without following a link ({error.strerror})") from None
    finally:
        os.close(handle)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError(f"{path} is not a regular file")
    with os.fdopen(file, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} is longer than {limit} bytes")
    return content
