"""The files of a task folder: one walk that everything (digest, build context, skills) sees the same way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairtrial.core.errors import UserError
from fairtrial.core.ids import digest, file_digest

LEFT_OUT = frozenset({".git", "__pycache__", ".pytest_cache", ".DS_Store"})
"""Left behind by programs and never part of a task."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or symbolic link below a folder."""

    name: str
    """Path relative to the folder, with forward slashes."""
    path: Path
    link: str | None
    """Where a symbolic link points to; None for a file."""
    executable: bool


def walk(folder: Path) -> Iterator[Entry]:
    """Every file and link below `folder`, in a fixed order.

    Raises UserError for a link that leaves the folder and for what is neither file, folder nor link.
    """
    yield from _walk(folder, folder, "")


def _walk(root: Path, folder: Path, prefix: str) -> Iterator[Entry]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.name in LEFT_OUT:
            continue
        name, path = prefix + entry.name, Path(entry.path)
        if entry.is_symlink():
            yield Entry(name, path, _inside(root, path), False)
        elif entry.is_dir():
            yield from _walk(root, path, f"{name}/")
        elif entry.is_file():
            yield Entry(name, path, None, bool(entry.stat().st_mode & stat.S_IXUSR))
        else:
            raise UserError(f"{path}: is neither a file, a folder nor a link; remove it from the task")


def _inside(root: Path, link: Path) -> str:
    target = str(link.readlink())
    try:
        resolved = link.resolve()
    except (OSError, RuntimeError):
        raise UserError(f"{link}: is a link that leads to itself; remove it") from None
    if Path(target).is_absolute() or not resolved.is_relative_to(root.resolve()):
        raise UserError(f"{link}: is a link that leaves the task's folder ({target}); put the file itself there")
    return target


def folder_digest(folder: Path, *extra: str) -> str:
    """sha256 over names, contents and executable bits of a folder's files; times, owners and order do not count."""
    rows = [
        [e.name, "link", e.link] if e.link is not None else [e.name, e.executable, file_digest(e.path)]
        for e in walk(folder)
    ]
    return digest([rows, *extra])


def read_text(path: Path, limit: int = 4 << 20) -> str:
    """A UTF-8 file, BOM dropped. Raises UserError when it is missing, too large or not UTF-8."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= limit else None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if raw is None:
        raise UserError(f"{path}: larger than {limit >> 10} kB; that is no text for an agent")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
