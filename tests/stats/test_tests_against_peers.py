"""McNemar, Holm, Benjamini-Hochberg, power and arm summaries against other implementations and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fairtrial.core.errors import UserError
from fairtrial.stats.arms import split_variance, summarise_arm
from fairtrial.stats.binary import mcnemar
from fairtrial.stats.gain import gains
from fairtrial.stats.multiplicity import benjamini_hochberg, holm
from fairtrial.stats.planted import Planted, as_scores
from fairtrial.stats.power import achieved_power, bernoulli_variance, mde, planning_sd, tasks_needed


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80))
def test_mcnemar_is_the_binomial_test_of_discordant_pairs(pairs):
    result = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    discordant = result.only_control + result.only_arm
    expected = stats.binomtest(result.only_arm, discordant).pvalue if discordant else 1.0
    assert result.p == pytest.approx(expected)


def test_mcnemar_refuses_fractions_and_lengths():
    with pytest.raises(UserError, match="0 and 1"):
        mcnemar([0, 0.5], [1, 1])
    with pytest.raises(UserError, match="pairs tasks"):
        mcnemar([0], [1, 1])


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(p_values)
def test_benjamini_hochberg_agrees_with_scipy(p):
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p).tolist())


@given(p_values)
def test_holm_by_its_definition(p):
    adjusted = holm(p)
    order = sorted(range(len(p)), key=lambda i: p[i])
    for rank, i in enumerate(order):
        assert adjusted[i] == pytest.approx(min(1, max((len(p) - j) * p[order[j]] for j in range(rank + 1))))


@given(p_values)
@settings(deadline=None)
def test_adjustments_agree_with_statsmodels(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist())
    assert benjamini_hochberg(p) == pytest.approx(multitest.multipletests(p, method="fdr_bh")[1].tolist())


def test_adjustment_of_nothing_and_of_nonsense():
    assert holm([]) == ()
    with pytest.raises(UserError, match="between 0 and 1"):
        holm([0.1, 1.2])


def test_planning_formula_by_hand():
    variance = bernoulli_variance(0.34, 0.7)
    assert variance == pytest.approx(0.34 * 0.66 * 0.7 / 1.7)
    sd = planning_sd(0.1, control_variance=variance, control_repeats=3)
    assert sd == pytest.approx(np.sqrt(0.01 + 2 * variance / 3))
    assert mde(87, sd) == pytest.approx((1.959964 + 0.841621) * sd / np.sqrt(87), rel=1e-6)
    assert tasks_needed(mde(87, sd), sd) == 87
    assert achieved_power(mde(87, sd), 87, sd) == pytest.approx(0.8, abs=1e-4)
    assert achieved_power(0, 87, sd) == pytest.approx(0.05)


def test_planning_predicts_what_simulated_studies_find():
    population = Planted(effect=0.0, effect_sd=0.0)
    sd = planning_sd(0.0, control_variance=bernoulli_variance(0.34, 0.7), control_repeats=3)
    a, b = population.draw(50_000, 3, 0)
    assert (b.mean(1) - a.mean(1)).std() == pytest.approx(sd, rel=0.02)


def test_planning_refuses_what_cannot_be_planned():
    with pytest.raises(UserError, match="smallest difference that matters"):
        tasks_needed(0.0, 0.3)
    with pytest.raises(UserError, match="at least one repeat"):
        planning_sd(0.1, control_variance=0.1, control_repeats=0)
    assert tasks_needed(1.0, 0.01) == 5  # the sign-flip test needs as many to reach 0.05


def test_an_arm_is_summarised_over_tasks_not_trials():
    scores = {"a": [1, 1, 1], "b": [0, 0, 0], "c": [1, 0, 0], "d": [None, 0, None], "e": [None]}
    summary = summarise_arm(scores)
    task_means = np.array([1, 0, 1 / 3, 0])
    assert (summary.n_tasks, summary.n_trials) == (4, 10)
    assert summary.mean == pytest.approx(task_means.mean())
    assert summary.se == pytest.approx(task_means.std(ddof=1) / 2)
    expected = stats.t.interval(0.95, 3, summary.mean, summary.se)
    assert (summary.interval.low, summary.interval.high) == pytest.approx((max(0, expected[0]), min(1, expected[1])))


def test_a_perfect_arm_is_not_certain():
    summary = summarise_arm({f"t{i}": [1, 1] for i in range(10)})
    assert summary.interval.method == "wilson"
    assert summary.interval.low == pytest.approx(0.722, abs=1e-3)
    assert summary.interval.high == 1


def test_repeats_shrink_only_their_part_of_the_variance():
    a, _ = Planted(effect_sd=0.0).draw(20_000, 3, 2)
    split = summarise_arm(as_scores(a)).split
    assert split.between == pytest.approx(0.34 * 0.66 / 1.7, rel=0.05)
    assert split.within == pytest.approx(bernoulli_variance(0.34, 0.7), rel=0.05)
    assert split.se(20_000, 3) == pytest.approx(summarise_arm(as_scores(a)).se, rel=1e-3)
    assert split.se(20_000, 1_000) > np.sqrt(split.between / 20_000)
    assert split_variance([(1.0,), (0.0,)]) is None


def test_an_arm_without_scores_is_refused():
    with pytest.raises(UserError, match="no scores"):
        summarise_arm({"a": [None]})


def test_gain_leaves_perfect_controls_out_and_says_so():
    result = gains([1.0, 0.5], [0.9, 0.75])
    assert result.each == (None, 0.5)
    assert (result.macro, result.undefined) == (0.5, 1)
    assert gains([1.0], [1.0]).macro is None
    with pytest.raises(UserError, match=r"0 \.\. 1"):
        gains([33.9], [50.5])
