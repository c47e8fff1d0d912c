"""A worker whose trials are written down as rules: scores, times, usage and every fault that an engine must survive.

For tests, demos and calibration of the machinery itself; no model and no sandbox. `Work("fairtrial.engine.scripted:
open_worker", {"rules": [{"arm": "b", "success": 0.7}, {"fault": "infra", "attempts": [1]}]})`. The first rule that
fits a job decides; a job that none fits is scored by a fair coin. All draws come from the job's seed, so that every
engine sees the same trial.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import InfraError, StorageError, UserError
from fairtrial.core.ids import canonical_json
from fairtrial.core.limits import Usage
from fairtrial.core.record import BlobRef, Outcome, Record
from fairtrial.core.trajectory import MessageAction, Trajectory
from fairtrial.core.trial import Job, TrialContext

Fault = Literal[
    "infra",
    "bug",
    "user_error",
    "disk_full",
    "system_exit",
    "exit",
    "kill",
    "segfault",
    "ignore_cancel",
    "answer_cancel",
    "block",
    "wrong_key",
    "wrong_seed",
    "not_a_record",
    "not_json",
]


class Rule(Config):
    """What happens in the trials that fit: those of the arms, tasks, repeat and attempts named."""

    arm: str = "*"
    """Shell-style pattern."""
    task: str = "*"
    repeat: int | None = None
    attempts: tuple[int, ...] | None = None
    chance: float = Field(default=1.0, ge=0, le=1)
    """Share of the fitting attempts that the rule takes; the others go on to the next rule."""

    work_s: float = Field(default=0.0, ge=0)
    """Working seconds, asleep on the clock."""
    wait_s: float = Field(default=0.0, ge=0)
    """Seconds spent waiting for a provider."""
    outage: tuple[float, float] | None = None
    """While the clock is between these seconds from the worker's first trial, the provider answers 429."""
    on_outage: Literal["wait", "raise"] = "raise"
    """Whether the trial waits for the provider (not working time) or ends with an infrastructure error."""
    usage: Usage = Usage(calls=1, input_tokens=100, output_tokens=20)
    """Charged to the trial's meter."""

    reward: float | None = None
    """The score; None draws 0 or 1."""
    success: float = Field(default=0.5, ge=0, le=1)
    """Probability of a 1 in that draw."""
    pad: int = Field(default=0, ge=0)
    """Characters of message in the trajectory: how large a record is."""
    blob: int = Field(default=0, ge=0)
    """Bytes of an artifact."""

    fault: Fault | None = None
    """Happens after the waiting and the work. `exit`, `kill` and `segfault` end the process that runs the trial."""
    hang_s: float = Field(default=3600.0, ge=0)
    """How long `ignore_cancel`, `answer_cancel` and `block` last."""
    message: str = "a scripted fault"
    cause: str = "scripted"
    retryable: bool = True
    retry_after_s: float | None = None


class Script(Config):
    """The settings of a scripted worker."""

    rules: tuple[Rule, ...] = ()
    failed: float = 0.0
    """The score of a trial that failed."""
    journal: Path | None = None
    """A file that gets a line for each thing that happens: `open`, `start KEY`, `end KEY`, `cancel KEY`, `close`."""
    close: Literal["quick", "raise", "hang"] = "quick"


def open_worker(settings: Mapping[str, Any]) -> ScriptedWorker:
    """A worker from JSON settings (see `Script`). Raises UserError."""
    return ScriptedWorker(parse(Script, dict(settings), where="scripted worker"))


class ScriptedWorker:
    """Answers jobs by its script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._opened: float | None = None
        self._note("open")

    async def run(self, job: Job, context: TrialContext) -> Record:
        """Run one trial as the first fitting rule says."""
        if self._opened is None:
            self._opened = context.clock.monotonic()
        rule = next((rule for index, rule in enumerate(self._script.rules) if _fits(rule, index, job)), Rule())
        self._note(f"start {job.key}")
        try:
            await self._provider(rule, context, context.clock.monotonic() - self._opened)
            await context.clock.sleep(rule.work_s)
            context.meter.charge(rule.usage)
            if rule.fault is not None:
                await _fault(rule, context)
        except asyncio.CancelledError:
            self._note(f"cancel {job.key}")
            if rule.fault != "answer_cancel":
                raise
        record = self._record(rule, job, context)
        self._note(f"end {job.key}")
        return _twisted(rule, record)

    def failed_scores(self, job: Job) -> dict[str, float]:
        """The script's score for a trial that failed."""
        return {"reward": self._script.failed}

    async def close(self) -> None:
        """Write the last line of the journal."""
        self._note("close")
        if self._script.close == "raise":
            raise RuntimeError("a scripted failure to close")
        while self._script.close == "hang":
            await asyncio.sleep(3600)

    async def _provider(self, rule: Rule, context: TrialContext, age: float) -> None:
        """Wait for the provider, which may be down."""
        with context.timer.waiting():
            await context.clock.sleep(rule.wait_s)
            if rule.outage is None or not rule.outage[0] <= age < rule.outage[1]:
                return
            if rule.on_outage == "wait":
                await context.clock.sleep(rule.outage[1] - age)
                return
        raise InfraError("429 Too Many Requests", cause="provider", retry_after_s=rule.retry_after_s)

    def _record(self, rule: Rule, job: Job, context: TrialContext) -> Record:
        draw = _rng(job, "reward")
        reward = rule.reward if rule.reward is not None else float(draw.random() < rule.success)
        artifacts: dict[str, BlobRef] = {}
        if rule.blob:
            artifacts["scripted.bin"] = context.blobs.put(draw.randbytes(rule.blob))
        text = "".join(draw.choices("abcdefghij klmnop\n", k=rule.pad))
        trajectory = Trajectory(id=str(job.key), content=(MessageAction(content=text),)) if rule.pad else None
        return Record(
            key=job.key,
            seed=job.seed,
            outcome=Outcome.SCORED,
            scores={"reward": reward},
            trajectory=trajectory,
            artifacts=artifacts,
        )

    def _note(self, line: str) -> None:
        if self._script.journal is not None:
            with self._script.journal.open("a") as file:
                file.write(line + "\n")


def _rng(job: Job, *purpose: str | int) -> random.Random:
    """Draws that depend on the block and the purpose, never on the engine; the arm is not in it."""
    return random.Random(canonical_json([job.seed, *purpose]))  # noqa: S311 - a script, not a secret


def _fits(rule: Rule, index: int, job: Job) -> bool:
    key = job.key
    return (
        fnmatchcase(key.arm, rule.arm)
        and fnmatchcase(key.task, rule.task)
        and rule.repeat in (None, key.repeat)
        and (rule.attempts is None or key.attempt in rule.attempts)
        and (rule.chance >= 1 or _rng(job, "chance", index, key.arm, key.attempt).random() < rule.chance)
    )


async def _fault(rule: Rule, context: TrialContext) -> None:
    """Do what the rule's fault says; those of the answer itself come later."""
    if rule.fault == "infra":
        raise InfraError(rule.message, cause=rule.cause, retryable=rule.retryable, retry_after_s=rule.retry_after_s)
    if rule.fault == "user_error":
        raise UserError(rule.message)
    if rule.fault == "disk_full":
        raise StorageError(rule.message)
    if rule.fault == "bug":
        raise ZeroDivisionError(rule.message)
    if rule.fault == "system_exit":
        raise SystemExit(rule.message)
    if rule.fault == "exit":
        os._exit(3)
    if rule.fault in ("kill", "segfault"):
        os.kill(os.getpid(), signal.SIGKILL if rule.fault == "kill" else signal.SIGSEGV)
    if rule.fault == "block":
        time.sleep(rule.hang_s)
    if rule.fault == "answer_cancel":
        await context.clock.sleep(rule.hang_s)
    if rule.fault == "ignore_cancel":
        await _ignore_cancellation(context, rule.hang_s)


async def _ignore_cancellation(context: TrialContext, seconds: float) -> None:
    """Work on, whatever the engine says."""
    until = context.clock.monotonic() + seconds
    while (left := until - context.clock.monotonic()) > 0:
        try:
            await context.clock.sleep(left)
        except asyncio.CancelledError:
            continue


def _twisted(rule: Rule, record: Record) -> Any:
    """The record, or the wrong answer that the rule asks for."""
    if rule.fault == "wrong_key":
        return record.model_copy(update={"key": record.key.model_copy(update={"task": "another-task"})})
    if rule.fault == "wrong_seed":
        return record.model_copy(update={"seed": record.seed + 1})
    if rule.fault == "not_a_record":
        return {"reward": 1.0}
    if rule.fault == "not_json":
        return record.model_copy(update={"details": {"value": float("nan")}})
    return record
