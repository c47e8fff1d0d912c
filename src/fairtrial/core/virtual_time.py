"""An event loop that jumps to the next sleeper instead of waiting: latencies of hours in milliseconds, and exact.

When nothing is left to run, the virtual clock moves to whatever is due first: one who sleeps on it, or a timer of
asyncio itself (`asyncio.sleep`, `asyncio.timeout`), for the loop's own time is the clock's, too. Equal times wake one
after another, each with all that follows from it. Threads and sockets run on real time and may be overtaken; where
nothing sleeps, the loop waits for them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from fairtrial.core.clock import VirtualClock

T = TypeVar("T")


def run_virtual(main: Coroutine[Any, Any, T], clock: VirtualClock) -> T:
    """Like `asyncio.run`, with `clock` as the loop's time. Everything in `main` that sleeps on `clock` is instant."""
    with asyncio.Runner(loop_factory=lambda: _VirtualLoop(clock)) as runner:
        return runner.run(main)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__(_Jump(clock))

    def time(self) -> float:
        return self._virtual.monotonic()


class _Jump(selectors.DefaultSelector):
    """A selector that moves the clock where another would wait."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0 or self._clock.jump(timeout):
            return events
        return super().select(None)
