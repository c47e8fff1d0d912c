"""Boxes with bubblewrap: namespaces for files, processes, network, users; needs no container engine and no root.

Every capability is dropped and no-new-privileges is set (bubblewrap's own doing). There is no seccomp filter: the
system-call surface is the kernel's, as for any unprivileged program.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from fairtrial.core.errors import FairtrialError, InfraError
from fairtrial.tasks.sandbox import gate, supervise
from fairtrial.tasks.sandbox.api import Availability, BoxSpec, Execution
from fairtrial.tasks.sandbox.layout import Place, environment, plan
from fairtrial.tasks.sandbox.watch import Disk

_REMEDY = "install the package bubblewrap (for example: apt install bubblewrap)"
_RULES = ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv")


class BubblewrapBox:
    """An open box. It holds no process between executions."""

    def __init__(self, spec: BoxSpec):
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
        """See `api.Box.exec`."""
        outer = command(self.spec, dict(env or {}))
        if self._disk is None and self.spec.limits.disk_mb is not None:
            self._disk = Disk(self.spec.files)
        outer += gate.command(argv, workdir or self.spec.workdir)
        return await supervise.run(
            supervise.Launch(outer, self.spec.limits, self._disk, "bubblewrap"), stdin, timeout_s
        )


class Bubblewrap:
    """The default sandbox."""

    name = "bubblewrap"
    isolated = True

    def available(self) -> Availability:
        """Whether a box comes up here."""
        return _available()

    def box(self, spec: BoxSpec) -> BubblewrapBox:
        """A box over `spec.files`."""
        return BubblewrapBox(spec)


def command(spec: BoxSpec, env: dict[str, str]) -> list[str]:
    """The bwrap command line of a box, without the program."""
    program = _program()
    if program is None:
        raise InfraError(f"bwrap is not on PATH; {_REMEDY}", cause="sandbox", retryable=False)
    argv = [program, *_RULES, "--uid", "0", "--gid", "0", "--hostname", "box"]
    if spec.network == "public":
        argv.append("--share-net")
    for place in plan(spec):
        argv += _render(place)
    for name, value in environment(spec, env).items():
        argv += ("--setenv", name, value)
    return [*argv, "--"]


def _render(place: Place) -> list[str]:
    match place.kind:
        case "ro":
            return ["--ro-bind", place.source, place.target]
        case "bind":
            return ["--bind", place.source, place.target]
        case "tmpfs":
            size = [] if place.size_mb is None else ["--size", str(place.size_mb << 20)]
            return [*size, "--tmpfs", place.target]
        case "symlink":
            return ["--symlink", place.source, place.target]
        case "freeze":
            return ["--remount-ro", place.target]
        case _:
            return [f"--{place.kind}", place.target]


@cache
def _program() -> str | None:
    return shutil.which("bwrap")


@cache
def _available() -> Availability:
    program = _program()
    if program is None:
        return Availability(False, "bwrap is not installed", _REMEDY)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    try:
        with tempfile.TemporaryDirectory() as folder:
            argv = [*command(BoxSpec(Path(folder)), {}), "/bin/sh", "-c", "exit 7"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, env={})
    except (OSError, FairtrialError, subprocess.TimeoutExpired) as error:
        return Availability(False, f"{version}: {error}", _REMEDY)
    if done.returncode != 7:
        said = " ".join(done.stderr.split()) or f"exit {done.returncode}"
        return Availability(False, f"{version} cannot make a box here: {said}", _user_namespaces())
    return Availability(True, version)


def _user_namespaces() -> str:
    for name, needed in (
        ("kernel.unprivileged_userns_clone", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "0"),
    ):
        path = Path("/proc/sys") / name.replace(".", "/")
        if path.exists() and path.read_text(encoding="ascii").strip() != needed:
            return f"allow user namespaces: sysctl {name}={needed}"
    return "allow user namespaces (in a container: run it with --privileged or with a seccomp profile that permits unshare)"
