"""The model: each layer against plain loops, prefill = decode = packed, initial values, selections, MTP."""

import math
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.call import make_call  # noqa: E402
from fairtrial.nn.model import Model  # noqa: E402
from fairtrial.nn.ops.kda import backends  # noqa: E402
from fairtrial.nn.presets import preset  # noqa: E402
from fairtrial.nn.shapes import tensor_shapes  # noqa: E402

SMALL = {
    "vocab": 60, "hidden": 48, "layers": 2, "intermediate": 64, "heads": 2, "kv_heads": 1, "head_dim": 16,
    "kda_heads": 2, "kda_key_dim": 16, "kda_gate_rank": 8, "kv_rank": 24, "nope_dim": 16, "rope_dim": 8,
    "mla_value_dim": 16, "index_heads": 2, "index_dim": 8, "index_topk": 5, "window": 6,
}  # fmt: skip
ROTARY = {"mla_rope": "interleaved", "index_rope": "half", "index_rope_dim": 4, "q_rank": 20}
MOE = {"experts": 5, "experts_per_token": 2, "expert_intermediate": 20}
KINDS = {
    "K": {}, "G": {}, "N": {}, "C": {}, "F": {}, "P": {}, "W": {}, "M": {}, "D": {}, "DS": {},
    "K bounded full-rank grouped": {"kda_gate": "bounded", "kda_gate_rank": None, "kda_value_heads": 4,
                                    "kda_value_dim": 24, "kda_negative_eigenvalues": True},
    "K widths that fill no vector": {"hidden": 30, "kda_heads": 3, "kda_key_dim": 10, "intermediate": 50},
    "M rotary yarn": ROTARY | {"yarn_factor": 4.0, "yarn_original": 16},
    "D rotary": ROTARY,
    "D pooled": {"index_pool": 4, "index_topk": 8},
    "DKS pooled": {"index_pool": 3, "index_topk": 6, "layers": 3, "index_dim": 10},
    "KD experts": MOE,
    "FWP conv": {"softmax_conv": True, "layers": 3},
}  # fmt: skip


def small(kind, **changes):
    return Model(preset("tiny", **(SMALL | KINDS.get(kind, {}) | {"pattern": kind.split()[0]} | changes)), seed=1)


def tokens(batch=2, time=24, seed=0):
    return torch.randint(0, 60, (batch, time), generator=torch.Generator().manual_seed(seed))


def steps(model, text, cuts, **how):
    """Logits of `text` read in the pieces that `cuts` makes."""
    state, out = model.init_state(len(text)), []
    for a, b in pairwise(cuts):
        result = model(text[:, a:b], state, **how)
        state = result.state
        out.append(result.logits)
    return torch.cat(out, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_those_of_the_table(kind):
    model = small(kind, mtp_steps=1, tied=False)
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == tensor_shapes(model.config)
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters()


def loop_kda(layer, x_TD):
    """A K, G, N or C layer token by token in fp64, from the paper's equations."""
    heads, values, K = layer.heads, layer.value_heads, layer.key_dim
    streams = []
    for name in "qkv":
        y = x_TD @ layer.get_parameter(f"{name}_proj.weight").T
        if layer.letter != "C":
            w = layer.get_parameter(f"{name}_conv1d.weight")[:, 0]
            past = torch.cat([y.new_zeros(3, y.shape[1]), y])
            y = torch.stack([(past[t : t + 4] * w.T).sum(0) for t in range(len(y))])
        streams.append(y * torch.sigmoid(y))
    q, k, v = streams
    S, out = torch.zeros(values, K, layer.value_dim, dtype=x_TD.dtype), []
    z = (
        x_TD @ layer.f_proj.weight.T
        if layer.letter == "G"
        else x_TD @ layer.f_a_proj.weight.T @ layer.f_b_proj.weight.T
    )
    for t, x in enumerate(x_TD):
        beta, gate = torch.sigmoid(layer.b_proj.weight @ x), layer.g_b_proj.weight @ (layer.g_a_proj.weight @ x)
        mixed = []
        for h in range(values):
            src = slice(h // (values // heads) * K, (h // (values // heads) + 1) * K)
            qh, kh = (s / torch.sqrt((s * s).sum() + 1e-6) for s in (q[t, src], k[t, src]))
            vh = v[t].view(values, -1)[h]
            bias, zh = layer.dt_bias.view(values, -1)[h], z[t].view(values, -1)[h]
            S[h] = torch.exp(-layer.A_log.flatten()[h].exp() * torch.log1p(torch.exp(zh + bias)))[:, None] * S[h]
            error = vh if layer.letter == "N" else vh - S[h].T @ kh
            S[h] = S[h] + beta[h] * torch.outer(kh, error)
            o = S[h].T @ qh * K**-0.5
            o = o / torch.sqrt((o * o).mean() + layer.o_norm.eps) * layer.o_norm.weight
            mixed.append(o * torch.sigmoid(gate.view(values, -1)[h]))
        out.append(layer.o_proj.weight @ torch.cat(mixed))
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["K", "G", "N", "C"])
def test_kda_layers_against_the_equations(kind):
    layer = small(kind, kda_value_heads=4, kda_value_dim=12).double().model.layers[0].self_attn
    x = torch.randn(1, 19, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 5
    with torch.no_grad():
        got, _ = layer(x, make_call(x.shape[:2], None, None), 0, None)
        assert torch.allclose(got[0], loop_kda(layer, x[0]), atol=1e-9)
        assert got.abs().max() > 0.01


def test_gradients_of_the_short_convolution_equal_numerical_ones():
    from fairtrial.nn.short_conv import causal_conv

    generator = torch.Generator().manual_seed(0)
    x, weight, tail = (
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((2, 7, 3), (3, 4), (2, 3, 3))
    )
    call = make_call(torch.Size([2, 7]), None, None)
    assert torch.autograd.gradcheck(lambda *given: causal_conv(*given, call), (x, weight, tail))


@pytest.mark.parametrize("kind", ["F", "P", "W"])
def test_softmax_layers_against_the_equations(kind):
    layer = small(kind).model.layers[0].self_attn
    x = torch.randn(1, 15, 48, generator=torch.Generator().manual_seed(5)) * 5
    with torch.no_grad():
        got, _ = layer(x, make_call(x.shape[:2], None, None), 0, None)
        q, k, v = ((x[0] @ p.weight.T).view(15, -1, 16) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
        if kind != "P":
            angle = torch.arange(15)[:, None] * 10000.0 ** (-torch.arange(8) / 8)
            turn = torch.polar(torch.ones_like(angle), angle)[:, None]
            q, k = ((torch.complex(*y.chunk(2, -1)) * turn) for y in (q, k))
            q, k = (torch.cat([y.real, y.imag], -1) for y in (q, k))
        rows = []
        for t in range(15):
            low = max(0, t - 5) if kind == "W" else 0
            heads = [torch.softmax(k[low : t + 1, 0] @ q[t, h] / 4, 0) @ v[low : t + 1, 0] for h in range(2)]
            rows.append(layer.o_proj.weight @ torch.cat(heads))
    assert torch.allclose(got[0], torch.stack(rows), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_decode_batch_and_packing_agree(kind):
    model, text = small(kind).eval(), tokens()
    with torch.no_grad():
        whole = model(text).logits
        for cuts in ([0, 9, 24], range(25), [0, 1, 17, 18, 24]):
            assert torch.allclose(steps(model, text, list(cuts)), whole, atol=2e-6)
        assert torch.allclose(torch.cat([model(row[None]).logits for row in text]), whole, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "backend"), [*((kind, "c") for kind in KINDS), ("K", "recurrent"), ("N", "recurrent")]
)
def test_exact_passes_are_bitwise_equal(kind, backend):
    """Any split, any batch, packed or not, ragged or not."""
    if backends()[backend] is not None:
        pytest.skip(backends()[backend])
    model, text = small(kind).eval(), tokens(3, 25)
    how = {"exact": True, "backend": backend}
    with torch.no_grad():
        whole = model(text, **how).logits
        for cuts in ([0, 16, 25], range(26), [0, 21, 22, 25]):
            assert torch.equal(steps(model, text, list(cuts), **how), whole)
        assert torch.equal(torch.cat([model(row[None], **how).logits for row in text]), whole)
        lengths = [5, 25, 17]
        packed = torch.cat([row[:n] for row, n in zip(text, lengths, strict=True)])[None]
        borders = torch.tensor([0, 5, 30, 47])
        first = model(packed, model.init_state(3), borders, **how)
        for row, n, part in zip(whole, lengths, first.logits[0].split(lengths), strict=True):
            assert torch.equal(part, row[:n])
        tail = torch.tensor([[7, 8], [9, 1], [2, 3]])
        ragged = model(tail, first.state, **how).logits
        for row in range(3):
            alone = torch.cat([text[row, : lengths[row]], tail[row]])[None]
            assert torch.equal(ragged[row], model(alone, **how).logits[0, -2:])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaks_across_documents(kind):
    """Neither values nor gradients: documents use tokens of their own, whose embeddings must get no gradient."""
    model = small(kind, tied=False).train()
    lengths = [3, 1, 14, 6]
    text = torch.cat([torch.arange(10 * i, 10 * i + 10).repeat(2)[:n] for i, n in enumerate(lengths)])[None]
    borders = torch.tensor([0, 3, 4, 18, 24])
    packed = model(text, None, borders).logits
    separate = torch.cat([model(part[None]).logits for part in text[0].split(lengths)], 1)
    assert torch.allclose(packed, separate, atol=2e-6)
    packed[0, 4:18].square().sum().backward()
    touched = model.model.embed_tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == list(range(20, 30))


@pytest.mark.parametrize("kind", KINDS)
def test_later_tokens_do_not_matter(kind):
    model, text = small(kind).eval(), tokens()
    other = text.clone()
    other[:, 13:] = (other[:, 13:] + 1) % 60
    with torch.no_grad():
        assert torch.equal(model(text).logits[:, :13], model(other).logits[:, :13])


def test_positions_come_from_the_mask_alone_without_rotation():
    """Before one NoPE layer, earlier tokens can change places; rotary layers notice."""
    text = tokens(1, 12)
    mixed = torch.cat([text[:, :11].flip(1), text[:, 11:]], 1)
    for kind, notices in {"M": False, "P": False, "D": False, "F": True, "M rotary yarn": True, "K": True}.items():
        model = small(kind, layers=1, index_topk=20).eval()
        with torch.no_grad():
            for parameter in model.model.layers[0].self_attn.parameters():
                parameter *= 3
            gap = (model(text).logits[:, -1] - model(mixed).logits[:, -1]).abs().max()
        assert (gap > 1e-5) == notices, kind


def test_a_window_forgets():
    model, text = small("W", layers=1).eval(), tokens(1, 20)
    other = text.clone()
    other[0, 13] = (other[0, 13] + 1) % 60
    with torch.no_grad():
        a, b = model(text).logits[0], model(other).logits[0]
    assert not torch.equal(a[18], b[18])  # 13..18 are the six positions that 18 sees
    assert torch.equal(a[19], b[19])


def test_initial_values():
    """Kimi Linear's: what MQAR depends on."""
    model = Model(preset("tiny", kda_heads=16, pattern="K", layers=8), seed=0)
    rates = torch.cat([b.self_attn.A_log.detach().flatten() for b in model.model.layers]).exp()
    steps_ = functional.softplus(torch.cat([b.self_attn.dt_bias.detach() for b in model.model.layers]))
    assert rates.min() >= 1
    assert rates.max() <= 16
    assert rates.mean().item() == pytest.approx(8.5, abs=1.0)
    assert steps_.min() >= 0.99e-3
    assert steps_.max() <= 0.101
    assert steps_.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.05)  # log-uniform
    assert model.model.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.all(model.model.layers[0].self_attn.o_norm.weight == 1)
    conv = model.model.layers[0].self_attn.k_conv1d.weight
    assert 0.45 < conv.abs().max() <= 0.5
    bounded = Model(preset("tiny", kda_gate="bounded"), seed=0)
    assert torch.all(bounded.model.layers[0].self_attn.A_log == 0)


def test_seeds_and_shared_starts():
    before = torch.random.get_rng_state()
    one, same, other = small("KD"), small("KD"), Model(small("KD").config, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)
    arm = dict(small("ND").named_parameters())  # a paired arm starts equal
    assert all(torch.equal(arm[name], parameter) for name, parameter in one.named_parameters())


def test_marks_for_the_optimiser():
    layer = small("KM").model.layers
    assert layer[0].self_attn.A_log.no_decay
    assert layer[0].self_attn.dt_bias.no_decay
    assert layer[1].self_attn.kv_b_proj.weight.head_rows == (16, 16)
    assert layer[1].self_attn.q_proj.weight.head_rows == (16, 8)


def test_mtp_shares_one_set_of_weights():
    one, three = small("KM", mtp_steps=1), small("KM", mtp_steps=3)
    assert [(n, p.shape) for n, p in one.named_parameters()] == [(n, p.shape) for n, p in three.named_parameters()]
    assert len({p.data_ptr() for p in three.parameters()}) == len(list(three.parameters()))
    text = tokens()
    out = three.train()(text).aux.mtp_logits
    assert len(out) == 3
    other = text.clone()
    other[:, 12] = (other[:, 12] + 1) % 60
    changed = three(other).aux.mtp_logits
    for step in range(3):  # position t reads tokens up to t + 1 + step
        assert torch.equal(out[step][:, : 11 - step], changed[step][:, : 11 - step])
        assert not torch.equal(out[step][:, 11 - step], changed[step][:, 11 - step])
    assert three.eval()(text).aux.mtp_logits == []
    out[2].sum().backward()
    assert three.model.mtp.eh_proj.weight.grad.abs().sum() > 0


def test_selections_are_recorded_and_replayed():
    model, text = small("DKS", layers=3).eval(), tokens()
    with torch.no_grad():
        record = {}
        free = model(text, record=record)
        assert list(record) == [0]
        assert record[0].shape == (2, 24, 5)
        assert record[0][0, 2].sort().values.tolist() == [-1, -1, 0, 1, 2]
        assert torch.equal(model(text, replay=record).logits, free.logits)
        latest = (torch.arange(24)[:, None] - torch.arange(5)).clamp(min=-1).expand(2, 24, 5)
        window = model(text, replay={0: latest}).logits
        assert torch.equal(window[:, :5], free.logits[:, :5]) or torch.allclose(
            window[:, :5], free.logits[:, :5], atol=1e-6
        )
        assert (window[:, 10:] - free.logits[:, 10:]).abs().max() > 1e-4
        with pytest.raises(UserError, match="replay has no selection for layer 0"):
            model(text, replay={1: latest})
        with pytest.raises(UserError, match="does not fit"):
            model(text[:, :20], replay=record)


def test_pooled_selections_are_positions_of_whole_pools_and_the_tail():
    model, text = small("DKS pooled").eval(), tokens()
    with torch.no_grad():
        record = {}
        free = model(text, record=record)
        assert torch.equal(free.logits, model(text).logits)
        assert record[0].shape == (2, 24, 6 + 2)
        assert record[0][0, 16].sort().values[-2:].tolist() == [15, 16]  # position 16: pools 0..4, and 15, 16
        pools = record[0][0, 16][:6].view(2, 3)
        assert (pools - pools[:, :1]).tolist() == [[0, 1, 2]] * 2 and (pools[:, 0] % 3).tolist() == [0, 0]
        assert torch.equal(model(text, replay=record).logits, free.logits)
        decoded = [{layer: one[:, t : t + 1] for layer, one in record.items()} for t in range(24)]
        state = model.init_state(2)
        for t in range(24):
            step = model(text[:, t : t + 1], state, replay=decoded[t])
            state = step.state
            assert torch.allclose(step.logits, free.logits[:, t : t + 1], atol=2e-6)
        with pytest.raises(UserError, match="belongs to another model"):
            model(text, sparse="joint", replay={0: record[0].flip(-1)})


def test_layers_that_share_a_selection_can_be_given_their_own():
    model, text = small("DS").eval(), tokens()
    with torch.no_grad():
        record = {}
        free = model(text, record=record).logits
        assert torch.equal(model(text, replay=record | {1: record[0]}).logits, free)
        latest = (torch.arange(24)[:, None] - torch.arange(5)).clamp(min=-1).expand(2, 24, 5)
        own = model(text, replay=record | {1: latest}).logits
        assert torch.allclose(own[:, :5], free[:, :5], atol=1e-6)
        assert (own[:, 10:] - free[:, 10:]).abs().max() > 1e-5


def test_recording_changes_no_bit_and_few_keys_need_no_indexer():
    """Up to k keys everything is attended to; what is recorded says so, and replays to the same bits."""
    model, text = small("DS").eval(), tokens(2, 9)
    how = {"exact": True, "backend": "auto"}
    with torch.no_grad():
        record = {}
        free = model(text, **how).logits
        assert torch.equal(model(text, record=record, **how).logits, free)
        assert torch.equal(model(text, replay=record, **how).logits, free)
        plain = model(text[:, :5], sparse="dense", **how).logits
        assert torch.equal(model(text[:, :5], **how).logits, plain)
        indexer = model.model.layers[0].self_attn.indexer
        indexer.wq_b.weight.fill_(float("nan"))
        assert torch.equal(model(text[:, :5], **how).logits, plain)


def test_a_replay_of_another_prompt_is_refused():
    model, text = small("DS").eval(), tokens(2, 9)
    state = model.init_state(2)
    with torch.no_grad():
        state = model(text, state).state
        good = torch.tensor([9, 3, 2, 1, 0]).expand(2, 1, 5)
        model(text[:, :1], state, replay={0: good})
        for wrong, message in (
            (good + 1, "layer 0: sequence 0, position 9 names key 10, which it may not see"),
            (good.clamp(min=1), "layer 0: a query names the same key twice"),
            (good.float(), "layer 0 holds torch.float32"),
            (good[:1], "does not fit the tokens"),
        ):
            with pytest.raises(UserError, match=message):
                model(text[:, :1], state, replay={0: wrong})
        with pytest.raises(UserError, match="layer 1: sequence 0, position 9 names key 10"):
            model(text[:, :1], state, replay={0: good, 1: good + 1})


def test_dense_stage_is_plain_mla_and_a_large_k_too():
    sparse, text = small("D"), tokens()
    plain = small("M")
    plain.load_state_dict({k: v for k, v in sparse.state_dict().items() if "indexer" not in k})
    wide = small("D", index_topk=24)
    wide.load_state_dict(sparse.state_dict())
    with torch.no_grad():
        expected = plain(text).logits
        assert torch.allclose(sparse(text, sparse="dense").logits, expected, atol=1e-6)
        assert torch.allclose(wide(text).logits, expected, atol=1e-6)
        assert (sparse(text).logits - expected).abs().max() > 1e-4


@pytest.mark.parametrize("changes", [{}, {"index_pool": 4, "index_topk": 8}])
@pytest.mark.parametrize("stage", ["warmup", "joint"])
def test_walls_between_the_two_losses(stage, changes):
    model, text = small("KDD", layers=3, **changes), tokens()
    out = model(text, sparse=stage)
    kl = torch.stack(list(out.aux.indexer_kl.values())).sum()
    assert len(out.aux.indexer_kl) == 2
    assert kl > 0
    kl.backward(retain_graph=True)
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched == {name for name, _ in model.named_parameters() if ".indexer." in name}
    model.zero_grad()
    functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), text[:, 1:].flatten()).backward()
    assert not any(".indexer." in name for name, p in model.named_parameters() if p.grad is not None and p.grad.any())
    assert model.model.layers[1].self_attn.kv_b_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["K", "G", "N", "C", "FW", "PM", "DS", "KD experts"])
def test_half_precision_is_finite_and_near(kind, dtype):
    """States stay fp32; a large value that leaves fp16 shows as inf. (All keys selected: rounding moves a choice.)"""
    model, text = small(kind, index_topk=24), tokens()
    expected = model(text).logits.detach()
    stage = "joint" if "D" in kind else "sparse"
    half = small(kind, index_topk=24).to(dtype)
    out = half(text, sparse=stage)
    (out.logits.float().square().mean() + sum(out.aux.indexer_kl.values(), 0.0)).backward()
    assert all(bool(p.grad.isfinite().all()) for p in half.parameters() if p.grad is not None)
    assert out.logits.dtype == dtype
    assert (out.logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    with torch.no_grad():
        pieces = steps(half, text, [0, 10, 11, 24])
        state = half(text, half.init_state(2)).state
    assert (pieces.float() - expected).abs().max() < 0.05 * expected.abs().max()
    if "K" in kind:
        assert state.layers[0]["S"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["KD experts", "GW", "NF", "CM"])
def test_it_learns(kind):
    model, text = small(kind, mtp_steps=1).train(), tokens(4, 32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        out = model(text)
        loss = functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
        ahead = functional.cross_entropy(out.aux.mtp_logits[0][:, :-2].flatten(0, 1), text[:, 2:].flatten())
        optimiser.zero_grad()
        (loss + ahead).backward()
        optimiser.step()
    assert loss < 0.5  # ln 60 = 4.1 at the start
    assert ahead < 1.0


def test_bad_input_is_named():
    model = small("K")
    with pytest.raises(UserError, match=r"tokens: 60 is outside the vocabulary 0..59"):
        model(torch.tensor([[3, 60]]))
    with pytest.raises(UserError, match="tokens must be integers"):
        model(torch.zeros(1, 4))
    with pytest.raises(UserError, match="tokens must be integers"):
        model(torch.zeros(1, 0, dtype=torch.long))
    for borders in ([0, 5], [1, 4], [0, 2, 2, 4], [0]):
        with pytest.raises(UserError, match="cu_seqlens must rise from 0 to 4"):
            model(tokens(1, 4), None, torch.tensor(borders))
    with pytest.raises(UserError, match="cu_seqlens must rise"):
        model(tokens(2, 4), None, torch.tensor([0, 4]))
    with pytest.raises(UserError, match="state has 2 layers, the model 3"):
        small("K", layers=3)(tokens(1, 4), model.init_state(1))
    with pytest.raises(UserError, match="init_state"):
        model.init_state(0)


def test_with_several_threads_gradients_repeat_bit_for_bit():
    """A row of the embedding is read many times; were its gradient added up as threads finish, runs would differ."""
    model = small("KD experts", hidden=64, layers=2, mtp_steps=1)
    text = tokens(2, 1024)
    weight = torch.randn(2, 1024, 60, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = set()
        for _ in range(6):
            model.zero_grad()
            output = model.train()(text)
            ((output.logits * weight).sum() + (output.aux.mtp_logits[0] * weight).sum()).backward()
            grad = model.model.embed_tokens.weight.grad
            found.add(grad.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
