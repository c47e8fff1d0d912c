"""Records: errors are never zeros, failures are never silent."""

import pytest
from pydantic import ValidationError

from fairtrial.core.errors import InfraError, UserError, one_line
from fairtrial.core.record import Outcome, Record, TrialKey

KEY = TrialKey(arm="fold", task="t", repeat=0)


def record(**fields):
    return Record(**{"key": KEY, "seed": 1, **fields})


@pytest.mark.parametrize("outcome", ["errored", "skipped"])
def test_an_error_carries_no_scores(outcome):
    with pytest.raises(ValidationError, match="errors are never zeros"):
        record(outcome=outcome, cause="provider", scores={"reward": 0.0})
    assert not record(outcome=outcome, cause="provider").outcome.counts


@pytest.mark.parametrize("outcome", ["scored", "failed"])
def test_what_counts_carries_scores(outcome):
    with pytest.raises(ValidationError, match="needs scores"):
        record(outcome=outcome, cause="x")
    assert record(outcome=outcome, cause="x", scores={"reward": 0.0}).outcome.counts


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ERRORED, Outcome.SKIPPED])
def test_what_was_not_scored_names_its_cause(outcome):
    scores = {"reward": 0.0} if outcome is Outcome.FAILED else {}
    for cause in (None, ""):
        with pytest.raises(ValidationError, match="names its cause"):
            record(outcome=outcome, scores=scores, cause=cause)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_is_a_number(value):
    with pytest.raises(ValidationError, match="finite"):
        record(outcome="scored", scores={"reward": value})


def test_keys_print_so_that_a_person_finds_them_and_refuse_nonsense():
    assert str(KEY) == "fold/t#0" and str(KEY.model_copy(update={"attempt": 3})) == "fold/t#0.3"
    for bad in ({"repeat": -1}, {"attempt": 0}):
        with pytest.raises(ValidationError):
            TrialKey(**{"arm": "a", "task": "t", "repeat": 0, **bad})


def test_records_are_frozen_and_refuse_unknown_fields():
    one = record(outcome="scored", scores={"reward": 1.0})
    with pytest.raises(ValidationError):
        one.seed = 2
    with pytest.raises(ValidationError):
        record(outcome="scored", scores={"reward": 1.0}, score=1.0)


def test_errors_print_on_one_line():
    assert one_line(UserError("bad\n  thing")) == "bad thing"
    assert one_line(KeyError("x")) == "KeyError: 'x'"
    assert one_line(InfraError("")) == "InfraError"
    assert InfraError("x", cause="provider", retry_after_s=3).retryable
