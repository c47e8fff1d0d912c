"""What the local engine costs per trial: CPU and peak memory for trials that do nothing, against bare asyncio tasks.

    python benchmarks/engine_overhead.py [--save]

Each scenario runs in a process of its own. The bound makes the same record in one bare task per trial and keeps
nothing; what the engine adds is scheduling, the deadline, judging the answer and backpressure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import machine, save

from fairtrial.core.limits import Limits
from fairtrial.core.record import BlobRef, Outcome, Record, TrialKey
from fairtrial.core.trial import EngineOptions, Job, TrialContext, Work
from fairtrial.engine.local import LocalEngine


class Null:
    """A worker whose trials do nothing."""

    async def run(self, job: Job, context: TrialContext | None) -> Record:
        return Record(key=job.key, seed=job.seed, outcome=Outcome.SCORED, scores={"reward": 1.0})

    def failed_scores(self, job: Job) -> dict[str, float]:
        return {"reward": 0.0}

    async def close(self) -> None:
        return None


class NoBlobs:
    def put(self, content: bytes) -> BlobRef:
        raise NotImplementedError


def open_worker(settings: Mapping[str, Any]) -> Null:
    return Null()


def jobs(count: int, limits: Limits) -> Iterator[Job]:
    for n in range(count):
        yield Job(TrialKey(arm="ab"[n % 2], task=f"t{n // 2}", repeat=0), n, 7, limits)


async def bound(count: int) -> int:
    worker, records = Null(), 0
    for job in jobs(count, Limits()):
        record = await asyncio.create_task(worker.run(job, None))
        records += record.outcome.counts
    return records


async def engine(count: int, mode: str, in_flight: int, limits: Limits) -> int:
    work = Work("engine_overhead:open_worker", mode=mode)  # type: ignore[arg-type]
    stream, records = LocalEngine().run(jobs(count, limits), work, EngineOptions(in_flight=in_flight), NoBlobs()), 0
    async for record in stream:
        records += record.outcome.counts
    return records


SCENARIOS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "bare tasks, 1,000": ("bound", 1000, {}),
    "bare tasks, 20,000": ("bound", 20_000, {}),
    "async, 1,000": ("engine", 1000, {"mode": "async", "in_flight": 8}),
    "async, 20,000": ("engine", 20_000, {"mode": "async", "in_flight": 8}),
    "async, 100,000": ("engine", 100_000, {"mode": "async", "in_flight": 8}),
    "async with a limit on seconds, 20,000": ("engine", 20_000, {"mode": "async", "in_flight": 8, "seconds": 60}),
    "process, start + 1": ("engine", 1, {"mode": "process", "in_flight": 1}),
    "process, 1 at a time, 2,000": ("engine", 2000, {"mode": "process", "in_flight": 1}),
    "process, 2 at a time, 4,000": ("engine", 4000, {"mode": "process", "in_flight": 2}),
    "process with a limit on seconds, 2,000": ("engine", 2000, {"mode": "process", "in_flight": 1, "seconds": 60}),
}


def measure(name: str) -> None:
    """Run one scenario here and print its figures as JSON."""
    kind, count, options = SCENARIOS[name]
    options = dict(options)
    limits = Limits(seconds=options.pop("seconds", None))
    own, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    done = asyncio.run(bound(count) if kind == "bound" else engine(count, limits=limits, **options))
    wall = time.perf_counter() - wall
    if done != count:
        raise SystemExit(f"{name}: {done} records of {count}")
    after, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "count": count,
        "wall": wall,
        "cpu": after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime,
        "children": children.ru_utime + children.ru_stime,
        "rss_mb": after.ru_maxrss / 1024,
        "child_rss_mb": children.ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def table() -> str:
    found: dict[str, dict[str, float]] = {}
    for name in SCENARIOS:
        # imported by name, not run as __main__: the worker processes import the same module
        code = f"import engine_overhead; engine_overhead.measure({name!r})"
        here = Path(__file__).parent
        out = subprocess.run([sys.executable, "-c", code], cwd=here, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(out.stdout)
    floor = found["bare tasks, 20,000"]
    floor_us = 1e6 * floor["cpu"] / floor["count"]
    head = f"{'scenario':<40}{'wall us/trial':>14}{'cpu us/trial':>14}{'workers us':>12}{'x bare':>8}"
    head += f"{'peak MB':>9}{'worker MB':>11}"
    lines = [head, "-" * len(head)]
    for name, one in found.items():
        cpu, child = 1e6 * one["cpu"] / one["count"], 1e6 * one["children"] / one["count"]
        ratio = (cpu + child) / floor_us if one["count"] > 1 else math.nan  # one trial alone is all start
        lines.append(
            f"{name:<40}{1e6 * one['wall'] / one['count']:>14,.0f}{cpu:>14,.0f}{child:>12,.0f}"
            f"{ratio:>8,.1f}{one['rss_mb']:>9,.1f}{one['child_rss_mb']:>11,.1f}"
        )
    first, last = found["process, start + 1"], found["process, 1 at a time, 2,000"]
    trip = 1e6 * (last["wall"] - first["wall"]) / (last["count"] - first["count"])
    growth = found["async, 100,000"]["rss_mb"] - found["async, 1,000"]["rss_mb"]
    lines += [
        "",
        f"peak memory, 100,000 against 1,000 trials: {growth:+.1f} MB",
        f"round trip to a warm worker process: {trip:,.0f} us",
        "x bare: all CPU per trial (engine and workers) over that of one bare asyncio task that makes the same record",
        machine(),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/<date>-engine_overhead.txt")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.save:
        save("engine-overhead", text)


if __name__ == "__main__":
    main()
