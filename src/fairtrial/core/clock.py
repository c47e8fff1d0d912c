"""Clocks are arguments. A virtual clock makes latency exact; a timer keeps provider waits out of working time."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time and sleep, in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes backwards."""
        ...

    def now(self) -> datetime:
        """Wall time, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock's time."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    def now(self) -> datetime:
        """The machine's wall time, UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(seconds)


class VirtualClock:
    """A clock that moves only when `advance` is called, or jumps to the next sleeper when `run_until_idle` runs."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start, self._t, self._ticket = start, 0.0, 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._t

    def now(self) -> datetime:
        """Virtual wall time, UTC."""
        return self._start + timedelta(seconds=self._t)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced past now + `seconds`; equal times wake in the order of the calls."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ticket += 1
        heapq.heappush(self._sleepers, (self._t + seconds, self._ticket, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move the clock forward and wake, in order, all who sleep until then."""
        await self._jump(self._t + seconds)

    async def run_until_idle(self) -> None:
        """Jump from sleeper to sleeper until nobody sleeps."""
        await _settle()
        while (at := self._next()) is not None:
            await self._jump(at)

    def jump(self, seconds: float | None = None) -> bool:
        """Wake the next sleeper, at its time, without waiting for what it then does (for `core.virtual_time`).

        Where nobody wakes within `seconds`, the clock moves by that much; False, and it stays, where there is no
        sleeper and no such limit.
        """
        at, limit = self._next(), None if seconds is None else self._t + seconds
        if at is not None and (limit is None or at <= limit):
            _, _, future = heapq.heappop(self._sleepers)
            self._t = max(self._t, at)
            future.set_result(None)
            return True
        self._t = self._t if limit is None else limit
        return limit is not None

    async def _jump(self, target: float) -> None:
        while (at := self._next()) is not None and at <= target:
            _, _, future = heapq.heappop(self._sleepers)
            self._t = max(self._t, at)
            future.set_result(None)
            await _settle()
        self._t = max(self._t, target)

    def _next(self) -> float | None:
        """When the next sleeper wakes; sleepers that were cancelled meanwhile are forgotten."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None


async def _settle(rounds: int = 20) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)


class Timer:
    """Wall, waiting and working seconds of one trial. Working = wall minus the time spent waiting for a provider."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._started = clock, clock.monotonic()
        self._waited, self._waiting, self._since = 0.0, 0, 0.0
        self.on_change: Callable[[], None] | None = None
        """Called when waiting begins and when it ends: a deadline on working time need not poll."""

    @contextmanager
    def waiting(self) -> Generator[None]:
        """While inside, time counts as waiting (overlapping waits count once)."""
        self._waiting += 1
        if self._waiting == 1:
            self._since = self._clock.monotonic()
            self._changed()
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._waited += self._clock.monotonic() - self._since
                self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    @property
    def is_waiting(self) -> bool:
        """Whether time counts as waiting right now."""
        return self._waiting > 0

    @property
    def wall_s(self) -> float:
        """Seconds since the timer was made."""
        return self._clock.monotonic() - self._started

    @property
    def waiting_s(self) -> float:
        """Seconds spent inside `waiting`."""
        return self._waited + (self._clock.monotonic() - self._since if self._waiting else 0.0)

    @property
    def working_s(self) -> float:
        """Wall seconds minus waiting seconds."""
        return self.read()[1]

    def read(self) -> tuple[float, float, float]:
        """Wall, working and waiting seconds at one and the same moment, so that they add up."""
        now = self._clock.monotonic()
        wall, waiting = now - self._started, self._waited + (now - self._since if self._waiting else 0.0)
        return wall, max(0.0, wall - waiting), waiting
