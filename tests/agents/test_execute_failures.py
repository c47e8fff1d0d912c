"""What befalls one call harms no sibling, ends in exactly one way and leaves nothing behind (traps 8, 10, 14)."""

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fairtrial.agents.execute import Execution, execute
from fairtrial.agents.log import Result
from fairtrial.agents.planners.plan import Node, Plan, Ref
from fairtrial.agents.running import Mode
from fairtrial.agents.tools.functions import function_tool
from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.core.clock import SystemClock, VirtualClock
from fairtrial.core.errors import InfraError, LimitExceeded, UserError
from fairtrial.core.virtual_time import run_virtual

MODES: list[Mode] = ["ready", "levels", "sequential"]
OPEN = {"type": "object"}
Body = Callable[[VirtualClock], Awaitable[Any]]


class OddError(Exception):
    """An exception that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


async def raises(clock: VirtualClock) -> Any:
    await clock.sleep(1)
    raise ToolError("the page is gone")


async def raises_at_once(clock: VirtualClock) -> Any:
    raise OddError


async def hangs(clock: VirtualClock) -> Any:
    await asyncio.get_running_loop().create_future()


async def swallows_cancellation(clock: VirtualClock) -> Any:
    for _ in range(50):
        try:
            await clock.sleep(1000)
        except asyncio.CancelledError:
            continue


async def cancels_itself(clock: VirtualClock) -> Any:
    await clock.sleep(1)
    raise asyncio.CancelledError


async def exits(clock: VirtualClock) -> Any:
    sys.exit(3)


async def returns_no_json(clock: VirtualClock) -> Any:
    return {"x": object(), "y": float("nan")}


async def times_out_by_itself(clock: VirtualClock) -> Any:
    async with asyncio.timeout(2):
        await hangs(clock)


CASES: list[tuple[Body, str, str]] = [
    (raises, "error", "the page is gone"),
    (raises_at_once, "error", "OddError"),
    (hangs, "timeout", "no answer within 5 s"),
    (swallows_cancellation, "timeout", "no answer within 5 s; its tool did not stop when it was cancelled"),
    (cancels_itself, "cancelled", "the call was cancelled"),
    (exits, "error", "SystemExit: 3"),
    (returns_no_json, "error", "the tool returned what is neither text nor JSON"),
    (times_out_by_itself, "timeout", "TimeoutError"),
]


def tools(clock: VirtualClock, bad: Body) -> dict[str, Tool]:
    async def good(args: Mapping[str, Any]) -> str:
        await clock.sleep(2)
        return "fine"

    async def call(args: Mapping[str, Any]) -> Any:
        return await bad(clock)

    return {"good": Tool("good", "", OPEN, good), "bad": Tool("bad", "", OPEN, call, timeout_s=5)}


async def checked(plan: Plan, tools: Mapping[str, Tool], clock: Any, **how: Any) -> tuple[Execution, set[Any]]:
    """The execution, and the tasks that it left behind."""
    done = await execute(plan, tools, step=0, clock=clock, **how)
    await asyncio.sleep(0)
    return done, asyncio.all_tasks() - {asyncio.current_task()}


AROUND = Plan(
    (
        Node("before", "good"),
        Node("bad", "bad"),
        Node("beside", "good"),
        Node("needs-bad", "good", {}, ("beside", "bad")),
        Node("needs-that", "good", {"x": Ref("needs-bad")}, ("needs-bad",)),
        Node("needs-good", "good", {}, ("before", "beside")),
    )
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("bad", "status", "text"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_bad_call_harms_only_what_depends_on_it(bad: Body, status: str, text: str, mode: Mode) -> None:
    """Trap 10: no executor hangs, and none discards or cancels siblings."""
    clock = VirtualClock()
    told: list[Result] = []
    done, left = run_virtual(checked(AROUND, tools(clock, bad), clock, mode=mode, on_result=told.append), clock)
    by_node = {result.node: result for result in done.results}
    assert [result.node for result in done.results] == [node.id for node in AROUND.nodes]
    assert Counter(result.node for result in told) == Counter(node.id for node in AROUND.nodes)
    assert {by_node[name].status for name in ("before", "beside", "needs-good")} == {"ok"}
    assert by_node["bad"].status == status and by_node["bad"].text.startswith(text)
    assert by_node["needs-bad"].status == by_node["needs-that"].status == "skipped"
    assert by_node["needs-bad"].text == f'not run: "bad", which it depends on, ended as {status}'
    assert by_node["needs-that"].attempts == 0
    stubborn = bad is swallows_cancellation
    assert done.abandoned == (("bad",) if stubborn else ()) and len(left) == stubborn


@pytest.mark.timeout(20)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_plan_gets_wrong_is_an_error_of_its_nodes_and_never_a_hang(mode: Mode) -> None:
    clock = VirtualClock()
    plan = Plan(
        (
            Node("ok", "good"),
            Node("unknown", "god"),
            Node("nothing", "good", {}, ("okk",)),
            Node("self", "good", {"x": Ref("self")}),
            Node("a", "good", {}, ("b",)),
            Node("b", "good", {}, ("a",)),
            Node("behind", "good", {}, ("a",)),
            Node("broken", "good", {}, (), "{not json"),
            Node("after", "good", {}, ("ok",)),
        )
    )
    done, left = run_virtual(checked(plan, tools(clock, raises), clock, mode=mode), clock)
    by_node = {result.node: result for result in done.results}
    assert {name for name, result in by_node.items() if result.status == "ok"} == {"ok", "after"}
    assert 'did you mean "good"?' in by_node["unknown"].text and '"okk"' in by_node["nothing"].text
    assert all("circle" in by_node[name].text for name in ("self", "a", "b"))
    assert "{not json" in by_node["broken"].text and not left


@pytest.mark.parametrize("mode", MODES)
def test_the_deadline_times_out_what_runs_and_cancels_what_does_not(mode: Mode) -> None:
    clock = VirtualClock()
    plan = Plan((Node("a", "good"), Node("b", "bad"), Node("c", "good", {}, ("a",)), Node("d", "good", {}, ("b",))))
    done, left = run_virtual(checked(plan, tools(clock, hangs), clock, mode=mode, deadline=3.0), clock)
    assert not left and clock.monotonic() == 3
    assert {
        "ready": ["ok", "timeout", "timeout", "skipped"],
        "levels": ["ok", "timeout", "cancelled", "skipped"],
        "sequential": ["ok", "timeout", "cancelled", "skipped"],
    }[mode] == [result.status for result in done.results]
    assert done.results[1].text == "stopped: the time for this step is used up"


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    clock = VirtualClock()
    done, _ = run_virtual(checked(AROUND, tools(clock, hangs), clock, deadline=-1.0), clock)
    assert {result.status for result in done.results} == {"cancelled", "skipped"}
    assert clock.monotonic() == 0 and {result.attempts for result in done.results} == {0}


def test_the_nearest_of_all_deadlines_counts_whatever_order_they_were_set_in() -> None:
    clock = VirtualClock()
    slow = tools(clock, hangs)["bad"]
    many = {f"t{s}": Tool(f"t{s}", "", OPEN, slow.call, timeout_s=float(s)) for s in (9, 2, 7, 4)}
    plan = Plan(tuple(Node(name, name) for name in many))
    done, _ = run_virtual(checked(plan, many, clock, deadline=8.0), clock)
    assert [result.ended for result in done.results] == [8, 2, 7, 4]


def test_fail_fast_stops_the_rest() -> None:
    clock = VirtualClock()
    done, left = run_virtual(checked(AROUND, tools(clock, raises), clock, fail_fast=True), clock)
    assert [result.status for result in done.results] == [
        "cancelled",
        "error",
        "cancelled",
        "skipped",
        "skipped",
        "skipped",
    ]
    assert not left and clock.monotonic() == 1


@pytest.mark.parametrize("error", [LimitExceeded("tokens", "used up"), InfraError("no box"), UserError("no such key")])
def test_what_is_no_affair_of_the_models_stops_all_and_is_raised(error: Exception) -> None:
    clock = VirtualClock()
    told: list[Result] = []

    async def fatal(clock: VirtualClock) -> Any:
        await clock.sleep(1)
        raise error

    async def main() -> int:
        with pytest.raises(type(error)) as caught:
            await execute(AROUND, tools(clock, fatal), step=0, clock=clock, on_result=told.append)
        assert caught.value is error
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert run_virtual(main(), clock) == 1
    assert len(told) == len(AROUND.nodes) and clock.monotonic() == 1


def test_a_tool_whose_schema_is_none_is_the_users_mistake() -> None:
    clock = VirtualClock()
    odd = {**tools(clock, hangs), "bad": Tool("bad", "", {"type": "objekt"}, tools(clock, hangs)["bad"].call)}
    with pytest.raises(UserError, match='"bad"'):
        run_virtual(checked(AROUND, odd, clock), clock)


def test_an_error_of_the_callers_own_ear_is_raised_after_all_is_stopped() -> None:
    clock = VirtualClock()

    def on_result(result: Result) -> None:
        raise LookupError(result.node)

    async def main() -> int:
        with pytest.raises(LookupError):
            await execute(AROUND, tools(clock, hangs), step=0, clock=clock, on_result=on_result)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert run_virtual(main(), clock) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [case[0] for case in CASES if case[0] is not swallows_cancellation])
def test_cancelled_at_any_point_every_call_has_one_result_and_nothing_is_left(bad: Body, mode: Mode) -> None:
    """Trap 8: every call has exactly one result for all points at which a run can be cut short."""
    for tenths in range(0, 160, 3):
        clock = VirtualClock()
        told: list[Result] = []

        async def main(
            clock: VirtualClock = clock, told: list[Result] = told, seconds: float = tenths / 10
        ) -> tuple[bool, int]:
            cut = False
            try:
                async with asyncio.timeout(seconds):
                    await execute(AROUND, tools(clock, bad), step=0, clock=clock, mode=mode, on_result=told.append)
            except TimeoutError:
                cut = True
            await asyncio.sleep(0)
            return cut, len(asyncio.all_tasks())

        cut, running = run_virtual(main(), clock)
        assert running == 1
        assert Counter(result.node for result in told) == Counter(node.id for node in AROUND.nodes)
        assert clock.monotonic() == pytest.approx(tenths / 10) or not cut


def test_a_cancelled_run_leaves_no_thread_and_no_process(tmp_path: Path) -> None:
    """Trap 14: real threads and real processes are gone once the run has been cancelled."""
    pids: list[int] = []

    async def process(args: Mapping[str, Any]) -> str:
        child = await asyncio.create_subprocess_exec("sleep", "60")
        pids.append(child.pid)
        try:
            await child.wait()
        finally:
            child.kill()
            await child.wait()
        return "done"

    def wait(stop: threading.Event) -> str:
        """Wait until told to stop."""
        stop.wait(60)
        return "stopped"

    both = {"process": Tool("process", "", OPEN, process), "wait": function_tool(wait)}
    plan = Plan(tuple(Node(f"n{i}", name, {}) for i, name in enumerate(["process", "wait"] * 3)))
    before = threading.active_count()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await execute(plan, both, step=0, clock=SystemClock())

    asyncio.run(main())
    assert len(pids) == 3 and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    limit = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < limit:
        threading.Event().wait(0.01)
    assert threading.active_count() <= before


def test_a_slow_clean_up_is_waited_for_within_the_grace_time() -> None:
    clock = VirtualClock()
    cleaned: list[float] = []

    async def tidy(clock: VirtualClock) -> Any:
        try:
            await hangs(clock)
        finally:
            await clock.sleep(0.9)
            cleaned.append(clock.monotonic())

    done, left = run_virtual(checked(Plan((Node("x", "bad"),)), tools(clock, tidy), clock), clock)
    assert cleaned == [5.9] and not left and not done.abandoned
    assert (done.results[0].status, done.results[0].text) == ("timeout", "no answer within 5 s")
