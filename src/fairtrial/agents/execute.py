"""The executor: runs a plan's graph of tool calls, each call as soon as what it needs has ended, and none is ever lost.

Every node ends in exactly one of five ways and has exactly one result; what befalls one call leaves its siblings alone.
Nothing polls: a bell rings when a call ends, when the next deadline is due, or when a plan that is still being written
brings a node. No result depends on which call ended first, except where a deadline or `fail_fast` cuts the plan short.

The levels of `mode="levels"` are GAP's (2510.25320, algorithm 1), the barrier that `ready` does without.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass

from fairtrial.agents.journal import Journal
from fairtrial.agents.log import Result
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.running import Conditions, Deadline, Mode, Run
from fairtrial.agents.scheduling import Latencies, Load
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import Clock


@dataclass(frozen=True, slots=True)
class Execution:
    """What a plan came to. Times are in seconds of the clock."""

    results: tuple[Result, ...]
    """One for each node, in the order of the plan."""
    makespan: float
    """From the start to the end of the last call."""
    critical_path: float
    """The longest chain of calls, each as long as it took in this very run: no scheduler can be faster."""
    work: float
    """All calls' time together: what they would take one at a time."""
    abandoned: tuple[str, ...] = ()
    """Nodes whose tool went on after it was cancelled and was left behind."""

    @property
    def ratio(self) -> float:
        """Makespan over critical path; 1 where there was nothing to do."""
        return self.makespan / self.critical_path if self.critical_path > 0 else 1.0


async def execute(
    plan: Plan | AsyncIterable[Node],
    tools: Mapping[str, Tool],
    *,
    step: int,
    clock: Clock,
    mode: Mode = "ready",
    workers: int | None = None,
    deadline: Deadline = None,
    fail_fast: bool = False,
    journal: Journal | None = None,
    run: str = "",
    on_result: Callable[[Result], None] | None = None,
    latencies: Latencies | None = None,
    load: Load | None = None,
    grace_s: float = 1.0,
) -> Execution:
    """Run a plan.

    Args:
        plan: Checked (`planners.checks`), or nodes as the model writes them: in mode "ready" pure and reading calls
            begin at once, writes when the last node has come: a turn that is refused must not have changed anything.
        tools: By name.
        step: Of the agent, from 0; part of every call's name.
        clock: For all times and waits.
        mode: See `Mode`.
        workers: Calls at once; None: as many as can run.
        deadline: Instant of the clock at which calls time out or are cancelled; a function is asked at the plan's end.
        fail_fast: Stop the rest after the first call that fails or times out.
        journal: Where attempts are recorded, or taken from.
        run: The run's name in the journal.
        on_result: Told each result as it comes, in order of completion; every node's, also when the plan is cut short.
        latencies: Kept by the caller over steps; tells which chain is likely the longest when workers are few.
        load: Kept by the caller over steps: what of each tool is under way counts against its `concurrency`.
        grace_s: How long a cancelled tool may take to stop before it is left behind.

    Returns:
        The results and the times.

    Raises:
        FairtrialError: Raised by a tool or the journal: no affair of the model's. All else is stopped first.
        ValueError: Two nodes with one id.
        asyncio.CancelledError: The caller was cancelled; all calls are stopped and their results told first.
        Exception: Whatever the stream of nodes or `on_result` raises; likewise.
    """
    whole = Plan(tuple([node async for node in plan])) if mode != "ready" and not isinstance(plan, Plan) else plan
    workers = 1 if mode == "sequential" else workers
    conditions = Conditions(
        step, clock, mode, workers, deadline, fail_fast, journal, run, on_result, latencies or Latencies(),
        load or Load(), grace_s,
    )  # fmt: skip
    under_way = Run(whole, tools, conditions)
    results = await under_way.drive()
    return Execution(
        results,
        makespan=under_way.last_end - under_way.began,
        critical_path=max((slot.path for slot in under_way.slots), default=0.0),
        work=sum(result.ended - result.started for result in results),
        abandoned=tuple(under_way.abandoned),
    )
