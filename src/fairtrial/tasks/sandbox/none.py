"""No isolation: the program is an ordinary process of this user, in its own session, under resource limits.

Used only when asked for by name, for programs that one trusts, and every record made with it is marked "not isolated".
What does not work: paths of the box (`/app/x`) are not mapped, so programs must use relative paths or the variable
FAIRTRIAL_ROOT, which names the folder of the box's files; mounts are not shown, FAIRTRIAL_MOUNTS lists them as
`target=source` lines; the host's files, processes and network can be reached. HOME is `files/root`. A process that
leaves the session and wipes its environment is not found, and a driver that is killed outright leaves its program
running.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from fairtrial.tasks.sandbox import gate, processes, supervise
from fairtrial.tasks.sandbox.api import Availability, BoxSpec, Execution
from fairtrial.tasks.sandbox.box import refusal
from fairtrial.tasks.sandbox.layout import SYSTEM_PATH, prepare_files
from fairtrial.tasks.sandbox.watch import Disk


class NoSandbox:
    """Plain processes."""

    name = "none"
    isolated = False

    def available(self) -> Availability:
        """Always there, never safe."""
        return Availability(True, "no isolation: programs can read and change what this user can")

    def box(self, spec: BoxSpec) -> PlainBox:
        """A folder to run programs in."""
        return PlainBox(spec)


class PlainBox:
    """A folder whose programs run unprotected."""

    def __init__(self, spec: BoxSpec) -> None:
        self.spec = spec
        self._disk: Disk | None = None

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> Execution:
        """See `api.Box.exec`; the working folder is `files/<workdir>`."""
        if (refused := refusal(argv)) is not None:
            return refused
        prepare_files(self.spec)
        files = self.spec.files.resolve()
        if self._disk is None and self.spec.limits.disk_mb is not None:
            self._disk = Disk(files)
        inner = PurePosixPath(workdir or self.spec.workdir).relative_to("/")
        marker = f"FAIRTRIAL_BOX={secrets.token_hex(8)}"
        words = [f"{name}={value}" for name, value in _environment(self.spec, files, env or {}).items()]
        outer = [shutil.which("env") or "/usr/bin/env", "-i", marker, *words]
        outer += gate.command(argv, str(files / inner))
        launch = supervise.Launch(
            outer, b"", self.spec.limits, self._disk, "none", strays=lambda outer: _strays(outer, marker.encode())
        )
        return await supervise.run(launch, stdin, timeout_s)


def _environment(spec: BoxSpec, files: Path, extra: Mapping[str, str]) -> dict[str, str]:
    python = str(Path(sys.base_prefix) / "bin")
    return {
        "PATH": ":".join((*spec.path, python, *SYSTEM_PATH)),
        "HOME": str(files / "root"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "FAIRTRIAL_ROOT": str(files),
        "FAIRTRIAL_MOUNTS": "\n".join(f"{mount.target}={mount.source}" for mount in spec.mounts),
        **spec.env,
        **extra,
    }


def _strays(outer: int, marker: bytes) -> list[int]:
    """Living processes of the session that `outer` leads, or with the marker in their environment; `outer` left out."""
    found: list[int] = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only, and often
        if not name.isdigit() or int(name) in (outer, os.getpid()):
            continue
        one = processes.stat(int(name))
        if one is None or one.state in "ZX":
            continue
        if one.session == outer or marker in (processes.read(f"/proc/{name}/environ") or b"").split(b"\0"):
            found.append(one.pid)
    return found
