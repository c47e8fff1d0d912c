"""Scores by native models: equal to one pair at a time, whatever is shared; the tokenisation rule; bad input."""

import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError
from fairtrial.models.model import ContextTooLongError, Pair
from fairtrial.models.native.score import score_native
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.nn.tokenizer import Tokenizer

TEXTS = [
    "Question: How do I boil an egg?\nAnswer: Put it into boiling water for nine minutes.",
    "Question: How do I dry a shirt?\nAnswer: Hang it in the sun and wait until it is dry.",
    "The quick brown fox jumps over the lazy dog, and then it walks back home again.",
    "ඔබට කොහොමද? හොඳයි.",
]
SHOTS = "\n\n".join(TEXTS[:2] * 4) + "\n\n"


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


def one_by_one(model, tokenizer, pairs):
    """Sums of log-probabilities, each pair in a pass of its own and every logit computed."""
    out = []
    for pair in pairs:
        text = pair.context.rstrip()
        context = tokenizer.encode(text) or [tokenizer.special("<|doc|>")]
        whole = tokenizer.encode(pair.context + pair.continuation)
        rest = whole[len(context) :] if text else whole
        with torch.no_grad():
            logits = model(torch.tensor([[*context, *rest]])).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
        out.append([float(row[token]) for row, token in zip(logprobs, rest, strict=True)])
    return out


PAIRS = [
    Pair(SHOTS + "Question: How do I dry an egg?\nAnswer: ", "Hang it in the sun."),
    Pair(SHOTS + "Question: How do I dry an egg?\nAnswer: ", "Put it into boiling water."),
    Pair(SHOTS + "Question: How do I boil a fox?\nAnswer:", " Wait."),
    Pair(SHOTS + "Question: How do I boil a fox?\nAnswer:", " Wait. Then hang it in the sun."),
    Pair(SHOTS + "Question: How do I boil a fox?\nAnswer: Wait. Then", " hang it in the sun."),
    Pair(SHOTS, "The quick brown dog"),
    Pair("Question:", " x"),
    Pair("Question:", " y"),
    Pair("", "The quick brown fox"),
    Pair("   ", "The quick"),
    Pair("The quick", "er brown fox"),
    Pair("ඔබට ", "කොහොමද?"),
]


@pytest.mark.parametrize("pattern", ["FW", "KM", "GNC", "PDS"])
@pytest.mark.parametrize("budget", [8192, 64, 1])
def test_equal_to_one_pair_at_a_time(pattern, budget, tokenizer):
    model = model_of(pattern, tokenizer)
    scores = score_native(model, tokenizer, PAIRS, budget=budget)
    for score, expected in zip(scores, one_by_one(model, tokenizer, PAIRS), strict=True):
        assert score.token_logprobs == pytest.approx(expected, abs=2e-5)
        assert score.logprob == pytest.approx(sum(expected), abs=2e-5 * len(expected))
