"""pass@k and pass^k: unbiased, strict about k and about fractional scores."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.stats.passk import pass_at_k, pass_hat_k
from fairtrial.stats.planted import Planted, as_scores


@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=7), st.data())
def test_both_are_averages_over_all_choices_of_k_trials(trials, data):
    k = data.draw(st.integers(1, len(trials)))
    choices = list(itertools.combinations(trials, k))
    assert pass_at_k({"t": trials}, k, rng=0).estimate == pytest.approx(sum(map(any, choices)) / len(choices))
    assert pass_hat_k({"t": trials}, k, rng=0).estimate == pytest.approx(sum(map(all, choices)) / len(choices))


def test_more_trials_than_there_are_is_refused_with_the_task():
    with pytest.raises(UserError, match="k = 4 needs 4 scores of each task, and task 'b' has 3"):
        pass_at_k({"a": [1, 1, 1, 0], "b": [1, 0, 0]}, 4, rng=0)
    with pytest.raises(UserError, match="task 'b' has 2"):
        pass_hat_k({"a": [1, 1, 1], "b": [1, None, 0]}, 3, rng=0)
    with pytest.raises(UserError, match="task 'b' has 0"):
        pass_at_k({"a": [1], "b": [None]}, 1, rng=0)
    with pytest.raises(UserError, match="at least 1"):
        pass_at_k({"a": [1]}, 0, rng=0)
    with pytest.raises(UserError, match="the arm has none"):
        pass_at_k({}, 1, rng=0)


def test_fractions_pass_only_from_a_stated_score_on():
    scores = {"dialogue-parser": [4 / 6, 4 / 6, 4 / 6]}
    with pytest.raises(UserError, match=r"score 0\.666667: say from which score"):
        pass_at_k(scores, 1, rng=0)
    assert pass_at_k(scores, 1, threshold=1.0, rng=0).estimate == 0
    assert pass_at_k(scores, 1, threshold=0.5, rng=0).estimate == 1


def test_interval_is_over_tasks_and_wider_over_families():
    a, _ = Planted().draw(120, 4, 0)
    scores = as_scores(a)
    plain = pass_at_k(scores, 2, rng=0)
    assert plain.interval.low < plain.estimate < plain.interval.high
    ordered = sorted(scores, key=lambda t: sum(scores[t]))
    clustered = pass_at_k(scores, 2, clusters={t: str(i // 2) for i, t in enumerate(ordered)}, rng=0)
    assert clustered.interval.width > 1.2 * plain.interval.width
    assert (
        pass_hat_k(scores, 4, rng=0).estimate
        <= pass_hat_k(scores, 1, rng=0).estimate
        == pytest.approx(pass_at_k(scores, 1, rng=0).estimate)
    )


def test_all_tasks_solved_is_not_certainty():
    interval = pass_at_k({f"t{i}": [1, 1] for i in range(60)}, 2, rng=0).interval
    assert interval.method == "wilson"
    assert 0.9 < interval.low < 1
