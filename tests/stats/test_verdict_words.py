"""Verdicts: the word, and the sentence that a reader sees."""

import pytest

from fairtrial.core.errors import UserError
from fairtrial.stats.equivalence import tost
from fairtrial.stats.paired import paired_effect
from fairtrial.stats.planted import Planted, as_scores
from fairtrial.stats.verdict import decide


def effect_of(differences, base=0.0):
    control = {f"t{i:03d}": [base] for i in range(len(differences))}
    arm = {f"t{i:03d}": [base + d] for i, d in enumerate(differences)}
    return paired_effect(control, arm, resamples=1_000, rng=0)


CLEAR = [0.4, 0.1, 0.3, 0.2, 0.5, 0.0, 0.3, 0.2, 0.1, 0.4, 0.3, 0.2]
NOISE = [0.4, -0.3, 0.3, -0.2, 0.5, -0.4, 0.3, -0.2, 0.1, -0.1, 0.3, -0.2]
TINY = [0.01, -0.01, 0.005, 0.0, -0.005, 0.01, -0.01, 0.0, 0.005, -0.005, 0.004, 0.0]


def test_better_names_both_sides_the_size_the_interval_and_p():
    verdict = decide(effect_of(CLEAR), arm="fold", control="append")
    assert verdict.word == "better"
    assert verdict.sentence.startswith("fold is better than append: +25.0 points (95 % interval +1")
    assert verdict.sentence.endswith("p < 0.001, 12 tasks).")
    assert verdict.tasks_to_decide is None


def test_families_are_named_where_they_are_the_units():
    differences = [0.4, 0.3, 0.2, 0.5] * 3
    control = {f"t{i:03d}": [0.0] for i in range(12)}
    arm = {f"t{i:03d}": [d] for i, d in enumerate(differences)}
    family = {task: f"draw {int(task[1:]) % 4}" for task in control}
    verdict = decide(paired_effect(control, arm, clusters=family, rng=0), arm="fold", control="append")
    assert "12 tasks in 4 families" in verdict.sentence


def test_worse_and_scores_where_less_is_more():
    effect = effect_of([-d for d in CLEAR], base=0.6)
    assert decide(effect).word == "worse"
    assert decide(effect, higher_is_better=False).word == "better"


def test_not_decided_says_how_many_tasks_would_decide():
    effect = effect_of(NOISE, base=0.5)
    verdict = decide(effect)
    assert verdict.word == "not decided"
    assert verdict.tasks_to_decide > 12
    assert f"about {verdict.tasks_to_decide:,} tasks would decide a difference of this size" in verdict.sentence
    assert "these can find" in verdict.sentence
    bigger = decide(effect, margin=0.5 * effect.estimate)
    assert bigger.tasks_to_decide == pytest.approx(4 * verdict.tasks_to_decide, rel=0.05)


def test_so_many_tasks_do_decide_it_in_four_of_five_studies():
    population, found = Planted(effect=0.1, concentration=3), 0
    pilot = paired_effect(*map(as_scores, population.draw(4_000, 3, 0)), resamples=500, rng=0)
    needed = max(5, round((2.8 * pilot.task_sd / pilot.estimate) ** 2))
    for seed in range(100):
        a, b = population.draw(needed, 3, seed + 1)
        found += decide(paired_effect(as_scores(a), as_scores(b), resamples=500, rng=0)).word == "better"
    assert 65 <= found <= 92


def test_equivalent_needs_a_margin_and_evidence():
    assert decide(effect_of(TINY, base=0.5)).word == "not decided"
    verdict = decide(effect_of(TINY, base=0.5), margin=0.02, arm="b", control="a")
    assert verdict.word == "equivalent"
    assert verdict.sentence.startswith("b and a are equivalent within 2.0 points")
    assert decide(effect_of(NOISE, base=0.5), margin=0.02).word == "not decided"


def test_a_difference_smaller_than_what_matters_is_equivalent_and_says_so():
    verdict = decide(effect_of([0.010, 0.012, 0.011, 0.009, 0.010, 0.011, 0.010, 0.012] * 2), margin=0.05)
    assert verdict.word == "equivalent"
    assert "a difference is there, but smaller than what matters" in verdict.sentence


def test_identical_arms_do_not_prove_equivalence_by_two_tasks():
    assert decide(effect_of([0.0, 0.0], base=0.5), margin=0.02).word == "not decided"
    assert decide(effect_of([0.0] * 20, base=0.5), margin=0.02).word == "equivalent"
    verdict = decide(effect_of([0.0] * 20, base=0.5))
    assert verdict.tasks_to_decide is None
    assert "no difference to plan for" in verdict.sentence


def test_correction_for_several_arms_can_take_a_verdict_back():
    effect = effect_of([0.4, 0.3, -0.2, 0.3, 0.3, 0.1, 0.2, -0.1, 0.2], base=0.3)
    assert decide(effect).word == "better"
    corrected = decide(effect, p_adjusted=min(1.0, 8 * effect.p))
    assert corrected.word == "not decided"
    assert corrected.p == 8 * effect.p


def test_one_task_decides_nothing():
    verdict = decide(effect_of([1.0]))
    assert verdict.word == "not decided"
    assert "1 task)" in verdict.sentence
    assert "run more" in verdict.sentence


def test_few_tasks_are_called_a_rough_guide():
    verdict = decide(effect_of([0.5, 0.6, 0.4, 0.5, 0.7, 0.6]))
    assert verdict.word == "better"
    assert verdict.sentence.endswith("Only 6 independent units: a rough guide.")


def test_scores_outside_of_0_to_1_are_not_called_points():
    assert "points" not in decide(effect_of([30.0 * d for d in CLEAR])).sentence


def test_equivalence_is_the_interval_within_the_margins():
    effect = effect_of(TINY, base=0.5)
    for margin in (0.001, 0.003, 0.004, 0.005, 0.01):
        result = tost(effect, margin)
        inside = result.interval.low > -margin and result.interval.high < margin
        assert result.equivalent == inside


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="margin must be positive"):
        decide(effect_of(CLEAR), margin=0.0)
    with pytest.raises(UserError, match="alpha must lie between 0 and 1"):
        decide(effect_of(CLEAR), alpha=5)


def test_few_tasks_that_all_agree_are_told_how_many_would_decide():
    def verdict_of(n):
        tasks = [f"t{i}" for i in range(n)]
        return decide(paired_effect({task: [0] for task in tasks}, {task: [1] for task in tasks}, rng=0))

    two = verdict_of(2)
    assert two.word == "not decided" and two.tasks_to_decide is not None
    assert f"about {two.tasks_to_decide} tasks that agree like these would decide it" in two.sentence
    assert (
        verdict_of(two.tasks_to_decide).word == "better" and verdict_of(two.tasks_to_decide - 1).word == "not decided"
    )
