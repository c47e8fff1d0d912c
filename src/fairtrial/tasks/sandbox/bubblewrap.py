"""Boxes with bubblewrap: namespaces for files, processes, network, users; needs no container engine and no root.

Every capability is dropped and no-new-privileges is set (bubblewrap's own doing), and the program cannot
make user namespaces of its own (from bubblewrap 0.8). There is no seccomp filter: the
system-call surface is the kernel's, as for any unprivileged program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from fairtrial.core.errors import InfraError
from fairtrial.tasks.sandbox.api import Availability, BoxSpec
from fairtrial.tasks.sandbox.box import NamespaceBox, probe
from fairtrial.tasks.sandbox.layout import Place

_REMEDY = "install the package bubblewrap (for example: apt install bubblewrap)"
_RULES = ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv")
_IDENTITY = ("--uid", "0", "--gid", "0", "--hostname", "box")
_PLAN_FD = "4"


class Bubblewrap:
    """The default sandbox."""

    name = "bubblewrap"
    isolated = True

    def available(self) -> Availability:
        """Whether a box comes up here."""
        return _available()

    def box(self, spec: BoxSpec) -> NamespaceBox:
        """A box over `spec.files`."""
        return NamespaceBox(spec, self.name, _command)


def _command(spec: BoxSpec, places: Sequence[Place], env: Mapping[str, str]) -> tuple[list[str], bytes]:
    program = _program()
    if program is None:
        raise InfraError(f"bwrap is not on PATH; {_REMEDY}", cause="sandbox", retryable=False)
    options = [*_RULES, *_IDENTITY, *_hardening()]
    if spec.network == "public":
        options.append("--share-net")
    for place in places:
        options += _options(place)
    for name, value in env.items():
        options += ("--setenv", name, value)
    return [program, "--args", _PLAN_FD, "--"], b"".join(os.fsencode(option) + b"\0" for option in options)


def _options(place: Place) -> list[str]:
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
def _hardening() -> tuple[str, ...]:
    """No user namespaces of the program's own, where bubblewrap (0.8 and later) and the kernel can do that."""
    wanted = ("--unshare-user", "--disable-userns")
    tried = [str(_program()), *wanted, "--ro-bind", "/", "/", "--", "/bin/sh", "-c", ":"]
    done = subprocess.run(tried, capture_output=True, check=False, env={})
    return wanted if done.returncode == 0 else ()


@cache
def _available() -> Availability:
    program = _program()
    if program is None:
        return Availability(False, "bwrap is not installed", _REMEDY)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    failure = probe("bubblewrap", _command)
    if failure:
        return Availability(False, f"{version} cannot make a box here: {failure}", user_namespaces())
    return Availability(True, version)


def user_namespaces() -> str:
    """How to let this user make namespaces."""
    switches = {"kernel.unprivileged_userns_clone": "1", "kernel.apparmor_restrict_unprivileged_userns": "0"}
    for name, needed in switches.items():
        path = Path("/proc/sys") / name.replace(".", "/")
        if path.exists() and path.read_text(encoding="ascii").strip() != needed:
            return f"allow user namespaces: sysctl {name}={needed}"
    return "allow user namespaces (in a container: --privileged, or a seccomp profile that permits unshare)"
