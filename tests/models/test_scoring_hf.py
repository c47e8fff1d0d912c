"""Scores by Hugging Face models: equal to one pair at a time, with every kind of cache; the output head's hook."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from scoring_cases import PAIRS, TEXTS, one_by_one  # noqa: E402

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.models.hf.score import score_hf  # noqa: E402
from fairtrial.models.model import ContextTooLongError, Pair  # noqa: E402
from fairtrial.nn.tokenizer import Tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    Tokenizer.train(TEXTS * 3, vocab_size=400).save(path)
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<|doc|>", eos_token="<|end|>")


def small(**more):
    return {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512,
        "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **more,
    }  # fmt: skip


def models():
    t = transformers
    yield "llama", t.LlamaConfig(**small())
    yield "gpt2", t.GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=512, initializer_range=0.2)
    yield "gemma2", t.Gemma2Config(**small(), sliding_window=16, final_logit_softcapping=5.0)
    yield "mistral", t.MistralConfig(**small(), sliding_window=16)


MODELS = dict(models())


def build(name):
    torch.manual_seed(5)
    return transformers.AutoModelForCausalLM.from_config(MODELS[name]).eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", [8192, 64])
def test_equal_to_one_pair_at_a_time(name, budget, tokenizer):
    model = build(name)
    scores = score_hf(model, tokenizer, PAIRS, budget=budget)
    for score, expected in zip(scores, one_by_one(model, tokenizer.encode, tokenizer.bos_token_id, PAIRS), strict=True):
        assert score.token_logprobs == pytest.approx(expected, abs=2e-5)


def test_other_passes_of_the_model_see_every_position(tokenizer):
    model = build("llama")
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        before = model(tokens).logits
        score_hf(model, tokenizer, PAIRS)
        assert torch.equal(model(tokens).logits, before)


def test_a_cache_that_forgets_is_not_used(tokenizer):
    class Forgetful(transformers.MistralForCausalLM):
        def forward(self, *args, past_key_values=None, use_cache=None, **kwargs):
            if past_key_values is None or past_key_values.get_seq_length() == 0:
                return super().forward(*args, past_key_values=past_key_values, use_cache=use_cache, **kwargs)
            out = super().forward(*args, use_cache=False, **kwargs)
            out.past_key_values = past_key_values
            return out

    torch.manual_seed(5)
    model = Forgetful(MODELS["mistral"]).eval()
    scores = score_hf(model, tokenizer, PAIRS)
    for score, expected in zip(scores, one_by_one(model, tokenizer.encode, tokenizer.bos_token_id, PAIRS), strict=True):
        assert score.token_logprobs == pytest.approx(expected, abs=2e-5)


def test_too_long_and_empty_are_one_line(tokenizer):
    model = build("llama")
    with pytest.raises(ContextTooLongError) as raised:
        score_hf(model, tokenizer, [Pair("Question: " * 600, "x")])
    assert raised.value.limit == 512
    with pytest.raises(UserError, match=r"pairs\[0\].continuation is empty"):
        score_hf(model, tokenizer, [Pair("a", "")])
