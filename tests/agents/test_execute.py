"""The executor: when calls start, what they get, in which order writes go, and that latencies change nothing."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from fairtrial.agents.execute import Execution, execute
from fairtrial.agents.log import Result
from fairtrial.agents.planners.plan import Node, Plan, Ref, Template
from fairtrial.agents.planners.planner import RejectedTurn
from fairtrial.agents.running import Mode
from fairtrial.agents.scheduling import Latencies
from fairtrial.agents.tools.tool import Effect, Tool, ToolError
from fairtrial.core.clock import VirtualClock
from fairtrial.core.virtual_time import run_virtual

MODES: list[Mode] = ["ready", "levels", "sequential"]
OPEN = {"type": "object"}


def tool(call: Callable[[Mapping[str, Any]], Awaitable[Any]], effect: Effect = "read", **more: Any) -> Tool:
    return Tool("t", "", more.pop("parameters", OPEN), call, effect=effect, **more)


def sleeping(clock: VirtualClock, **more: Any) -> dict[str, Tool]:
    async def call(args: Mapping[str, Any]) -> str:
        await clock.sleep(args["s"])
        return f"slept {args['s']}"

    return {"t": tool(call, **more)}


def node(name: str, s: float = 1.0, *deps: str, **args: Any) -> Node:
    return Node(name, "t", {"s": s, **args}, deps)


def run(plan: Plan | AsyncIterator[Node], tools: Mapping[str, Tool], clock: VirtualClock, **how: Any) -> Execution:
    return run_virtual(execute(plan, tools, **{"step": 0, **how}, clock=clock), clock)


def started(done: Execution) -> dict[str, float]:
    return {result.node: result.started for result in done.results}


def random_plan(size: int, rng: random.Random, seconds: Callable[[], float]) -> Plan:
    nodes: list[Node] = []
    for number in range(size):
        parents = sorted({rng.randrange(number) for _ in range(rng.randrange(4))}) if number else []
        nodes.append(node(f"n{number}", seconds(), *(f"n{parent}" for parent in parents)))
    return Plan(tuple(nodes))


def longest_chain(plan: Plan) -> float:
    ends: dict[str, float] = {}
    for each in plan.nodes:
        ends[each.id] = each.args["s"] + max((ends[dep] for dep in each.deps), default=0.0)
    return max(ends.values())


@pytest.mark.parametrize("seed", range(20))
def test_ready_takes_exactly_the_critical_path_and_levels_never_less(seed: int) -> None:
    """Trap 10: levels are no maximal concurrency, and the two are told apart in exact time."""
    rng = random.Random(seed)
    plan = random_plan(rng.randrange(1, 120), rng, lambda: rng.lognormvariate(-3, 1))
    ends: dict[Mode, Execution] = {}
    for mode in MODES:
        clock = VirtualClock()
        ends[mode] = run(plan, sleeping(clock), clock, mode=mode)
    assert ends["ready"].ratio == pytest.approx(1, abs=1e-9)
    assert ends["ready"].makespan == pytest.approx(longest_chain(plan), abs=1e-9)
    assert ends["levels"].ratio >= 1 - 1e-9
    work = sum(each.args["s"] for each in plan.nodes)
    assert ends["sequential"].makespan == pytest.approx(work, abs=1e-9) == ends["sequential"].work
    assert all(done.results == ends["ready"].results for done in ends.values())


def test_a_level_waits_for_its_slowest_call_and_ready_does_not() -> None:
    plan = Plan((node("a", 1), node("b", 5), node("c", 5, "a"), node("d", 1, "b")))
    clock = VirtualClock()
    assert run(plan, sleeping(clock), clock).makespan == 6
    clock = VirtualClock()
    done = run(plan, sleeping(clock), clock, mode="levels")
    assert done.makespan == 10 and started(done)["c"] == 5


@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_few_workers_stay_within_grahams_bound(workers: int) -> None:
    for seed in range(5):
        rng, clock = random.Random(seed), VirtualClock()
        done = run(random_plan(80, rng, lambda r=rng: r.expovariate(1)), sleeping(clock), clock, workers=workers)
        assert done.makespan <= (2 - 1 / workers) * max(done.critical_path, done.work / workers) + 1e-9
        events = sorted([(r.started, 1) for r in done.results] + [(r.ended, -1) for r in done.results])
        running = peak = 0
        for _, change in events:
            running += change
            peak = max(peak, running)
        assert peak <= workers


def test_the_chain_that_takes_longest_goes_first_where_workers_are_few() -> None:
    plan = Plan((node("x1"), node("x2"), node("x3"), node("a"), node("b", 1, "a"), node("c", 1, "b")))
    clock = VirtualClock()
    done = run(plan, sleeping(clock), clock, workers=2)
    assert done.makespan == 3 and started(done)["a"] == 0


def test_latencies_seen_in_earlier_steps_decide_which_tool_goes_first() -> None:
    clock, latencies = VirtualClock(), Latencies()
    slow, quick = (sleeping(clock)["t"] for _ in range(2))
    tools = {"slow": Tool("slow", "", OPEN, slow.call), "quick": Tool("quick", "", OPEN, quick.call)}
    plan = Plan((Node("q", "quick", {"s": 1}), Node("s", "slow", {"s": 9})))

    async def main() -> list[str]:
        firsts: list[str] = []
        for step in range(2):
            done = await execute(plan, tools, step=step, clock=clock, workers=1, latencies=latencies)
            firsts.append(min(done.results, key=lambda result: result.started).node)
        return firsts

    assert run_virtual(main(), clock) == ["q", "s"]


def test_a_tools_own_concurrency_is_kept() -> None:
    clock = VirtualClock()
    done = run(Plan(tuple(node(f"n{i}") for i in range(7))), sleeping(clock, concurrency=3), clock)
    assert done.makespan == 3 and {r.status for r in done.results} == {"ok"}


def test_values_reach_later_calls_whole_in_part_and_in_text() -> None:
    """Trap 11: several references in one argument, nested JSON, ids that begin alike, braces in the text."""
    got: list[Mapping[str, Any]] = []

    async def call(args: Mapping[str, Any]) -> Any:
        got.append(args)
        return args.get("give", "done")

    give = {"city": "Ulm", "list": [10, {"deep": "x {y} $1|z"}]}
    plan = Plan(
        (
            Node("1", "t", {"give": give}),
            Node("10", "t", {"give": "ten"}),
            Node(
                "2",
                "t",
                {
                    "whole": Ref("1"),
                    "nested": [{"part": Ref("1", ("list", 1, "deep"))}],
                    "text": Template(("{", Ref("1", ("city",)), "} ", Ref("10"), " ", Ref("1", ("list", 0)))),
                },
                ("1", "10"),
            ),
        )
    )
    clock = VirtualClock()
    assert {r.status for r in run(plan, {"t": tool(call)}, clock).results} == {"ok"}
    assert got[-1] == {"whole": give, "nested": [{"part": "x {y} $1|z"}], "text": "{Ulm} ten 10"}


def test_a_tool_that_changes_its_arguments_changes_nobody_elses() -> None:
    async def call(args: Mapping[str, Any]) -> Any:
        if "x" in args:
            args["x"].append("mine")
            return args["x"]
        return ["shared"]

    plan = Plan((Node("a", "t"), Node("b", "t", {"x": Ref("a")}, ("a",)), Node("c", "t", {"x": Ref("a")}, ("b", "a"))))
    done = run(plan, {"t": tool(call)}, VirtualClock())
    assert [result.value for result in done.results] == [["shared"], ["shared", "mine"], ["shared", "mine"]]


def test_an_argument_that_does_not_fit_once_it_is_known_is_that_nodes_error() -> None:
    async def call(args: Mapping[str, Any]) -> Any:
        return "many"

    parameters = {"type": "object", "properties": {"k": {"type": "integer"}}}
    plan = Plan((Node("a", "t"), Node("b", "t", {"k": Ref("a")}, ("a",)), Node("c", "t", {"k": Ref("a", ("n",))})))
    a, b, c = run(plan, {"t": tool(call, parameters=parameters)}, VirtualClock()).results
    assert (a.status, b.status, c.status) == ("ok", "error", "error")
    assert "k must be integer" in b.text and "'n'" in c.text and '"a"' in c.text


def test_writes_of_one_key_go_in_the_plans_order_whatever_the_latencies() -> None:
    for seed in range(30):
        clock, rng = VirtualClock(), random.Random(seed)
        file: dict[str, list[str]] = {"x": [], "y": []}
        inside: set[str] = set()

        async def write(
            args: Mapping[str, Any],
            clock: VirtualClock = clock,
            file: dict[str, list[str]] = file,
            inside: set[str] = inside,
        ) -> str:
            assert not inside & set(args["keys"])
            inside.update(args["keys"])
            await clock.sleep(args["s"])
            inside.difference_update(args["keys"])
            for key in args["keys"] or file:
                file[key].append(args["name"])
            return "written"

        tools = {
            "t": sleeping(clock)["t"],
            "w": Tool("w", "", OPEN, write, effect="write", keys=lambda args: tuple(args["keys"])),
        }
        nodes = [node("r", rng.random())]
        for number, keys in enumerate(["x", "y", "xy", "x", "", "y", "x"]):
            late = rng.random() < 0.5
            args = {"s": rng.random(), "name": str(number), "keys": list(keys), **({"after": Ref("r")} if late else {})}
            nodes.append(Node(f"w{number}", "w", args, ("r",) if late else ()))
        done = run(Plan(tuple(nodes)), tools, clock)
        assert {r.status for r in done.results} == {"ok"}
        assert file == {"x": ["0", "2", "3", "4", "6"], "y": ["1", "2", "4", "5"]}
        assert done.ratio >= 1 - 1e-9


def test_writes_of_different_keys_run_together_and_one_without_keys_runs_alone() -> None:
    clock = VirtualClock()
    call = sleeping(clock)["t"].call
    tools = {"t": tool(call, "write", keys=lambda args: tuple(args["keys"]))}
    plan = Plan((node("a", 1, keys="x"), node("b", 1, keys="y"), node("c", 1, keys=""), node("d", 1, keys="x")))
    assert started(run(plan, tools, clock)) == {"a": 0, "b": 0, "c": 1, "d": 2}


def test_only_what_changes_nothing_is_tried_again() -> None:
    """Trap 14: a write is tried once; reads wait longer before each further attempt."""
    clock = VirtualClock()
    times: dict[str, list[float]] = {"read": [], "write": []}

    def failing(name: str, effect: Effect) -> Tool:
        async def call(args: Mapping[str, Any]) -> str:
            times[name].append(clock.monotonic())
            if len(times[name]) < 4:
                raise ConnectionError("gone")
            return "there"

        return Tool(name, "", OPEN, call, effect=effect, retries=5)

    plan = Plan((Node("r", "read"), Node("w", "write")))
    r, w = run(plan, {"read": failing("read", "read"), "write": failing("write", "write")}, clock).results
    assert (r.status, r.attempts, w.status, w.attempts, w.text) == ("ok", 4, "error", 1, "ConnectionError: gone")
    waits = [b - a for a, b in zip(times["read"], times["read"][1:], strict=False)]
    assert 0.5 <= waits[0] <= 0.75 and 1 <= waits[1] <= 1.5 and 2 <= waits[2] <= 3


def canonical(results: tuple[Result, ...], left: Any) -> bytes:
    return json.dumps([[r.step, r.node, r.status, r.text, r.value, r.attempts] for r in results] + [left]).encode()


@pytest.mark.parametrize("workers", [None, 3])
def test_a_thousand_latency_assignments_give_the_same_bytes(workers: int | None) -> None:
    """Trap 9: retries, failures, skips and writes included; nothing that a model sees depends on who was first."""
    seen: set[bytes] = set()
    orders: set[tuple[str, ...]] = set()
    for seed in range(1000 if workers is None else 100):
        clock, rng = VirtualClock(), random.Random(seed)
        store: list[str] = []
        tried: dict[str, int] = {}

        async def call(
            args: Mapping[str, Any],
            clock: VirtualClock = clock,
            rng: random.Random = rng,
            store: list[str] = store,
            tried: dict[str, int] = tried,
        ) -> Any:
            await clock.sleep(rng.lognormvariate(0, 1))
            name = args["name"]
            tried[name] = tried.get(name, 0) + 1
            if tried[name] <= args.get("fails", 0):
                raise ToolError(f"{name} is not to be had")
            store.extend([name] * args.get("writes", 0))
            return {"name": name, "sees": list(store) if args.get("writes") else None, **args}

        tools = {
            "r": Tool("r", "", OPEN, call, retries=2),
            "w": Tool("w", "", OPEN, call, effect="write", keys=lambda args: (args["key"],)),
        }
        nodes = [Node(f"a{i}", "r", {"name": f"a{i}", "fails": i}) for i in range(5)]
        nodes += [Node(f"b{i}", "r", {"name": f"b{i}", "of": Ref(f"a{i}")}, (f"a{i}", "a0")) for i in range(5)]
        nodes += [
            Node(f"w{i}", "w", {"name": f"w{i}", "writes": 1, "key": "k", "of": Ref(dep)}, (dep,))
            for i, dep in enumerate(["b2", "a0", "b1", "a3"])
        ]
        nodes.append(Node("end", "r", {"name": "end"}, tuple(each.id for each in nodes)))
        order: list[Result] = []
        done = run(Plan(tuple(nodes)), tools, clock, workers=workers, on_result=order.append)
        seen.add(canonical(done.results, store))
        orders.add(tuple(result.node for result in order))
    assert len(seen) == 1
    assert len(orders) > 50


def test_nodes_run_while_the_model_still_writes_and_writes_wait_for_the_end() -> None:
    clock = VirtualClock()

    async def plan() -> AsyncIterator[Node]:
        for name, args, deps in [("r1", {"s": 5}, ()), ("w", {"s": 1}, ()), ("r2", {"s": 1}, ("late",))]:
            yield Node(name, "w" if name == "w" else "t", args, deps)
            await clock.sleep(2)
        yield node("late", 3)
        await clock.sleep(1)

    tools = {"t": sleeping(clock)["t"], "w": Tool("w", "", OPEN, sleeping(clock)["t"].call, effect="write")}
    done = run(plan(), tools, clock)
    assert [result.node for result in done.results] == ["r1", "w", "r2", "late"]
    assert started(done) == {"r1": 0, "w": 7, "r2": 9, "late": 6}
    assert (done.makespan, done.critical_path, done.ratio) == (10, 10, 1)


def test_a_turn_that_is_refused_while_it_runs_has_changed_nothing_and_leaves_nothing() -> None:
    """Trap 2: what was begun early is stopped, and no write was ever called."""
    clock = VirtualClock()
    written: list[str] = []
    told: list[Result] = []

    async def write(args: Mapping[str, Any]) -> str:
        written.append("once")
        return "done"

    async def plan() -> AsyncIterator[Node]:
        yield node("r", 100)
        yield Node("w", "w")
        await clock.sleep(1)
        raise RejectedTurn("cycle", "no")

    tools = {"t": sleeping(clock)["t"], "w": Tool("w", "", OPEN, write, effect="write")}
    with pytest.raises(RejectedTurn):
        run(plan(), tools, clock, on_result=told.append)
    assert not written and clock.monotonic() == 1
    assert {(result.node, result.status) for result in told} == {("r", "cancelled"), ("w", "cancelled")}


def test_a_hundred_thousand_calls_in_a_chain_need_no_recursion() -> None:
    """Trap 11 and 16: no recursion in orders, skips or results, and linear time."""

    async def call(args: Mapping[str, Any]) -> str:
        raise ToolError("no")

    chain = Plan(tuple(node(f"n{i}", 0, *([f"n{i - 1}"] if i else [])) for i in range(100_000)))
    for mode in ("ready", "levels"):
        done = run(chain, {"t": tool(call)}, VirtualClock(), mode=mode)
        assert [r.status for r in done.results[:2]] == ["error", "skipped"]
        assert done.results[-1].text.endswith('"n99998", which it depends on, ended as skipped')


def test_two_nodes_of_one_id_are_a_bug_of_the_caller() -> None:
    clock = VirtualClock()
    with pytest.raises(ValueError, match='"a"'):
        run(Plan((node("a"), node("a"))), sleeping(clock), clock)


def test_an_empty_plan_is_done_at_once() -> None:
    done = asyncio.run(execute(Plan(), {}, step=0, clock=VirtualClock()))
    assert (done.results, done.makespan, done.ratio) == ((), 0, 1)
