"""What /proc says about the processes of a box: state, parent, exit status, descendants, CPU and memory.

All functions return None or leave a process out when it has ended meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Stat:
    """A line of /proc/PID/stat."""

    pid: int
    state: str
    parent: int
    session: int
    cpu_s: float
    """Own CPU seconds and those of children that it has waited for."""
    wait_status: int
    """As of waitpid, once the process is a zombie; 0 before and where reading it is not permitted."""


def read(path: str) -> bytes | None:
    """A small file of /proc or of a cgroup, or None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return None
    finally:
        os.close(fd)


def stat(pid: int) -> Stat | None:
    """The process, or None when it is gone."""
    line = read(f"/proc/{pid}/stat")
    if not line:
        return None
    fields = line[line.rindex(b")") + 2 :].split()
    return Stat(
        pid,
        fields[0].decode(),
        int(fields[1]),
        int(fields[3]),
        sum(int(fields[index]) for index in (11, 12, 13, 14)) / TICKS,
        int(fields[49]) if len(fields) > 49 else 0,
    )


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, itself not included."""
    if not _has_children_files():
        return _descendants_by_parent(pid)
    found: list[int] = []
    queue = [pid]
    while queue:
        for child in _children(queue.pop()):
            found.append(child)
            queue.append(child)
    return found


@cache
def _has_children_files() -> bool:
    me = os.getpid()
    return Path(f"/proc/{me}/task/{me}/children").exists()


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names only, and often
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        found += [int(child) for child in (read(f"/proc/{pid}/task/{thread}/children") or b"").split()]
    return found


def _descendants_by_parent(pid: int) -> list[int]:
    """For kernels without the children files: one pass over all processes of the machine."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (one := stat(int(name))) is not None:
            below.setdefault(one.parent, []).append(one.pid)
    found, queue = [], [pid]
    while queue:
        children = below.get(queue.pop(), [])
        found += children
        queue += children
    return found


def command(pid: int) -> str:
    """The command line, or the name in brackets; "" for a process that is gone or only a zombie."""
    one = stat(pid)
    if one is None or one.state in "ZX":
        return ""
    line = read(f"/proc/{pid}/cmdline")
    if line:
        return line.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    name = read(f"/proc/{pid}/comm")
    return f"[{name.decode(errors='replace').strip()}]" if name else ""


def private_mb(pids: list[int], precise: bool = False) -> float:
    """Memory of the processes in MB: resident minus shared, or (dearer) each page divided among those that share it."""
    total = 0
    for pid in pids:
        if precise:
            for line in (read(f"/proc/{pid}/smaps_rollup") or b"").splitlines():
                if line.startswith(b"Pss_Anon:"):
                    total += int(line.split()[1]) * 1024
        elif (line := read(f"/proc/{pid}/statm")) and len(fields := line.split()) > 2:
            total += (int(fields[1]) - int(fields[2])) * PAGE
    return total / 1e6


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of the processes, with those of their children that they have waited for."""
    return sum(one.cpu_s for pid in pids if (one := stat(pid)) is not None)
