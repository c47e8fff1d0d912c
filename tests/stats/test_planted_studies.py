"""Planted truths: coverage, false alarms and power of the whole chain. Bounds are four Monte-Carlo errors wide.

benchmarks/paired_statistics.py does the same at a larger scale and prints the table.
"""

import math

import numpy as np
import pytest

from fairtrial.stats.arms import summarise_arm
from fairtrial.stats.intervals import NORMAL
from fairtrial.stats.paired import paired_effect
from fairtrial.stats.planted import Planted, as_scores, truth
from fairtrial.stats.verdict import decide


def studies(population, n_tasks, repeats, number, seed):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        a, b = population.draw(n_tasks, repeats, rng)
        yield a, b, paired_effect(as_scores(a), as_scores(b), resamples=1_000, rng=rng)


def within(share, low, high, number):
    """`share` lies in low .. high, give or take four Monte-Carlo errors."""
    slack = 4 * math.sqrt(0.05 * 0.95 / number)
    return low - slack <= share <= high + slack


def test_false_alarms_of_an_arm_against_itself_come_as_often_as_promised():
    number = 1_500
    found = [decide(e).word != "not decided" for _, _, e in studies(Planted(effect_sd=0), 87, 3, number, 1)]
    assert within(np.mean(found), 0.04, 0.06, number)


def test_the_strict_p_never_raises_more_false_alarms_than_its_level():
    number = 1_000
    for n_tasks in (12, 40):
        found = [
            e.p_strict <= 0.05 for _, _, e in studies(Planted(effect_sd=0, concentration=3), n_tasks, 2, number, 2)
        ]
        assert np.mean(found) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / number)


@pytest.mark.parametrize(("n_tasks", "repeats"), [(87, 3), (50, 3), (12, 3)])
def test_the_interval_holds_the_truth_as_often_as_promised(n_tasks, repeats):
    population, number = Planted(effect=0.1), 500
    true = truth(population)[1]
    covered = [not e.interval.excludes(true) for _, _, e in studies(population, n_tasks, repeats, number, 3)]
    assert within(np.mean(covered), 0.93, 0.97, number)


def test_pairing_finds_what_pooling_misses_and_pooled_intervals_are_too_narrow():
    population, number = Planted(effect=0.1), 300
    level, z = truth(population)[0], NORMAL.inv_cdf(0.975)
    paired = pooled = ours = theirs = 0
    for a, b, effect in studies(population, 87, 3, number, 4):
        paired += decide(effect).word == "better"
        variance = (a.mean() * (1 - a.mean()) + b.mean() * (1 - b.mean())) / a.size
        pooled += b.mean() - a.mean() > z * math.sqrt(variance)
        ours += not summarise_arm(as_scores(a)).interval.excludes(level)
        theirs += abs(a.mean() - level) <= z * math.sqrt(a.mean() * (1 - a.mean()) / a.size)
    assert paired > pooled + 0.12 * number
    assert within(ours / number, 0.93, 0.97, number)
    assert theirs / number < 0.88


def test_errors_in_a_third_of_one_arm_cost_width_and_not_truth():
    population, number, rng = Planted(effect=0.1), 400, np.random.default_rng(5)
    true, covered = truth(population)[1], []
    for _ in range(number):
        a, b = population.draw(60, 3, rng)
        lost = rng.random(b.shape) < 0.3
        arm = {
            t: [None if gone else v for v, gone in zip(row, lost[i], strict=True)]
            for i, (t, row) in enumerate(as_scores(b).items())
        }
        effect = paired_effect(as_scores(a), arm, resamples=1_000, rng=rng)
        assert effect.n_dropped == lost.sum()
        covered.append(not effect.interval.excludes(true))
    assert within(np.mean(covered), 0.93, 0.97, number)
    as_zero = np.where(lost, 0.0, b).mean() - a.mean()
    assert as_zero < effect.estimate - 0.05  # what counting errors as zeros would have reported


def test_a_planted_study_is_what_it_says():
    population = Planted(difficulty=0.5, concentration=2, effect=0.1, effect_sd=0.0)
    a, b = population.draw(100_000, 1, 0)
    assert a.mean() == pytest.approx(0.5, abs=0.01)
    assert b.mean() - a.mean() == pytest.approx(truth(population)[1], abs=0.01)
    assert truth(population)[1] == pytest.approx(0.1 - 0.1**2 / 2, abs=0.002)  # uniform difficulties, cut at 1
