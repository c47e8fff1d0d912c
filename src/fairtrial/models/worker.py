"""What local engines share: requests that wait and join, one worker thread that does all torch work, an asyncio front.

An engine is a `Worker` that says what happens between two intakes (`_turn`), how running requests leave (`_keep`) and
how it starts afresh after an error (`_renew`). Where a request is (waits, is read, runs) is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from fairtrial.core.errors import InfraError
from fairtrial.models.model import Delta

T = TypeVar("T")


class QueueFullError(InfraError):
    """Too many requests wait for a slot of a local model; the settings that bound them are named."""

    def __init__(self, max_batch: int, max_waiting: int) -> None:
        super().__init__(
            f"{max_batch} requests are answered (max_batch) and {max_waiting} wait, which is the limit; "
            "ask for fewer at once or set max_waiting higher",
            cause="rate_limit",
            retry_after_s=1,
        )


@dataclass(eq=False, slots=True, kw_only=True)
class Ticket:
    """What a worker knows of a request. Engines add what they decode it with."""

    on_delta: Callable[[Delta], None] | None = None
    """Called on the event loop of whoever submitted, until it is cancelled."""
    error: BaseException | None = None
    """Of this request alone, while others go on."""
    cancelled: bool = False
    loop: asyncio.AbstractEventLoop | None = None
    done: asyncio.Future[Any] | None = None


TicketT = TypeVar("TicketT", bound=Ticket)


@dataclass(slots=True)
class _Task:
    """A function to run on the worker."""

    run: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


class Worker(ABC, Generic[TicketT]):
    """`submit` and `run` may be called from any event loop. The last thing that a subclass' constructor does: `_start`.

    A ticket is in one of three places: it waits for a slot, its prompt is read, or it runs.
    """

    def __init__(self, *, slots: int, max_waiting: int, turns: threading.Lock | None = None) -> None:
        """`slots`: requests that are read or run at once; `max_waiting` more wait, and one more is refused.

        `turns`: held while it works. Workers of very small models share one: threads that hand the interpreter to each
        other for every operation are slower together than one after the other.
        """
        self._turns = turns or threading.Lock()
        self.slots, self.max_waiting = slots, max_waiting
        self._inbox: queue.SimpleQueue[TicketT | _Task | None] = queue.SimpleQueue()
        self._waiting: deque[TicketT] = deque()
        self._reading: deque[TicketT] = deque()
        self._running: list[TicketT] = []
        self._closed = False

    def _start(self, name: str, threads: int | None) -> None:
        """Start the thread; `threads`: of torch, None: as it is."""
        self._threads = threads
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that hold a slot now."""
        return len(self._running) + len(self._reading)

    @property
    def waiting(self) -> int:
        """Requests without a slot yet."""
        return len(self._waiting) + self._inbox.qsize()

    async def submit(self, ticket: TicketT) -> None:
        """Return when the request is done; cancelling this frees its slot before the next step.

        Raises QueueFullError if too many wait already, else what went wrong while decoding.
        """
        self._open()
        if self.running + self.waiting >= self.slots + self.max_waiting:
            raise QueueFullError(self.slots, self.max_waiting)
        ticket.loop = asyncio.get_running_loop()
        ticket.done = ticket.loop.create_future()
        self._inbox.put(ticket)
        try:
            await ticket.done
        finally:
            ticket.cancelled = True

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function on the worker thread, between two steps, and return its result.

        For everything that uses the model beside decoding (scoring, hooks): torch work stays off the event loop, and
        no two things use the model at once.
        """
        self._open()
        loop = asyncio.get_running_loop()
        task = _Task(function, loop, loop.create_future())
        self._inbox.put(task)
        return await task.done

    async def close(self) -> None:
        """Stop; what is running fails."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    def _open(self) -> None:
        if self._closed:
            raise RuntimeError("the model was closed")

    # ---- on the worker ----

    @abstractmethod
    def _turn(self) -> None:
        """What is done between two intakes: who was cancelled leaves, others are admitted, read, and take a step."""

    @abstractmethod
    def _keep(self, tickets: list[TicketT]) -> None:
        """Go on with these of the running requests, which are fewer than all."""

    @abstractmethod
    def _renew(self) -> None:
        """Start afresh, with nothing running, after an error that concerned everything."""

    def _work(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while not self._closed:
            self._take()
            try:
                with self._turns:
                    self._turn()
            except Exception as error:  # noqa: BLE001 - handed to every request that it concerns
                self._fail_all(error)
                self._renew()
        closed = RuntimeError("the model was closed")
        self._fail_all(closed)
        while not self._inbox.empty():
            item = self._inbox.get()
            if item is not None and item.loop is not None and item.done is not None:
                _post(item.loop, _settle, item.done, None, closed)

    def _take(self) -> None:
        """Take in what arrived; wait where there is nothing else to do."""
        while True:
            idle = not (self._running or self._reading or self._waiting)
            try:
                item = self._inbox.get(block=idle)
            except queue.Empty:
                return
            if item is None:
                return
            if isinstance(item, _Task):
                self._call(item)
            else:
                self._waiting.append(item)

    def _call(self, task: _Task) -> None:
        try:
            result = task.run()
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            _post(task.loop, _settle, task.done, None, error)
        else:
            _post(task.loop, _settle, task.done, result, None)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)
        self._reading = deque(ticket for ticket in self._reading if not ticket.cancelled)
        kept = [ticket for ticket in self._running if not ticket.cancelled]
        if len(kept) < len(self._running):
            self._keep(kept)

    def _admit(self) -> None:
        while self._waiting and self.running < self.slots:
            self._reading.append(self._waiting.popleft())

    def _show(self, ticket: TicketT, delta: Delta) -> None:
        """Hand a piece of the reply to who wants it."""
        if ticket.on_delta is not None and ticket.loop is not None:
            _post(ticket.loop, _shown, ticket, delta)

    def _finish(self, ticket: TicketT, error: BaseException | None = None) -> None:
        if ticket.loop is not None and ticket.done is not None:
            _post(ticket.loop, _settle, ticket.done, None, error)

    def _fail_all(self, error: BaseException) -> None:
        for ticket in [*self._running, *self._reading, *self._waiting]:
            self._finish(ticket, error)
        self._running, self._reading, self._waiting = [], deque(), deque()


def _post(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    """Call on an event loop's thread; a loop that is closed has nobody left who waits."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if not done.done():
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)


def _shown(ticket: Ticket, delta: Delta) -> None:
    if ticket.on_delta is not None and not ticket.cancelled:
        ticket.on_delta(delta)
