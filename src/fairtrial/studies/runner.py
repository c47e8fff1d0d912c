"""Runner: from a bound study to records in a run directory; resumes, keeps the budget, drains on the first Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fairtrial.core import registry
from fairtrial.core.clock import Clock, SystemClock
from fairtrial.core.errors import UserError
from fairtrial.core.ids import seed
from fairtrial.core.places import cache_folder
from fairtrial.core.record import Outcome, Record, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.core.trial import Engine, EngineOptions, EngineRun, Job, TaskInfo
from fairtrial.engine.attempt import NOT_RETRYABLE
from fairtrial.store import Done, RunDir, RunWriter
from fairtrial.studies.analysis import mde_before
from fairtrial.studies.budget import Budget
from fairtrial.studies.claims import check_claims
from fairtrial.studies.plan import check_same, manifest, planned
from fairtrial.studies.study import BoundStudy

_IN_WRITING = 256
"""Records that may wait for their fsync at once."""


class Progress(Protocol):
    """Who watches a run."""

    def phase(self, text: str) -> None:
        """A step that shows no records begins."""
        ...

    def started(self, planned: int, done: int) -> None:
        """Trials begin: so many are planned, so many were done before."""
        ...

    def record(self, record: Record) -> None:
        """A record was made durable."""
        ...

    def draining(self, in_flight_only: bool) -> None:
        """Ctrl-C was seen: in-flight trials finish (True) or are cancelled (False)."""
        ...


class Silent:
    """Watches nothing."""

    def phase(self, text: str) -> None:
        """Ignore it."""

    def started(self, planned: int, done: int) -> None:
        """Ignore it."""

    def record(self, record: Record) -> None:
        """Ignore it."""

    def draining(self, in_flight_only: bool) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run (or one resume of it) ended."""

    path: Path
    planned: int
    ran: int
    """Records written this time."""
    interrupted: bool
    out_of_budget: bool


async def execute(
    bound: BoundStudy,
    path: Path,
    study_text: str,
    *,
    clock: Clock | None = None,
    progress: Progress | None = None,
    retry_errored: bool = False,
) -> Finished:
    """Run a study into `path`, or continue what is there.

    Everything is checked before anything runs: settings, fairness, and every task's verifier (the gate).
    `retry_errored` gives trials that used up their attempts as many again. Raises UserError, LockedError (a second
    driver), StorageError (disk full: what was acknowledged is safe, run again to resume).
    """
    clock, progress = clock or SystemClock(), progress or Silent()
    bound.kind.check(bound.suite, bound.arms, bound.base)
    tasks = list(bound.kind.tasks(bound.suite, bound.base))
    if not tasks:
        raise UserError("the suite has no tasks: check [suite] (path, tasks, exclude, limit)")
    check_claims(bound)
    fresh = manifest(bound, tasks, clock.now().isoformat(timespec="seconds"))
    redactor = Redactor()
    if RunDir.exists(path):
        with RunDir.open(path) as run:
            check_same(run.manifest, redactor.value(fresh), path)
    if (promised := mde_before(bound.study, len(tasks))) is not None:
        progress.phase(
            f"Planned: {len(tasks)} tasks x {bound.study.repeats} repeats x {len(bound.arms)} arms; for 0/1 scores "
            f"that finds differences from about {100 * promised:.0f} points on in 80 of 100 such studies"
        )
    progress.phase(f"Proving that {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'} can be trusted")
    await _gate(bound, tasks)
    writer = (
        RunDir.open_writer(path, redactor=redactor)
        if RunDir.exists(path)
        else RunDir.create(path, fresh, study_text, redactor)
    )
    if recovered := _recovered(writer):
        progress.phase(recovered)
    try:
        return await _Run(bound, tasks, writer, clock, progress, retry_errored).go()
    finally:
        writer.close()


def execute_blocking(bound: BoundStudy, path: Path, study_text: str, progress: Progress | None = None) -> Finished:
    """`execute`, to its end; in a thread of its own where this one runs an event loop already."""

    def run() -> Finished:
        return asyncio.run(execute(bound, path, study_text, progress=progress))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def _recovered(writer: RunWriter) -> str | None:
    """What opening the directory had to mend, in words."""
    found = writer.recovery
    parts = [
        f"{found.records} durable records were indexed late" if found.records else "",
        f"{found.torn_bytes} bytes of an unfinished write were cut off" if found.torn_bytes else "",
        f"a damaged tail was set aside ({', '.join(found.set_aside)})" if found.set_aside else "",
        f"the index was built anew ({found.rebuilt})" if found.rebuilt else "",
    ]
    said = "; ".join(part for part in parts if part)
    return f"Recovered: {said}" if said else None


async def _gate(bound: BoundStudy, tasks: list[TaskInfo]) -> None:
    refusals = await bound.kind.gate(bound.suite, bound.base, tasks, cache_folder())
    if refusals:
        reasons = "; ".join(f"{item.task}: {item.reason}" for item in refusals[:5])
        more = f"; and {len(refusals) - 5} more" if len(refusals) > 5 else ""
        names = ", ".join(f'"{item.task}"' for item in refusals)
        raise UserError(
            f"{len(refusals)} of {len(tasks)} tasks do not prove their verifier ({reasons}{more}); "
            f"mend them or leave them out with `exclude = [{names}]` under [suite]"
        )


class _Run:
    """One session of a study: what is pending, the engine rounds, the signals."""

    def __init__(
        self,
        bound: BoundStudy,
        tasks: list[TaskInfo],
        writer: RunWriter,
        clock: Clock,
        progress: Progress,
        retry_errored: bool,
    ) -> None:
        self.bound, self.writer, self.clock, self.progress = bound, writer, clock, progress
        study = bound.study
        latest = writer.run.done()
        attempts = study.engine.attempts
        if retry_errored:
            attempts += max((done.attempt for done in latest.values() if done.outcome is Outcome.ERRORED), default=0)
        self.options = EngineOptions(
            **{**study.engine.model_dump(exclude={"id", "arms", "attempts"}), "attempts": attempts},
            arms={name: arm.engine for name, arm in study.arms.items()},
        )
        self.planned = len(tasks) * study.repeats * len(study.arms)
        self.done = sum(1 for done in latest.values() if _final(done, attempts))
        self.todo = _pending(planned(study, tasks), latest, attempts)
        self.next = next(self.todo, None)
        self.skipped_before = {trial for trial, done in latest.items() if done.outcome is Outcome.SKIPPED}
        spent = writer.run.totals()
        self.budget = Budget(study.budget, spent.usage, spent.working_s)
        self.writing: set[asyncio.Task[None]] = set()
        self.started = self.ran = self.interrupts = 0
        self.stream: EngineRun | None = None
        self.stopping: asyncio.Future[None] | None = None

    async def go(self) -> Finished:
        """Run what is pending, in rounds: a round ends when the budget covers no further trial for now."""
        self.progress.started(self.planned, self.done)
        engine: Engine = registry.load("engines", self.bound.study.engine.id)(clock=self.clock)
        work = self.bound.kind.work(self.bound.suite, self.bound.arms, self.bound.base)
        single = False
        try:
            with self._signals():
                while self.next and not self.interrupts:
                    before = self.started
                    options = self.options.model_copy(update={"attempts": 1}) if single else self.options
                    stream = engine.run(self._jobs(options.attempts), work, options, self.writer.blobs)
                    self.stream = stream
                    async for record in stream:
                        await self._keep(record, options.attempts)
                    self.budget.release_all()
                    if self.started == before:
                        if single:
                            break
                        single = True  # too little is left for all attempts of a trial, perhaps enough for one
            out = self.next is not None and not self.interrupts
            if out:
                await self._skip_rest()
            await self._written(0)
        finally:
            if self.stream is not None:
                await self.stream.stop()
            await asyncio.gather(*self.writing, return_exceptions=True)
        return Finished(self.writer.run.path, self.planned, self.ran, bool(self.interrupts), out)

    def _jobs(self, attempts: int) -> Iterator[Job]:
        """Pending trials as jobs, as long as the budget covers the worst that they can cost."""
        while (key := self.next) and not self.interrupts:
            if not self.budget.admit(key.trial, self.bound.study.limits, max(1, attempts - key.attempt + 1)):
                return
            self.next = next(self.todo, None)
            self.started += 1
            yield self._job(key)

    def _job(self, key: TrialKey) -> Job:
        study = self.bound.study
        return Job(key, seed(study.seed, key.task, key.repeat, "sampling"), study.seed, study.limits)

    async def _keep(self, record: Record, attempts: int = 1) -> None:
        """Book a record and write it; several are in flight, so that they share a frame and its fsync."""
        self.budget.book(record)
        retried = record.outcome is Outcome.ERRORED and NOT_RETRYABLE not in record.flags
        if not retried or record.key.attempt >= attempts:
            self.budget.release(record.key.trial)
        self.writing.add(asyncio.ensure_future(self._durable(record)))
        await self._written(_IN_WRITING)

    async def _durable(self, record: Record) -> None:
        await self.writer.append(record)
        self.ran += 1
        self.progress.record(record)

    async def _written(self, at_most: int) -> None:
        """Wait until at most so many records are still being written; raises what a write raised."""
        while len(self.writing) > at_most:
            done, self.writing = await asyncio.wait(self.writing, return_when=asyncio.FIRST_COMPLETED)
            errors = [error for task in done if (error := task.exception()) is not None]
            if errors:
                raise errors[0]

    async def _skip_rest(self) -> None:
        """Record what the budget did not allow, once; a later resume with more budget runs it."""
        while key := self.next:
            self.next = next(self.todo, None)
            if key.trial not in self.skipped_before:
                await self._keep(
                    Record(
                        key=key,
                        seed=self._job(key).seed,
                        outcome=Outcome.SKIPPED,
                        cause="budget",
                        message="the study's budget is used up",
                    )
                )

    @contextmanager
    def _signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        handled: list[signal.Signals] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._interrupt)
                handled.append(number)
            except (ValueError, RuntimeError):  # not the main thread: whoever owns it handles the signal
                break
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        self.interrupts += 1
        self.progress.draining(self.interrupts == 1)
        if self.stream is None:
            return
        if self.interrupts == 1:
            self.stream.drain()
        elif self.interrupts == 2:
            self.stopping = asyncio.ensure_future(self.stream.stop())


def _final(done: Done, attempts: int) -> bool:
    """Whether a trial needs no further attempt."""
    return done.outcome.counts or (done.outcome is Outcome.ERRORED and done.attempt >= attempts)


def _pending(
    keys: Iterator[TrialKey], latest: Mapping[tuple[str, str, int], Done], attempts: int
) -> Iterator[TrialKey]:
    """Trials that still need a run, each with the attempt that it is at."""
    for key in keys:
        done = latest.get(key.trial)
        if done is None:
            yield key
        elif not _final(done, attempts):
            yield key.model_copy(update={"attempt": done.attempt + 1})
