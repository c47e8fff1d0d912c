"""Back-off, budgets and rate limits on clocks that the test moves."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from fairtrial.core.clock import Timer, VirtualClock
from fairtrial.models.endpoints.prices import NO_PRICE, Price, usage
from fairtrial.models.endpoints.rates import Rates, Ticket, Waits
from fairtrial.models.endpoints.retrying import (
    Budget,
    ProviderError,
    TryFailedError,
    pause_s,
    retry_after_s,
    retrying,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:42 GMT"}, 42.0),
        ({"retry-after": "Wed, 31 Dec 2025 23:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_milliseconds_or_a_date(headers, seconds):
    assert retry_after_s(headers, NOW) == seconds


def test_pauses_have_full_jitter_that_doubles_up_to_the_longest():
    budget, rng = Budget(base_s=1.0, longest_s=8.0), random.Random(0)
    for failures, top in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (5000, 8.0)):
        drawn = [pause_s(budget, failures, None, rng) for _ in range(400)]
        assert 0 <= min(drawn) < 0.05 * top
        assert 0.95 * top < max(drawn) <= top
        assert sum(drawn) / 400 == pytest.approx(top / 2, rel=0.15)


def test_an_asked_pause_is_never_cut_short():
    rng = random.Random(0)
    drawn = [pause_s(Budget(base_s=0.5, longest_s=1.0), 1, 20.0, rng) for _ in range(100)]
    assert min(drawn) >= 20.0
    assert max(drawn) <= 20.5


def attempt_all(failures, budget, took=0.0):
    """Run `retrying` on a virtual clock against planned failures; what came, and the seconds on the clock and timer."""

    async def main():
        clock = VirtualClock()
        timer = Timer(clock)
        waits, planned = Waits(clock, timer), list(failures)

        @asynccontextmanager
        async def admit():
            yield Ticket(0.0, 0)

        async def once(ticket):
            await clock.sleep(took)
            if planned:
                raise planned.pop(0)
            return "reply"

        work = asyncio.ensure_future(
            retrying(once, admit=admit, budget=budget, clock=clock, rng=random.Random(1), waits=waits, who='openai "m"')
        )
        await clock.run_until_idle()
        try:
            return await work, clock.monotonic(), timer, waits
        except ProviderError as error:
            return error, clock.monotonic(), timer, waits

    return asyncio.run(main())


def test_every_failed_try_is_recorded_and_its_pause_is_waiting_time():
    failures = [TryFailedError("rate_limit", "x", status=429, retry_after_s=5.0), TryFailedError("connection", "y")]
    (reply, attempts), elapsed, timer, waits = attempt_all(failures, Budget(), took=2.0)
    assert reply == "reply"
    assert [(a.cause, a.status) for a in attempts] == [("rate_limit", 429), ("connection", None)]
    assert 7.0 <= attempts[0].waited_s <= 7.5
    assert sum(a.waited_s for a in attempts) + 2.0 == pytest.approx(elapsed)
    # the tries themselves took 2 s each of "our" time here: only the pauses are booked by `retrying`
    assert timer.waiting_s == pytest.approx(elapsed - 6.0) == waits.seconds


def test_people_are_told_of_a_request_that_fails_again_and_again(caplog):
    attempt_all([TryFailedError("connection", "refused")] * 9, Budget(tries=2))
    assert not caplog.messages
    attempt_all([TryFailedError("connection", "refused")] * 9, Budget(tries=5))
    told = [message.partition(", the next one")[0] for message in caplog.messages]
    assert told == [f'openai "m": connection: refused; {tries} of 5 tries failed' for tries in (3, 4)]


def test_the_budget_ends_by_tries():
    error, *_ = attempt_all([TryFailedError("server_error", "boom", status=500)] * 9, Budget(tries=3))
    assert (error.cause, error.status, error.retryable) == ("server_error", 500, True)
    assert len(error.attempts) == 3
    assert str(error).startswith('openai "m": server_error (HTTP 500) after 3 tries in ')


def test_a_wait_beyond_the_budget_is_not_waited_for():
    failure = TryFailedError("rate_limit", "x", status=429, retry_after_s=3600.0)
    error, elapsed, *_ = attempt_all([failure], Budget(seconds=300))
    assert elapsed == 0
    assert (error.cause, error.retryable, error.retry_after_s) == ("rate_limit", True, 3600.0)
    assert len(error.attempts) == 1


def test_what_another_try_cannot_help_is_not_tried_again():
    error, *_ = attempt_all([TryFailedError("auth", "no", status=401, retryable=False)], Budget())
    assert (error.cause, error.retryable, len(error.attempts)) == ("auth", False, 1)


def admitted(rates_of, jobs, held=0.0):
    """When each of `jobs` (token guesses) is admitted, on a virtual clock."""

    async def main():
        clock = VirtualClock()
        rates, times = rates_of(clock), []

        async def job(tokens):
            async with rates.slot(tokens, Waits(clock, None)):
                times.append(clock.monotonic())
                await clock.sleep(held)

        work = asyncio.gather(*(job(tokens) for tokens in jobs))
        await clock.run_until_idle()
        await work
        return times

    return asyncio.run(main())


def test_requests_per_minute_hold_in_every_window():
    times = admitted(
        lambda clock: Rates(clock, concurrent=100, requests_per_minute=5, tokens_per_minute=None), [1] * 17
    )
    assert times == [0.0] * 5 + [60.0] * 5 + [120.0] * 5 + [180.0] * 2


def test_tokens_per_minute_count_guesses_and_a_giant_goes_alone():
    times = admitted(
        lambda clock: Rates(clock, concurrent=100, requests_per_minute=None, tokens_per_minute=100),
        [60, 40, 10, 500, 50, 50],
    )
    assert times == [0.0, 0.0, 60.0, 120.0, 180.0, 180.0]


def test_a_guess_is_replaced_by_what_the_provider_counted():
    async def main():
        clock = VirtualClock()
        rates = Rates(clock, concurrent=4, requests_per_minute=None, tokens_per_minute=100)
        async with rates.slot(90, Waits(clock, None)) as ticket:
            ticket.tokens = 5
        async with rates.slot(90, Waits(clock, None)):
            return clock.monotonic()

    assert asyncio.run(main()) == 0.0


def test_concurrency_is_a_cap():
    times = admitted(
        lambda clock: Rates(clock, concurrent=2, requests_per_minute=None, tokens_per_minute=None), [1] * 5, held=10.0
    )
    assert times == [0.0, 0.0, 10.0, 10.0, 20.0]


def test_a_cancelled_waiter_gives_its_turn_back():
    async def main():
        clock = VirtualClock()
        rates = Rates(clock, concurrent=1, requests_per_minute=1, tokens_per_minute=None)

        async def job():
            async with rates.slot(1, Waits(clock, None)):
                return clock.monotonic()

        assert await job() == 0.0
        second = asyncio.ensure_future(job())
        await asyncio.sleep(0)
        second.cancel()
        third = asyncio.ensure_future(job())
        await clock.run_until_idle()
        return await third

    assert asyncio.run(main()) == 60.0


def test_prices_are_per_million_of_each_sort():
    price = Price(input=3.0, output=15.0, cached=0.3, cache_write=3.75)
    spent, notes = usage(price, input_tokens=1_000_000, output_tokens=100_000, cached=400_000, written=200_000)
    assert spent.cost_usd == pytest.approx(0.4 * 3 + 0.4 * 0.3 + 0.2 * 3.75 + 0.1 * 15)
    assert notes == ()
    assert (spent.calls, spent.input_tokens, spent.cached_tokens) == (1, 1_000_000, 400_000)


def test_without_a_price_the_cost_is_zero_and_said_to_be_unknown():
    spent, notes = usage(None, input_tokens=10, output_tokens=1)
    assert spent.cost_usd == 0
    assert notes == (NO_PRICE,)
