"""The engine on a virtual clock: back-off, rates, deadlines and outages to the exact second."""

import asyncio
from itertools import pairwise

import pytest
from contract import Bench, EngineCase, block_jobs, job

from fairtrial.core.clock import VirtualClock
from fairtrial.core.record import Outcome
from fairtrial.core.trial import ArmOptions, EngineOptions
from fairtrial.engine.local import LocalEngine
from fairtrial.engine.schedule import backoff_s


@pytest.fixture
def bench(tmp_path):
    return Bench(EngineCase(LocalEngine, "async"), tmp_path)


def run(bench, jobs, rules=(), **options):
    """(records, seconds that passed on the clock)."""

    async def collect(stream):
        return [record async for record in stream]

    async def drive():
        clock = VirtualClock()
        task = asyncio.create_task(collect(bench.start(jobs, rules, clock=clock, **options)))
        while not task.done():
            await clock.run_until_idle()
        return task.result(), clock.monotonic()

    return asyncio.run(drive())


def started(records):
    return sorted(record.timings.started.timestamp() for record in records)


def test_a_deadline_counts_working_time_to_the_second(bench):
    jobs = [job(task="over", seconds=10), job(task="under", seconds=10)]
    rules = [
        {"task": "over", "wait_s": 1000, "work_s": 10.5},
        {"task": "under", "wait_s": 1000, "work_s": 9.5, "reward": 1.0},
    ]
    records, seconds = run(bench, jobs, rules)
    over, under = sorted(records, key=lambda record: record.key.task)
    assert (over.outcome, over.cause) == (Outcome.FAILED, "seconds")
    assert (over.timings.working_s, over.timings.waiting_s) == (10, 1000)
    assert under.outcome is Outcome.SCORED and under.timings.working_s == 9.5
    assert seconds == 1010


def test_deadlines_end_wherever_on_the_clock_they_begin(bench):
    """At large odd times the clock's floats cannot hit a limit of 0.1 s exactly."""
    jobs = [job(task=f"t{n}", seconds=0.1) for n in range(60)]
    rules = [{"task": "t?", "wait_s": 1e5 / 3, "work_s": 9.0}, {"wait_s": 0.7, "work_s": 9.0}]
    records, _ = run(bench, jobs, rules, in_flight=1)
    assert {record.cause for record in records} == {"seconds"} and len(records) == 60


def test_sixty_seconds_of_429_cost_no_working_time(bench):
    jobs = block_jobs(20, seconds=5)
    rules = [{"outage": [0, 60], "on_outage": "wait", "wait_s": 0.5, "work_s": 1.0, "reward": 1.0}]
    records, seconds = run(bench, jobs, rules, in_flight=8)
    assert all(record.outcome is Outcome.SCORED for record in records) and len(records) == 40
    assert {round(record.timings.working_s, 6) for record in records} == {1.0}
    assert max(record.timings.waiting_s for record in records) >= 60
    assert 60 < seconds < 80


def test_retries_in_an_outage_are_bounded_and_do_not_burn_through_the_other_jobs(bench):
    """60 s of 429 with Retry-After: 20. Only the first few trials spend attempts on it, and none is lost."""
    jobs = block_jobs(200)
    rules = [{"outage": [0, 60], "retry_after_s": 20, "work_s": 1.0, "reward": 1.0}]
    records, seconds = run(bench, jobs, rules, in_flight=4, attempts=6)
    errors = [record for record in records if record.outcome is Outcome.ERRORED]
    assert {record.cause for record in errors} == {"provider"}
    assert len(errors) <= 2 * 3 * 4 * 3, "two arms, at most 3 x in_flight trials each, one attempt per 20 s"
    assert sum(record.outcome is Outcome.SCORED for record in records) == 400
    assert seconds < 60 + 20 + 400 / 4 + 5


def test_an_outage_longer_than_the_attempts_last_leaves_errors_never_zeros(bench):
    records, _ = run(bench, block_jobs(3), [{"outage": [0, 1e6]}], attempts=3, backoff_s=1.0)
    assert len(records) == 6 * 3
    assert all(record.outcome is Outcome.ERRORED and not record.scores for record in records)


def test_backoff_doubles_below_a_cap_with_full_jitter_that_is_the_same_each_time(bench):
    options = EngineOptions(backoff_s=2.0, backoff_max_s=9.0)
    for attempt, cap in [(1, 2.0), (2, 4.0), (3, 8.0), (4, 9.0), (9, 9.0), (5000, 9.0)]:
        waits = [backoff_s(job(task=f"t{n}", attempt=attempt), options) for n in range(300)]
        assert 0 <= min(waits) < 0.1 * cap and 0.9 * cap < max(waits) <= cap
        assert 0.4 * cap < sum(waits) / len(waits) < 0.6 * cap
        assert waits == [backoff_s(job(task=f"t{n}", attempt=attempt), options) for n in range(300)]
    assert backoff_s(job("a"), options) != backoff_s(job("b"), options), "arms do not come back in step"


def test_the_wait_before_a_retry_is_the_drawn_one(bench):
    records, _ = run(bench, [job()], [{"fault": "infra"}], attempts=3, backoff_s=4.0)
    options = EngineOptions(backoff_s=4.0)
    times = started(records)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits == pytest.approx([backoff_s(job(attempt=n), options) for n in (1, 2)], abs=1e-5)


def test_retry_after_is_a_minimum(bench):
    records, _ = run(bench, [job()], [{"fault": "infra", "retry_after_s": 30}], attempts=3, backoff_s=1.0)
    times = started(records)
    assert [later - earlier for earlier, later in pairwise(times)] == [30, 30]


def test_a_waiting_retry_holds_no_place_and_goes_first_when_it_is_due(bench):
    rules = [{"task": "t0", "attempts": [1], "fault": "infra", "retry_after_s": 2.5}, {"work_s": 1.0}]
    run(bench, block_jobs(6, arms=("a",)), rules, in_flight=1)
    order = [line.removeprefix("a/") for line in bench.lines("start")]
    assert order == ["t0#0", "t1#0", "t2#0", "t3#0", "t0#0.2", "t4#0", "t5#0"]


def test_a_rate_spaces_the_starts_of_its_arm_only(bench):
    records, _ = run(bench, block_jobs(6), in_flight=4, arms={"a": ArmOptions(per_minute=6)})
    times = started([record for record in records if record.key.arm == "a"])
    assert [later - earlier for earlier, later in pairwise(times)] == [10] * 5
    assert {t - times[0] for t in started([record for record in records if record.key.arm == "b"])} == {0}


def test_retries_count_against_the_rate(bench):
    records, _ = run(bench, [job()], [{"fault": "infra"}], attempts=3, arms={"a": ArmOptions(per_minute=1)})
    times = started(records)
    assert [later - earlier for earlier, later in pairwise(times)] == [60, 60]


def test_a_worker_that_goes_on_is_given_up_after_the_grace(bench):
    bench.grace_s = 7.0
    rules = [{"task": "t0", "fault": "ignore_cancel", "hang_s": 500}, {"work_s": 1.0, "reward": 1.0}]
    records, _ = run(bench, block_jobs(2, arms=("a",), seconds=10), rules, in_flight=1)
    assert records[0].flags == ("ignored_cancellation",) and records[0].timings.wall_s == 17
    assert records[1].scores == {"reward": 1.0}
