"""The schedule: any mix of limits starts every job once, in order within its arm, within the limits."""

from itertools import pairwise

from contract import job
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.trial import ArmOptions, EngineOptions
from fairtrial.engine.schedule import Schedule

arm_options = st.builds(
    ArmOptions,
    concurrency=st.none() | st.integers(1, 3),
    per_minute=st.none() | st.sampled_from([1.0, 7.0, 60.0, 333.3]),
)


@settings(max_examples=150, deadline=None)
@given(
    arms=st.lists(st.sampled_from("abc"), max_size=60),
    limits=st.dictionaries(st.sampled_from("abc"), arm_options),
    in_flight=st.integers(1, 4),
    fails=st.sets(st.integers(0, 59)),
    takes=st.sampled_from([0.0, 0.3, 5.0]),
)
def test_every_job_starts_once_per_attempt_in_order_within_all_limits(arms, limits, in_flight, fails, takes):
    options = EngineOptions(in_flight=in_flight, arms=limits, attempts=2, backoff_s=1.0)
    schedule = Schedule([job(arm, f"t{n}") for n, arm in enumerate(arms)], options)
    now, running, starts = 0.0, [], []
    while not (schedule.empty and not running):
        while len(running) < in_flight and (ticket := schedule.next(now)) is not None:
            running.append((now + takes, ticket))
            starts.append((now, ticket))
            for arm, limit in limits.items():
                of_arm = [one for _, one in running if one.job.key.arm == arm]
                assert limit.concurrency is None or len(of_arm) <= limit.concurrency
        if running:
            running.sort()
            now, ticket = running.pop(0)
            schedule.finished(ticket, erred=ticket.place in fails)
            if ticket.place in fails:
                schedule.retry(ticket, now, None)
        elif (wait := schedule.next_change(now)) is not None:
            now += wait
        else:
            assert schedule.empty, "something is left that nothing will ever start"
    first = [ticket.place for _, ticket in starts if not ticket.again]
    assert sorted(first) == list(range(len(arms))), "each once"
    for arm in "abc":
        places = [place for place in first if arms[place] == arm]
        assert places == sorted(places), "in order within the arm"
        times = [time for time, ticket in starts if ticket.job.key.arm == arm]
        rate = limits[arm].per_minute if arm in limits else None
        if rate is not None:
            assert all(b - a >= 60 / rate - 1e-6 for a, b in pairwise(times))
    assert sorted(t.place for _, t in starts if t.again) == sorted(fails & set(range(len(arms))))


def test_without_arm_limits_the_order_is_exactly_the_given_one():
    schedule = Schedule([job("ab"[n % 2], f"t{n}") for n in range(50)], EngineOptions(in_flight=50))
    assert [schedule.next(0.0).place for _ in range(50)] == list(range(50))


def test_a_throttled_arm_is_passed_by_for_a_bounded_stretch():
    arms = ["a"] * 1000 + ["b"]
    pulled = []

    def source():
        for n, arm in enumerate(arms):
            pulled.append(n)
            yield job(arm, f"t{n}")

    schedule = Schedule(source(), EngineOptions(in_flight=4, arms={"a": ArmOptions(concurrency=1)}))
    assert schedule.next(0.0).place == 0
    assert schedule.next(0.0) is None
    assert len(pulled) <= 1 + 8 * 4
