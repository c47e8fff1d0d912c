"""Virtual time: exact, instant, one time for the clock and for asyncio's own timers."""

import asyncio
import time

import pytest

from fairtrial.core.clock import VirtualClock
from fairtrial.core.virtual_time import run_virtual


def test_hours_pass_at_once_and_exactly() -> None:
    clock = VirtualClock()

    async def main() -> float:
        async with asyncio.TaskGroup() as group:
            for seconds in (0.1, 7200.25, 3600):
                group.create_task(clock.sleep(seconds))
        return clock.monotonic()

    started = time.monotonic()
    assert run_virtual(main(), clock) == 7200.25
    assert time.monotonic() - started < 5


def test_sleepers_and_asyncio_timers_share_one_time() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []

    async def sleeps(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append((name, clock.monotonic()))

    async def main() -> None:
        first, second = asyncio.create_task(sleeps("a", 2)), asyncio.create_task(sleeps("b", 6))
        await asyncio.sleep(1)
        seen.append(("asyncio", clock.monotonic()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await clock.sleep(100)
        seen.append(("timeout", clock.monotonic()))
        await asyncio.gather(first, second)

    run_virtual(main(), clock)
    assert seen == [("asyncio", 1), ("a", 2), ("timeout", 5), ("b", 6)]


def test_what_one_sleeper_starts_is_done_before_the_next_of_the_same_instant_wakes() -> None:
    clock = VirtualClock()
    seen: list[str] = []

    async def chain(name: str) -> None:
        await clock.sleep(1)
        for number in range(50):
            await asyncio.create_task(asyncio.sleep(0))
            seen.append(f"{name}{number}")

    async def main() -> None:
        await asyncio.gather(chain("a"), chain("b"))

    run_virtual(main(), clock)
    assert seen == [f"{name}{number}" for name in "ab" for number in range(50)]


def test_a_thread_is_waited_for_where_nothing_sleeps() -> None:
    assert run_virtual(asyncio.to_thread(time.sleep, 0.05), VirtualClock()) is None


def test_what_main_raises_comes_out() -> None:
    async def main() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        run_virtual(main(), VirtualClock())
