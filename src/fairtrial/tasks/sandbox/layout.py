"""What a box's file system is made of, as a list of places that each backend renders in its own way.

System folders of the host are read-only; `/etc` is constructed (`etc.py`), never the host's; `/proc`, `/dev`, `/tmp` and
`/run` are the box's own; there is no `/home`, and `/root` is `files/root`. Everything writable comes from `spec.files`.
The root itself is read-only, so a program that writes where nothing would be kept is told so instead of losing data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from fairtrial.core.errors import InfraError
from fairtrial.tasks.sandbox.api import BoxSpec, Mount
from fairtrial.tasks.sandbox.etc import etc_folder
from fairtrial.tasks.sandbox.interpreter import BIN, PREFIX, SHARED, hidden_roots, python_places, shared_library

Kind = Literal["ro", "bind", "tmpfs", "symlink", "proc", "dev", "freeze"]
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_ROOT_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PRIVATE = ("tmp", "run")
_RESERVED = frozenset({"proc", "dev", "sys", PREFIX.strip("/"), *_ROOT_FOLDERS})
_MOST_SIBLINGS = 200


@dataclass(frozen=True, slots=True)
class Place:
    """One step of building a box's file system, in order."""

    kind: Kind
    target: str
    source: str = ""
    """Host path; for a symlink, what it points to."""
    size_mb: int | None = None
    """Of a tmpfs."""


def plan(spec: BoxSpec) -> tuple[Place, ...]:
    """The places of a box, in the order in which they are to be made.

    Raises InfraError (not retryable) where the writable files cannot be laid over the read-only system.
    """
    prepare_files(spec)
    scratch = spec.limits.disk_mb
    places = [
        *system(),
        Place("ro", "/etc", str(etc_folder(spec.network))),
        Place("proc", "/proc"),
        Place("dev", "/dev"),
        *(Place("tmpfs", f"/{name}", size_mb=scratch) for name in _PRIVATE if not (spec.files / name).is_dir()),
    ]
    if not (spec.files / "var").exists():
        places += [Place("symlink", "/var/tmp", "/tmp")]  # noqa: S108 - inside the box
    places += writable(spec)
    places += [_mounted(spec, mount, places) for mount in spec.mounts]
    places.append(Place("freeze", "/"))
    return tuple(places)


def environment(spec: BoxSpec, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a program in the box."""
    fixed = {
        "PATH": ":".join((*spec.path, BIN, *SYSTEM_PATH)),
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
    if shared_library(sys.base_prefix) is not None:
        fixed["LD_LIBRARY_PATH"] = SHARED
    return {**fixed, **spec.env, **(extra or {})}


def prepare_files(spec: BoxSpec) -> None:
    """Make the writable folder, its home and its working folder where they are missing."""
    (spec.files / "root").mkdir(parents=True, exist_ok=True)
    parts = PurePosixPath(spec.workdir).parts[1:]
    if not parts or parts[0] in _RESERVED or parts[0] in ("usr", "etc", *_PRIVATE):
        return
    if any(PurePosixPath(spec.workdir).is_relative_to(mount.target) for mount in spec.mounts):
        return
    make_inside(spec.files, "/".join(parts), folder=True)


def make_inside(root: Path, inner: str, *, folder: bool) -> Path:
    """Make `root/inner` as a folder or an empty file, refusing to walk through a symlink that a program left there.

    Raises InfraError (not retryable) where a part of the path is a symlink or not a folder.
    """
    path = root
    parts = PurePosixPath(inner).parts
    for index, part in enumerate(parts):
        path = path / part
        last = index == len(parts) - 1
        if path.is_symlink() or (path.exists() and not last and not path.is_dir()):
            raise InfraError(
                f'the box cannot show "/{inner}": "{part}" in its writable files is a link or a file, not a folder',
                cause="sandbox",
                retryable=False,
            )
        if not path.exists():
            if last and not folder:
                path.touch()
            else:
                path.mkdir(exist_ok=True)
    return path


@cache
def system() -> tuple[Place, ...]:
    """The read-only part that all boxes of this process share, with everything of fairtrial's own masked."""
    places = [Place("ro", "/usr", "/usr")]
    for name in _ROOT_FOLDERS:
        host = Path("/") / name
        if host.is_symlink():
            places.append(Place("symlink", str(host), os.readlink(host)))
        elif host.is_dir():
            places.append(Place("ro", str(host), str(host)))
    places += [Place("tmpfs", str(root)) for root in hidden_roots(Path("/usr"))]
    for step in python_places(sys.base_prefix):
        places.append(Place(*step))
    return tuple(places)


def writable(spec: BoxSpec) -> Iterator[Place]:
    """Where each top-level entry of the writable files goes; those under /usr and /etc are laid over the system's."""
    with os.scandir(spec.files) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        target = f"/{entry.name}"
        if entry.name in _RESERVED:
            raise InfraError(
                f'the box cannot have writable files in "{target}": it belongs to the system; put them into /usr/local or /opt',
                cause="sandbox",
                retryable=False,
            )
        if entry.name == "usr" and entry.is_dir(follow_symlinks=False):
            yield from _merge(Path(entry.path), Path("/usr"), target)
        elif entry.name == "etc" and entry.is_dir(follow_symlinks=False):
            yield from _merge(Path(entry.path), etc_folder(spec.network), target)
        elif entry.is_symlink():
            yield Place("symlink", target, os.readlink(entry.path))
        else:
            yield Place("bind", target, entry.path)


def _merge(over: Path, base: Path, target: str) -> Iterator[Place]:
    """Lay the tree `over` (writable) on the folder `base` (read-only, already shown at `target`), as deep as needed."""
    entries = {entry.name: Path(entry.path) for entry in os.scandir(over)}
    rebuilt = {name for name, path in entries.items() if not _fits(path, base / name)}
    if rebuilt:
        siblings = sorted(os.listdir(base))
        if len(siblings) > _MOST_SIBLINGS:
            raise InfraError(
                f'the box cannot add "{sorted(rebuilt)[0]}" to {target}, a system folder of {len(siblings)} entries; '
                "put it into /usr/local or /opt",
                cause="sandbox",
                retryable=False,
            )
        yield Place("tmpfs", target)
        for name in siblings:
            if name not in rebuilt:
                yield from _shown(base / name, f"{target}/{name}")
    for name, path in sorted(entries.items()):
        if path.is_symlink():
            yield Place("symlink", f"{target}/{name}", os.readlink(path))
        elif name not in rebuilt and path.is_dir():
            yield from _merge(path, base / name, f"{target}/{name}")
        else:
            yield Place("bind", f"{target}/{name}", str(path))
    if rebuilt:
        yield Place("freeze", target)


def _fits(over: Path, base: Path) -> bool:
    """Whether `over` can be mounted on or merged with what the system has there."""
    if over.is_symlink() or base.is_symlink():
        return False
    return (over.is_dir() and base.is_dir()) or (over.is_file() and base.is_file())


def _shown(host: Path, target: str) -> Iterator[Place]:
    if host.is_symlink():
        yield Place("symlink", target, os.readlink(host))
    else:
        yield Place("ro", target, str(host))
        for root in hidden_roots(Path("/usr")):
            if root.is_relative_to(host):
                yield Place("tmpfs", str(PurePosixPath(target) / root.relative_to(host)))


def _mounted(spec: BoxSpec, mount: Mount, places: list[Place]) -> Place:
    """The place of one extra mount; its mount point inside writable files is made first, never through a link."""
    if not mount.source.exists():
        raise InfraError(f"the box cannot show {mount.source}: it does not exist", cause="sandbox", retryable=False)
    target = PurePosixPath(mount.target)
    if not target.is_absolute() or ".." in target.parts or len(target.parts) < 2:
        raise InfraError(f'a mount needs an absolute path in the box, not "{target}"', cause="sandbox", retryable=False)
    for place in reversed(places):
        if place.kind == "bind" and target != PurePosixPath(place.target) and target.is_relative_to(place.target):
            inner = str(target.relative_to(place.target))
            make_inside(Path(place.source), inner, folder=mount.source.is_dir())
            break
    return Place("bind" if mount.writable else "ro", str(target), str(mount.source.resolve()))
