"""What one trial of an agent costs beyond the agent and the tests: copy, list, box, verify, read the verdict, record.

usage: python benchmarks/agent_trial_cost.py [N=50] [--save]

The bound is what cannot be saved: two bare boxes, one for the agent and one for the verifier, running /bin/true.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, save

from fairtrial.agents.agent import open_agent
from fairtrial.agents.attempt import attempt
from fairtrial.agents.trial import open_bench
from fairtrial.core.clock import SystemClock, Timer
from fairtrial.core.limits import Limits, Meter
from fairtrial.tasks.harbor.read import read_task
from fairtrial.tasks.sandbox.api import BoxSpec
from fairtrial.tasks.sandbox.choose import choose
from fairtrial.tasks.scratch import Scratch, remove_tree

FILES = {
    "task.toml": 'schema_version = "1.4"\n',
    "instruction.md": "Nothing.\n",
    "environment/Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\nCOPY start.txt /app/\n",
    "environment/start.txt": "start\n",
    "tests/test.sh": "echo 1 > /logs/verifier/reward.txt\n",
    "solution/solve.sh": "true\n",
}


def cpu() -> float:
    """CPU seconds of this process and its finished children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


async def main(count: int) -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as place, Scratch() as scratch:
        root = Path(place)
        for name, text in FILES.items():
            (root / "task" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "task" / name).write_text(text)
        sandbox = choose()
        bench = await open_bench(read_task(root / "task"), sandbox, root / "cache")

        async def trial(agent: str) -> None:
            folder = scratch.folder("cost")
            result = await attempt(
                bench, open_agent(agent, Path()), skills="none", folder=folder, trial="t", seed=0, limits=Limits(),
                meter=Meter(Limits()), timer=Timer(SystemClock()),
            )  # fmt: skip
            assert result.scores["reward"] == 1.0
            remove_tree(folder)

        async def bare() -> None:
            folder = scratch.folder("bare")
            for _ in range(2):
                await sandbox.box(BoxSpec(files=folder)).exec(["/bin/true"])
            remove_tree(folder)

        rows: list[tuple[str, float, float]] = []
        for name, run in (("two bare boxes (bound)", bare), ("trial of the oracle", lambda: trial("oracle"))):
            await run()
            used, started = cpu(), time.perf_counter()
            for _ in range(count):
                await run()
            rows.append((name, 1000 * (cpu() - used) / count, 1000 * (time.perf_counter() - started) / count))
    lines = [f"{'':<24} {'CPU ms':>8} {'wall ms':>8} {'ratio of CPU':>13}"]
    lines += [f"{name:<24} {used:>8.1f} {wall:>8.1f} {used / rows[0][1]:>13.2f}" for name, used, wall in rows]
    return "\n".join([*lines, f"{count} each, sandbox {sandbox.name}; {machine()}"])


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    table = asyncio.run(main(numbers[0] if numbers else 50))
    print(table)
    if "--save" in sys.argv:
        print(save("agent-trial-cost", table))
