"""Claims against effects whose truth is known: what holds, what does not, what stays open; and ratios."""

import numpy as np
import pytest

from fairtrial.stats.claimed import weigh_claim
from fairtrial.stats.paired import paired_effect
from fairtrial.stats.ratio import paired_ratio


def effect(differences, start=10.0, clusters=None):
    control = {f"t{i:03d}": [start] for i in range(len(differences))}
    arm = {f"t{i:03d}": [start + d] for i, d in enumerate(differences)}
    return paired_effect(control, arm, clusters=clusters, rng=1)


def word(differences, direction, margin=0.0):
    test = weigh_claim(effect(differences), direction, margin, rng=1)
    return test.word(test.p, 0.05)


NOISE = np.random.default_rng(5).normal(0, 1, 40)
NOISE -= NOISE.mean()


@pytest.mark.parametrize(
    ("shift", "direction", "margin", "expected"),
    [
        (1.0, "more", 0.0, "holds"),
        (1.0, "less", 0.0, "does not hold here"),
        (-1.0, "less", 0.0, "holds"),
        (-1.0, "more", 0.0, "does not hold here"),
        (0.1, "more", 0.0, "not decided"),
        (1.0, "more", 0.5, "holds"),
        (0.6, "more", 0.5, "not decided"),  # more than 0, but not surely more than the margin
        (-0.6, "less", 0.5, "not decided"),
        (0.1, "more", 0.5, "does not hold here"),  # surely smaller than what counts
        (-0.1, "less", 0.5, "does not hold here"),
        (-0.1, "more", 0.5, "does not hold here"),
        (-2.0, "more", 0.5, "does not hold here"),
        (0.1, "same", 0.5, "holds"),
        (0.4, "same", 0.5, "not decided"),
        (1.0, "same", 0.5, "does not hold here"),
        (-1.0, "same", 0.5, "does not hold here"),
    ],
)
def test_a_claim_is_judged_against_its_margin(shift, direction, margin, expected):
    assert word(NOISE + shift, direction, margin) == expected


def test_a_claim_that_stands_alone_may_fall_among_many():
    test = weigh_claim(effect(NOISE + 0.4), "more", rng=1)
    assert test.word(test.p, 0.05) == "holds" and test.word(20 * test.p, 0.05) == "not decided"


def test_no_difference_at_all_says_nothing_of_direction_and_much_of_sameness():
    assert word(np.zeros(24), "more") == word(np.zeros(24), "less") == "not decided"
    assert word(np.zeros(24), "same", 0.05) == "holds"
    assert word(np.zeros(2), "same", 0.05) == "not decided", "two tasks prove nothing"


def test_one_task_decides_nothing():
    for direction in ("more", "less", "same"):
        assert word([3.0], direction, 0.5) == "not decided"


def test_false_verdicts_are_as_rare_as_promised():
    rng = np.random.default_rng(3)
    at_zero = [word(rng.normal(0, 1, 20), "more") for _ in range(400)]
    assert 8 <= 400 - at_zero.count("not decided") <= 33  # 5 % of 400 is 20; these are the ends of a 99.5 % range
    at_margin = [word(rng.normal(0.5, 0.5, 20), "same", 0.5) for _ in range(400)]
    assert at_margin.count("holds") <= 33 and at_margin.count("does not hold here") <= 22


def test_a_ratio_of_means_covers_the_truth_and_mirrors_when_the_arms_are_swapped():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        size = rng.lognormal(0, 0.5, 30)  # long and short tasks
        control = {f"t{i}": [value] for i, value in enumerate(100 * size * rng.lognormal(0, 0.3, 30))}
        arm = {f"t{i}": [value] for i, value in enumerate(40 * size * rng.lognormal(0, 0.3, 30))}
        ratio = paired_ratio(paired_effect(control, arm, resamples=200, rng=1))
        covered += ratio.interval.low <= 0.4 <= ratio.interval.high
    assert 275 <= covered <= 297
    back = paired_ratio(paired_effect(arm, control, resamples=200, rng=1))
    assert back.estimate == pytest.approx(1 / ratio.estimate)
    assert back.interval.low == pytest.approx(1 / ratio.interval.high)


def test_there_is_no_ratio_to_nothing_and_none_of_what_may_be_negative():
    assert paired_ratio(effect([1.0, 1.0, 0.0], start=0.0)) is None
    assert paired_ratio(effect([2.0, 5.0, 9.0], start=-1.0)) is None


def test_families_widen_a_ratio():
    differences = np.repeat(np.random.default_rng(1).normal(0, 2, 10), 4)
    families = {f"t{i:03d}": f"f{i // 4}" for i in range(40)}
    alone, together = paired_ratio(effect(differences)), paired_ratio(effect(differences, clusters=families))
    assert together.interval.width > 1.5 * alone.interval.width
