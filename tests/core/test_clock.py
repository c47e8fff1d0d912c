"""Clocks and the timer: virtual time is exact, waiting is not working."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.core.clock import SystemClock, Timer, VirtualClock


def drive(coroutine_of_clock):
    async def run():
        clock = VirtualClock()
        task = asyncio.create_task(coroutine_of_clock(clock))
        while not task.done():
            await clock.run_until_idle()
        return clock, task.result()

    return asyncio.run(run())


def test_sleepers_wake_in_order_at_their_exact_times():
    async def run(clock):
        woke = []

        async def sleeper(name, seconds):
            await clock.sleep(seconds)
            woke.append((name, clock.monotonic()))

        await asyncio.gather(*(sleeper(n, s) for n, s in [("c", 3.0), ("a", 0.1), ("b", 3.0), ("zero", 0)]))
        return woke

    clock, woke = drive(run)
    assert woke == [("zero", 0.0), ("a", 0.1), ("c", 3.0), ("b", 3.0)]
    assert clock.monotonic() == 3.0


def test_advance_wakes_those_who_are_due_and_no_others():
    async def run():
        clock = VirtualClock()
        early, late = asyncio.create_task(clock.sleep(1.0)), asyncio.create_task(clock.sleep(2.0))
        await asyncio.sleep(0)
        await clock.advance(1.5)
        state = early.done(), late.done(), clock.monotonic()
        await clock.advance(0.5)
        return *state, late.done()

    assert asyncio.run(run()) == (True, False, 1.5, True)


def test_a_cancelled_sleeper_does_not_move_the_clock():
    async def run(clock):
        sleeper = asyncio.create_task(clock.sleep(1000))
        await clock.sleep(1)
        sleeper.cancel()

    clock, _ = drive(run)
    assert clock.monotonic() == 1


@given(st.lists(st.floats(min_value=1e-9, max_value=1e9), max_size=8))
def test_sleeping_in_turn_adds_up_and_always_ends(seconds):
    async def run(clock):
        for one in seconds:
            await clock.sleep(one)

    clock, _ = drive(run)
    assert clock.monotonic() == pytest.approx(sum(seconds))
    assert clock.now() - VirtualClock().now() == timedelta(seconds=clock.monotonic())


def test_waiting_is_taken_off_working_and_overlapping_waits_count_once():
    async def run(clock):
        timer = Timer(clock)

        async def wait(start, seconds):
            await clock.sleep(start)
            with timer.waiting():
                await clock.sleep(seconds)

        await asyncio.gather(wait(1, 10), wait(5, 10), clock.sleep(20))
        with timer.waiting():
            await clock.sleep(2)
            inside = timer.waiting_s, timer.working_s, timer.is_waiting
        return inside, (timer.wall_s, timer.waiting_s, timer.working_s, timer.is_waiting)

    _, (inside, after) = drive(run)
    assert inside == (16, 6, True)
    assert after == (22, 16, 6, False)


def test_a_wait_that_raises_still_ends():
    clock = VirtualClock()
    timer = Timer(clock)
    with pytest.raises(RuntimeError), timer.waiting():
        raise RuntimeError
    assert not timer.is_waiting


def test_a_timer_tells_when_waiting_begins_and_ends_once_each():
    timer, heard = Timer(VirtualClock()), []
    timer.on_change = lambda: heard.append(timer.is_waiting)
    with timer.waiting(), timer.waiting():
        pass
    assert heard == [True, False]


def test_the_system_clock_sleeps_and_does_not_go_backwards():
    async def run():
        clock = SystemClock()
        before = clock.monotonic()
        await clock.sleep(0.02)
        return clock.monotonic() - before, clock.now()

    passed, now = asyncio.run(run())
    assert passed >= 0.02 and now.utcoffset() == timedelta(0)


def test_one_reading_of_a_timer_adds_up_while_time_goes_on() -> None:
    class Hurried(SystemClock):
        """Every look at it is a second later."""

        seen = 0.0

        def monotonic(self) -> float:
            self.seen += 1
            return self.seen

    timer = Timer(Hurried())
    with timer.waiting():
        pass
    wall, working, waiting = timer.read()
    assert wall == working + waiting and waiting > 0
