"""The lean decode step beside the model's forward pass: same logits, whoever joins and leaves."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from fairtrial.nn.config import ModelConfig  # noqa: E402
from fairtrial.nn.decode import ForwardBatch, decode_batch, joined, read  # noqa: E402
from fairtrial.nn.decode_fast import FastBatch  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.ops import decode_c  # noqa: E402

SMALL: dict[str, object] = dict(  # noqa: C408
    vocab=97, hidden=48, intermediate=80, heads=4, kv_heads=2, head_dim=16, window=7, kda_heads=2, kda_key_dim=16,
    kda_value_heads=4, kda_gate_rank=8, kv_rank=24, nope_dim=16, rope_dim=8, mla_value_dim=16, init_std=0.15,
)  # fmt: skip
VARIANTS: dict[str, dict[str, object]] = {
    "K": {}, "G": {}, "N": {}, "C": {}, "F": {}, "P": {}, "W": {}, "M": {}, "KWMF": {}, "KP": {"tied": True},
    "M rotary": {"mla_rope": "interleaved", "q_rank": 20}, "K bounded": {"kda_gate": "bounded"},
    "K full rank": {"kda_gate_rank": None}, "K negative": {"kda_negative_eigenvalues": True},
    "FWP conv": {"softmax_conv": True},
    "FK experts": {"experts": 4, "experts_per_token": 2, "dense_layers": 1},
}  # fmt: skip


def model_of(variant: str, **more: object) -> Model:
    pattern = variant.split()[0]
    fields = SMALL | {"pattern": pattern, "layers": max(2, len(pattern))} | VARIANTS.get(variant, {}) | more
    return Model(ModelConfig.model_validate(fields), seed=3).eval()


@pytest.mark.parametrize(
    ("variant", "kernel"), [*((one, "") for one in VARIANTS), ("KWMF", "0"), ("F", "0"), ("FWP conv", "0")]
)
def test_a_lean_step_gives_the_logits_of_the_forward_pass_while_sequences_join_and_leave(
    variant: str, kernel: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(decode_c.SWITCH, kernel)
    model, rng = model_of(variant), random.Random(variant)
    batch = FastBatch(model, 5)
    alone: list[ForwardBatch] = []
    worst = 0.0
    with torch.inference_mode():
        for step in range(70):
            if len(alone) < 5 and (not alone or rng.random() < 0.3):
                length = rng.choice([1, 2, 9, 33, 70 + step])
                (state,) = read(model, [([rng.randrange(97) for _ in range(length)], model.init_state())])
                batch.join(state)
                one = ForwardBatch(model)
                one.join(state)
                alone.append(one)
            elif alone and rng.random() < 0.15:
                row = rng.randrange(len(alone))
                batch.leave(row)
                alone[row] = alone[-1]
                alone.pop()
                if not alone:
                    continue
            tokens = [rng.randrange(97) for _ in alone]
            logits = batch.step(tokens)
            wanted = torch.cat([one.step([token]) for one, token in zip(alone, tokens, strict=True)])
            worst = max(worst, float((logits - wanted).abs().max() / wanted.abs().max()))
        assert worst < 1e-5
        row = len(alone) - 1
        mine, theirs = batch.state(row), alone[row].state(0)
        assert mine.positions == theirs.positions
        for name, tensor in theirs.snapshot().items():
            assert torch.allclose(mine.snapshot()[name].double(), tensor.double(), atol=1e-4), name


def test_a_cache_grows_and_is_pushed_together_without_a_change():
    model = model_of("FW")
    batch, one = FastBatch(model, 3), ForwardBatch(model)
    with torch.inference_mode():
        long, short = read(model, [([1] * 200, model.init_state()), ([2] * 3, model.init_state())])
        batch.join(long)
        batch.join(short)
        one.join(short)
        for step in range(400):
            token = step % 97
            wanted = one.step([token])
            got = batch.step([token] * batch.rows)[-1]
            assert torch.allclose(got, wanted[0], atol=1e-5)
            if step == 100:
                batch.leave(0)


def test_an_exact_batch_gives_the_same_bits_as_each_sequence_alone():
    model = model_of("KWM")
    prompts = [list(range(1, 2 + 5 * i)) for i in range(4)]
    states = read(model, [(ids, model.init_state()) for ids in prompts], exact=True)
    batch = decode_batch(model, 4, exact=True)
    alone = [ForwardBatch(model, exact=True) for _ in states]
    for ids, state in zip(prompts, states, strict=True):
        (single,) = read(model, [(ids, model.init_state())], exact=True)
        assert all(torch.equal(state.snapshot()[name], tensor) for name, tensor in single.snapshot().items())
    with torch.inference_mode():
        for state, one in zip(states, alone, strict=True):
            batch.join(state)
            one.join(state)
        for step in range(4):
            logits = batch.step([step + 1] * batch.rows)
            wanted = torch.cat([one.step([step + 1]) for one in alone])
            assert torch.equal(logits, wanted)
            if step == 1:
                batch.leave(1)
                alone[1] = alone.pop()


def test_sparse_attention_decodes_by_the_forward_pass():
    model = model_of("KD", index_heads=2, index_dim=8, index_topk=4)
    batch = decode_batch(model, 2)
    assert isinstance(batch, ForwardBatch)
    with torch.inference_mode():
        (state,) = read(model, [([1, 2, 3, 4, 5, 6, 7], model.init_state())])
        batch.join(state)
        batch.join(state)
        logits = batch.step([8, 8])
        wanted = model(torch.tensor([[8]]), state).logits[0, 0]
    assert torch.allclose(logits[0], wanted, atol=1e-5)
    assert torch.allclose(logits[1], wanted, atol=1e-5)


def test_states_of_different_lengths_are_joined_in_order():
    model = model_of("KW")
    states = [model(torch.tensor([ids]), model.init_state()).state for ids in ([1, 2, 3], [4] * 20)]
    both = joined(states)
    assert both.positions == [3, 20]
    for index, state in enumerate(states):
        again = both.select([index]).snapshot()
        for name, tensor in state.snapshot().items():
            got = again[name][:, : tensor.shape[1]] if name.endswith("kv") else again[name]
            assert torch.equal(got, tensor), name
