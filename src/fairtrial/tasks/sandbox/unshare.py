"""Boxes with util-linux alone (unshare, mount, pivot_root, setpriv): the same layout and rules without bubblewrap.

Slower than bubblewrap, since every mount is a program of its own. Capabilities are dropped and no-new-privileges is set
before the program starts, and it cannot make user namespaces of its own; there is no seccomp filter. Submounts of a
shown host folder keep their own write permission.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from fairtrial.core.errors import InfraError
from fairtrial.tasks.sandbox import gate
from fairtrial.tasks.sandbox.api import Availability, BoxSpec
from fairtrial.tasks.sandbox.box import NamespaceBox, probe
from fairtrial.tasks.sandbox.bubblewrap import user_namespaces
from fairtrial.tasks.sandbox.etc import private_folder
from fairtrial.tasks.sandbox.layout import Place

_NEEDED = ("unshare", "setpriv", "mount", "umount", "pivot_root")
_REMEDY = "install the package util-linux"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
_DROP = ("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
_LOOPBACK = (
    "import fcntl,socket,struct;"
    "fcntl.ioctl(socket.socket(socket.AF_INET,socket.SOCK_DGRAM),0x8914,struct.pack('16sH14x',b'lo',0x49))"
)


class Unshare:
    """The sandbox for machines without bubblewrap."""

    name = "unshare"
    isolated = True

    def available(self) -> Availability:
        """Whether a box comes up here."""
        return _available()

    def box(self, spec: BoxSpec) -> NamespaceBox:
        """A box over `spec.files`."""
        return NamespaceBox(spec, self.name, _command)


def _command(spec: BoxSpec, places: Sequence[Place], env: Mapping[str, str]) -> tuple[list[str], bytes]:
    tools = {name: shutil.which(name, path=_PATH) for name in _NEEDED}
    if missing := [name for name, path in tools.items() if path is None]:
        raise InfraError(f"{', '.join(missing)} not found; {_REMEDY}", cause="sandbox", retryable=False)
    unshare, setpriv = str(tools["unshare"]), str(tools["setpriv"])
    network = [] if spec.network == "public" else ["--net"]
    outer = [unshare, "--user", "--map-root-user", "--mount", "--ipc", "--uts", *network, "--propagation", "private"]
    outer += [setpriv, "--pdeathsig", "KILL", unshare, "--pid", "--fork", "--kill-child"]
    outer += ["/bin/sh", "/proc/self/fd/4"]
    return outer, os.fsencode("\n".join(_script(spec, places, env)))


def _script(spec: BoxSpec, places: Sequence[Place], env: Mapping[str, str]) -> Iterator[str]:
    """Shell lines, run as the first process of the box; its arguments are the program."""
    root = private_folder() / "root"
    root.mkdir(exist_ok=True)
    yield f"set -e; umask 022; export PATH={_PATH}; R={shlex.quote(str(root))}"
    if spec.network == "none":
        yield _loopback()
    yield "mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs $R"
    yield "cd $R; mkdir .old"
    for place in places:
        if place.target != "/":
            yield from _steps(place)
    yield "pivot_root . .old; cd /; umount -l /.old; rmdir /.old"
    yield "mount -o remount,bind,ro,nosuid,nodev /"
    words = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *_DROP]
    yield "set +e"
    yield f'{shlex.join(words)} "$@" 2>&5 4<&- 5>&-; {gate.LAST_WORD}'


def _steps(place: Place) -> Iterator[str]:
    target = shlex.quote(place.target.lstrip("/"))
    parent = shlex.quote(str(Path(place.target.lstrip("/")).parent))
    match place.kind:
        case "ro" | "bind":
            source = shlex.quote(place.source)
            make = f"[ -e {target} ] || mkdir -p {target}"
            if not Path(place.source).is_dir():
                make = f"[ -e {target} ] || {{ mkdir -p {parent}; : > {target}; }}"
            mode = ",ro" if place.kind == "ro" else ""
            yield f"{make}; mount --rbind {source} {target}"
            yield f"mount -o remount,bind,nosuid,nodev{mode}{_kept(place.source)} {target}"
        case "tmpfs":
            size = "" if place.size_mb is None else f",size={place.size_mb}m"
            yield f"mkdir -p {target}; mount -t tmpfs -o mode=0755,nosuid,nodev{size} tmpfs {target}"
        case "symlink":
            yield f"mkdir -p {parent}; ln -s {shlex.quote(place.source)} {target}"
        case "freeze":
            yield f"mount -o remount,bind,ro,nosuid,nodev{',noexec' if place.target == '/proc' else ''} {target}"
        case "proc":
            yield f"mkdir -p {target}; mount -t proc -o nosuid,nodev,noexec proc {target}"
            yield "echo box > proc/sys/kernel/hostname || :; echo 0 > proc/sys/user/max_user_namespaces || :"
        case "dev":
            yield f"mkdir -p {target}; mount -t tmpfs -o mode=0755,nosuid tmpfs {target}; mkdir dev/shm dev/pts"
            for name in _DEVICES:
                yield f": > dev/{name}; mount --bind /dev/{name} dev/{name}"
            for name, leads_to in _LINKS.items():
                yield f"ln -s {leads_to} dev/{name}"
            yield "mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm"
            yield "mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts; ln -s pts/ptmx dev/ptmx"


def _kept(source: str) -> str:
    """Flags of the host's mount that a user namespace may not clear."""
    flags = os.statvfs(source).f_flag
    kept = ",noexec" if flags & os.ST_NOEXEC else ""
    if flags & os.ST_NOATIME:
        kept += ",noatime"
    return kept


def _loopback() -> str:
    """Bring up the box's own loopback, with iproute2 or with this interpreter."""
    if shutil.which("ip", path=_PATH):
        return "ip link set lo up"
    return f"{shlex.quote(sys.executable)} -I -S -c {shlex.quote(_LOOPBACK)}"


@cache
def _available() -> Availability:
    program = shutil.which("unshare", path=_PATH)
    if program is None:
        return Availability(False, "unshare is not installed", _REMEDY)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if failure := probe("unshare", _command):
        return Availability(False, f"{version} cannot make a box here: {failure}", user_namespaces())
    return Availability(True, version)
