"""Paths of a box where there is none: with the sandbox "none" a program's arguments and variables get host paths.

Scripts that write absolute paths (/app, /logs) still cannot work there; they can use FAIRTRIAL_ROOT, the folder that
stands for the box's root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fairtrial.tasks.sandbox.api import Availability, Box, BoxSpec, Execution, Sandbox


@dataclass(slots=True)
class Unmapped:
    """A sandbox that maps no paths, with the words that name them translated."""

    inner: Sandbox
    name: str
    isolated: bool = False

    def available(self) -> Availability:
        """As the sandbox inside."""
        return self.inner.available()

    def box(self, spec: BoxSpec) -> Box:
        """A box whose programs get host paths."""
        return UnmappedBox(self.inner.box(spec), spec)


@dataclass(slots=True)
class UnmappedBox:
    """A box of such a sandbox."""

    inner: Box
    spec: BoxSpec

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> Execution:
        """As the box inside, with host paths for the box's mounts and files."""
        both = {**self.spec.env, **(env or {})}
        given = {
            name: ":".join(host_path(self.spec, part) for part in value.split(":")) for name, value in both.items()
        }
        words = [argv[0], *(host_path(self.spec, word) for word in argv[1:])]
        return await self.inner.exec(words, stdin=stdin, timeout_s=timeout_s, env=given, workdir=workdir)


def host_path(spec: BoxSpec, word: str) -> str:
    """The host path of a path that is in the box's mounts or files; any other word as it is."""
    if not word.startswith("/"):
        return word
    path = PurePosixPath(word)
    for mount in reversed(spec.mounts):
        if path.is_relative_to(mount.target):
            return str(mount.source.resolve() / path.relative_to(mount.target))
    if len(path.parts) > 1 and (spec.files / path.parts[1]).exists():
        return str(spec.files.resolve() / path.relative_to("/"))
    return word


def with_paths(sandbox: Sandbox) -> Sandbox:
    """The sandbox, made usable for tasks where it maps no paths."""
    return sandbox if sandbox.isolated else Unmapped(sandbox, sandbox.name)
