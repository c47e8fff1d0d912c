"""A bell with alarms on a clock: one waits, many ring, and no more than one sleeper is under way."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator

from fairtrial.core.clock import Clock

_NOW_S = 1e-9
"""An alarm is due when so little is left: sums of floats do not hit their mark."""


class Alarms:
    """Instants at which something is due, each with the number of what it is for and a mark that tells it from others.

    `idle(index, mark)` tells whether an alarm has nothing to say any more; such alarms wake nobody.
    """

    def __init__(self, clock: Clock, idle: Callable[[int, int], bool]) -> None:
        self._clock, self._idle = clock, idle
        self._heap: list[tuple[float, int, int]] = []
        self._bell = asyncio.Event()
        self._sleeper: asyncio.Task[None] | None = None
        self._until = float("inf")

    def ring(self) -> None:
        """Wake who waits."""
        self._bell.set()

    def set(self, at: float, index: int, mark: int) -> None:
        """Ring at the instant `at` of the clock."""
        heapq.heappush(self._heap, (at, index, mark))
        if at < self._until:
            self._bell.set()

    def due(self) -> Iterator[tuple[int, int]]:
        """Take out the alarms whose time has come, earliest first."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now + _NOW_S:
            _, index, mark = heapq.heappop(self._heap)
            if not self._idle(index, mark):
                yield index, mark

    async def wait(self) -> None:
        """Until the bell rings or an alarm is due."""
        while self._heap and self._idle(*self._heap[0][1:]):
            heapq.heappop(self._heap)
        if self._heap and self._heap[0][0] < self._until:
            if self._sleeper is not None:
                self._sleeper.cancel()
            self._until = self._heap[0][0]
            self._sleeper = asyncio.create_task(self._sleep(self._until - self._clock.monotonic()))
        await self._bell.wait()
        self._bell.clear()

    async def close(self) -> None:
        """Leave no sleeper behind."""
        if self._sleeper is not None:
            self._sleeper.cancel()
            await asyncio.gather(self._sleeper, return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep(max(0.0, seconds))
        self._until = float("inf")
        self._bell.set()
