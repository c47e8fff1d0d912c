"""Kill the store's writer with SIGKILL at random moments and count what is lost, repeated or damaged.

    python benchmarks/store_kill.py [--kills 200] [--save]

Half of the kills on records of 200 B, half on records of 6 kB, ten kills on one directory: a child opens it (and
recovers it), appends with 16 records in flight and writes a number to a file each time a record is acknowledged; it is
killed after 0 to 400 ms, also while it opens. After every kill the directory is verified and read; at the end every
acknowledged record is compared with what was written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from fairtrial.core.record import Outcome, Record, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import TextObservation, Trajectory
from fairtrial.store import RunDir, verify

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine, save

ON_ONE_DIRECTORY = 10
TEXT = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_text()


def record(number: int, size: int) -> Record:
    """Record `number`, of about `size` bytes of JSON; the same one each time it is asked for."""
    start = random.Random(number).randrange(len(TEXT) - size)
    items = (TextObservation(content=TEXT[start : start + size - 400], source="user"),) if size > 400 else ()
    return Record(
        key=TrialKey(arm=("control", "fold")[number % 2], task=f"task-{number // 2}", repeat=0),
        seed=number,
        outcome=Outcome.SCORED,
        scores={"reward": number / 7},
        trajectory=Trajectory(id=str(number), content=items) if items else None,
    )


async def append_for_ever(path: Path, acknowledged: int, size: int) -> None:
    with RunDir.open_writer(path, Redactor({})) as writer:
        free, known, number = asyncio.Semaphore(16), writer.run.done(), 0

        async def one(number: int) -> None:
            await writer.append(record(number, size))
            os.write(acknowledged, f"{number}\n".encode())
            free.release()

        async with asyncio.TaskGroup() as group:
            while True:
                if record(number, size).key.trial not in known:
                    await free.acquire()
                    group.create_task(one(number))
                number += 1


@dataclass
class Found:
    """What the kills at one record size came to."""

    kills: int = 0
    while_opening: int = 0
    acknowledged: int = 0
    acknowledged_twice: int = 0
    lost: int = 0
    changed: int = 0
    stored: int = 0
    repeated: int = 0
    torn: int = 0
    behind: int = 0
    problems: list[str] = field(default_factory=list)


def kill_once(path: Path, acknowledged: Path, size: int, delay: float) -> None:
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            fd = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            asyncio.run(append_for_ever(path, fd, size))
        os._exit(1)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    if (status := os.waitpid(pid, 0)[1]) != signal.SIGKILL:
        raise SystemExit(f"the writer ended by itself with status {status}")


def kills(room: Path, size: int, count: int) -> Found:
    rng, found = random.Random(size), Found()
    while found.kills < count:
        path, acknowledged = room / f"run-{size}-{found.kills}", room / f"acknowledged-{size}-{found.kills}"
        RunDir.create(path, {"size": size}, "", Redactor({})).close()
        acknowledged.touch()
        for _ in range(min(ON_ONE_DIRECTORY, count - found.kills)):
            before = acknowledged.stat().st_size
            kill_once(path, acknowledged, size, rng.uniform(0, 0.4))
            found.kills += 1
            found.while_opening += acknowledged.stat().st_size == before
            for problem in verify(path):
                found.torn += "unfinished write; a resume" in problem.what
                found.behind += "not in the index yet" in problem.what
                if not problem.harmless:
                    found.problems.append(str(problem))
        compare(path, [int(line) for line in acknowledged.read_text().split()], size, found)
    return found


def compare(path: Path, numbers: list[int], size: int, found: Found) -> None:
    """Resume once more, and hold what is stored against what was acknowledged."""
    with RunDir.open_writer(path, Redactor({})) as writer:
        stored = {kept.key: kept for kept in writer.run.records()}
        lines = sum(1 for _ in writer.run.lines())
    found.acknowledged += len(numbers)
    found.acknowledged_twice += len(numbers) - len(set(numbers))
    found.stored += len(stored)
    found.repeated += lines - len(stored)
    for number in numbers:
        wanted = record(number, size)
        found.lost += wanted.key not in stored
        found.changed += stored.get(wanted.key, wanted) != wanted
    found.problems += map(str, verify(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = {size: kills(Path(folder), size, given.kills // 2) for size in (200, 6000)}
    rows = [
        ("kills (SIGKILL)", lambda one: one.kills),
        ("  of them before the first new record", lambda one: one.while_opening),
        ("records acknowledged", lambda one: one.acknowledged),
        ("  lost", lambda one: one.lost),
        ("  changed", lambda one: one.changed),
        ("  acknowledged twice", lambda one: one.acknowledged_twice),
        ("records stored at the end", lambda one: one.stored),
        ("  stored twice", lambda one: one.repeated),
        ("recovered: unfinished frames cut", lambda one: one.torn),
        ("recovered: frames indexed late", lambda one: one.behind),
        ("problems found by verify", lambda one: len(one.problems)),
    ]
    lines = [f"{'':40}" + "".join(f"{f'{size} B records':>16}" for size in found) + f"{'target':>10}"]
    for title, value in rows:
        target = "0" if title.strip().split()[0] in ("lost", "changed", "acknowledged", "stored", "problems") else ""
        lines.append(f"{title:40}" + "".join(f"{value(one):>16,}" for one in found.values()) + f"{target:>10}")
    lines += [problem for one in found.values() for problem in one.problems[:10]]
    lines.append(f"{time.perf_counter() - started:.0f} s; machine: {machine()}")
    text = "\n".join(lines)
    print(text)
    if given.save:
        print(save("store-kill", text))
    if any(one.lost or one.changed or one.repeated or one.acknowledged_twice or one.problems for one in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
