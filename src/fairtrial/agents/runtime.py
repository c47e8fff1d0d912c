"""The loop of an agent: policy renders, model answers, policy and planner read, executor runs, log grows.

Parse before acting: nothing of a turn is run unless both its fold and its plan could be read. All state is in the log,
so a run can be continued from any log, and the log of a cancelled run holds what had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fairtrial.agents.context.policy import ContextPolicy, WindowFullError
from fairtrial.agents.execute import Mode, execute
from fairtrial.agents.journal import Journal
from fairtrial.agents.log import (
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
)
from fairtrial.agents.planners.plan import Plan
from fairtrial.agents.planners.planner import Move, Planner, RejectedTurn
from fairtrial.agents.reader import Reader, derived_seed
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import Clock, Timer
from fairtrial.core.errors import LimitExceeded
from fairtrial.core.limits import Meter, Usage
from fairtrial.models.model import ContextTooLongError, Message, Model, Reply, Request, Sampling

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

    def begin(self, question: str, *, seed: int = 0, told: str = "") -> Log:
        """The log of a new run; `told` stands at the end of the system message (skills)."""
        offered = [*self.tools, self.reader.tool] if self.reader is not None else self.tools
        schemas = tuple(tool.schema for tool in offered)
        rules = "\n\n".join(part for part in (self.planner.rules(schemas), self.policy.rules, told) if part)
        return Log(Asked(question, schemas, rules, self.planner.native, seed))

    async def play(self, log: Log, *, run: str = "") -> Log:
        """Go on until there is an answer or the run has ended; returns the same log.

        `run` names the run in the journal. A run that ended without an answer ends with `Limited(last=False)`: its
        limit is "format" where the model's turns could not be read. Raises InfraError (a model's provider failed),
        UserError (what the model cannot do) and LimitExceeded (by a tool); cancelling leaves no task behind. The log
        then holds what had happened.
        """
        while not over(log):
            self._watch(log)
            await self._turn(log, run)
        return log

    async def _turn(self, log: Log, run: str) -> None:
        """One model turn: an accepted step with its results, a rejection, or the end."""
        try:
            await self._summarise(log)
            reply = await self._ask(log, self.policy.render(log))
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
            cut = " (your reply was cut off: it was too long)" if reply.finish == "length" else ""
            log.add(Rejected(error.code, f"{error}{cut}"))
            if len(log.pending) > self.budget.repairs:
                limited = log.limited if error.code == "no-answer" else None
                log.add(Limited(limited.limit if limited else "format", last=False))
            return
        log.add(Planned(len(log.steps), plan, turn.explanation, move.action))
        if move.answer is not None:
            log.add(Answered(whole(move.answer)))
            return
        await self._act(log, plan, run)

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

    async def _act(self, log: Log, plan: Plan, run: str) -> None:
        tools = {tool.name: tool for tool in self.tools}
        if self.reader is not None:
            tools[self.reader.tool.name] = self.reader.tool
        done = await execute(
            plan,
            tools,
            step=len(log.steps) - 1,
            clock=self.clock,
            mode=self.mode,
            workers=self.workers,
            deadline=self._deadline(),
            journal=self.journal,
            run=run,
        )
        for called in () if self.reader is None else self.reader.drain():
            log.add(called)
        for result in done.results:
            text = whole(result.text)
            log.add(result if text == result.text else replace(result, text=text, value=text))
        if self.reader is not None and self.reader.overrun is not None:
            _overrun(log, self.reader.overrun)

    async def _summarise(self, log: Log) -> None:
        """Bring about the summary that the policy wants now, if any; at most one before each turn."""
        digest = self.policy.digest(log)
        if digest is None:
            return
        text = ""
        try:
            reply = await self._ask(log, digest.messages, purpose="summary", tokens=digest.tokens)
            text = reply.text.strip()
            problem = "the summary is empty"
        except ContextTooLongError as error:
            problem = str(error)
        if not text:
            log.add(Noted("summary-failed", problem))
        log.add(Folded(digest.start, digest.end, text or digest.fallback))

    async def _ask(
        self, log: Log, messages: Sequence[Message], purpose: Purpose = "turn", tokens: int | None = None
    ) -> Reply:
        seed = derived_seed(log.asked.seed, purpose, len(log.steps), len(log.pending))
        sampling = self.sampling if tokens is None else self.sampling.model_copy(update={"max_tokens": tokens})
        request = Request(
            messages=tuple(messages),
            tools=log.asked.tools if log.asked.native and purpose == "turn" else (),
            sampling=sampling.model_copy(update={"seed": seed if "seed" in self.model.features else None}),
        )
        reply = await self.model.generate(request, timer=self.timer)
        reply = _whole_reply(reply)
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


def _whole_reply(reply: Reply) -> Reply:
    said = reply.message
    calls = tuple(
        call.model_copy(update={"name": whole(call.name), "arguments": whole(call.arguments)})
        for call in said.tool_calls
    )
    parts = {
        "content": whole(said.content),
        "reasoning": None if said.reasoning is None else whole(said.reasoning),
        "tool_calls": calls,
    }
    if all(getattr(said, name) == part for name, part in parts.items()):
        return reply
    return replace(reply, message=said.model_copy(update=parts))


def _overrun(log: Log, error: LimitExceeded) -> None:
    """A limit of the trial is overrun: what was paid for is read, and an answer is all that may follow."""
    if log.limited is None:
        log.add(Limited(error.limit))


def over(log: Log) -> bool:
    """Whether the run has ended: with an answer, or by a limit."""
    last = log.events[-1]
    return isinstance(last, Answered) or (isinstance(last, Limited) and not last.last)
