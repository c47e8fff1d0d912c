"""Outcome counts, attrition and sensitivity: nothing leaves the denominator unseen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.core.record import Outcome
from fairtrial.stats.metrics import improvement, norm_perf, run_scores
from fairtrial.stats.outcomes import attrition_warning, outcome_mix, sensitivity
from fairtrial.stats.paired import paired_effect


@given(st.lists(st.sampled_from(list(Outcome)), max_size=60), st.integers(0, 20))
def test_every_planned_trial_is_in_exactly_one_count(outcomes, missing):
    mix = outcome_mix(len(outcomes) + missing, outcomes)
    parts = (mix.scored, mix.failed, mix.errored, mix.skipped, mix.missing)
    assert sum(parts) == mix.planned
    assert mix.missing == missing
    assert mix.counted == sum(outcome.counts for outcome in outcomes)
    for count, name in zip(parts, ("scored", "failed", "errored", "skipped", "missing"), strict=True):
        assert (f"{count} {name}" in str(mix)) == (count > 0)


def test_unknown_and_doubled_outcomes_are_refused():
    with pytest.raises(UserError, match='"errored"'):
        outcome_mix(3, ["scored", "error"])
    with pytest.raises(UserError, match="3 outcomes of 2 planned"):
        outcome_mix(2, ["scored"] * 3)


def test_errors_in_one_arm_print_a_warning_and_equal_ones_do_not():
    clean, dirty = outcome_mix(100, ["scored"] * 99 + ["errored"]), outcome_mix(100, ["scored"] * 70 + ["errored"] * 30)
    text = attrition_warning(clean, dirty, arm_name="fold")
    assert "30.0% of fold's trials" in text
    assert "1.0% of control's" in text
    assert "30.0% of control's" in attrition_warning(dirty, clean, arm_name="fold")
    assert attrition_warning(dirty, dirty) is None
    assert attrition_warning(clean, outcome_mix(100, ["scored"] * 97 + ["skipped"] * 3)) is None
    assert attrition_warning(clean, outcome_mix(100, ["scored"] * 96)) is not None


score = st.none() | st.sampled_from([0.0, 0.5, 1.0])
tables = st.lists(
    st.tuples(st.lists(score, min_size=2, max_size=2), st.lists(score, min_size=2, max_size=2)), min_size=1, max_size=8
)


@given(tables)
@settings(max_examples=60, deadline=None)
def test_bounds_hold_whatever_the_missing_scores_were(rows):
    control, arm = ({f"t{i}": row[j] for i, row in enumerate(rows)} for j in (0, 1))
    result = sensitivity(control, arm)
    assert result.worst <= result.as_low <= result.best
    assert result.worst <= result.as_high <= result.best
    if result.missing_control == result.missing_arm == 0:
        assert result.worst == result.best == result.dropped
    if result.dropped is not None:
        assert result.dropped == pytest.approx(paired_effect(control, arm, resamples=100, rng=0).estimate)


def test_sensitivity_by_hand():
    result = sensitivity({"a": [1.0, 0.0], "b": [0.0, 0.0]}, {"a": [1.0, None], "b": [1.0, None]})
    assert result.dropped == 0.5
    assert result.as_low == 0.25
    assert result.as_high == result.best == 0.75
    assert result.worst == 0.25
    assert (result.missing_control, result.missing_arm) == (0, 2)
    with pytest.raises(UserError, match=r"outside 0 \.\. 1"):
        sensitivity({"a": [3.0]}, {"a": [1.0]})


def test_runs_with_native_metrics():
    assert run_scores([0.2, None, 0.4]).values == (0.2, 0.0, 0.4)
    assert run_scores([0.5]).sd is None
    with pytest.raises(UserError, match="2 runs of 1 planned"):
        run_scores([0.1, 0.2], planned=1)
    with pytest.raises(UserError, match="lacks the metric 'b'"):
        norm_perf([{"a": 1.0}], {"a": 1.0, "b": 1.0})
    with pytest.raises(UserError, match="only in one of them: b"):
        improvement({"a": 1.0, "b": 2.0}, {"a": 1.0})


def test_improvement_follows_the_direction_of_each_metric():
    change = improvement({"loss": 0.9, "acc": 0.6}, {"loss": 1.0, "acc": 0.5}, lower_is_better=frozenset({"loss"}))
    assert change.success
    assert str(change) == "improved: loss +10.0 %, acc +20.0 %"
    assert str(improvement({"acc": 0.4}, {"acc": 0.5})) == "not improved: acc -20.0 %"
