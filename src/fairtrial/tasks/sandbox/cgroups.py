"""Control groups, version 1 and 2, where this user may make them: hard caps on memory, processes and cores of a box.

A group is made once, lent to one execution at a time and reused, since making one costs more than changing its caps.
Where no group can be made (an ordinary user without delegation, a container), `lend` returns None and `watch.py` does
the counting instead. Groups of a driver that was killed are removed by the next one.
"""

from __future__ import annotations

import atexit
import itertools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from fairtrial.tasks.sandbox import processes
from fairtrial.tasks.sandbox.api import BoxLimits

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_PREFIX = "fairtrial-"


@dataclass(slots=True)
class Group:
    """A control group that one execution uses."""

    folders: dict[str, Path]
    """Controller -> folder; one folder for all in version 2."""
    version: int
    written: dict[Path, str] = field(default_factory=dict)
    _oom_before: int = 0
    _cpu_before: float = 0.0

    def limit(self, limits: BoxLimits) -> None:
        """Set the caps and start counting from zero."""
        memory = "-1" if self.version == 1 else "max"
        if limits.memory_mb is not None:
            memory = str(limits.memory_mb << 20)
        pids = "max" if limits.processes is None else str(limits.processes)
        if self.version == 1:
            self._write("memory", "memory.limit_in_bytes", memory)
            self._write("memory", "memory.max_usage_in_bytes", "0", always=True)
        else:
            self._write("memory", "memory.max", memory)
            self._write("memory", "memory.swap.max", "0")
            self._write("memory", "memory.peak", "0", always=True)
        self._write("pids", "pids.max", pids)
        quota = -1 if limits.cpus is None else max(1000, int(limits.cpus * _PERIOD_US))
        if self.version == 1:
            self._write("cpu", "cpu.cfs_quota_us", str(quota))
        else:
            self._write("cpu", "cpu.max", f"{'max' if quota < 0 else quota} {_PERIOD_US}")
        self._oom_before, self._cpu_before = self._oom_total(), self.total_cpu_s()

    def add(self, pid: int) -> None:
        """Move a process in. Raises OSError where the kernel refuses."""
        for folder in dict.fromkeys(self.folders.values()):
            _put(folder / "cgroup.procs", str(pid))

    def oom_kills(self) -> int:
        """Processes killed for memory since `limit`."""
        return self._oom_total() - self._oom_before

    def cpu_s(self) -> float:
        """CPU seconds since `limit`."""
        return self.total_cpu_s() - self._cpu_before

    def peak_mb(self) -> float | None:
        """Most memory used at once since `limit`, page cache included; None where the kernel does not say."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        text = _get(self.folders["memory"] / name)
        return int(text) / 1e6 if text else None

    def empty(self) -> bool:
        """No process is left in it."""
        return not any(_get(folder / "cgroup.procs") for folder in dict.fromkeys(self.folders.values()))

    def remove(self) -> None:
        """Remove the folders; the kernel may need a moment after the last process ended."""
        for folder in dict.fromkeys(self.folders.values()):
            for _ in range(20):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.005)

    def _write(self, controller: str, name: str, value: str, *, always: bool = False) -> None:
        folder = self.folders.get(controller)
        if folder is None:
            return
        path = folder / name
        if not always and self.written.get(path) == value:
            return
        try:
            _put(path, value)
        except OSError:
            if name not in ("memory.swap.max", "memory.peak"):
                raise
        self.written[path] = value

    def _oom_total(self) -> int:
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        for line in _get(self.folders["memory"] / name).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def total_cpu_s(self) -> float:
        """CPU seconds since the group was made."""
        if self.version == 1:
            return int(_get(self.folders["cpuacct"] / "cpuacct.usage") or 0) / 1e9
        for line in _get(self.folders["pids"] / "cpu.stat").splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) / 1e6
        return 0.0


class Pool:
    """The groups of this process."""

    def __init__(self) -> None:
        self._free: list[Group] = []
        self._all: list[Group] = []
        self._count = itertools.count()
        self._parents: dict[str, Path] | None = None
        self.version = 0
        self.reason = ""
        self._owner = os.getpid()

    def lend(self, limits: BoxLimits) -> Group | None:
        """A group with these caps, or None where this user cannot have one (`reason` says why)."""
        if self._owner != os.getpid():
            self.__init__()
        while self._free:
            group = self._free.pop()
            if group.empty():
                group.limit(limits)
                return group
            group.remove()
        if self._parents is None:
            self._find()
        if not self._parents:
            return None
        name = f"{_PREFIX}{os.getpid()}-{next(self._count)}"
        group = Group({controller: parent / name for controller, parent in self._parents.items()}, self.version)
        try:
            for folder in dict.fromkeys(group.folders.values()):
                folder.mkdir()
            group.limit(limits)
        except OSError as error:
            group.remove()
            self.give_up(str(error))
            return None
        self._all.append(group)
        return group

    def give_back(self, group: Group) -> None:
        """Return a group whose processes are dead."""
        self._free.append(group)

    def give_up(self, reason: str) -> None:
        """Use no groups from now on."""
        self._parents, self.reason = {}, reason

    def _find(self) -> None:
        own = _own_groups()
        first = {name: _ROOT / name / path.lstrip("/") for name, path in own.items() if name}
        needed = ("memory", "pids", "cpuacct")
        if all(os.access(first.get(name, Path("/nowhere")), os.W_OK) for name in needed):
            self.version = 1
            self._parents = {name: first[name] for name in (*needed, "cpu") if name in first}
        elif (folder := _delegated(own.get("", "/"))) is not None:
            self.version = 2
            self._parents = dict.fromkeys(("memory", "pids", "cpu", "cpuacct"), folder)
        else:
            self.give_up("no control group that this user may write to")
            return
        atexit.register(self.close)
        for parent in set(self._parents.values()):
            _sweep(parent)

    def cpu_s(self) -> float:
        """CPU seconds of everything that ever ran in a group of this process."""
        return sum(group.total_cpu_s() for group in self._all)

    def close(self) -> None:
        """Remove every group."""
        if self._owner == os.getpid():
            for group in self._all:
                group.remove()
            self._all, self._free = [], []


def _own_groups() -> dict[str, str]:
    """Controller -> own group; "" for version 2."""
    own: dict[str, str] = {}
    for line in _get(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return own


def _delegated(path: str) -> Path | None:
    """The nearest group at or above the own one that may be divided and hands memory and pids down (version 2)."""
    folder = _ROOT / path.lstrip("/")
    while folder.is_relative_to(_ROOT):
        handed_down = _get(folder / "cgroup.subtree_control").split()
        if {"memory", "pids"} <= set(handed_down) and os.access(folder, os.W_OK):
            return folder if os.access(folder / "cgroup.procs", os.W_OK) else None
        folder = folder.parent
    return None


def _sweep(parent: Path) -> None:
    """Remove the groups of drivers that are no longer alive, here and beside here."""
    for folder in {*parent.glob(f"{_PREFIX}*"), *parent.parent.glob(f"*/{_PREFIX}*")}:
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            try:
                folder.rmdir()
            except OSError:
                continue


def _put(path: Path, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _get(path: Path) -> str:
    return (processes.read(str(path)) or b"").decode("ascii")


POOL = Pool()
