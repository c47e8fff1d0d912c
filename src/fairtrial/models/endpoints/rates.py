"""Concurrency and rate limits of one model instance (one arm), and the book of its waits.

The limits are exact: in any 60 seconds there start at most `requests_per_minute` tries, whose tokens are at most
`tokens_per_minute` by what is known at each start (an estimate, replaced by the provider's count once there is one).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from fairtrial.core.clock import Clock, Timer

WINDOW_S = 60.0


class Waits:
    """Books the time that one request spends waiting: in the trial's timer, and as a sum of its own."""

    def __init__(self, clock: Clock, timer: Timer | None) -> None:
        self._clock, self._timer = clock, timer
        self.seconds = 0.0
        """So far."""

    @contextmanager
    def waiting(self) -> Generator[None]:
        """While inside, time counts as waiting. Not to be nested."""
        began = self._clock.monotonic()
        try:
            if self._timer is None:
                yield
            else:
                with self._timer.waiting():
                    yield
        finally:
            self.seconds += self._clock.monotonic() - began


@dataclass(slots=True)
class Ticket:
    """One admitted try."""

    at: float
    tokens: int
    """Estimated; set it to the provider's count as soon as there is one."""


class Rates:
    """Admits tries, first come first served."""

    def __init__(
        self, clock: Clock, *, concurrent: int, requests_per_minute: int | None, tokens_per_minute: int | None
    ) -> None:
        self._clock = clock
        self._slots = asyncio.Semaphore(concurrent)
        self._turn = asyncio.Lock()
        self._requests, self._tokens = requests_per_minute, tokens_per_minute
        self._recent: deque[Ticket] = deque()

    @asynccontextmanager
    async def slot(self, tokens: int, waits: Waits) -> AsyncGenerator[Ticket]:
        """Wait for a free slot and for the rate limits, then hold the slot.

        A try with more tokens than `tokens_per_minute` is admitted alone in its minute.
        """
        with waits.waiting():
            await self._slots.acquire()
        try:
            yield await self._admit(tokens, waits)
        finally:
            self._slots.release()

    async def _admit(self, tokens: int, waits: Waits) -> Ticket:
        if self._requests is None and self._tokens is None:
            return Ticket(self._clock.monotonic(), tokens)
        with waits.waiting():
            async with self._turn:
                while (pause := self._pause(tokens)) > 0:
                    await self._clock.sleep(pause)
                ticket = Ticket(self._clock.monotonic(), tokens)
                self._recent.append(ticket)
                return ticket

    def _pause(self, tokens: int) -> float:
        """Seconds until the oldest try has left the window, where the limits leave no room for another; else 0."""
        now = self._clock.monotonic()
        while self._recent and self._recent[0].at + WINDOW_S <= now:
            self._recent.popleft()
        if not self._recent:
            return 0.0
        full = self._requests is not None and len(self._recent) >= self._requests
        if self._tokens is not None:
            full = full or sum(ticket.tokens for ticket in self._recent) + tokens > self._tokens
        return self._recent[0].at + WINDOW_S - now if full else 0.0
