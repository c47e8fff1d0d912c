"""Intervals against scipy, and their behaviour at the ends."""

import numpy as np
import pytest
from scipy import stats

from fairtrial.core.errors import UserError
from fairtrial.stats.intervals import Interval, t_interval, wilson
from fairtrial.stats.resampling import bca_of, collapse, mean_of_first, resample


@pytest.mark.parametrize("draw", ["normal", "skewed", "thirds"])
def test_plain_bca_agrees_with_scipy_within_monte_carlo_error(draw):
    rng = np.random.default_rng(11)
    values = {
        "normal": rng.normal(0.1, 1, 60),
        "skewed": rng.lognormal(0, 1, 60),
        "thirds": rng.choice([-1 / 3, 0, 0, 0, 1 / 3, 2 / 3], 60),
    }[draw]
    units = collapse(values[:, None])
    ours = bca_of(mean_of_first, units, resample(units, 40_000, 1), 0.95, widen=False)
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=40_000, rng=2, batch=2_000
    ).confidence_interval
    error = 0.05 * values.std() / np.sqrt(60)  # some six Monte-Carlo errors of a 2.5 % quantile
    assert ours.low == pytest.approx(theirs.low, abs=error + (1 / 180 if draw == "thirds" else 0))
    assert ours.high == pytest.approx(theirs.high, abs=error + (1 / 180 if draw == "thirds" else 0))


def test_widened_bca_of_symmetric_values_is_student_t():
    half = np.random.default_rng(5).normal(0, 1, 20)
    values = np.concatenate([half, -half])
    units = collapse(values[:, None])
    wide = bca_of(mean_of_first, units, resample(units, 100_000, 0), 0.95)
    t = t_interval(0.0, float(values.std(ddof=1)) / np.sqrt(40), 39)
    assert wide.width == pytest.approx(t.width, rel=0.03)


def test_collapsed_and_gathered_resamples_have_the_same_law():
    values = np.repeat([0.0, 1 / 3, 1.0], [50, 30, 20])
    few = collapse(values[:, None])
    many = collapse((values + np.linspace(0, 1e-6, 100))[:, None])
    assert (len(few.counts), len(many.counts)) == (3, 100)
    a, b = (resample(units, 20_000, 3)[0][:, 0] / 100 for units in (few, many))
    assert a.mean() == pytest.approx(b.mean(), abs=0.002)
    assert a.std() == pytest.approx(values.std() / 10, rel=0.03)
    assert b.std() == pytest.approx(values.std() / 10, rel=0.03)


def test_families_are_resampled_whole():
    values, label = np.array([0.0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 1, 1])
    units = collapse(values[:, None], label)
    sums, sizes = resample(units, 1_000, 0)
    assert set(zip(sums[:, 0].tolist(), sizes.tolist(), strict=True)) == {(0, 6), (5, 8), (10, 10)}


def test_an_interval_holds_its_ends():
    interval = Interval(0.1 + 0.2, 1.0, 0.95, "t")
    assert not interval.excludes(0.3)
    assert interval.excludes(0.29)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (87, 261)])
def test_wilson_agrees_with_scipy(successes, n):
    ours = wilson(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_impossible_requests_are_refused_in_one_line():
    with pytest.raises(UserError, match="4 successes of 3"):
        wilson(4, 3)
    with pytest.raises(UserError, match="confidence must lie between 0 and 1, not 95"):
        wilson(1, 3, confidence=95)
    with pytest.raises(UserError, match="too few"):
        resample(collapse(np.zeros((3, 1))), 10, 0)
