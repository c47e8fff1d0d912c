"""The sign-flip p against brute force, in every way that it is computed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.stats import permutation
from fairtrial.stats.binary import mcnemar
from fairtrial.stats.permutation import sign_flip


def brute_force(differences, labels=None):
    """(mid-p, strict p) from every pattern of signs, one at a time."""
    differences = [float(d) for d in differences]
    groups = list(range(len(differences))) if labels is None else list(labels)
    names = sorted(set(groups))
    observed = abs(sum(differences))
    above = reached = total = 0
    for signs in itertools.product((1, -1), repeat=len(names)):
        flip = dict(zip(names, signs, strict=True))
        value = abs(sum(flip[g] * d for g, d in zip(groups, differences, strict=True)))
        total += 1
        above += value > observed + 1e-9
        reached += value >= observed - 1e-9
    return (above + reached) / 2 / total, reached / total


thirds = st.integers(-6, 6).map(lambda i: i / 3)
reals = st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 6))


@given(st.lists(thirds | reals, min_size=1, max_size=9))
@settings(max_examples=80, deadline=None)
def test_every_pattern_is_counted(differences):
    mid, strict = brute_force(differences)
    test = sign_flip(np.array(differences))
    assert test.exact
    assert test.p_strict == pytest.approx(strict, abs=1e-12)
    if abs(sum(differences)) > 1e-9:
        assert test.p == pytest.approx(mid, abs=1e-12)
    else:
        assert test.p == 1


@given(st.lists(st.tuples(thirds, st.integers(0, 4)), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_families_flip_as_one(pairs):
    differences = np.array([d for d, _ in pairs])
    _, labels = np.unique([g for _, g in pairs], return_inverse=True)
    assert sign_flip(differences, labels).p_strict == pytest.approx(brute_force(differences, labels)[1], abs=1e-12)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=14), st.sampled_from([1, 1 / 3, 0.1, 1 / 18]))
@settings(max_examples=60, deadline=None)
def test_convolution_agrees_with_enumeration(whole, step):
    differences = np.array(whole) * step
    enumerated = sign_flip(differences)
    before, permutation.ENUMERATE = permutation.ENUMERATE, 0
    try:
        convolved = sign_flip(differences)
    finally:
        permutation.ENUMERATE = before
    assert convolved.exact
    assert convolved.p == pytest.approx(enumerated.p, abs=1e-12)
    assert convolved.p_strict == pytest.approx(enumerated.p_strict, abs=1e-12)


def test_many_binary_tasks_are_exact_and_equal_mcnemar():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    test = sign_flip((b - a).astype(float))
    assert test.exact
    assert test.p_strict == pytest.approx(mcnemar(a.tolist(), b.tolist()).p, rel=1e-9)


def test_tails_far_out_keep_their_precision():
    assert sign_flip(np.ones(200)).p_strict == pytest.approx(2 / 2**200, rel=1e-9)


def test_monte_carlo_agrees_with_the_exact_p_and_is_never_zero():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.15, 1, 16)
    exact = sign_flip(differences)
    assert exact.exact
    before, permutation.ENUMERATE = permutation.ENUMERATE, 0
    try:
        drawn = sign_flip(differences, flips=40_000, rng=1)
    finally:
        permutation.ENUMERATE = before
    assert not drawn.exact
    assert abs(drawn.p_strict - exact.p_strict) < 4 * np.sqrt(exact.p_strict / 40_000) + 1e-4
    assert sign_flip(rng.normal(5, 0.01, 50), flips=1_000).p_strict == 1 / 1_001


def test_no_difference_is_no_evidence():
    test = sign_flip(np.zeros(12))
    assert (test.p, test.p_strict) == (1, 1)
    with pytest.raises(UserError, match="at least one difference"):
        sign_flip(np.array([]))
