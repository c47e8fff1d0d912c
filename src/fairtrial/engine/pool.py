"""Where attempts run: on the driver's loop, or each in a process of its own that is replaced when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from typing import Any, Protocol

from fairtrial.core.clock import Clock
from fairtrial.core.errors import InfraError, StorageError, UserError
from fairtrial.core.record import Timings
from fairtrial.core.trial import BlobSink, Job, Work, Worker
from fairtrial.engine import wire
from fairtrial.engine.attempt import IGNORED_CANCELLATION, Attempt, errored, failed, open_target, run_attempt
from fairtrial.engine.child import BEAT_S

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fairtrial.engine.child import main; main(int(sys.argv[2]))"
)


class Pool(Protocol):
    """Runs attempts; the engine decides which and when."""

    async def attempt(self, job: Job) -> Attempt:
        """Run one attempt. Raises UserError, StorageError or InfraError where the whole run cannot go on."""
        ...

    async def close(self) -> None:
        """Close the workers; leave nothing behind."""
        ...


class LoopPool:
    """One worker on the driver's event loop."""

    def __init__(self, work: Work, blobs: BlobSink, clock: Clock, grace_s: float) -> None:
        self._work, self._blobs, self._clock, self._grace_s = work, blobs, clock, grace_s
        self._worker: Worker | None = None
        self._abandoned: dict[asyncio.Task[Any], Job] = {}

    async def attempt(self, job: Job) -> Attempt:
        """Run one attempt on this loop."""
        if self._worker is None:
            self._worker = open_target(self._work)
        attempt = await run_attempt(self._worker, job, self._clock, self._blobs, self._grace_s)
        if attempt.abandoned is not None:
            self._abandoned[attempt.abandoned] = job
        return attempt

    async def close(self) -> None:
        """Close the worker; warn of what cannot be ended from here."""
        left = {task for task in self._abandoned if not task.done()}
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=self._grace_s)
        for task in left:
            warn(f"the worker's task for {self._abandoned[task].key} ignores cancellation and still runs")
        if self._worker is not None:
            try:
                await asyncio.wait_for(self._worker.close(), self._grace_s)
            except Exception as error:  # noqa: BLE001 - all records are safe: what failed is said
                warn(f"closing the worker failed: {type(error).__name__}: {error}")


def warn(message: str) -> None:
    """Say what went wrong without ending a run whose records are safe."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


class ProcessPool:
    """As many processes as attempts at once, started when needed and used again."""

    def __init__(self, work: Work, blobs: BlobSink, clock: Clock, grace_s: float) -> None:
        self._opening = pickle.dumps((work, blobs, grace_s))
        self._clock, self._grace_s = clock, grace_s
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._closing = False

    async def attempt(self, job: Job) -> Attempt:
        """Run one attempt in an idle process, or in a new one."""
        started, begun = self._clock.now(), time.monotonic()
        while True:
            fresh = not self._idle
            process = await self._start() if fresh else self._idle.pop()
            attempt = await process.run(job)
            if process.usable:
                self._idle.append(process)
                break
            await self._discard(process)
            if fresh or process.took:
                break  # else it had died while it was idle: that is no fault of this job
        if attempt.record.timings is not None:
            return attempt
        wall = time.monotonic() - begun
        waiting = min(wall, process.waiting_s)
        timings = Timings(started=started, wall_s=wall, working_s=wall - waiting, waiting_s=waiting)
        return Attempt(attempt.record.model_copy(update={"timings": timings}), attempt.retryable)

    async def close(self) -> None:
        """Tell every process to end, cancelling what it runs; kill what does not."""
        self._closing = True
        problems = await asyncio.gather(*(process.close() for process in self._all))
        for problem in filter(None, problems):
            warn(f"closing the worker failed: {problem}")

    async def _start(self) -> _Process:
        """A process that is ready. One killed from outside while it starts is started again, a few times."""
        for last in (False, False, True):
            process = _Process(self._grace_s)
            self._all.add(process)
            try:
                await process.start(self._opening)
                break
            except _KilledAtStartError:
                if last or self._closing:
                    raise
                await self._discard(process)
        return process

    async def _discard(self, process: _Process) -> None:
        process.kill()
        await process.ended()
        self._all.discard(process)


class _KilledAtStartError(InfraError):
    """A signal ended the process before its worker was built."""


class _Process:
    """The driver's end of one worker process."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Future[asyncio.subprocess.Process] | None = None
        self._socket: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[Attempt] | None = None
        self._job: Job | None = None
        self._scores: dict[str, float] | None = None
        self._doom: asyncio.TimerHandle | None = None
        self._built = self._hung = self._worker_closed = False
        self._closing_problem: str | None = None
        self.waiting_s = 0.0
        self.usable = True
        self.took = False
        """Whether the process has begun the job that it was last sent."""
        self._gone = False

    async def start(self, opening: bytes) -> None:
        """Start the process and have it build its worker. Raises what the building raised."""
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs:
            path = json.dumps(sys.path)
            command = (sys.executable, "-c", _BOOT, path, str(theirs.fileno()))
            self._starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=2,  # what a worker prints must not mix with the command's own output
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            )
            self._process = await asyncio.shield(self._starting)  # a cancelled start still knows what it started
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._watch = asyncio.create_task(self._follow(reader))
        self._writer.write(wire.frame(wire.OPEN, opening))
        await self._ready

    async def run(self, job: Job) -> Attempt:
        """Send a job and wait for its attempt; the process's death is one too."""
        assert self._writer is not None
        self._job, self._scores, self.took, self.waiting_s = job, None, False, 0.0
        self._answer = asyncio.get_running_loop().create_future()
        if self._gone:
            return self._lost(job)
        self._expect(0.0)
        self._writer.write(wire.pack_job(job))
        try:
            return await self._answer
        finally:
            self._job = None
            if self._doom is not None:
                self._doom.cancel()

    def kill(self) -> None:
        """Kill the process and all of its session, at once."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def ended(self) -> None:
        """Return when the process is gone and its connection closed."""
        if self._watch is not None:
            await self._watch

    async def close(self) -> str | None:
        """End the process; what its worker's `close` raised, or None."""
        if self._watch is None or self._writer is None or not self._built:
            await self._abort()
            return None
        if not self._gone:
            with suppress(OSError):
                self._writer.write_eof()
        await asyncio.wait({self._watch}, timeout=self._grace_s)
        late = not self._watch.done() and not self._worker_closed
        self.kill()
        await self._watch
        return f"it did not end within {self._grace_s:g} s and was killed" if late else self._closing_problem

    async def _abort(self) -> None:
        """End a process that is still starting: it has no worker to close."""
        if self._starting is not None:
            self._process = await self._starting
        self.kill()
        if self._watch is not None:
            await self._watch
        elif self._process is not None:
            await self._process.wait()
        if self._socket is not None:
            self._socket.close()

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        """Take what the process sends until it is gone."""
        assert self._process is not None and self._writer is not None
        reading = asyncio.create_task(self._read(reader))
        await self._process.wait()
        await asyncio.wait({reading}, timeout=1.0)  # what it sent before it ended is still in the connection
        reading.cancel()
        self._gone, self.usable = True, False
        self._writer.close()
        if not self._ready.done():
            kind = _KilledAtStartError if (self._process.returncode or 0) < 0 else InfraError
            self._ready.set_exception(kind(f"a worker process {self._death()} while it started", cause="worker"))
            self._ready.exception()
        if self._job is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._lost(self._job))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (message := await wire.read_frame(reader)) is not None:
            self._take(*message)

    def _take(self, kind: bytes, content: bytes) -> None:
        if kind in (wire.READY, wire.REFUSED):
            self._built = kind == wire.READY
            if self._ready.done():
                return  # the run was stopped while the process started
            if self._built:
                self._ready.set_result(None)
            else:
                self._ready.set_exception(_refusal(*json.loads(content)))
        elif kind == wire.STARTED:
            self._scores, self.took = json.loads(content), True
        elif kind == wire.BEAT:
            working_s, self.waiting_s = json.loads(content)
            self._expect(working_s)
        elif kind == wire.CLOSED:
            self._closing_problem, self._worker_closed = content.decode() or None, True
        elif self._answer is not None and not self._answer.done():
            if kind == wire.STOPPED:
                self._answer.set_exception(StorageError(content.decode()))
            else:
                attempt, tainted = wire.unpack_attempt(content)
                self.usable = self.usable and not tainted
                self._answer.set_result(attempt)

    def _expect(self, working_s: float) -> None:
        """Kill the process when its job has overrun its limit and it shows no sign of ending it by itself.

        Each sign of life tells the working time so far; while none comes, all time counts as working time.
        """
        if self._doom is not None:
            self._doom.cancel()
        if self._job is not None and (limit := self._job.limits.seconds) is not None:
            left = limit - working_s + 2 * self._grace_s + 4 * BEAT_S
            self._doom = asyncio.get_running_loop().call_later(max(0.0, left), self._kill_hung)

    def _kill_hung(self) -> None:
        self._hung = True
        self.kill()

    def _lost(self, job: Job) -> Attempt:
        """The attempt of a job whose process is gone."""
        if self._hung and self._scores:
            message = f"the trial's limit on seconds ({job.limits.seconds:g}) is used up; its process was killed"
            return failed(job, "seconds", message, self._scores, flags=(IGNORED_CANCELLATION,))
        return errored(job, "worker_hung" if self._hung else "worker_died", f"the worker process {self._death()}")

    def _death(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "ended"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"


def _refusal(kind: str, text: str) -> Exception:
    """What the building of a worker raised in its process, for the driver to raise."""
    if kind == "user":
        return UserError(text)
    return InfraError(text, cause="worker") if kind == "infra" else RuntimeError(f"in a worker process:\n{text}")
