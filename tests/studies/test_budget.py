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


def test_without_a_cap_everything_is_admitted() -> None:
    budget = Budget(Limits(), Usage(), 0.0)
    assert all(budget.admit(("a", "t", index), Limits(), 3) for index in range(100))


def test_the_worst_case_of_all_attempts_is_reserved() -> None:
    budget = Budget(Limits(cost_usd=10), Usage(), 0.0)
    own = Limits(cost_usd=2)
    assert budget.admit(("a", "t", 0), own, 3)
    assert not budget.admit(("a", "t", 1), own, 3), "two times six would overspend"
    budget.book(record(("a", "t", 0), 0.5))
    assert budget.remaining()["cost_usd"] == 10 - 0.5 - 5.5
    budget.release(("a", "t", 0))
    assert budget.admit(("a", "t", 1), own, 3)


def test_a_resume_starts_from_what_was_spent() -> None:
    budget = Budget(Limits(cost_usd=1.0, seconds=10), Usage(cost_usd=0.95), 3.0)
    assert not budget.admit(("a", "t", 0), Limits(cost_usd=0.1, seconds=1), 1)
    assert budget.admit(("a", "t", 0), Limits(cost_usd=0.05, seconds=1), 1)


def test_any_order_of_admissions_and_costs_stays_under_the_cap() -> None:
    rng = random.Random(3)
    for _ in range(200):
        cap, limit, spent, started = rng.uniform(0.5, 5), 0.3, 0.0, 0
        for _resume in range(3):
            budget = Budget(Limits(cost_usd=cap), Usage(cost_usd=spent), 0.0)
            flying: list[tuple[str, str, int]] = []
            for index in range(40):
                trial = ("a", "t", index)
                if budget.admit(trial, Limits(cost_usd=limit), rng.randint(1, 3)):
                    flying.append(trial)
                    started += 1
                if flying and rng.random() < 0.6:
                    done = flying.pop(rng.randrange(len(flying)))
                    cost = rng.uniform(0, limit)
                    spent += cost
                    budget.book(record(done, cost))
                    budget.release(done)
        assert spent <= cap + 1e-9 and started > 0
