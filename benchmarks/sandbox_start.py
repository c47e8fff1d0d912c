"""What a sandboxed command costs: `python benchmarks/sandbox_start.py [--save] [--n 100]`.

CPU is of everything, per command: this process, its children, and what bubblewrap leaves for the system to collect (its
first process, which takes the namespaces down; invisible to getrusage). The bound is bubblewrap itself with the fewest
mounts that start a program.
"""

import argparse
import asyncio
import atexit
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from machine import machine, save

from fairtrial.tasks.sandbox.api import BoxLimits, BoxSpec, Sandbox
from fairtrial.tasks.sandbox.bubblewrap import Bubblewrap
from fairtrial.tasks.sandbox.cgroups import POOL
from fairtrial.tasks.sandbox.none import NoSandbox
from fairtrial.tasks.sandbox.unshare import Unshare

RAW = [
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--clearenv",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
]


def cpu_s() -> float:
    """CPU seconds of this process and all that it started, also of what nobody waited for (where groups can count)."""
    if GROUPED:
        return POOL.cpu_s()
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(one.ru_utime + one.ru_stime for one in both)


def count_everything() -> bool:
    """Move this process into a control group of its own, so that processes that are never waited for count too."""
    group = POOL.lend(BoxLimits(memory_mb=None, processes=None))
    if group is None:
        return False
    group.add(os.getpid())
    atexit.register(leave)
    return True


def leave() -> None:
    """Go back, or the group could not be removed."""
    for name, folder in HOME.items():
        (Path("/sys/fs/cgroup") / name / folder.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


async def measure(n: int, once: Callable[[], Awaitable[None]]) -> tuple[float, float, float]:
    """(CPU ms a command, fastest wall ms, median wall ms)."""
    for _ in range(3):
        await once()
    walls = []
    before = cpu_s()
    for _ in range(n):
        started = time.perf_counter()
        await once()
        walls.append(1000 * (time.perf_counter() - started))
    return 1000 * (cpu_s() - before) / n, min(walls), statistics.median(walls)


def bare(argv: list[str]) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        subprocess.run(argv, capture_output=True, check=True)

    return once


def boxed(sandbox: Sandbox, folder: Path) -> Callable[[], Awaitable[None]]:
    box = sandbox.box(BoxSpec(folder, workdir="/app", limits=BoxLimits(cpu_s=60)))

    async def once() -> None:
        done = await box.exec(["/bin/true"], timeout_s=60)
        assert done.exit_code == 0, done

    return once


HOME = {
    name: line.rstrip().split(":", 2)[2]
    for line in Path("/proc/self/cgroup").read_text().splitlines()
    for name in line.split(":", 2)[1].split(",")
    if name in ("memory", "pids", "cpu", "cpuacct", "")
}
GROUPED = count_everything()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    rows: list[tuple[str, tuple[float, float, float]]] = [
        ("bare /bin/true", await measure(given.n, bare(["/bin/true"])))
    ]
    if shutil.which("bwrap"):
        rows.append(("raw bwrap", await measure(given.n, bare([*RAW, "/bin/true"]))))
    with tempfile.TemporaryDirectory() as folder:
        for sandbox in (Bubblewrap(), Unshare(), NoSandbox()):
            if sandbox.available().ok:
                cost = await measure(given.n, boxed(sandbox, Path(folder) / sandbox.name))
                rows.append((f"fairtrial {sandbox.name}", cost))
    bound = next((cost for name, cost in rows if name == "raw bwrap"), rows[0][1])
    lines = [f"{'one command /bin/true':24} {'CPU ms':>8} {'ratio':>7} {'beyond':>8} {'wall ms min':>12} {'median':>8}"]
    for name, (cpu, fastest, median) in rows:
        beyond = cpu - bound[0]
        lines.append(f"{name:24} {cpu:8.2f} {cpu / bound[0]:7.2f} {beyond:8.2f} {fastest:12.1f} {median:8.1f}")
    lines += [
        "ratio and beyond: CPU against raw bwrap; all limits on, output captured, leftovers looked for",
        machine(),
    ]
    text = "\n".join(lines)
    print(text)
    if given.save:
        save("sandbox-start", text)


if __name__ == "__main__":
    asyncio.run(main())
