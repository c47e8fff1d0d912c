"""The paired effect: what a user relies on, whatever the scores."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.stats.paired import BOOTSTRAP_FROM, paired_effect
from fairtrial.stats.planted import Planted, as_scores
from fairtrial.stats.scores import Dropped

RESAMPLES = 1_000


def effect_of(control, arm, **options):
    return paired_effect(control, arm, **{"resamples": RESAMPLES, "rng": 7, **options})


def study(n_tasks, repeats=3, seed=0, effect=0.1):
    a, b = Planted(effect=effect).draw(n_tasks, repeats, seed)
    return as_scores(a), as_scores(b)


arms = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        *[st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=2), min_size=n, max_size=n)] * 2
    )
)


def named(rows):
    return {f"t{i}": row for i, row in enumerate(rows)}


@given(arms)
@settings(max_examples=40, deadline=None)
def test_swapping_the_arms_negates_the_estimate_and_mirrors_the_interval(rows):
    a, b = map(named, rows)
    there, back = effect_of(a, b), effect_of(b, a)
    assert back.estimate == pytest.approx(-there.estimate, abs=1e-12)
    assert back.interval.low == pytest.approx(-there.interval.high, abs=1e-9)
    assert back.interval.high == pytest.approx(-there.interval.low, abs=1e-9)
    assert (back.p, back.p_strict) == (there.p, there.p_strict)
    assert back.control_mean == there.arm_mean


@given(arms, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_neither_the_order_nor_the_names_of_tasks_matter(rows, random):
    a, b = map(named, rows)
    order = list(a)
    random.shuffle(order)
    renamed = {old: f"x{i}" for i, old in enumerate(order)}
    there = effect_of(a, b)
    back = effect_of({renamed[t]: a[t] for t in order}, {renamed[t]: b[t] for t in a})
    assert back.estimate == pytest.approx(there.estimate, abs=1e-12)
    assert back.p == there.p
    assert (back.interval.low, back.interval.high) == pytest.approx((there.interval.low, there.interval.high), abs=1e-9)


@given(arms, st.floats(-5, 5), st.floats(0.1, 20))
@settings(max_examples=30, deadline=None)
def test_shift_leaves_and_scale_stretches(rows, shift, scale):
    a, b = map(named, rows)
    plain = effect_of(a, b)
    moved = effect_of(*({t: [scale * (v + shift) for v in row] for t, row in arm.items()} for arm in (a, b)))
    assert moved.estimate == pytest.approx(scale * plain.estimate, abs=1e-9)
    assert moved.p == pytest.approx(plain.p, abs=1e-9 if plain.p_exact and moved.p_exact else 0.05)
    low, high = scale * plain.interval.low, scale * plain.interval.high
    assert (moved.interval.low, moved.interval.high) == pytest.approx((low, high), abs=1e-7 * scale)


@given(arms)
@settings(max_examples=20, deadline=None)
def test_an_arm_against_itself_shows_nothing(rows):
    a = named(rows[0])
    effect = effect_of(a, a)
    assert effect.estimate == 0
    assert effect.p == 1
    assert (effect.interval.low, effect.interval.high) == (0, 0)
    assert effect.interval.method == "constant"


def test_the_same_seed_gives_the_same_result_and_none_is_hidden():
    a, b = study(50)
    assert effect_of(a, b) == effect_of(a, b)
    assert effect_of(a, b, rng=1).interval != effect_of(a, b, rng=2).interval
    assert effect_of(a, b, rng=np.random.default_rng(1)) == effect_of(a, b, rng=1)


def test_blocks_pair_where_both_have_a_score_and_every_other_one_is_listed():
    control = {"a": {0: 1.0, 1: 0.0, 2: None}, "b": [0.0, None], "c": [1.0], "e": [None]}
    arm = {"a": {1: 1.0, 2: 1.0}, "b": [1.0, 0.0], "d": [1.0], "e": [None]}
    effect = effect_of(control, arm)
    assert effect.tasks == ("a", "b")
    assert effect.differences == (1.0, 1.0)
    assert effect.n_blocks == 2
    assert set(effect.dropped) == {
        Dropped("a", 0, "arm"),
        Dropped("a", 2, "control"),
        Dropped("b", 1, "control"),
        Dropped("c", 0, "arm"),
        Dropped("d", 0, "control"),
        Dropped("e", 0, "both"),
    }
    assert effect.arm_mean - effect.control_mean == effect.estimate


def test_means_are_over_tasks_not_trials():
    effect = effect_of({"long": [0.0] * 9, "short": [1.0]}, {"long": [1.0] * 9, "short": [1.0]})
    assert effect.estimate == 0.5


def test_families_widen_the_error_and_flip_together():
    a, b = study(60, effect=0.2)
    plain = effect_of(a, b)
    copies = (
        {f"{t}/{i}": v for t, v in a.items() for i in range(4)},
        {f"{t}/{i}": v for t, v in b.items() for i in range(4)},
    )
    family = {task: task.rsplit("/", 1)[0] for task in copies[0]}
    naive, clustered = effect_of(*copies), effect_of(*copies, clusters=family)
    assert clustered.n_clusters == 60
    assert clustered.se == pytest.approx(plain.se)
    assert clustered.p == pytest.approx(plain.p)
    assert clustered.interval.low == pytest.approx(plain.interval.low, abs=1e-9)
    assert naive.se == pytest.approx(plain.se / 2, rel=0.02)


def test_the_clustered_error_is_the_published_formula():
    rng = np.random.default_rng(4)
    d, groups = rng.normal(size=12), [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 4]
    tasks = [f"t{i:02d}" for i in range(12)]
    clusters = {t: str(g) for t, g in zip(tasks, groups, strict=True)}
    effect = effect_of({t: [0.0] for t in tasks}, {t: [v] for t, v in zip(tasks, d, strict=True)}, clusters=clusters)
    centred, n = d - d.mean(), len(d)
    within = sum(centred[i] ** 2 for i in range(n)) / n**2
    across = (
        sum(centred[i] * centred[j] for i in range(n) for j in range(n) if i != j and groups[i] == groups[j]) / n**2
    )
    assert effect.se == pytest.approx(np.sqrt((within + across) * 5 / 4))


def test_which_interval_is_reported_follows_the_number_of_tasks():
    few, enough = effect_of(*study(BOOTSTRAP_FROM - 1)), effect_of(*study(BOOTSTRAP_FROM))
    assert few.interval == few.t_interval
    assert enough.interval.method == "bca"
    tiny = effect_of(*study(5, seed=3))
    assert tiny.small
    assert not few.small
    assert "Only 5 tasks" in tiny.notes[0]


def test_two_tasks_give_a_wide_interval_and_no_significance():
    effect = effect_of({"a": [0.0], "b": [0.0]}, {"a": [1.0], "b": [0.5]})
    assert effect.interval.width > 2
    assert effect.p >= 0.25


def test_one_task_or_one_family_has_no_interval():
    one = effect_of({"a": [0, 0]}, {"a": [1, 1]})
    assert (one.estimate, one.se, one.interval) == (1.0, None, None)
    assert one.p_strict == 1
    assert one.notes == ("Only one task: there is no interval.",)
    family = effect_of({"a": [0], "b": [0]}, {"a": [1], "b": [0]}, clusters={"a": "x", "b": "x"})
    assert family.interval is None
    assert family.notes == ("Only one family: there is no interval.",)


def test_equal_differences_have_an_interval_without_width_and_say_so():
    effect = effect_of({f"t{i}": [0.0] for i in range(50)}, {f"t{i}": [1.0] for i in range(50)})
    assert (effect.interval.low, effect.interval.high, effect.interval.method) == (1, 1, "constant")
    assert "same difference" in effect.notes[0]


def test_ties_in_binary_data_of_one_repeat_bring_mcnemar():
    a, b = study(40, repeats=1)
    effect = effect_of(a, b)
    assert effect.p_strict == pytest.approx(effect.mcnemar.p)
    assert effect_of(*study(40, repeats=2)).mcnemar is None


def test_gain_is_that_of_the_means_with_an_interval_and_undefined_at_a_perfect_control():
    a, b = study(400, effect=0.2)
    effect = effect_of(a, b)
    assert effect.gain == pytest.approx(effect.estimate / (1 - effect.control_mean))
    assert effect.gain_interval.low < effect.gain < effect.gain_interval.high
    perfect = {t: [1.0] for t in a}
    assert effect_of(perfect, b).gain is None
    assert effect_of({t: [12.0] for t in a}, b).gain is None


def test_the_gain_interval_agrees_with_resampling_tasks():
    a, b = study(300, effect=0.2)
    effect = effect_of(a, b)
    rng = np.random.default_rng(0)
    A, B = np.array(effect.control_means), np.array(effect.arm_means)
    picks = rng.integers(0, 300, (4_000, 300))
    drawn = (B[picks].mean(1) - A[picks].mean(1)) / (1 - A[picks].mean(1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert effect.gain_interval.low == pytest.approx(low, abs=0.1 * width)
    assert effect.gain_interval.high == pytest.approx(high, abs=0.1 * width)


@pytest.mark.parametrize("kind", ["0/1", "fractions"])
def test_twenty_thousand_tasks_fit(kind):
    a, b = Planted(effect=0.02).draw(20_000, 2, 1)
    if kind == "fractions":
        a, b = a * np.linspace(0.1, 1, 20_000)[:, None], b * np.linspace(0.1, 1, 20_000)[:, None]
    effect = effect_of(as_scores(a), as_scores(b), resamples=500)
    assert effect.n_blocks == 40_000
    assert effect.interval.excludes(0)


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"nothing to compare.*2 blocks dropped"):
        effect_of({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(UserError, match="nothing to compare"):
        effect_of({}, {})
    with pytest.raises(UserError, match="task 'a', repeat 1: the score is nan"):
        effect_of({"a": [1.0, float("nan")]}, {"a": [1.0, 1.0]})
    with pytest.raises(UserError, match="task 'b' has no family"):
        effect_of({"a": [1.0], "b": [0.0]}, {"a": [1.0], "b": [1.0]}, clusters={"a": "x"})


def test_an_effect_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        effect_of(*study(10)).estimate = 1.0
