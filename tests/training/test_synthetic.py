"""Synthetic tasks: every target is the one right answer, recomputed here from the tokens alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.training.synthetic import IGNORED, Setting, SyntheticTask, mqar, palindrome, stack


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 8), st.integers(0, 20))
def test_each_query_of_mqar_asks_for_what_was_stored_last(seed: int, pairs: int, rewrites: int, extra: int) -> None:
    rewrites = min(rewrites, pairs)
    length, vocab = 4 * pairs + 2 * rewrites + extra, 40
    batch = mqar(np.random.default_rng(seed), 3, length, pairs, vocab, rewrites=rewrites)
    assert batch.tokens.shape == batch.targets.shape == (3, length)
    stored = 2 * (pairs + rewrites)
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        memory = dict(zip(tokens[0:stored:2].tolist(), tokens[1:stored:2].tolist(), strict=True))
        assert len(memory) == pairs and max(memory) < vocab // 2 <= min(memory.values())
        asked = np.flatnonzero(targets != IGNORED)
        assert [memory[key] for key in tokens[asked].tolist()] == targets[asked].tolist()
        assert sorted(tokens[asked].tolist()) == sorted(memory)
        silent = [place for place in range(stored, length) if targets[place] == IGNORED]
        assert not set(tokens[silent].tolist()) & set(memory), "filler must not be a key of the sequence"


def test_mqar_asks_early_rather_than_late_as_its_power_law_says() -> None:
    batch = mqar(np.random.default_rng(3), 400, 256, 4, 64)
    places = (np.nonzero(batch.targets != IGNORED)[1] - 8) // 2
    weight = np.arange(1, 125) ** (0.01 - 1.0)
    early = weight[:12].sum() / weight.sum()
    # Four draws without replacement flatten the law a little; a uniform law would put 0.10 there.
    assert early - 0.12 < np.mean(places < 12) <= early + 0.02
    assert places.max() > 100


def test_palindrome_answers_with_the_symbols_backwards() -> None:
    batch = palindrome(np.random.default_rng(1), 5, 20, 30)
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        assert tokens[10] == 29 and tokens[:10].max() < 29
        assert targets[:10].tolist() == [IGNORED] * 10
        assert targets[10:].tolist() == tokens[:10][::-1].tolist()
        assert tokens[11:].tolist() == targets[10:-1].tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 30))
def test_each_pop_returns_what_was_pushed_last_on_that_stack(seed: int, stacks: int, operations: int) -> None:
    symbols = 5
    batch = stack(np.random.default_rng(seed), 3, 3 * operations, stacks, symbols)
    for row, answers in zip(batch.tokens.reshape(3, -1, 3), batch.targets.reshape(3, -1, 3), strict=True):
        piles: dict[int, list[int]] = {}
        for (operation, name, symbol), answer in zip(row.tolist(), answers.tolist(), strict=True):
            assert symbols <= name < symbols + stacks and symbol < symbols
            if operation == symbols + stacks:
                piles.setdefault(name, []).append(symbol)
                assert answer == [IGNORED] * 3
            else:
                assert operation == symbols + stacks + 1
                assert piles[name].pop() == symbol
                assert answer == [IGNORED, symbol, IGNORED]


@pytest.mark.parametrize("task", [{"task": "mqar", "pairs": 4}, {"task": "palindrome"}, {"task": "stack"}])
def test_a_seed_gives_the_same_sequences_and_another_seed_others(task: dict[str, object]) -> None:
    chosen = SyntheticTask.model_validate({**task, "length": 48})
    one, two, other = (chosen.batch(np.random.default_rng(seed), 4).tokens for seed in (5, 5, 6))
    assert (one == two).all() and (one != other).any()
    assert one.min() >= 0 and one.max() < chosen.vocab


def test_training_draws_from_all_settings_of_the_mixture_and_the_test_from_its_own() -> None:
    train = (Setting(length=16, pairs=2), Setting(length=32, pairs=4))
    task = SyntheticTask(task="mqar", length=128, pairs=8, train=train)
    rng = np.random.default_rng(0)
    lengths = {task.training_batch(rng, 2).tokens.shape[1] for _ in range(20)}
    assert lengths == {16, 32}
    assert task.batch(rng, 2).tokens.shape == (2, 128)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": "mqar", "length": 64}, '"pairs" is required'),
        ({"task": "mqar", "length": 60, "pairs": 16}, "needs length >= 64"),
        ({"task": "mqar", "length": 600, "pairs": 16, "vocab": 16}, "needs vocab >= 32"),
        ({"task": "mqar", "pairs": 2, "rewrites": 3}, "more than pairs"),
        ({"task": "mqar", "pairs": 2, "stacks": 3}, "stacks belongs to"),
        ({"task": "palindrome", "pairs": 2}, "pairs and rewrites belong"),
        ({"task": "stack", "vocab": 66}, "leaves 0 symbols"),
        ({"task": "mqar", "pairs": 2, "train": [{"length": 4, "pairs": 2}]}, "needs length >= 8"),
        ({"task": "mqr"}, "task"),
    ],
)
def test_settings_that_cannot_be_generated_are_one_line_that_names_them(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(SyntheticTask, settings, where="[suite]")
    assert says in str(raised.value) and "\n" not in str(raised.value)
