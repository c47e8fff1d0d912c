"""Genuine Harbor tasks through the gate: nop, the author's solution, seconds, and why a task is refused.

usage: python benchmarks/skillsbench_gate.py ROOT [TASK...] [--save]

ROOT is a folder of task folders. Nothing of it is copied into the repository.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from machine import machine, save

from fairtrial.agents.agent import open_agent
from fairtrial.agents.attempt import attempt
from fairtrial.agents.trial import open_bench
from fairtrial.core.clock import SystemClock, Timer
from fairtrial.core.errors import FairtrialError, one_line
from fairtrial.core.limits import Limits, Meter
from fairtrial.core.places import cache_folder
from fairtrial.tasks.harbor.read import is_task, read_task
from fairtrial.tasks.sandbox.choose import choose
from fairtrial.tasks.scratch import Scratch, remove_tree


async def scores(folder: Path, scratch: Scratch) -> tuple[dict[str, str], float, str]:
    """Reward of each agent as text, seconds of the oracle's attempt, and the reason why the task cannot be used."""
    found = {"nop": "-", "oracle": "-"}
    started = time.perf_counter()
    try:
        bench = await open_bench(read_task(folder), choose(), cache_folder())
        for name in ("nop", "oracle"):
            place, started = scratch.folder(name), time.perf_counter()
            try:
                result = await attempt(
                    bench, open_agent(name, Path()), skills="none", folder=place, trial=f"{folder.name}/{name}", seed=0,
                    limits=Limits(), meter=Meter(Limits()), timer=Timer(SystemClock()),
                )  # fmt: skip
            finally:
                remove_tree(place)
            found[name] = f"{result.scores['reward']:.3g}"
            if result.cause:
                return found, time.perf_counter() - started, f"{name}: {result.message}"
    except FairtrialError as error:
        return found, time.perf_counter() - started, one_line(error)
    seconds = time.perf_counter() - started
    if found["oracle"] != "1":
        failed = [
            item["name"].split("::")[-1]
            for item in result.details["verifier"].get("tests", [])
            if "passed" not in str(item)
        ]
        code = result.details["agent"]["exit_code"]
        return (
            found,
            seconds,
            f"its own solution fails here (exit code {code}; {len(failed)} tests fail: {', '.join(failed[:2])})",
        )
    return found, seconds, "doing nothing scores 1" if found["nop"] == "1" else ""


async def main(root: Path, names: list[str]) -> str:
    """The table."""
    folders = [root / name for name in names] or sorted(path for path in root.iterdir() if is_task(path))
    lines = [f"{'task':<45} {'nop':>6} {'oracle':>6} {'s':>7}  reason of refusal"]
    used = 0
    with Scratch() as scratch:
        for folder in folders:
            found, seconds, reason = await scores(folder, scratch)
            used += not reason
            lines.append(
                f"{folder.name:<45} {found['nop']:>6} {found['oracle']:>6} {seconds:>7.1f}  {reason[:220]}".rstrip()
            )
            print(lines[-1], flush=True)
    lines += ["", f"{used} of {len(folders)} tasks can be used: oracle = 1 and nop < 1", machine()]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    table = asyncio.run(main(arguments.root, arguments.tasks))
    print(table.split("\n\n")[-1])
    if arguments.save:
        print(save("skillsbench-gate", table))
