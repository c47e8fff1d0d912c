"""What a box's file system is made of, as a list of places that each backend renders in its own way.

System folders of the host are read-only; `/etc` is constructed (`etc.py`), never the host's; `/proc`, `/dev`, `/tmp`
and `/run` are the box's own; there is no `/home`, and `/root` is `files/root`. All that is writable and kept comes from
`spec.files`. The root itself is read-only, so a program that writes where nothing would be kept is told so instead of
losing data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
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
_SHARED = ("usr", "etc")
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
    etc = etc_folder(spec.network)
    scratch = spec.limits.disk_mb
    mounts = [_mounted(mount) for mount in spec.mounts]
    places = [
        *system(),
        Place("ro", "/etc", str(etc)),
        Place("proc", "/proc"),
        Place("freeze", "/proc"),  # or a box of root could write the host's /proc/sys and /proc/sysrq-trigger
        Place("dev", "/dev"),
        *(Place("tmpfs", f"/{name}", size_mb=scratch) for name in _PRIVATE if not (spec.files / name).is_dir()),
    ]
    if not (spec.files / "var").exists():
        places.append(Place("symlink", "/var/tmp", "/tmp"))  # noqa: S108 - inside the box
    places += _writable(spec)
    for name, base in (("usr", Path("/usr")), ("etc", etc)):
        leaves = dict(_leaves(spec.files / name, base, (name,))) if _is_folder(spec.files / name) else {}
        for place in mounts:
            parts = PurePosixPath(place.target).parts[1:]
            if parts[0] == name and not any(parts[:depth] in leaves for depth in range(1, len(parts))):
                leaves[parts] = place
        places += _laid(base, (name,), leaves)
    for place in mounts:
        if place not in places:
            _make_mount_point(place, places)
            places.append(place)
    places.append(Place("freeze", "/"))
    return tuple(places)


def environment(spec: BoxSpec, extra: Mapping[str, str] | None = None) -> dict[str, str]:
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
    if not parts or parts[0] in _RESERVED or parts[0] in (*_SHARED, *_PRIVATE):
        return
    if any(PurePosixPath(spec.workdir).is_relative_to(mount.target) for mount in spec.mounts):
        return
    path = spec.files
    for part in parts:
        path = path / part
        if path.is_symlink() or path.is_file():
            return  # A program's doing; entering the folder, in the box, succeeds or fails by itself.
        path.mkdir(exist_ok=True)


def make_inside(root: Path, inner: str, *, folder: bool) -> None:
    """Make `root/inner` as a folder or an empty file to mount on.

    A link or a file that a program left in the way is removed: followed, it could lead out of the box, and refusing
    would let a program turn its own failure into one of the infrastructure.
    """
    path = root
    parts = PurePosixPath(inner).parts
    for index, part in enumerate(parts):
        path = path / part
        as_folder = folder or index < len(parts) - 1
        if path.is_symlink() or (path.exists() and as_folder and not path.is_dir()):
            path.unlink()
        if not path.exists():
            if as_folder:
                path.mkdir(exist_ok=True)
            else:
                path.touch()


@cache
def system() -> tuple[Place, ...]:
    """The read-only part that all boxes of this process share, with everything of fairtrial's own masked."""
    places = [Place("ro", "/usr", "/usr")]
    for name in _ROOT_FOLDERS:
        host = Path("/") / name
        if host.is_symlink():
            places.append(Place("symlink", str(host), str(host.readlink())))
        elif host.is_dir():
            places.append(Place("ro", str(host), str(host)))
    places += [Place("tmpfs", str(root)) for root in hidden_roots(Path("/usr"))]
    for step in python_places(sys.base_prefix):
        places.append(Place(*step))
    return tuple(places)


def _writable(spec: BoxSpec) -> Iterator[Place]:
    """Where each top-level entry of the writable files goes, save those that are laid over /usr and /etc."""
    with os.scandir(spec.files) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        target = f"/{entry.name}"
        if entry.name in _RESERVED:
            raise _impossible(f'writable files in "{target}": it is a system folder; use /usr/local or /opt')
        if entry.is_symlink():
            yield Place("symlink", target, str(Path(entry.path).readlink()))
        elif entry.name not in _SHARED:
            yield Place("bind", target, entry.path)


def _leaves(over: Path, base: Path, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Place]]:
    """What of the writable tree `over` is to be shown over the read-only folder `base`, as deep as both are folders."""
    for path in sorted(over.iterdir()):
        here = (*parts, path.name)
        target = "/" + "/".join(here)
        if path.is_symlink():
            yield here, Place("symlink", target, str(path.readlink()))
        elif path.is_dir() and _is_folder(base / path.name):
            yield from _leaves(path, base / path.name, here)
        else:
            yield here, Place("bind", target, str(path))


def _laid(base: Path, parts: tuple[str, ...], leaves: dict[tuple[str, ...], Place]) -> Iterator[Place]:
    """Lay `leaves` on the folder `base`, read-only and already shown at `parts`.

    A place to mount on cannot be made in a read-only folder, so one that lacks it is built again from its entries.
    """
    depth = len(parts)
    groups: dict[str, dict[tuple[str, ...], Place]] = {}
    for where, place in leaves.items():
        groups.setdefault(where[depth], {})[where] = place
    rebuilt = {name for name, group in groups.items() if not _fits(group.get((*parts, name)), base / name)}
    target = "/" + "/".join(parts)
    if rebuilt:
        siblings = sorted(path.name for path in base.iterdir())
        if len(siblings) > _MOST_SIBLINGS:
            new = f"{target}/{sorted(rebuilt)[0]}"
            raise _impossible(f'"{new}": its folder has {len(siblings)} entries of the system; use /usr/local or /opt')
        yield Place("tmpfs", target)
        for name in siblings:
            if name not in rebuilt:
                yield from _shown(base / name, f"{target}/{name}")
    for name, group in sorted(groups.items()):
        if name in rebuilt or (*parts, name) in group:
            yield from group.values()
        else:
            yield from _laid(base / name, (*parts, name), group)
    if rebuilt:
        yield Place("freeze", target)


def _fits(place: Place | None, base: Path) -> bool:
    """Whether what goes here (None: only things below) can be mounted on what the system has there."""
    if place is None:
        return _is_folder(base)
    if place.kind == "symlink" or base.is_symlink():
        return False
    source = Path(place.source)
    return (source.is_dir() and base.is_dir()) or (source.is_file() and base.is_file())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _shown(host: Path, target: str) -> Iterator[Place]:
    if host.is_symlink():
        yield Place("symlink", target, str(host.readlink()))
    else:
        yield Place("ro", target, str(host))
        for root in hidden_roots(Path("/usr")):
            if root.is_relative_to(host):
                yield Place("tmpfs", str(PurePosixPath(target) / root.relative_to(host)))


def _mounted(mount: Mount) -> Place:
    target = PurePosixPath(mount.target)
    if not target.is_absolute() or ".." in target.parts or len(target.parts) < 2:
        raise _impossible(f'a mount at "{target}": it needs an absolute path')
    if target.parts[1] in _RESERVED:
        raise _impossible(f'a mount at "{target}": /{target.parts[1]} is the system\'s')
    if not mount.source.exists():
        raise _impossible(f"{mount.source}: it does not exist")
    return Place("bind" if mount.writable else "ro", str(target), str(mount.source.resolve()))


def _make_mount_point(place: Place, earlier: Sequence[Place]) -> None:
    """Where `place` lies inside writable files, make what it is mounted on; never through a link that is in there."""
    target = PurePosixPath(place.target)
    for other in reversed(earlier):
        if other.kind == "bind" and target != PurePosixPath(other.target) and target.is_relative_to(other.target):
            inner = str(target.relative_to(other.target))
            make_inside(Path(other.source), inner, folder=Path(place.source).is_dir())
            return


def _impossible(what: str) -> InfraError:
    return InfraError(f"the box cannot have {what}", cause="sandbox", retryable=False)
