"""Simulated seconds: sleeping costs nothing, and latencies are exact.

The clock jumps to the next sleeper when nobody can go on: tools of a generated world then take the time that was drawn
for them, to the last digit, while the models that are asked in between take real time and none of this clock's. It
runs on any event loop; whoever waits for something real while others sleep on it must hold it (`hold`). Where a whole
loop may be virtual, see `core.virtual_time`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta

from fairtrial.core.clock import Clock

_ROUNDS = 24
"""Turns of the event loop without a new sleeper after which all who could go on have done so."""


class SimulatedClock:
    """A clock for one run that moves by itself; `core.clock.Clock`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start, self._now, self._tickets = start, 0.0, 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._holds = 0
        self._free = asyncio.Event()
        self._free.set()
        self._pump: asyncio.Task[None] | None = None

    def monotonic(self) -> float:
        """Simulated seconds since the clock was made."""
        return self._now

    def now(self) -> datetime:
        """Simulated wall time, UTC."""
        return self._start + timedelta(seconds=self._now)

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later; equal times wake in the order of the calls."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tickets += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._tickets, future))
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        await future

    @contextmanager
    def hold(self) -> Generator[None]:
        """While inside, this clock stands still: something real is waited for that takes none of its time."""
        self._holds += 1
        self._free.clear()
        try:
            yield
        finally:
            self._holds -= 1
            if not self._holds:
                self._free.set()

    async def _run(self) -> None:
        try:
            while self._sleepers:
                await self._settle()
                while self._sleepers and self._sleepers[0][2].done():
                    heapq.heappop(self._sleepers)
                if self._sleepers:
                    at, _, future = heapq.heappop(self._sleepers)
                    self._now = max(self._now, at)
                    future.set_result(None)
        finally:
            self._pump = None

    async def _settle(self) -> None:
        """Wait until all who can go on have gone on, and nobody holds the clock."""
        quiet = 0
        while quiet < _ROUNDS:
            tickets = self._tickets
            await self._free.wait()
            await asyncio.sleep(0)
            quiet = quiet + 1 if tickets == self._tickets and not self._holds else 0


def held(clock: Clock | None) -> AbstractContextManager[None]:
    """While inside, a simulated clock stands still; any other goes on."""
    return clock.hold() if isinstance(clock, SimulatedClock) else nullcontext()
