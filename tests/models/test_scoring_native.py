"""Scores by native models: equal to one pair at a time, whatever is shared; the tokenisation rule; bad input."""

import pytest

torch = pytest.importorskip("torch")

from scoring_cases import PAIRS, SHOTS, TEXTS, one_by_one  # noqa: E402

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.models.model import ContextTooLongError, Pair  # noqa: E402
from fairtrial.models.native.score import score_native  # noqa: E402
from fairtrial.nn.config import ModelConfig  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.tokenizer import Tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS * 3, vocab_size=400)


def model_of(pattern, tokenizer):
    config = ModelConfig(
        vocab=tokenizer.vocab_size, hidden=32, layers=len(pattern), pattern=pattern, intermediate=64, heads=2,
        head_dim=16, kv_heads=1, window=24, kda_heads=2, kda_key_dim=16, kda_gate_rank=16, kv_rank=16, nope_dim=16,
        rope_dim=8, mla_value_dim=16, q_rank=16, index_heads=2, index_dim=16, index_topk=8, init_std=0.2,
    )  # fmt: skip
    return Model(config, seed=3).eval()


@pytest.mark.parametrize("pattern", ["FW", "KM", "GNC", "PDS"])
@pytest.mark.parametrize("budget", [8192, 64, 1])
def test_equal_to_one_pair_at_a_time(pattern, budget, tokenizer):
    model = model_of(pattern, tokenizer)
    scores = score_native(model, tokenizer, PAIRS, budget=budget)
    for score, expected in zip(
        scores, one_by_one(model, tokenizer.encode, tokenizer.special("<|doc|>"), PAIRS), strict=True
    ):
        assert score.token_logprobs == pytest.approx(expected, abs=2e-5)
        assert score.logprob == pytest.approx(sum(expected), abs=2e-5 * len(expected))


def test_greedy_says_whether_every_token_is_the_most_likely(tokenizer):
    model = model_of("F", tokenizer)
    context, whole = tokenizer.encode("The quick brown"), tokenizer.encode("The quick brown fox")
    assert len(whole) == len(context) + 1
    with torch.no_grad():
        model.lm_head.weight[whole[-1]] = 9 * model(torch.tensor([context])).hidden[0, -1]
    first, other = score_native(model, tokenizer, [Pair("The quick brown", " fox"), Pair("The quick brown", " dog")])
    assert (first.greedy, other.greedy) == (True, False)
    assert first.logprob > -0.1 > other.logprob


def test_characters_and_bytes_can_disagree_about_the_better_option(tokenizer):
    model = model_of("FK", tokenizer)
    options = ["ඔබට කොහොමද", "Hang it in the sun and wait until it is dry, then walk back."]
    latin, sinhala = score_native(model, tokenizer, [Pair("Question: ", text) for text in options[::-1]])
    assert latin.bytes == latin.characters
    assert sinhala.bytes == len(options[0].encode())
    assert sinhala.bytes > 2 * sinhala.characters
    assert latin.per_character > sinhala.per_character
    assert latin.per_byte < sinhala.per_byte


def test_spaces_at_the_contexts_end_belong_to_the_continuation(tokenizer):
    model = model_of("F", tokenizer)
    inside, before = score_native(model, tokenizer, [Pair("Answer: ", "Wait"), Pair("Answer:", " Wait")])
    assert inside.token_logprobs == before.token_logprobs
    assert (inside.characters, before.characters) == (4, 5)


def test_one_token_options_of_one_context_and_repeated_pairs_keep_their_order(tokenizer):
    model = model_of("K", tokenizer)
    pairs = [Pair("Question:", f" {letter}") for letter in "dcbadcba"]
    scores = score_native(model, tokenizer, pairs)
    alone = [score_native(model, tokenizer, [pair])[0] for pair in pairs]
    assert [s.logprob for s in scores] == pytest.approx([s.logprob for s in alone], abs=1e-5)
    assert scores[:4] == scores[4:]
    assert len({round(s.logprob, 4) for s in scores[:4]}) == 4


def test_nothing_to_score_is_an_empty_list(tokenizer):
    assert score_native(model_of("F", tokenizer), tokenizer, []) == []


def test_bad_input_is_one_line(tokenizer):
    model = model_of("F", tokenizer)
    with pytest.raises(UserError, match=r"pairs\[1\].continuation is empty"):
        score_native(model, tokenizer, [Pair("a", "b"), Pair("a", "")])
    with pytest.raises(ContextTooLongError) as raised:
        score_native(model, tokenizer, [Pair(SHOTS, "x")], context=16)
    assert raised.value.limit == 16
    bare = Tokenizer.train(TEXTS, vocab_size=300, specials=())
    with pytest.raises(UserError, match="context is empty"):
        score_native(model, bare, [Pair("", "x")])
    larger = Tokenizer.train(TEXTS * 3, vocab_size=500)
    small = Model(model.config.model_copy(update={"vocab": 260}), seed=0).eval()
    with pytest.raises(UserError, match="trained with"):
        score_native(small, larger, PAIRS)
