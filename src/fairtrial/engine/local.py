"""The local engine: jobs run on the driver's event loop, or in spawned processes, bounded in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from fairtrial.core.clock import Clock, SystemClock
from fairtrial.core.record import Record
from fairtrial.core.trial import BlobSink, EngineOptions, Job, Work
from fairtrial.engine.attempt import Attempt
from fairtrial.engine.pool import LoopPool, Pool, ProcessPool, warn
from fairtrial.engine.schedule import Schedule, Ticket


class LocalEngine:
    """Runs jobs on this machine; registered as "local".

    `clock` drives back-off, rates and (for async work) the trials' own time; worker processes use the machine's
    clock. `grace_s` is how many seconds a cancelled worker gets to end before it is given up or killed.
    """

    def __init__(self, clock: Clock | None = None, grace_s: float = 5.0) -> None:
        self._clock: Clock = clock or SystemClock()
        self._grace_s = grace_s

    def run(self, jobs: Iterable[Job], work: Work, options: EngineOptions, blobs: BlobSink) -> LocalRun:
        """Start `jobs` when the first record is asked for, and stream the records.

        The caller reads to the end, or calls `stop`. Iterating raises UserError, InfraError or whatever bug it was
        where no worker can be built, and StorageError where a blob could not be written; nothing is left running then.
        """
        kind = LoopPool if work.mode == "async" else ProcessPool
        return LocalRun(
            Schedule(jobs, options), kind(work, blobs, self._clock, self._grace_s), options, self._clock, self._grace_s
        )


class LocalRun:
    """A running stream of records; see `core.trial.EngineRun`.

    Holds at most `in_flight` running attempts and as many finished ones that the consumer has not taken yet.
    """

    def __init__(self, schedule: Schedule, pool: Pool, options: EngineOptions, clock: Clock, grace_s: float) -> None:
        self._schedule, self._pool, self._options = schedule, pool, options
        self._clock, self._grace_s = clock, grace_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[asyncio.Task[Attempt], Ticket] = {}
        self._finished: deque[Record] = deque()
        self._news = asyncio.Event()
        self._alarm: asyncio.Task[None] | None = None
        self._draining = self._over = self._closed = False
        self._fatal: BaseException | None = None

    def __aiter__(self) -> LocalRun:
        """The run itself: there is one stream of it."""
        return self

    async def __anext__(self) -> Record:
        """The next attempt's record, as soon as there is one."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._pump()
        while not self._over:
            if self._finished:
                record = self._finished.popleft()
                self._pump()
                return record
            if self._fatal is not None:
                await self.stop()
                raise self._fatal
            if not self._running and (self._draining or self._schedule.empty):
                await self.stop()
                break
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    def drain(self) -> None:
        """Start no more jobs and no more attempts; those in flight finish and are yielded. May be called anywhere."""
        self._draining = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    async def stop(self) -> None:
        """Cancel what is in flight, yield nothing more, close the workers. Leaves no process behind."""
        self._over = self._draining = True
        self._finished.clear()
        self._news.set()
        if self._alarm is not None:
            self._alarm.cancel()
        running = set(self._running)
        for task in running:
            task.cancel()
        if running:
            _, running = await asyncio.wait(running, timeout=2 * self._grace_s)
        for task in running:
            warn(f"the worker's task for {self._running[task].job.key} ignores cancellation and still runs")
        if not self._closed:
            self._closed = True
            await self._pool.close()

    def _pump(self) -> None:
        """Start all that may start now, and see to it that this is looked at again when time alone allows more."""
        if self._fatal is not None or self._over:
            return
        try:
            now = self._clock.monotonic()
            while self._has_room() and (ticket := self._schedule.next(now)) is not None:
                task = asyncio.create_task(self._pool.attempt(ticket.job))
                self._running[task] = ticket
                task.add_done_callback(self._done)
        except Exception as error:  # noqa: BLE001 - the jobs' own iterator failed: raised to the consumer
            self._fatal = error
            self._news.set()
            return
        self._set_alarm(now)

    def _has_room(self) -> bool:
        limit = self._options.in_flight
        return not self._draining and len(self._running) < limit and len(self._finished) < limit

    def _set_alarm(self, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._has_room() and (wait := self._schedule.next_change(now)) is not None:
            self._alarm = asyncio.create_task(self._ring(wait))

    async def _ring(self, wait: float) -> None:
        await self._clock.sleep(wait)
        self._alarm = None
        self._pump()
        self._news.set()

    def _done(self, task: asyncio.Task[Attempt]) -> None:
        """An attempt ended: pass its record on, queue the next attempt, fill the room."""
        ticket = self._running.pop(task)
        attempt = None if task.cancelled() or task.exception() is not None else task.result()
        self._schedule.finished(ticket, erred=attempt is not None and attempt.retryable)
        self._news.set()
        if attempt is None:
            self._fatal = self._fatal or (None if task.cancelled() else task.exception())
        elif not self._over:
            self._finished.append(attempt.record)
            if attempt.retryable and not self._draining:
                self._schedule.retry(ticket, self._clock.monotonic(), attempt.retry_after_s)
            self._pump()
