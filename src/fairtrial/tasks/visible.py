"""What an agent could read: every task-specific file of its box, by path, hash and size.

The list is taken from the box's own folder and mounts just before the agent starts, and kept with the record, so that
anybody can check later that each arm saw what it should and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairtrial.core.ids import canonical_json, file_digest
from fairtrial.tasks.sandbox.api import Mount
from fairtrial.tasks.scratch import entries


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or link of a folder; `sha256` of a link is that of its target's text."""

    sha256: str
    size: int
    mode: int
    mtime_ns: int
    link: str | None = None


@dataclass(slots=True)
class Manifests:
    """Lists folders; remembers hashes of files that have not changed since (size, time, inode-free)."""

    known: dict[tuple[str, int, int], str] = field(default_factory=dict)
    """(path in the box, size, mtime in ns) -> sha256, of image files only."""

    def of(self, root: Path, prefix: str = "", *, remember: bool = False, recall: bool = False) -> dict[str, Entry]:
        """Path in the box -> entry, for all regular files and links under `root` (special files are left out).

        `remember` keeps the hashes (for a trusted image), `recall` reuses them (for a fresh copy of that image, never
        for a folder that an agent has already touched).
        """
        found: dict[str, Entry] = {}
        for item in entries(root):
            where = f"{prefix}/{item.name}"
            if item.is_dir(follow_symlinks=False):
                found |= self.of(Path(item.path), where, remember=remember, recall=recall)
            elif entry := self._entry(Path(item.path), where, remember, recall):
                found[where] = entry
        return found

    def _entry(self, path: Path, where: str, remember: bool, recall: bool) -> Entry | None:
        info = path.lstat()
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISLNK(info.st_mode):
            target = str(path.readlink())
            return Entry(
                hashlib.sha256(os.fsencode(target)).hexdigest(), len(target), mode, info.st_mtime_ns, link=target
            )
        if not stat.S_ISREG(info.st_mode):
            return None
        key = (where, info.st_size, info.st_mtime_ns)
        sha256 = self.known.get(key) if recall else None
        if sha256 is None:
            sha256 = _digest(path)
            if remember:
                self.known[key] = sha256
        return Entry(sha256, info.st_size, mode, info.st_mtime_ns)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except PermissionError:
        path.chmod(0o600)
        return file_digest(path)


def visible(
    files: dict[str, Entry],
    layers: Sequence[Mount],
    shown: Sequence[Mount],
    facts: dict[str, Any],
    manifests: Manifests,
) -> bytes:
    """The list as canonical JSON.

    `files` is the box's own folder, `shown` the task-specific mounts (listed file by file), `layers` the read-only
    layers that every arm of the task gets (named only), `facts` what else is to be known (skills, network ...).
    """
    listed = dict(files)
    for mount in shown:
        listed |= mounted(mount, manifests)
    rows = [{"path": path, "sha256": entry.sha256, "size": entry.size} for path, entry in sorted(listed.items())]
    return canonical_json(
        {
            "what": "every task-specific file that the agent could read when it started",
            **facts,
            "layers": sorted(mount.target for mount in layers),
            "files": rows,
        }
    )


def mounted(mount: Mount, manifests: Manifests) -> dict[str, Entry]:
    """The files that a mount shows, by path in the box."""
    if mount.source.is_dir():
        return manifests.of(mount.source, mount.target.rstrip("/"))
    info = mount.source.stat()
    return {mount.target: Entry(file_digest(mount.source), info.st_size, stat.S_IMODE(info.st_mode), info.st_mtime_ns)}
