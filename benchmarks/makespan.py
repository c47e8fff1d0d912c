"""How long plans take: as-ready, GAP's levels and a 10 ms poller against the critical path; overhead; beside two peers.

    python benchmarks/makespan.py [--peer /path/to/python] [--save]

The peer's Python has langgraph and pydantic-ai-slim installed (a throw-away environment). The critical path is taken
from the run's own intervals. Latencies are lognormal (sigma 1, mean 50 ms); CPU time is user and system, best of 5.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from machine import machine, save

from fairtrial.agents.execute import Execution, execute
from fairtrial.agents.journal import Journal
from fairtrial.agents.log import Asked, Called, Log, Planned
from fairtrial.agents.planners.plan import Node, Plan, Ref
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import Clock, SystemClock, VirtualClock
from fairtrial.core.virtual_time import run_virtual
from fairtrial.models.model import Message, Reply, Request

PEER = Path(__file__).parent / "peers" / "parallel_tools.py"
SCHEMA = {"type": "object", "properties": {"s": {"type": "number"}, "x": {"type": "string"}}, "required": ["s"]}
POLL_S = 0.01


def seconds(rng: random.Random) -> float:
    return rng.lognormvariate(math.log(0.05) - 0.5, 1)


def plan(parents: list[list[int]], seed: int) -> Plan:
    rng = random.Random(seed)
    return Plan(
        tuple(
            Node(f"n{i}", "sleep", {"s": seconds(rng)}, tuple(f"n{each}" for each in some))
            for i, some in enumerate(parents)
        )
    )


def layered(count: int, width: int, rng: random.Random) -> list[list[int]]:
    return [
        sorted(rng.sample(range((i // width - 1) * width, i // width * width), 2)) if i >= width else []
        for i in range(count)
    ]


def graphs() -> dict[str, Plan]:
    rng = random.Random(7)
    chains = [[i - 4] if i >= 4 else [] for i in range(40)]
    scattered = {
        n: [sorted({rng.randrange(i) for _ in range(rng.randrange(3))}) if i else [] for i in range(n)]
        for n in (200, 1000)
    }
    return {
        "4 chains x 10 + join (41)": plan([*chains, [36, 37, 38, 39]], 1),
        "layered 100 (10 wide)": plan(layered(100, 10, rng), 2),
        "random 200": plan(scattered[200], 3),
        "random 1000": plan(scattered[1000], 4),
        "layered 1000 (32 wide)": plan(layered(1000, 32, rng), 5),
    }


def sleeping(clock: Clock) -> dict[str, Tool]:
    async def call(args: Mapping[str, Any]) -> str:
        await clock.sleep(args["s"])
        return "slept"

    return {"sleep": Tool("sleep", "", SCHEMA, call)}


async def poller(plan: Plan, tools: Mapping[str, Tool], *, clock: Clock) -> tuple[float, float]:
    """Makespan and critical path with a scheduler that looks every 10 ms for calls that can start (as LLMCompiler)."""
    began, spans, waiting = clock.monotonic(), dict[str, tuple[float, float]](), list(plan.nodes)
    tasks: set[asyncio.Task[None]] = set()

    async def call(node: Node) -> None:
        started = clock.monotonic()
        await tools[node.tool].call(node.args)
        spans[node.id] = (started, clock.monotonic())

    while len(spans) < len(plan.nodes):
        ready = [node for node in waiting if all(dep in spans for dep in node.deps)]
        waiting = [node for node in waiting if node not in ready] if ready else waiting
        tasks |= {asyncio.create_task(call(node)) for node in ready}
        await clock.sleep(POLL_S)
    path: dict[str, float] = {}
    for node in plan.nodes:
        start, end = spans[node.id]
        path[node.id] = end - start + max((path[dep] for dep in node.deps), default=0.0)
    return max(end for _, end in spans.values()) - began, max(path.values())


async def ours(plan: Plan, tools: Mapping[str, Tool], *, clock: Clock, mode: Any) -> tuple[float, float]:
    done = await execute(plan, tools, step=0, clock=clock, mode=mode)
    assert {result.status for result in done.results} == {"ok"}
    return done.makespan, done.critical_path


def ratios(run: Callable[[Any, Clock], tuple[float, float]], make: Callable[[], Clock], digits: int) -> list[str]:
    lines = [f"  {'graph':<28}{'critical path':>14}{'ready':>14}{'levels':>10}{'10 ms poll':>12}"]
    for name, graph in graphs().items():
        cells: list[float] = []
        critical = 0.0
        for mode in ("ready", "levels", None):
            clock = make()
            tools = sleeping(clock)
            main = ours(graph, tools, clock=clock, mode=mode) if mode else poller(graph, tools, clock=clock)
            makespan, path = run(main, clock)
            critical = critical or path
            cells.append(makespan / path)
        lines.append(f"  {name:<28}{critical:>12.3f} s{cells[0]:>14.{digits}f}{cells[1]:>10.3f}{cells[2]:>12.3f}")
    return lines


def cpu(work: Callable[[], object], rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def overhead(size: int = 1000) -> list[str]:
    """CPU per node of a call that does nothing, from the bare event loop to everything on."""
    rng = random.Random(3)
    parents = [sorted({rng.randrange(i) for _ in range(rng.randrange(3))}) if i else [] for i in range(size)]

    async def call(args: Mapping[str, Any]) -> str:
        return "x"

    def nodes(full: bool) -> Plan:
        args = [{"s": 1, **({"x": Ref(f"n{some[0]}")} if full and some else {})} for some in parents]
        deps = [tuple(f"n{each}" for each in some) for some in parents]
        return Plan(tuple(Node(f"n{i}", "t", args[i], deps[i]) for i in range(size)))

    def run(full: bool, timeout_s: float | None = None, journal: Journal | None = None) -> Execution:
        tools = {"t": Tool("t", "", SCHEMA if full else {}, call, timeout_s=timeout_s)}
        done = asyncio.run(execute(nodes(full), tools, step=0, clock=SystemClock(), journal=journal))
        if full:
            log, asked = Log(Asked("?")), Message(role="user", content="?")
            reply = Reply(Message(role="assistant", content="x"), finish="stop", model="none")
            log.add(Called(Request(messages=(asked,)), reply))
            log.add(Planned(0, nodes(full)))
            for result in done.results:
                log.add(result)
        return done

    async def bare() -> None:
        ends = [asyncio.Event() for _ in parents]

        async def one(i: int) -> None:
            for each in parents[i]:
                await ends[each].wait()
            await call({})
            ends[i].set()

        async with asyncio.TaskGroup() as group:
            for i in range(size):
                group.create_task(one(i))

    def journalled() -> None:
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
            run(True, 60.0, journal)

    rows = [
        ("bare tasks that wait for each other's events", lambda: asyncio.run(bare())),
        ("executor, open schema", lambda: run(False)),
        ("executor, references, schema, log", lambda: run(True)),
        ("the same with a timeout per call", lambda: run(True, 60.0)),
        ("the same with a timeout and a journal on disk", journalled),
    ]
    return [f"  {name:<48}{cpu(work) / size * 1e6:>8.1f} us" for name, work in rows]


def chain(size: int = 100_000) -> str:
    async def call(args: Mapping[str, Any]) -> str:
        return "x"

    nodes = Plan(tuple(Node(f"n{i}", "t", {}, (f"n{i - 1}",) if i else ()) for i in range(size)))
    started = time.process_time()
    done = asyncio.run(execute(nodes, {"t": Tool("t", "", {}, call)}, step=0, clock=SystemClock()))
    spent = time.process_time() - started
    ok = sum(result.status == "ok" for result in done.results)
    return f"  {size:,} calls in one chain: {ok:,} ok, {spent / size * 1e6:.1f} us CPU per node"


def beside(peer: str | None) -> list[str]:
    """One turn of four calls, three good and one bad, and the cost of 200 calls of one turn that do nothing."""
    sys.path.insert(0, str(PEER.parent))
    import parallel_tools as peers

    def turn(timeout_s: float | None) -> peers.Turn:
        def tool(name: str) -> Tool:
            async def call(args: Mapping[str, Any]) -> str:
                return await peers.TOOLS[name]()

            return Tool(name, "", {"type": "object", "properties": {}}, call, timeout_s=timeout_s)

        tools = {name: tool(name) for name in peers.TOOLS}

        async def calls(names: list[str]) -> list[str]:
            nodes = Plan(tuple(Node(f"c{n}", name) for n, name in enumerate(names)))
            done = await execute(nodes, tools, step=0, clock=SystemClock())
            return [r.text if r.status == "ok" else f"{r.status}: {r.text}" for r in done.results]

        return calls

    rows: list[dict[str, Any]] = []
    for name, timeout_s in (("no timeout", None), ("timeout_s=1", 1.0)):
        row: dict[str, Any] = {"package": "fairtrial", "version": "here", "name": name}
        for bad in peers.BAD:
            row[bad] = asyncio.run(peers.case(turn(timeout_s), bad))
        rows.append({**row, "us": peers.cpu_per_call(turn(timeout_s))})
    absent = []
    if peer is None:
        absent = ["  no --peer given: LangGraph and pydantic-ai were not run"]
    else:
        out = subprocess.run([peer, str(PEER)], capture_output=True, text=True, check=False, timeout=300)
        rows += [json.loads(line) for line in out.stdout.splitlines()]
        if out.returncode:
            absent = [f"  {peer} did not run all: {(out.stderr.strip().splitlines() or ['no message'])[-1]}"]
    lines: list[str] = []
    for row in rows:
        lines.append(f"  {row['package']} {row['version']}, {row['name']}: {row['us']:.0f} us CPU per no-op call")
        for bad in peers.BAD:
            of = row[bad]
            told = f"{of['good']}/3 good results reach the model; {' '.join(of['bad'].split())[:64]}"
            lines.append(f"    {bad:<10}{told:<104}{of['seconds']:>5.1f} s, {of['left']} tasks left")
    return lines + absent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="a Python with langgraph and pydantic-ai-slim")
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()

    def real(main: Any, clock: Clock) -> tuple[float, float]:
        return asyncio.run(main)

    lines = [f"# makespan of plans\n{machine()}\n"]
    lines += ["virtual time, makespan / critical path", *ratios(run_virtual, VirtualClock, 9), ""]
    lines += ["real sleeps, makespan / critical path of the same run", *ratios(real, SystemClock, 3), ""]
    lines += ["CPU per node, 1,000 nodes of a random graph, calls that do nothing", *overhead(), chain(), ""]
    lines += ["one turn with three good calls and a bad one; 200 no-op calls of one turn", *beside(asked.peer)]
    text = "\n".join(lines)
    print(text)
    if asked.save:
        print(save("makespan", text))


if __name__ == "__main__":
    main()
