"""Watches a running box for the limits that the kernel does not enforce by itself: CPU of all, disk growth, memory.

It sleeps as long as no limit can have been reached: the remaining CPU seconds cannot be used up sooner than all cores
allow, and memory and disk cannot fill faster than the hardware writes. So a short program is never looked at.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from fairtrial.tasks.sandbox import processes
from fairtrial.tasks.sandbox.api import BoxLimits, End
from fairtrial.tasks.sandbox.cgroups import Group

_MEMORY_MB_S = 4000.0
_DISK_MB_S = 1500.0
_SHORTEST_S, _LONGEST_S = 0.01, 2.0
_FORKS_S = 0.1


class Disk:
    """Growth of a folder against a baseline. Scans only when cheap counters say that it can have grown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.baseline_mb = folder_mb(folder)
        self._free_mb = self._free()

    def may_have_grown(self, mb: float, written_mb: float = 0.0) -> bool:
        """False where neither the file system's free space nor what was written allows such growth."""
        return written_mb >= mb or self._free_mb - self._free() >= mb / 2

    def growth_mb(self) -> float:
        """Measured now."""
        return folder_mb(self.folder) - self.baseline_mb

    def _free(self) -> float:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize / 1e6


def folder_mb(folder: Path) -> float:
    """Blocks used by a folder's files in MB; links are not followed, what vanishes meanwhile is not counted."""
    total, queue = 0, [str(folder)]
    while queue:
        try:
            entries = list(os.scandir(queue.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    queue.append(entry.path)
            except OSError:
                continue
            total += found.st_blocks * 512
    return total / 1e6


class Watch:
    """Calls `exceeded` once with the cause when a limit is overrun."""

    def __init__(
        self, limits: BoxLimits, disk: Disk | None, group: Group | None, exceeded: Callable[[End, str], None]
    ) -> None:
        self._limits, self._disk, self._group, self._exceeded = limits, disk, group, exceeded
        self._loop = asyncio.get_running_loop()
        self._handles: dict[str, asyncio.TimerHandle] = {}
        self._init = 0
        self.peak_mb: float | None = None
        self.cpu_s = 0.0

    def start(self, init: int) -> None:
        """Begin; `init` is the first process of the box."""
        self._init = init
        cores = min(os.cpu_count() or 1, self._limits.cpus or 1e9)
        if self._limits.cpu_s is not None:
            self._after("cpu", max(_SHORTEST_S, self._limits.cpu_s / max(cores, 0.01)), self._check_cpu)
        if self._limits.disk_mb is not None and self._disk is not None:
            self._after("disk", max(0.05, self._limits.disk_mb / _DISK_MB_S), self._check_disk)
        if self._group is None and (self._limits.memory_mb is not None or self._limits.processes is not None):
            self._after("memory", _SHORTEST_S, lambda: self._check_memory(_SHORTEST_S))

    def stop(self) -> None:
        """Look no more."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()

    def _after(self, name: str, delay: float, check: Callable[[], None]) -> None:
        self._handles[name] = self._loop.call_later(delay, check)

    def _box(self) -> list[int]:
        return processes.descendants(self._init)

    def used_cpu_s(self) -> float:
        """CPU seconds so far, of the living and the dead."""
        used = self._group.cpu_s() if self._group else processes.cpu_s([self._init, *self._box()])
        self.cpu_s = max(self.cpu_s, used)
        return self.cpu_s

    def _check_cpu(self) -> None:
        cap = self._limits.cpu_s or 0.0
        left = cap - self.used_cpu_s()
        if left <= 0:
            self._exceeded(End.CPU_LIMIT, f"more than {cap:g} CPU seconds")
            return
        cores = min(os.cpu_count() or 1, self._limits.cpus or 1e9)
        self._after("cpu", min(60.0, max(_SHORTEST_S, left / max(cores, 0.01))), self._check_cpu)

    def _check_disk(self) -> None:
        cap = float(self._limits.disk_mb or 0)
        assert self._disk is not None
        left = cap
        if self._disk.may_have_grown(cap):
            growth = self._disk.growth_mb()
            if growth > cap:
                self._exceeded(End.DISK_LIMIT, f"files grew by more than {cap:g} MB")
                return
            left -= growth
        self._after("disk", min(_LONGEST_S, max(0.1, left / _DISK_MB_S)), self._check_disk)

    def _check_memory(self, interval: float) -> None:
        box = self._box()
        used = processes.private_mb(box)
        cap = self._limits.memory_mb
        if cap is not None and used > cap:
            used = processes.private_mb(box, precise=True) or used
        self.peak_mb = max(self.peak_mb or 0.0, used)
        if cap is not None and used > cap * 1.048576:
            self._exceeded(End.OUT_OF_MEMORY, f"more than {cap} MB of memory")
            return
        if self._limits.processes is not None and len(box) > self._limits.processes + 2:
            self._exceeded(End.CRASH, f"more than {self._limits.processes} processes")
            return
        room = _LONGEST_S if cap is None else (cap - used) / _MEMORY_MB_S
        busy = len(box) > 2 + (self._limits.processes or 1 << 30) // 4
        interval = max(_SHORTEST_S, min(interval * 1.5, room, _FORKS_S if busy else _LONGEST_S))
        self._after("memory", interval, lambda: self._check_memory(interval))
