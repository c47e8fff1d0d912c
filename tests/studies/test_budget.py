"""The budget of a study: never promised twice, never overspent."""

from __future__ import annotations

import random

from fairtrial.core.clock import SystemClock
from fairtrial.core.limits import Limits, Usage
from fairtrial.core.record import Outcome, Record, Timings, TrialKey
from fairtrial.studies.budget import Budget


def record(trial: tuple[str, str, int], cost: float, seconds: float = 1.0) -> Record:
    arm, task, repeat = trial
    return Record(
        key=TrialKey(arm=arm, task=task, repeat=repeat),
        seed=0,
        outcome=Outcome.SCORED,
        scores={"reward": 1.0},
        usage=Usage(calls=1, input_tokens=10, cost_usd=cost),
        timings=Timings(started=SystemClock().now(), wall_s=seconds, working_s=seconds),
    )


def test_without_a_cap_everything_is_admitted_as_it_is() -> None:
    budget = Budget(Limits(), Usage(), 0.0)
    limits = Limits(tokens=5)
    assert budget.admit(("a", "t", 0), limits, 3, 4) is limits and not budget.exhausted()


def test_the_worst_case_of_all_attempts_is_reserved() -> None:
    budget = Budget(Limits(cost_usd=10), Usage(), 0.0)
    own = Limits(cost_usd=2)
    assert budget.admit(("a", "t", 0), own, 3, 4) is not None
    assert budget.admit(("a", "t", 1), own, 3, 4) is None, "two times six would overspend"
    budget.book(record(("a", "t", 0), 0.5))
    assert budget.remaining()["cost_usd"] == 10 - 0.5 - 5.5
    budget.release_all()
    assert budget.admit(("a", "t", 1), own, 3, 4) is not None


def test_trials_without_a_limit_share_what_is_left() -> None:
    budget = Budget(Limits(tokens=100), Usage(), 0.0)
    granted = [budget.admit(("a", "t", index), Limits(), 1, 4) for index in range(4)]
    assert all(item is not None and item.tokens is not None and item.tokens >= 1 for item in granted)
    assert sum(item.tokens or 0 for item in granted if item) <= 100


def test_a_resume_starts_from_what_was_spent() -> None:
    budget = Budget(Limits(cost_usd=1.0, seconds=10), Usage(cost_usd=1.0), 3.0)
    assert budget.exhausted() and budget.admit_last(("a", "t", 0), Limits()) is None


def test_any_order_of_admissions_and_costs_stays_under_the_cap() -> None:
    rng = random.Random(3)
    for _ in range(200):
        cap, spent = rng.uniform(0.5, 5), 0.0
        for _resume in range(3):
            budget = Budget(Limits(cost_usd=cap), Usage(cost_usd=spent), 0.0)
            flying: dict[tuple[str, str, int], float] = {}
            for index in range(40):
                trial = ("a", "t", index)
                granted = budget.admit(trial, Limits(cost_usd=rng.choice([None, 0.3])), rng.randint(1, 3), 4)
                if granted is not None and granted.cost_usd is not None:
                    flying[trial] = granted.cost_usd
                if flying and rng.random() < 0.6:
                    done = rng.choice(list(flying))
                    cost = rng.uniform(0, flying.pop(done))
                    spent += cost
                    budget.book(record(done, cost))
        assert spent <= cap + 1e-9
