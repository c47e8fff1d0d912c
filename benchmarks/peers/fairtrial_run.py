"""One scenario of fairtrial; prints one JSON line. Run by benchmarks/against_inspect.py.

usage: python fairtrial_run.py plain|sandbox N [commands per sample]
  plain    a planted study of N trials through the whole pipeline: engine, fsynced records with a trajectory, index
  sandbox  N boxes (bubblewrap: namespaces, no network, limits), some shell commands in each
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from fairtrial import Study
from fairtrial.tasks.sandbox.api import BoxSpec
from fairtrial.tasks.sandbox.choose import choose

SCENARIO, N = sys.argv[1], int(sys.argv[2])
COMMANDS = int(sys.argv[3]) if len(sys.argv) > 3 else 4


def plain(folder: Path) -> None:
    study = Study.model_validate(
        {
            "title": "overhead",
            "kind": "planted",
            "suite": {"n": N // 2, "difficulty": 0.999999, "concentration": 1e9},
            "arms": {"a": {"control": True}, "b": {}},
            "engine": {"in_flight": 100},
        }
    )
    run = study.run(folder / "run")
    assert run.result().arm("a").mean == 1.0 and sum(1 for _ in run.records()) == N // 2 * 2


async def sandbox(folder: Path) -> None:
    chosen, slots = choose("bubblewrap"), asyncio.Semaphore(4)

    async def sample(index: int) -> None:
        async with slots:
            box = chosen.box(BoxSpec(files=folder / str(index), workdir="/app"))
            for _ in range(COMMANDS):
                done = await box.exec(["bash", "-c", "echo $((1+1)) > out.txt; cat out.txt"], timeout_s=30)
                assert done.stdout == b"2\n", done

    await asyncio.gather(*(sample(index) for index in range(N)))


with tempfile.TemporaryDirectory() as name:
    path = Path(name)
    start = time.process_time()
    if SCENARIO == "plain":
        plain(path)
    else:
        asyncio.run(sandbox(path))
    cpu = time.process_time() - start
    size = sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print(
    json.dumps(
        {
            "cpu_s": cpu,
            "children_s": children.ru_utime + children.ru_stime,
            "bytes": size,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
