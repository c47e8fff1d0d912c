"""The decode step's C kernel beside torch, for every instruction set of this machine, and its promise about bits."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fairtrial.nn.config import ModelConfig  # noqa: E402
from fairtrial.nn.decode import decode_batch, read  # noqa: E402
from fairtrial.nn.decode_product import LaidProduct, product  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.ops import decode_c, library  # noqa: E402

built = pytest.mark.skipif(decode_c.available() is not None, reason=f"no kernel: {decode_c.available()}")


@pytest.fixture(params=library.ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(decode_c.SWITCH, request.param)
    if (reason := decode_c.available()) is not None:
        pytest.skip(reason)
    return request.param


def random(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("inner", "outer"), [(48, 32), (17, 97), (5, 1), (130, 704)])
def test_a_product_is_torchs_for_any_number_of_rows(isa: str, inner: int, outer: int):
    weight = random(outer, inner)
    plain, normed = decode_c.PackedProduct(weight, 40), decode_c.PackedProduct(weight, 40, eps=1e-3)
    for rows in (1, 2, 3, 5, 7, 8, 12, 13, 27, 40):
        wide = random(rows, inner + 9, seed=rows)
        x = wide[:, 4 : 4 + inner]  # rows that lie apart
        wanted = (x.double() @ weight.double().t()).float()
        assert torch.allclose(plain.of(x), wanted, atol=1e-4)
        scale = (x.double().square().mean(-1, keepdim=True) + 1e-3).rsqrt().float()
        assert torch.allclose(normed.of(x), wanted * scale, atol=1e-4)
        added = random(rows, outer, seed=99)
        before = added.clone()
        plain.add(x, added)
        assert torch.allclose(added, before + wanted, atol=1e-4)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 2, 16), (3, 3, 64), (8, 1, 80)])
def test_attention_is_that_of_each_sequence_alone(isa: str, window: int | None, heads: int, key_heads: int, width: int):
    lengths, now, columns = [0, 1, 15, 16, 17, 70], 70, 75
    n = len(lengths)
    cache = random(n, columns, 2, key_heads, width, seed=1)
    p = random(n, heads + 2 * key_heads, width, seed=3) * 0.5
    angle = random(max(lengths) + 1, width // 2, seed=4).repeat(1, 2)
    sign = torch.cat([-torch.ones(width // 2), torch.ones(width // 2)])
    cos, sin = angle.cos(), angle.sin() * sign

    def turn(x: Any) -> Any:
        return x * cos[lengths][:, None] + x.roll(width // 2, -1) * sin[lengths][:, None]

    q, k, v = p.split([heads, key_heads, key_heads], 1)
    q, k = turn(q), turn(k)
    attention = decode_c.Attention(heads, key_heads, width, window)
    written = cache.flatten(2).clone()
    got = attention.of(p.flatten(1), (cos, sin), written, torch.tensor(lengths), now)
    for row, length in enumerate(lengths):
        seen = length if window is None else min(length, window - 1)
        for head in range(heads):
            j = head // (heads // key_heads)
            before_S2E = cache[row, now - seen : now, :, j]
            ks, vs = torch.cat([before_S2E, torch.stack([k[row, j], v[row, j]])[None]]).unbind(1)
            wanted = torch.softmax(ks @ q[row, head], 0) @ vs
            assert torch.allclose(got[row].view(heads, width)[head], wanted, atol=1e-5)
    cache[:, now] = torch.stack([k, v], 1)
    assert torch.allclose(written, cache.flatten(2), atol=1e-6), "only the new column is written"


def test_logits_that_differ_by_hundreds_stay_finite(isa: str):
    attention = decode_c.Attention(1, 1, 16, None)
    cache = torch.cat([torch.zeros(1, 40, 16), torch.ones(1, 40, 16)], -1)
    cache[0, :39, 0] = torch.linspace(-400, 400, 39)
    p = torch.zeros(1, 48)
    p[0, 0], p[0, 32:] = 10, 1
    assert torch.allclose(attention.of(p, None, cache, torch.tensor([39]), 39), torch.ones(1, 16))


def test_the_likeliest_token_is_the_first_of_the_largest(isa: str):
    for width in (1, 3, 63, 64, 65, 2048, 4099):
        x = random(9, width, seed=width) * 8
        x[1, width // 2 :] = -math.inf
        x[1, 0] = 0.0
        x[2] = -300.0
        x[3, width - 1] = x[3, width // 3] = 1000.0
        tokens, logps = decode_c.likeliest(x)
        assert tokens == x.argmax(-1).tolist() and tokens[2:4] == [0, width // 3]
        wanted = torch.log_softmax(x.double(), -1).amax(-1).tolist()
        assert logps == pytest.approx(wanted, abs=2e-6)


def test_a_gated_product_is_silu_of_one_half_times_the_other(isa: str):
    x = random(3, 96) * 60  # far into where the exponential ends
    gate, up = x.chunk(2, -1)
    assert torch.allclose(decode_c.gated(x), torch.nn.functional.silu(gate) * up, rtol=1e-5, atol=1e-5)


@built
@pytest.mark.parametrize("pattern", ["F", "WP", "FW conv"])
def test_a_lean_step_has_the_same_bits_alone_and_in_any_batch_and_for_any_number_of_threads(
    pattern: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decode_c, "WORTH_A_THREAD", 100)
    config = ModelConfig.model_validate(
        {"vocab": 97, "hidden": 48, "intermediate": 80, "heads": 4, "kv_heads": 2, "head_dim": 16, "window": 7}
        | {"pattern": pattern.split()[0], "layers": 2, "init_std": 0.15, "softmax_conv": "conv" in pattern}
    )
    model = Model(config, seed=1).eval()
    threads = torch.get_num_threads()
    prompts = [[(7 * i + j) % 97 for j in range(length)] for i, length in enumerate((1, 5, 40, 2, 19, 33, 3, 90, 7))]
    with torch.inference_mode():
        states = [read(model, [(ids, model.init_state())])[0] for ids in prompts]
        crowd = decode_batch(model, 16)
        for state in states:
            crowd.join(state)
        try:
            torch.set_num_threads(3)
            got = [crowd.step([5 + step] * len(states)) for step in range(2)]
        finally:
            torch.set_num_threads(threads)
        monkeypatch.setattr(decode_c, "WORTH_A_THREAD", 1 << 60)
        for row, state in enumerate(states):
            single = decode_batch(model, 1)
            single.join(state)
            wanted = [single.step([5 + step])[0] for step in range(2)]
            assert all(torch.equal(got[step][row], wanted[step]) for step in range(2))


def test_without_the_kernel_torch_does_the_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(decode_c.SWITCH, "0")
    assert decode_c.SWITCH in str(decode_c.available())
    weight, x = random(40, 24), random(3, 24, seed=1)
    one = product(weight, 4, eps=1e-5)
    assert isinstance(one, LaidProduct)
    scale = (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    assert torch.allclose(one.of(x), x * scale @ weight.t(), atol=1e-5)
