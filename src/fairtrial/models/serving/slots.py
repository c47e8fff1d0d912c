"""How many requests are worked on at once, and how many may wait for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fairtrial.models.serving.wire import WireError


class QueueFullError(WireError):
    """No request more can wait. Answered with 429 and the wait after which to ask again, in seconds."""

    def __init__(self, running: int, waiting: int) -> None:
        super().__init__(
            f"the server is busy: {running} requests run and {waiting} wait; try again later",
            status=429,
            code="queue_full",
        )
        self.retry_after_s = 1


class Slots:
    """`concurrency` requests run, `queue` wait, first come first served; one more is refused at once."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._queue = queue
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None]:
        """Hold a slot while inside; a caller that is cancelled gives it (or its place in the queue) back.

        Raises QueueFullError.
        """
        if self._free.locked():
            if self.waiting >= self._queue:
                raise QueueFullError(self.running, self.waiting)
            self.waiting += 1
            try:
                await self._free.acquire()
            finally:
                self.waiting -= 1
        else:
            await self._free.acquire()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()
