"""Data: every token predicted once, nothing across a border, exact shares, and a position that is a few integers."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.training.corpus import ByteTokenizer, Corpus, documents, prepare
from fairtrial.training.data import Mixture, held_batches, order
from fairtrial.training.settings import Source, Stage, TrainConfig

DOC, END = 256, 257


def corpus(name: str, *texts: bytes) -> Corpus:
    rows = [[DOC, *text, END] for text in texts]
    borders = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Corpus(name, np.concatenate(rows).astype(np.uint16), borders)


def config(**more: object) -> TrainConfig:
    return parse(TrainConfig, {"sources": {"a": {"files": ["x"]}, "b": {"files": ["y"]}}} | more, where="t.toml")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6, unique=True),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_an_epoch_predicts_every_token_once_and_nothing_across_a_border(
    texts: list[bytes], context: int, size: int, seed: int
) -> None:
    source = corpus("a", *texts)
    mixture = Mixture([source], context, seed)
    mixture.begin({"a": 1.0})
    drawn: list[tuple[int, int]] = []
    while len(drawn) < source.targets:
        batch = mixture.draw(size)
        assert len(batch.inputs) == len(batch.targets) == size == batch.borders[-1]
        for low, high in pairwise(batch.borders.tolist()):
            assert 0 < high - low <= context
            piece = [*batch.inputs[low:high].tolist(), int(batch.targets[high - 1])]
            assert batch.targets[low : high - 1].tolist() == piece[1:-1]
            assert END not in piece[:-1] and DOC not in piece[1:]
            assert any(bytes(token for token in piece if token < 256) in text for text in texts)
        drawn += zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    expected = [pair for text in texts for pair in pairwise([DOC, *text, END])]
    assert sorted(drawn[: source.targets]) == sorted(expected)


def test_shares_are_exact_to_one_piece_whatever_the_lengths() -> None:
    sources = [corpus("long", *[bytes([65 + n]) * 90 for n in range(5)]), corpus("short", b"x", b"yy", b"zzz")]
    mixture = Mixture(sources, 32, 0)
    mixture.begin({"long": 0.3, "short": 0.7})
    for _ in range(20):
        mixture.draw(100)
    assert abs(mixture.taken["long"] - 600) <= 32 and sum(mixture.taken.values()) == 2000
    assert mixture.epochs()["short"] == pytest.approx(1400 / 9, abs=4) and 1 < mixture.epochs()["long"] < 2


def test_a_position_resumes_exactly_across_epochs_and_stages() -> None:
    sources = [corpus("a", b"hello", b"worlds", b"three"), corpus("b", b"0123456789" * 9)]
    whole = Mixture(sources, 8, 5)
    whole.begin({"a": 0.5, "b": 0.5})
    for step in range(20):
        if step == 9:
            state = json.loads(json.dumps(whole.state()))
            halted = Mixture(sources, 8, 5)
            halted.restore(state, {"a": 0.5, "b": 0.5})
        if step == 12:
            whole.begin({"b": 1.0})
            halted.begin({"b": 1.0})
        first = whole.draw(23)
        if step >= 9:
            second = halted.draw(23)
            assert np.array_equal(first.inputs, second.inputs) and np.array_equal(first.borders, second.borders)
    assert all(isinstance(number, int) for at in whole.state()["cursor"].values() for number in at)
    with pytest.raises(UserError, match='stands in source "b"'):
        Mixture(sources[:1], 8, 5).restore(whole.state(), {"a": 1.0})


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    orders = [tuple(order(50, seed, name, epoch)) for seed in (0, 1) for name in "ab" for epoch in (0, 1)]
    assert len(set(orders)) == 8 and all(sorted(one) == list(range(50)) for one in orders)
    assert order(6, 3, "web", 0).tolist() == order(6, 3, "web", 0).tolist()


def test_files_become_documents(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\n\ntwo\nlines\n\n\n")
    (tmp_path / "a.jsonl").write_text('{"meta": {"text": "x"}}\n\n{"meta": {"text": "y\\u00e9"}}\n')
    (tmp_path / ".hidden").write_text("no")

    def found(**more: object) -> list[bytes]:
        return list(documents("s", Source(files=(".",), field="meta.text", **more), tmp_path))

    assert found() == [b"x", "yé".encode(), b"one\n\ntwo\nlines\n\n\n"]
    assert found(documents="paragraphs")[2:] == [b"one", b"two\nlines"]
    assert found(documents="lines")[2:] == [b"one", b"two", b"lines"]


def test_tokens_on_disk_are_the_text_and_are_made_again_only_when_something_changed(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(bytes(range(256)))
    source, tokenizer = Source(files=("t.txt",)), ByteTokenizer()
    made = prepare("s", source, tmp_path, tokenizer, 0.0, tmp_path / "data").train
    assert made.tokens.tolist() == [DOC, *range(256), END] and isinstance(made.tokens, np.memmap)
    stamp = (tmp_path / "data" / "s.train.tokens").stat().st_mtime_ns
    prepare("s", source, tmp_path, tokenizer, 0.0, tmp_path / "data")
    assert (tmp_path / "data" / "s.train.tokens").stat().st_mtime_ns == stamp
    (tmp_path / "t.txt").write_bytes(b"other")
    assert prepare("s", source, tmp_path, tokenizer, 0.0, tmp_path / "data").train.tokens.tolist() == [
        DOC,
        *b"other",
        END,
    ]


def test_held_out_documents_are_never_trained_on_and_copies_go_together(tmp_path: Path) -> None:
    lines = [f"line number {n % 60}" for n in range(120)]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    both = prepare("s", Source(files=("t.txt",), documents="lines"), tmp_path, ByteTokenizer(), 0.3, tmp_path / "data")
    assert both.held is not None

    def texts(one: Corpus) -> set[bytes]:
        pairs = pairwise(one.borders.tolist())
        return {bytes(one.tokens[a + 1 : b - 1].astype(np.uint8)) for a, b in pairs}

    assert not texts(both.train) & texts(both.held) and len(texts(both.train) | texts(both.held)) == 60
    assert 8 <= len(texts(both.held)) <= 30


def test_of_a_single_document_the_end_is_held_out(tmp_path: Path) -> None:
    text = "".join(f"line {n}\n" for n in range(100)).encode()
    (tmp_path / "t.txt").write_bytes(text)
    both = prepare("s", Source(files=("t.txt",)), tmp_path, ByteTokenizer(), 0.1, tmp_path / "data")
    assert both.held is not None
    train, held = (bytes(one.tokens[1:-1].astype(np.uint8)) for one in (both.train, both.held))
    assert train + held == text and train.endswith(b"\n") and 0.08 < len(held) / len(text) < 0.12


def test_held_batches_cover_the_first_tokens_in_order() -> None:
    held = corpus("a", b"abcdefgh", b"xyz")
    pieces = list(held_batches(held, 4, 6, 10))
    assert np.concatenate([batch.targets for batch in pieces]).tolist() == [*b"abcdefgh", END, ord("x")]
    assert all(np.diff(batch.borders).max() <= 4 and len(batch.inputs) <= 6 for batch in pieces)


def test_shares_that_do_not_sum_to_one_are_refused_with_the_sum_or_said() -> None:
    # The decay stage of a published recipe sums to 1.0056.
    mixture = {"a": 0.5110, "b": 0.4946}
    with pytest.raises(UserError, match=r'stage "decay": the shares of its 2 sources sum to 1\.0056, not 1'):
        config(stages=[{"name": "decay", "mixture": mixture}])
    stage = config(stages=[{"name": "decay", "mixture": mixture, "normalise": True}]).stages[0]
    assert stage.total == pytest.approx(1.0056) and sum(stage.shares.values()) == pytest.approx(1)
    assert Stage(name="s", mixture={"a": 1.0, "b": 0.0}).shares == {"a": 1.0}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "s", "mixture": {"aa": 1.0}}], 'there is no source "aa"; did you mean "a"'),
        ([{"name": "s", "start": 5, "mixture": {"a": 1.0}}], "must start at 0"),
        ([{"name": "s", "mixture": {"a": 1.5, "b": -0.5}}], 'the share of "b" is -0.5'),
        (
            [{"name": "s", "mixture": {"a": 1.0}}, {"name": "t", "mixture": {"a": 1.0}}],
            'stage "t" starts at step 0, not after "s"',
        ),
        (
            [{"name": "s", "mixture": {"a": 1.0}}, {"name": "t", "start": 300, "mixture": {"a": 1.0}}],
            'stage "t" starts at step 300, but the run has 300 steps',
        ),
    ],
)
def test_stages_that_do_not_fit_are_named(stages: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(stages=stages)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "  \n", r"source s: there is no text in t\.txt"),
        ("t.jsonl", '{"body": "x"}\n', r't\.jsonl line 1: no field "text" \(there is: body\)'),
        ("t.jsonl", '{"text": "x"}\n{', r"t\.jsonl line 2: not JSON"),
        ("t.jsonl", '{"text": 3}\n', r'field "text" is int, not text'),
        ("other", "", r"t\.txt: no such file"),
    ],
)
def test_bad_sources_are_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    file = "t.txt" if name == "other" else name
    with pytest.raises(UserError, match=message):
        prepare("s", Source(files=(file,)), tmp_path, ByteTokenizer(), 0.1, tmp_path / "data")


def test_settings_and_data_load_without_torch() -> None:
    program = "import sys, fairtrial.training.continuing, fairtrial.training.data\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
