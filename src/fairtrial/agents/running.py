"""One plan being run, from the first node to the last result; `execute` is the door to it."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from fairtrial.agents.alarms import Alarms
from fairtrial.agents.calling import Call, Outcome, perform
from fairtrial.agents.journal import Journal
from fairtrial.agents.log import Result, Status
from fairtrial.agents.planners.checks import ArgumentError, Validator, validator
from fairtrial.agents.planners.plan import Node, Plan, refs
from fairtrial.agents.resolve import UnresolvedError, resolve
from fairtrial.agents.scheduling import Latencies, Load, WriteOrder, levels, topological, upward_ranks
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import Clock
from fairtrial.core.errors import UserError, did_you_mean, one_line

Mode = Literal["ready", "levels", "sequential"]
"""When a call starts. ready: what it depends on has ended; levels: the level before has ended; sequential: alone."""

Deadline = float | Callable[[], float | None] | None
"""An instant of the clock, or what tells it once the plan is whole."""

_ALL, _GRACE = -1, -1
"""Among the alarms: the whole plan instead of a node; the end of the grace time instead of an attempt's."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a plan is run; see `execute`."""

    step: int
    clock: Clock
    mode: Mode
    workers: int | None
    deadline: Deadline
    fail_fast: bool
    journal: Journal | None
    run: str
    on_result: Callable[[Result], None] | None
    latencies: Latencies
    load: Load
    grace_s: float


@dataclass(slots=True)
class Slot:
    """A node and where it stands."""

    node: Node
    needs: tuple[str, ...]
    """Nodes that must end ok first."""
    tool: Tool | None
    arrived: float
    before: list[int] = field(default_factory=list[int])
    """All that must have ended first: what it depends on, and earlier writes."""
    after: list[int] = field(default_factory=list[int])
    missing: int = 0
    level: int = 0
    priority: float = 0.0
    broken: str | None = None
    admitted: bool = True
    """False: a write whose turn among the writes is not settled yet."""
    waits: bool = False
    """Could start but for its turn among the writes."""
    call: Call | None = None
    task: asyncio.Task[Outcome] | None = None
    stop: Outcome | None = None
    result: Result | None = None
    started: float = 0.0
    ended: float = 0.0
    left: bool = False
    """Its tool did not stop and was left behind."""
    path: float = 0.0
    """Seconds from the plan's start to this node's end if no call had ever waited for a scheduler."""


class Run:
    """One plan being run. All decisions are made in `drive`'s task; calls run in tasks of their own."""

    def __init__(self, plan: Plan | AsyncIterable[Node], tools: Mapping[str, Tool], conditions: Conditions) -> None:
        self.plan, self.tools, self.conditions = plan, tools, conditions
        self.step, self.clock, self.mode = conditions.step, conditions.clock, conditions.mode
        self.journal, self.on_result = conditions.journal, conditions.on_result
        self.slots: list[Slot] = []
        self.places: dict[str, int] = {}
        self.values: dict[str, object] = {}
        self.validators: dict[str, Validator] = {}
        self.expected: dict[str, list[int]] = {}
        self.writes: WriteOrder | None = None
        self.fresh: deque[int] = deque()
        self.heap: list[tuple[float, int]] = []
        self.parked: dict[str, list[tuple[float, int]]] = {}
        self.load = conditions.load
        self.running: dict[int, None] = {}
        self.finished: deque[int] = deque()
        self.held: dict[int, list[int]] = {}
        self.remaining: list[int] = []
        self.open_level = 0
        self.unsettled = 0
        self.abandoned: list[str] = []
        self.unstarted: Outcome | None = None
        """What becomes of calls that have not begun, once the plan is being stopped."""
        self.fatal: BaseException | None = None
        self.alarms = Alarms(self.clock, self._idle)
        self.feed: asyncio.Task[None] | None = None
        self.inbox: deque[Node] = deque()
        self.began = self.last_end = self.clock.monotonic()
        self.replays = self.journal is not None and self.journal.mode == "replay"
        if not callable(conditions.deadline):
            self._end_by(conditions.deadline)

    async def drive(self) -> tuple[Result, ...]:
        """Run to the end, or to the point where nothing is left running; then raise what cut it short."""
        self.load.bells.append(self._freed)
        try:
            self._open()
            while True:
                try:
                    self._advance()
                except UserError as error:
                    self._abort(error)
                    self._advance()
                if not self.unsettled and self.feed is None:
                    break
                try:
                    await self.alarms.wait()
                except asyncio.CancelledError as error:
                    if self.fatal is not None:
                        raise
                    self._abort(error)
        finally:
            self.load.bells.remove(self._freed)
            for task in (self.feed, *(self.slots[index].task for index in self.running)):
                if task is not None:
                    task.cancel()
            await self.alarms.close()
        if self.fatal is not None:
            raise self.fatal
        results = tuple(slot.result for slot in self.slots if slot.result is not None)
        assert len(results) == len(self.slots)
        return results

    # -- the plan comes in -------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if isinstance(self.plan, Plan):
            for node in self.plan.nodes:
                self._add(node)
            self._whole()
        else:
            self.feed = asyncio.create_task(self._read(self.plan))
            self.feed.add_done_callback(lambda _: self.alarms.ring())

    async def _read(self, nodes: AsyncIterable[Node]) -> None:
        async for node in nodes:
            self.inbox.append(node)
            self.alarms.ring()

    def _add(self, node: Node) -> None:
        """Take in a node; what it depends on may come later."""
        if node.id in self.places:
            raise ValueError(f'two nodes have the id "{node.id}"')
        index = self.places[node.id] = len(self.slots)
        needs = tuple(dict.fromkeys((*node.deps, *(ref.node for ref in refs(node.args)))))
        arrived = self.began if self.feed is None else self.clock.monotonic()
        slot = Slot(node, needs, self.tools.get(node.tool), arrived)
        slot.admitted = slot.tool is None or slot.tool.effect != "write"
        self.slots.append(slot)
        self.unsettled += 1
        for name in needs:
            if name in self.places:
                self._link(self.places[name], index)
            else:
                self.expected.setdefault(name, []).append(index)
                slot.missing += 1
        for waiting in self.expected.pop(node.id, ()):
            self.slots[waiting].missing -= 1
            self._link(index, waiting)
        if self.feed is not None and not slot.missing:
            self.fresh.append(index)

    def _link(self, earlier: int, later: int) -> None:
        self.slots[later].before.append(earlier)
        if self.slots[earlier].result is None:
            self.slots[earlier].after.append(later)
            self.slots[later].missing += 1

    def _whole(self) -> None:
        """The plan is complete: orders over all of it can be made."""
        if callable(self.conditions.deadline):
            self._end_by(self.conditions.deadline())
        for name, waiting in self.expected.items():
            for index in waiting:
                self.slots[index].broken = f'it depends on "{name}", which is no node{did_you_mean(name, self.places)}'
                self.slots[index].missing -= 1
                if self.feed is not None and not self.slots[index].missing:
                    self.fresh.append(index)
        self.expected = {}
        before = [slot.before for slot in self.slots]
        order = topological(before)
        if self.mode == "levels":
            level = levels(order, before)
            self.remaining = [0] * (1 + max(level, default=0))
            for slot in self.slots:
                slot.level = -1
            for index in order:
                self.slots[index].level = level[index]
                self.remaining[level[index]] += 1
            order.sort(key=lambda index: self.slots[index].level)
        if self.mode != "sequential":
            expected = [self.conditions.latencies.mean(slot.node.tool) for slot in self.slots]
            for slot, rank in zip(self.slots, upward_ranks(order, before, expected), strict=True):
                slot.priority = -rank
        self.writes = WriteOrder([index for index in order if not self.slots[index].admitted])
        for index, slot in enumerate(self.slots):
            if not slot.admitted and (
                slot.result is not None or slot.waits or next(refs(slot.node.args), None) is None
            ):
                self._know(index)
        self._admit()
        if self.feed is None:
            self.fresh.extend(index for index, slot in enumerate(self.slots) if not slot.missing)

    # -- from one end to the next starts -----------------------------------------------------------------------------

    def _advance(self) -> None:
        """Settle what has ended and start what can start, until nothing more follows from it."""
        self._take_in()
        while self.finished:
            self._collect(self.finished.popleft())
        self._ring()
        while self.fresh or self._may_start():
            while self.fresh:
                self._unblock(self.fresh.popleft())
            if self._may_start():
                self._start_next()
        if self.unsettled and not self.running and self.feed is None:
            for index, slot in enumerate(self.slots):
                if slot.result is None:
                    self._settle(index, Outcome("error", "it waits for itself: the dependencies go round in a circle"))

    def _take_in(self) -> None:
        if self.feed is None:
            return
        try:
            while self.inbox and self.unstarted is None:
                self._add(self.inbox.popleft())
        except ValueError as error:
            self._abort(error)
        if not self.feed.done():
            return
        feed, error = self.feed, None
        if not feed.cancelled():
            error = feed.exception()
        if error is not None:
            self._abort(error)
        self._whole()
        self.feed = None

    def _may_start(self) -> bool:
        return bool(self.heap) and (
            self.unstarted is not None or self.conditions.workers is None or len(self.running) < self.conditions.workers
        )

    def _unblock(self, index: int) -> None:
        """All that the node waits for has ended: it is skipped, refused, or lined up."""
        slot = self.slots[index]
        if slot.result is not None:
            return
        if self.mode == "levels" and slot.level > self.open_level:
            self.held.setdefault(slot.level, []).append(index)
            return
        outcome = self._hindered(slot)
        if outcome is not None:
            self._settle(index, outcome)
            return
        if not slot.admitted:
            slot.waits = True
            self._know(index)
            self._admit()
            return
        heapq.heappush(self.heap, (slot.priority, index))

    def _hindered(self, slot: Slot) -> Outcome | None:
        """Why a node whose turn has come will not run; else its call is made ready."""
        for name in slot.needs:
            result = self.slots[self.places[name]].result if name in self.places else None
            if result is not None and result.status != "ok":
                return Outcome("skipped", f'not run: "{name}", which it depends on, ended as {result.status}')
        if self.unstarted is not None:
            return self.unstarted
        if slot.broken is not None:
            return Outcome("error", slot.broken)
        if self.journal is not None and self.journal.mode != "record":
            never = self.journal.never_started(self._unstarted_key(slot))
            if never is not None:
                return Outcome(never.status, never.text)
        if slot.call is None:
            try:
                self._prepare(slot)
            except (ArgumentError, UnresolvedError) as error:
                return Outcome("error", str(error))
        return None

    def _prepare(self, slot: Slot) -> None:
        """Resolve and check the arguments."""
        node, tool = slot.node, slot.tool
        if tool is None:
            raise ArgumentError(f'there is no tool "{node.tool}"{did_you_mean(node.tool, self.tools)}')
        if node.malformed is not None:
            raise ArgumentError(f"the arguments are no JSON object: {node.malformed[:200]}")
        args = resolve(node.args, self.values)
        if tool.name not in self.validators:
            self.validators[tool.name] = validator(tool.schema)
        self.validators[tool.name](args)
        slot.call = Call(self.conditions.run, f"{self.step}/{node.id}", tool, args)

    def _know(self, index: int) -> None:
        """Tell the order of writes what this one touches, as soon as it is known."""
        slot = self.slots[index]
        if self.writes is None:
            return
        if slot.result is not None:
            self.writes.know(index, None)
            return
        try:
            if slot.call is None:
                self._prepare(slot)
            assert slot.call is not None and slot.tool is not None
            self.writes.know(index, tuple(slot.tool.keys(slot.call.args)))
        except (ArgumentError, UnresolvedError):
            self.writes.know(index, None)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - the tool's own function
            slot.broken = f'what "{slot.node.tool}" touches cannot be told: {one_line(error)}'
            self.writes.know(index, None)
            if slot.waits:
                self._settle(index, Outcome("error", slot.broken))

    def _admit(self) -> None:
        if self.writes is None:
            return
        for index, before in self.writes.admit():
            slot = self.slots[index]
            slot.admitted = True
            for earlier in sorted(before.difference(slot.before)):
                self._link(earlier, index)
            if slot.waits and not slot.missing:
                self.fresh.append(index)

    def _start_next(self) -> None:
        entry = heapq.heappop(self.heap)
        index = entry[1]
        slot = self.slots[index]
        call, tool = slot.call, slot.tool
        if slot.result is not None:
            return
        assert call is not None and tool is not None
        if self.unstarted is not None:
            self._settle(index, self.unstarted)
            return
        if tool.concurrency is not None and self.load.busy[tool.name] >= tool.concurrency:
            if self.load.left[tool.name] >= tool.concurrency:
                self._settle(index, Outcome("error", "not started: its tool still works on calls that did not stop"))
            else:
                heapq.heappush(self.parked.setdefault(tool.name, []), entry)
            return
        self.load.busy[tool.name] += 1
        self.running[index] = None
        slot.started = self.clock.monotonic()
        slot.task = asyncio.create_task(self._timed(slot, call))
        slot.task.add_done_callback(partial(self._ended, index))

    async def _timed(self, slot: Slot, call: Call) -> Outcome:
        slot.started = self.clock.monotonic()
        try:
            return await perform(call, self.clock, self.journal, partial(self._begin, self.places[slot.node.id]))
        finally:
            slot.ended = self.clock.monotonic()

    def _begin(self, index: int, call: Call) -> None:
        """An attempt goes to the tool: its time runs."""
        if call.tool.timeout_s is not None:
            self.alarms.set(self.clock.monotonic() + call.tool.timeout_s, index, call.attempt)

    def _ended(self, index: int, task: asyncio.Task[Outcome]) -> None:
        if not task.cancelled():
            task.exception()
        slot = self.slots[index]
        self.load.free(slot.node.tool, left=slot.left)
        self.finished.append(index)
        self.alarms.ring()

    def _freed(self, tool: str) -> None:
        """One more call of a tool may run."""
        if self.parked.get(tool):
            heapq.heappush(self.heap, heapq.heappop(self.parked[tool]))
            self.alarms.ring()

    # -- ends --------------------------------------------------------------------------------------------------------

    def _collect(self, index: int) -> None:
        """Settle a call whose task has ended."""
        slot, task = self.slots[index], self.slots[index].task
        assert task is not None
        error = None if task.cancelled() else task.exception()
        if slot.result is not None:
            return
        del self.running[index]
        if slot.stop is not None:
            self._settle(index, slot.stop)
        elif task.cancelled():
            self._settle(index, Outcome("cancelled", "the call was cancelled"))
        elif error is not None:
            self._settle(index, Outcome("error", one_line(error)))
            self._abort(error)
        else:
            self._settle(index, task.result())

    def _settle(self, index: int, outcome: Outcome) -> None:
        """Give the node its one result and let go what waited for it."""
        slot = self.slots[index]
        assert slot.result is None
        now = self.clock.monotonic()
        started = now if slot.task is None else slot.started
        ended = now if slot.task is None else slot.ended or now
        attempts = 0 if slot.call is None else slot.call.attempt
        status, text, value = outcome.status, outcome.text, outcome.value
        slot.result = Result(self.step, slot.node.id, status, text, value, attempts, started, ended)
        slot.path = ended - started + max((self.slots[earlier].path for earlier in slot.before), default=0.0)
        slot.path = max(slot.path, slot.arrived - self.began + ended - started)
        self.unsettled -= 1
        if status == "ok":
            self.values[slot.node.id] = value
            self.conditions.latencies.add(slot.node.tool, ended - started)
        if slot.task is not None:
            self.last_end = max(self.last_end, ended)
        if slot.call is not None:
            slot.call.closed = True
        for follower in slot.after:
            self.slots[follower].missing -= 1
            if not self.slots[follower].missing:
                self.fresh.append(follower)
        if not slot.admitted:
            self._know(index)
            self._admit()
        self._leave_level(slot)
        if outcome in (slot.stop, self.unstarted):
            self._record(slot, outcome)
        if self.on_result is not None:
            try:
                self.on_result(slot.result)
            except Exception as error:  # noqa: BLE001 - raised again when all is stopped
                self.on_result = None
                self._abort(error)
        if self.conditions.fail_fast and not self.replays and status in ("error", "timeout"):
            self._stop_all("cancelled", "another call of this step failed")

    def _leave_level(self, slot: Slot) -> None:
        if self.mode != "levels" or slot.level < 0:
            return
        self.remaining[slot.level] -= 1
        while self.open_level < len(self.remaining) and not self.remaining[self.open_level]:
            self.open_level += 1
            self.fresh.extend(self.held.pop(self.open_level, ()))

    def _record(self, slot: Slot, outcome: Outcome) -> None:
        """Journal what the executor, not the tool, made of a call; not where the run itself was cut short."""
        if self.journal is None or self.fatal is not None:
            return
        call, path = slot.call, f"{self.step}/{slot.node.id}"
        key = call.key if call is not None and call.attempt else self._unstarted_key(slot)
        self.journal.end(key, path, outcome.status, outcome.text, final=True)

    def _unstarted_key(self, slot: Slot) -> str:
        assert self.journal is not None
        return self.journal.key(self.conditions.run, f"{self.step}/{slot.node.id}", slot.node.tool, None, 0)

    # -- stopping ----------------------------------------------------------------------------------------------------

    def _stop(self, index: int, outcome: Outcome) -> None:
        """Cancel a running call; it has the grace time to end."""
        slot = self.slots[index]
        if slot.stop is None and slot.task is not None:
            slot.stop = outcome
            slot.task.cancel()
            self.alarms.set(self.clock.monotonic() + self.conditions.grace_s, index, _GRACE)

    def _stop_all(self, status: Status, why: str) -> None:
        """Cancel what runs and start nothing more."""
        if self.unstarted is not None:
            return
        self.unstarted = Outcome("cancelled", f"not started: {why}")
        for index in self.running:
            self._stop(index, Outcome(status, f"stopped: {why}"))
        for waiting in self.parked.values():
            while waiting:
                heapq.heappush(self.heap, waiting.pop())
        if self.feed is not None:
            self.feed.cancel()
            self.alarms.set(self.clock.monotonic() + self.conditions.grace_s, _ALL, _GRACE)

    def _abort(self, error: BaseException) -> None:
        """Stop all, then raise `error`."""
        self.fatal = self.fatal or error
        self._stop_all("cancelled", "the run was cut short")

    def _end_by(self, deadline: float | None) -> None:
        if deadline is not None and not self.replays:
            self.alarms.set(deadline, _ALL, 0)

    # -- time --------------------------------------------------------------------------------------------------------

    def _idle(self, index: int, attempt: int) -> bool:
        """Whether an alarm has nothing to say any more."""
        if index == _ALL:
            return attempt == _GRACE and self.feed is None
        slot = self.slots[index]
        if slot.result is not None or attempt == _GRACE:
            return slot.result is not None
        return slot.stop is not None or slot.call is None or slot.call.attempt != attempt

    def _ring(self) -> None:
        """Do what the alarms that are due ask for."""
        for index, attempt in self.alarms.due():
            if index == _ALL and attempt == _GRACE:
                self._whole()
                self.feed = None
            elif index == _ALL:
                self._stop_all("timeout", "the time for this step is used up")
            elif attempt == _GRACE:
                self._abandon(index)
            else:
                tool = self.slots[index].tool
                assert tool is not None
                self._stop(index, Outcome("timeout", f"no answer within {tool.timeout_s:g} s"))

    def _abandon(self, index: int) -> None:
        """Leave behind a call whose tool does not stop."""
        slot = self.slots[index]
        assert slot.stop is not None
        slot.stop = Outcome(slot.stop.status, f"{slot.stop.text}; its tool did not stop when it was cancelled")
        slot.left = True
        self.abandoned.append(slot.node.id)
        name = slot.node.tool
        self.load.left[name] += 1
        for entry in self.parked.pop(name, ()):
            heapq.heappush(self.heap, entry)
        del self.running[index]
        self._settle(index, slot.stop)
