"""A worker process: builds the worker once, then runs one job after another on its own event loop.

It ends when the driver closes the connection, by intention or by dying: the job in hand is cancelled, the worker is
closed, and what does not end in time is killed with all that it started. Ctrl-C is the driver's to decide on.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import signal
import socket
import threading
import time
import traceback
from types import FrameType
from typing import Any

from fairtrial.core.clock import SystemClock, Timer
from fairtrial.core.errors import InfraError, StorageError, UserError
from fairtrial.core.trial import BlobSink, Job, Work, Worker
from fairtrial.engine import wire
from fairtrial.engine.attempt import open_target, run_attempt

BEAT_S = 0.5
"""Seconds between two signs of life while a job with a limit on seconds runs."""


def main(descriptor: int) -> None:
    """Serve the driver at the other end of the socket `descriptor` until it closes the connection."""
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, _leave_it_to_the_driver)  # a handler, not SIG_IGN: children must not inherit it
    with socket.socket(fileno=descriptor) as sock:
        asyncio.run(_Server(sock).serve())


def _leave_it_to_the_driver(number: int, at: FrameType | None) -> None:
    """Do nothing: the driver hears the same Ctrl-C and drains or stops."""


class _Server:
    """The process's end of the connection: a thread listens and gives signs of life, the loop runs the jobs."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._send_lock = sock, threading.Lock()
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._timer: Timer | None = None
        self._task: asyncio.Task[Any] | None = None

    async def serve(self) -> None:
        """Build the worker, run jobs until the connection ends, close the worker."""
        opened = wire.recv_frame(self._sock)
        if opened is None:
            return
        built = self._build(opened[1])
        if built is None:
            return
        worker, blobs, grace_s = built
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop, grace_s), daemon=True).start()
        try:
            while (job := await self._jobs.get()) is not None:
                await self._run(worker, job, blobs, grace_s)
        finally:
            self._send(wire.frame(wire.CLOSED, (await _close(worker)).encode("utf-8", "backslashreplace")))

    def _build(self, opening: bytes) -> tuple[Worker, BlobSink, float] | None:
        try:
            work: Work
            work, blobs, grace_s = pickle.loads(opening)  # noqa: S301 - from the driver that started this process
            worker = open_target(work)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told to the driver, which raises it
            kind = "user" if isinstance(error, UserError) else "infra" if isinstance(error, InfraError) else "bug"
            text = str(error) if kind != "bug" else "".join(traceback.format_exception(error))
            self._send(wire.json_frame(wire.REFUSED, [kind, text]))
            return None
        self._send(wire.frame(wire.READY))
        return worker, blobs, grace_s

    async def _run(self, worker: Worker, job: Job, blobs: BlobSink, grace_s: float) -> None:
        clock = SystemClock()
        self._send(wire.json_frame(wire.STARTED, _scores(worker, job) if job.limits.seconds is not None else None))
        timer = Timer(clock)
        self._timer = timer if job.limits.seconds is not None else None
        self._task = asyncio.create_task(run_attempt(worker, job, clock, blobs, grace_s, timer))
        try:
            attempt = await self._task
        except asyncio.CancelledError:
            return
        except StorageError as error:
            self._send(wire.frame(wire.STOPPED, str(error).encode()))
        else:
            self._send(wire.pack_attempt(attempt))
        finally:
            self._task = self._timer = None

    def _listen(self, loop: asyncio.AbstractEventLoop, grace_s: float) -> None:
        """Take frames until the end of the connection; give signs of life while a job runs."""
        while True:
            readable, _, _ = select.select([self._sock], [], [], BEAT_S)
            if not readable:
                self._beat()
                continue
            message = wire.recv_frame(self._sock)
            if message is None:
                break
            loop.call_soon_threadsafe(self._jobs.put_nowait, wire.unpack_job(message[1]))
        loop.call_soon_threadsafe(self._end)
        time.sleep(3 * grace_s + 5)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def _end(self) -> None:
        self._jobs.put_nowait(None)
        if self._task is not None:
            self._task.cancel()

    def _beat(self) -> None:
        if (timer := self._timer) is not None:
            self._send(wire.json_frame(wire.BEAT, [timer.working_s, timer.waiting_s]))

    def _send(self, data: bytes) -> None:
        with self._send_lock:
            try:
                self._sock.sendall(data)
            except OSError:
                return  # the driver is gone: the listening thread sees the end too


async def _close(worker: Worker) -> str:
    """Close the worker; the traceback if that failed, else nothing."""
    try:
        await worker.close()
    except Exception:  # noqa: BLE001 - told to the driver, which warns
        return traceback.format_exc()
    return ""


def _scores(worker: Worker, job: Job) -> dict[str, float] | None:
    """The scores that the driver gives to the job if it has to kill this process."""
    try:
        return dict(worker.failed_scores(job))
    except Exception:  # noqa: BLE001 - only matters if the process is killed, and is then recorded as errored
        return None
