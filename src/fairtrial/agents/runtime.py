"""The loop of an agent: policy renders, model answers, policy and planner read, executor runs, log grows.

Parse before acting: nothing of a turn is run unless both its fold and its plan could be read. All state is in the log,
so a run can be continued from any log, and the log of a cancelled run holds what had happened. Where turns are
streamed, calls that change nothing begin while the model still writes; log and prompts stay the same.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fairtrial.agents.context import tags
from fairtrial.agents.context.policy import ContextPolicy, WindowFullError
from fairtrial.agents.execute import Execution, Mode, execute
from fairtrial.agents.journal import Journal
from fairtrial.agents.log import (
    WASTED,
    Answered,
    Asked,
    Called,
    Folded,
    FoldError,
    Limited,
    Log,
    Noted,
    Planned,
    Rejected,
    Result,
)
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.planners.planner import Move, Planner, RejectedTurn
from fairtrial.agents.reader import Reader, derived_seed
from fairtrial.agents.scheduling import Latencies, Load
from fairtrial.agents.simulated import SimulatedClock, held
from fairtrial.agents.streaming import Ahead, begins_inside
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import Clock, Timer
from fairtrial.core.errors import InfraError, LimitExceeded, one_line
from fairtrial.core.limits import Meter, Usage
from fairtrial.models.model import ContextTooLongError, Delta, Message, Model, Reply, Request, Sampling

Purpose = Literal["turn", "summary"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may use beside the trial's own limits (the meter's)."""

    turns: int = 30
    """Accepted turns; the last of them must answer."""
    tool_calls: int | None = None
    """Nodes over all plans."""
    repairs: int = 3
    """Tries after a turn that could not be read, for each turn."""
    seconds: float | None = None
    """Working seconds of the timer, the last answer included."""


def begin(
    question: str, tools: Sequence[Tool], planner: Planner, policy: ContextPolicy, *, seed: int = 0, told: str = ""
) -> Log:
    """The log of a new run; `told` stands at the end of the system message (skills)."""
    schemas = tuple(tool.schema for tool in tools)
    rules = "\n\n".join(part for part in (planner.rules(schemas), policy.rules, told) if part)
    return Log(Asked(question, schemas, rules, planner.native, seed))


@dataclass(slots=True)
class Runtime:
    """An agent, ready to work on one task."""

    model: Model
    policy: ContextPolicy
    planner: Planner
    tools: Sequence[Tool]
    clock: Clock
    budget: Budget = field(default_factory=Budget)
    mode: Mode = "ready"
    workers: int | None = None
    """Nodes that run at once."""
    sampling: Sampling = field(default_factory=Sampling)
    """Of the model's turns; the seed is set for each call."""
    reader: Reader | None = None
    """Offers `read(question, document)`."""
    meter: Meter | None = None
    timer: Timer | None = None
    journal: Journal | None = None
    streaming: bool = False
    """Where model and planner can: pure and reading calls begin while the model still writes the turn; mode "ready"."""
    latencies: Latencies = field(default_factory=Latencies)
    load: Load = field(default_factory=Load)

    def begin(self, question: str, *, seed: int = 0, told: str = "") -> Log:
        """The log of a new run; `told` stands at the end of the system message (skills)."""
        offered = [*self.tools, self.reader.tool] if self.reader is not None else self.tools
        return begin(question, offered, self.planner, self.policy, seed=seed, told=told)

    async def play(self, log: Log, *, run: str = "") -> Log:
        """Go on until there is an answer or the run has ended; returns the same log.

        `run` names the run in the journal. A run that ended without an answer ends with `Limited(last=False)`: its
        limit is "format" where the model's turns could not be read. Raises InfraError (a model's provider failed),
        UserError (what the model cannot do); cancelling leaves no task behind. The log then holds what had happened.
        """
        while not over(log):
            self._watch(log)
            await self._turn(log, run)
        return log

    async def _turn(self, log: Log, run: str) -> None:
        """One model turn: an accepted step with its results, a rejection, or the end."""
        run = f"{run} try {len(log.pending)}" if log.pending else run
        try:
            await self._summarise(log)
            prompt, ahead = self.policy.render(log), self._ahead(log, run)
            reply = await self._hear(log, prompt, ahead)
        except (WindowFullError, ContextTooLongError):
            log.add(Limited("window", last=log.limited is None))
            return
        try:
            turn = self.policy.read(reply.text, log)
            move = self.planner.read(turn.rest, reply.message.tool_calls, log.asked.tools)
            plan = self._allowed(log, move)
            if turn.fold is not None:
                log.add(replace(turn.fold, text=whole(turn.fold.text)))
        except (RejectedTurn, FoldError) as error:
            await self._drop(log, ahead)
            cut = " (your reply was cut off: it was too long)" if reply.finish == "length" else ""
            log.add(Rejected(error.code, f"{error}{cut}"))
            if len(log.pending) > self.budget.repairs:
                limited = log.limited if error.code == "no-answer" else None
                log.add(Limited(limited.limit if limited else "format", last=False))
            return
        if ahead is not None and not ahead.fits(plan):
            await self._drop(log, ahead)
        log.add(Planned(len(log.steps), plan, turn.explanation, move.action, self.clock.monotonic()))
        if move.answer is not None:
            log.add(Answered(whole(move.answer)))
            return
        await self._act(log, plan, run, ahead)

    def _allowed(self, log: Log, move: Move) -> Plan:
        """The move's plan. Raises RejectedTurn for one that the rules of the run forbid."""
        if move.answer is not None:
            return Plan()
        if log.limited is not None:
            raise RejectedTurn("no-answer", "give your final answer now; no tool can be called any more")
        if move.plan is None or not move.plan.nodes:
            raise RejectedTurn("empty", "your turn calls no tool and gives no answer: do one of both")
        if (left := self._calls_left(log)) is not None and len(move.plan.nodes) > left:
            raise RejectedTurn("tool-limit", f"you plan {len(move.plan.nodes)} calls, {left} are left: plan fewer")
        return move.plan

    async def _act(self, log: Log, plan: Plan, run: str, ahead: Ahead | None) -> None:
        told: dict[str, Result] = {} if ahead is None else ahead.results
        ended: LimitExceeded | None = None
        if self.reader is not None:
            self.reader.settle()
        try:
            if ahead is None or not await ahead.go_on(plan):
                await self._execute(plan, len(log.steps) - 1, run, lambda one: told.update({one.node: one}))
        except LimitExceeded as error:
            ended = error
        self._read_on(log)
        for result in (told.get(node.id) or _cut_short(len(log.steps) - 1, node) for node in plan.nodes):
            text = whole(result.text)
            log.add(result if text == result.text else replace(result, text=text, value=text))
        if self.reader is not None and self.reader.overrun is not None:
            _overrun(log, self.reader.overrun)
        if ended is not None:
            log.add(Limited(ended.limit, last=False))

    def _execute(
        self, plan: Plan | AsyncIterator[Node], step: int, run: str, on_result: Callable[[Result], None]
    ) -> Coroutine[Any, Any, Execution]:
        tools = {tool.name: tool for tool in self.tools}
        if self.reader is not None:
            tools[self.reader.tool.name] = self.reader.tool
        return execute(
            plan,
            tools,
            step=step,
            clock=self.clock,
            mode=self.mode,
            workers=self.workers,
            deadline=self._deadline,
            journal=self.journal,
            run=run,
            on_result=on_result,
            latencies=self.latencies,
            load=self.load,
        )

    # -- turns that are streamed -------------------------------------------------------------------------------------

    def _ahead(self, log: Log, run: str) -> Ahead | None:
        """What may begin while the next turn is written; None where nothing may."""
        so_far = getattr(self.planner, "nodes_so_far", None)
        replays = self.journal is not None and self.journal.mode == "replay"
        if not self.streaming or so_far is None or self.mode != "ready" or replays or log.limited is not None:
            return None
        if "stream" not in self.model.features:
            return None
        left, step = self._calls_left(log), len(log.steps)

        def nodes(text: str) -> tuple[Node, ...]:
            try:
                self.policy.read(text, log)
            except (RejectedTurn, FoldError):
                return ()
            return so_far(text, log.asked.tools)[:left]

        def begin(plan: AsyncIterator[Node], told: Callable[[Result], None]) -> Coroutine[Any, Any, Execution]:
            if self.reader is not None:
                self.reader.owed = []
            return self._execute(plan, step, run, told)

        said = [message for message, _ in log.pending[-1:]] or [step.message for step in log.steps[-1:]]
        return Ahead(nodes, begin, inside=any(begins_inside(message.content) for message in said))

    async def _hear(self, log: Log, messages: Sequence[Message], ahead: Ahead | None) -> Reply:
        if ahead is None:
            return await self._ask(log, messages)
        try:
            with held(self.clock):
                return await self._ask(log, messages, on_delta=ahead.hear)
        except BaseException:
            await self._drop(log, ahead)
            raise

    async def _drop(self, log: Log, ahead: Ahead | None) -> None:
        """Stop and note what was begun for a turn that is not to be."""
        begun = [] if ahead is None else await ahead.stop()
        if self.reader is not None:
            self.reader.settle()
            self._read_on(log)
            if self.reader.overrun is not None:
                _overrun(log, self.reader.overrun)
        for node, result in begun:
            log.add(Noted(WASTED, f'{node.tool} was begun as "{node.id}" and ended as {result.status}'))

    def _read_on(self, log: Log) -> None:
        """The readers' calls since the last time."""
        for called in () if self.reader is None else self.reader.drain():
            log.add(called)

    # -- calls of the model ------------------------------------------------------------------------------------------

    async def _summarise(self, log: Log) -> None:
        """Bring about the summary that the policy wants now, if any; at most one before each turn."""
        digest = self.policy.digest(log)
        if digest is None:
            return
        text = ""
        try:
            reply = await self._ask(log, digest.messages, purpose="summary", tokens=digest.tokens)
            text = tags.apart(reply.text)[0].strip()
            problem = "the summary is empty"
        except (ContextTooLongError, InfraError) as error:
            problem = one_line(error)
        if not text:
            log.add(Noted("summary-failed", problem))
        log.add(Folded(digest.start, digest.end, text or digest.fallback))

    async def _ask(
        self,
        log: Log,
        messages: Sequence[Message],
        purpose: Purpose = "turn",
        tokens: int | None = None,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> Reply:
        seed = derived_seed(log.asked.seed, purpose, len(log.steps), len(log.pending))
        sampling = self.sampling if tokens is None else self.sampling.model_copy(update={"max_tokens": tokens})
        request = Request(
            messages=tuple(messages),
            tools=log.asked.tools if log.asked.native and purpose == "turn" else (),
            sampling=sampling.model_copy(update={"seed": seed if "seed" in self.model.features else None}),
        )
        reply = await self.model.generate(request, on_delta=on_delta, timer=self.timer)
        reply = _whole_reply(reply, log)
        log.add(Called(request, reply, purpose))
        try:
            if self.meter is not None:
                self.meter.charge(reply.usage)
        except LimitExceeded as error:
            _overrun(log, error)
        return reply

    def _watch(self, log: Log) -> None:
        """Ask for the answer where the next turn is the last that a limit has room for."""
        if log.limited is not None:
            return
        if len(log.steps) >= self.budget.turns - 1:
            log.add(Limited("turns"))
        elif self._calls_left(log) == 0:
            log.add(Limited("tool_calls"))
        elif (limit := self._metered(log)) is not None:
            log.add(Limited(limit))

    def _metered(self, log: Log) -> str | None:
        """The limit that one more call like the largest of this run, and then the answer, would overrun."""
        seconds = self.budget.seconds
        if self.timer is not None and seconds is not None and self.timer.working_s >= seconds - self._reserve():
            return "seconds"
        if self.meter is None:
            return None
        largest = max((called.reply.usage for called in log.calls()), key=lambda usage: usage.tokens, default=Usage())
        turn = largest.model_copy(update={"calls": 1})
        return self.meter.limits.exceeded_by(self.meter.usage + turn + turn)

    def _calls_left(self, log: Log) -> int | None:
        if self.budget.tool_calls is None:
            return None
        return self.budget.tool_calls - sum(len(step.planned.plan.nodes) for step in log.steps)

    def _reserve(self) -> float:
        """Seconds that are kept for the last answer."""
        return 0.0 if self.budget.seconds is None else min(2.0, 0.25 * self.budget.seconds)

    def _deadline(self) -> float | None:
        """When the tools of this step must be done, on the run's clock; simulated tools take no working time."""
        if self.budget.seconds is None or self.timer is None or isinstance(self.clock, SimulatedClock):
            return None
        return self.clock.monotonic() + max(0.0, self.budget.seconds - self._reserve() - self.timer.working_s)


def whole(text: str) -> str:
    """A text that can be sent and stored: halves of characters, which JSON lets through, become question marks."""
    return text.encode("utf-8", "replace").decode()


def _whole_reply(reply: Reply, log: Log) -> Reply:
    """With texts that UTF-8 can write, and with calls whose ids no earlier call of the run has.

    Some servers number the calls of each reply from 0 again, or give no ids. An id is a name and nothing that was
    sampled, so the token ids stay what they are.
    """
    said = reply.message
    ids = _new_ids([call.id for call in said.tool_calls], log)
    calls = tuple(
        call.model_copy(update={"id": id_, "name": whole(call.name), "arguments": whole(call.arguments)})
        for id_, call in zip(ids, said.tool_calls, strict=True)
    )
    parts = {
        "content": whole(said.content),
        "reasoning": None if said.reasoning is None else whole(said.reasoning),
        "tool_calls": calls,
    }
    if all(getattr(said, name) == part for name, part in parts.items()):
        return reply
    return replace(reply, message=said.model_copy(update=parts))


def _new_ids(ids: list[str], log: Log) -> list[str]:
    taken = {call.id for called in log.calls() for call in called.reply.message.tool_calls} if ids else set[str]()
    if all(ids) and len(set(ids)) == len(ids) and taken.isdisjoint(ids):
        return ids
    free = (name for n in itertools.count(1) if (name := f"call_{len(taken) + n}") not in taken)
    return list(itertools.islice(free, len(ids)))


def _cut_short(step: int, node: Node) -> Result:
    """Of a node that had not even come when the run was ended."""
    return Result(step, node.id, "cancelled", "not started: the run was cut short", attempts=0)


def _overrun(log: Log, error: LimitExceeded) -> None:
    """A limit of the trial is overrun: what was paid for is read, and an answer is all that may follow."""
    if log.limited is None:
        log.add(Limited(error.limit))


def over(log: Log) -> bool:
    """Whether the run has ended: with an answer, or by a limit."""
    last = log.events[-1]
    return isinstance(last, Answered) or (isinstance(last, Limited) and not last.last)
