"""Probes without training: what each recurrence can overwrite, keep and forget, whatever a run would learn."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.training.mixer_probes import (  # noqa: E402
    DELTA,
    HEBBIAN,
    LETTERS,
    overwrite,
    probe,
    retain_and_forget,
    retrieval,
    stream,
)


def test_the_delta_rule_returns_the_second_value_and_a_sum_of_writes_returns_both() -> None:
    assert overwrite(LETTERS["K"]) < 1e-20 and overwrite(LETTERS["G"]) < 1e-20
    assert overwrite(LETTERS["N"]) == pytest.approx(1.0, abs=1e-9)
    assert overwrite(LETTERS["P"]) == pytest.approx(0.5, abs=0.05), "attention without positions returns the mean"


def test_only_a_gate_for_each_channel_keeps_one_value_and_loses_another() -> None:
    assert retain_and_forget(LETTERS["K"]) == retain_and_forget(LETTERS["N"]) == 0
    assert retain_and_forget(LETTERS["G"]) == pytest.approx(0.5, abs=1e-6), "(1 - a)^2 + a^2 is 1/2 at best"
    assert retain_and_forget(HEBBIAN) == retain_and_forget(LETTERS["F"]) == pytest.approx(1.0)


@pytest.mark.parametrize("length", [16, 128])
def test_holding_and_following_at_once_costs_one_decay_about_all_of_one_channel(length: int) -> None:
    assert stream("channel", length=length) == 0
    assert 0.85 < stream("scalar", length=length) < 1.2
    assert stream("none", length=length) > length / 4


def test_a_hebbian_state_fills_up_linearly_and_the_delta_rule_errs_less() -> None:
    for pairs in (4, 16, 32):
        assert retrieval(HEBBIAN, pairs) == pytest.approx((pairs - 1) / 32, rel=0.15)
        assert retrieval(DELTA, pairs) < 0.75 * retrieval(HEBBIAN, pairs)


def test_a_pattern_is_as_good_as_its_best_layer() -> None:
    assert probe("overwrite", "NNNK", 1) == pytest.approx(1.0)
    assert probe("overwrite", "NN", 1) < 1e-6
    assert probe("two-channel", "GF", 1) == pytest.approx(0.5, abs=1e-6)


def test_more_orthogonal_keys_than_dimensions_are_refused() -> None:
    with pytest.raises(UserError, match=r"pairs = 20 needs width >= 20 \(got 16\)"):
        overwrite(LETTERS["K"], pairs=20)
