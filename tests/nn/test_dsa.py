"""Sparse attention: an independent naive reference, the tie rule, the gradient walls, memory, recorded selections."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.ops import dsa, mla  # noqa: E402
from fairtrial.nn.ops.rotary import rotate  # noqa: E402

J, D, H, R, C = 3, 8, 2, 12, 9
SCALE = 0.3


def indexer(B, T, seed=0, dtype=torch.float32, whole=False):
    """Queries, keys, weights; with `whole`, small whole numbers: exact in any order of summation, with many ties."""
    g = torch.Generator().manual_seed(seed)
    shapes = (B, T, J, D), (B, T, D), (B, T, J)
    if whole:
        return [torch.randint(-1, 2, shape, generator=g).to(dtype) for shape in shapes]
    return [torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def attention(B, T, seed=1, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    q, rows = torch.randn(B, T, H, R, generator=g, dtype=torch.float64), torch.randn(B, T, R, generator=g).double()
    return q.to(dtype), rows.to(dtype)


def naive_scores(qi, ki, w):
    """I[b, t, s] from the definition, in Python floats."""
    B, T, S = qi.shape[0], qi.shape[1], ki.shape[1]
    out = torch.zeros(B, T, S, dtype=torch.float64)
    qi, ki, w = qi.double(), ki.double(), w.double()
    for b in range(B):
        for t in range(T):
            for s in range(S):
                out[b, t, s] = sum(
                    float(w[b, t, j]) * max(0.0, float(qi[b, t, j] @ ki[b, s]) / math.sqrt(qi.shape[-1]))
                    for j in range(qi.shape[2])
                )
    return out


def naive_selection(scores, k, start=0, first=0):
    """Lists of positions per query by (score descending, position ascending)."""
    result = []
    for b in range(scores.shape[0]):
        for t in range(scores.shape[1]):
            keys = range(first, min(start + t + 1, scores.shape[2]))
            result.append(sorted(keys, key=lambda s: (-float(scores[b, t, s]), s))[:k])
    return result


def as_lists(indices):
    return [[x for x in row if x >= 0] for row in indices.flatten(0, 1).tolist()]


def naive_attention(q, rows, chosen, value_dim):
    """Softmax over each query's own list of rows."""
    B, T = q.shape[:2]
    out = torch.zeros(B, T, H, value_dim, dtype=q.dtype)
    for b in range(B):
        for t in range(T):
            keys = chosen[b * T + t]
            if keys:
                for h in range(H):
                    share = torch.stack([rows[b, s] @ q[b, t, h] * SCALE for s in keys]).softmax(0)
                    out[b, t, h] = sum(p * rows[b, s, :value_dim] for p, s in zip(share, keys, strict=True))
    return out


# ---- the indexer


def test_scores_equal_the_definition_with_weights_of_either_sign():
    qi, ki, w = indexer(2, 7)
    got = dsa.index_scores(qi, ki, w)
    want = naive_scores(qi, ki, w)
    seen = torch.ones(7, 7).tril().bool()
    assert bool((want[:, seen] < 0).any()) and bool((want[:, seen] > 0).any())
    torch.testing.assert_close(got.double()[:, seen], want[:, seen], atol=1e-5, rtol=0)
    assert bool((got[:, ~seen] == float("-inf")).all())


def test_scores_of_blocks_equal_those_at_once():
    g = torch.Generator().manual_seed(3)
    T, S = 150, 2300
    qi, ki, w = (
        torch.randn(1, T, 4, 8, generator=g),
        torch.randn(1, S, 8, generator=g),
        torch.randn(1, T, 4, generator=g),
    )
    got = dsa.index_scores(qi, ki, w, S - T)
    want = torch.einsum("btjs,btj->bts", torch.einsum("btji,bsi->btjs", qi, ki).mul(8**-0.5).relu(), w)
    seen = dsa.visible_keys(T, S, S - T)
    torch.testing.assert_close(got[seen], want[seen], atol=1e-4, rtol=1e-5)
    assert bool((got[~seen] == float("-inf")).all())


def test_gradients_of_the_scores_equal_autograd():
    qi, ki, w = (x.requires_grad_() for x in indexer(2, 6, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *a: dsa.index_scores(*a, None), (qi, ki, w))
    assert torch.autograd.gradcheck(lambda *a: dsa.index_scores(*a).softmax(-1), (qi, ki, w))


@pytest.mark.parametrize("width", [(4, 32), (4, 128), (3, 20)])
def test_a_score_is_bitwise_the_same_in_any_prompt_batch_and_when_decoded(width):
    heads, dim = width
    g = torch.Generator().manual_seed(4)
    qi, ki = torch.randn(3, 70, heads, dim, generator=g), torch.randn(3, 70, dim, generator=g)
    w = torch.randn(3, 70, heads, generator=g)
    whole = dsa.index_scores(qi, ki, w)
    assert torch.equal(dsa.index_scores(qi[:, :60], ki[:, :60], w[:, :60]), whole[:, :60, :60])
    assert torch.equal(dsa.index_scores(qi[1:2], ki[1:2], w[1:2]), whole[1:2])
    for t in range(20, 70, 7):
        one = slice(t, t + 1)
        step = dsa.index_scores(qi[:, one], ki[:, : t + 1], w[:, one], t)
        assert torch.equal(step, whole[:, one, : t + 1])


# ---- selection


@pytest.mark.parametrize("k", [1, 5, 16, 100])
def test_selection_follows_the_tie_rule(k):
    qi, ki, w = indexer(2, 40, whole=True)
    scores = dsa.index_scores(qi * 8**0.5, ki, w)  # whole numbers: exact
    assert as_lists(dsa.select(scores, k)) == naive_selection(scores, k)
    assert torch.equal(dsa.index_select(qi * 8**0.5, ki, w, k), dsa.select(scores, k))


def test_all_scores_equal_takes_the_first_keys_in_order():
    scores = torch.tensor([0.0, -0.0]).repeat(20).expand(1, 40, 40)
    chosen = dsa.select(scores, 6)
    assert chosen[0, -1].tolist() == [0, 1, 2, 3, 4, 5] and chosen[0, 2].tolist() == [0, 1, 2, -1, -1, -1]


def test_a_prompt_that_goes_on_selects_the_same_for_its_first_60_tokens():
    """Ties across the border of k are frequent (ReLU zeros); appended keys must not change them."""
    for seed in range(6):
        qi, ki, w = indexer(2, 70, seed=seed)
        w = w.clamp(max=0)  # zeros of the ReLU are the best scores, and tie
        short, long = (dsa.select(dsa.index_scores(qi[:, :n], ki[:, :n], w[:, :n]), 16) for n in (60, 70))
        scores = dsa.index_scores(qi, ki, w)[:, :60]
        border = scores.gather(-1, long[:, :60, -1:].clamp(min=0))
        assert int(((scores >= border).sum(-1) > 16).sum()) > 10, "the test needs ties at the border"
        assert torch.equal(short, long[:, :60])
        steps = [
            dsa.select(dsa.index_scores(qi[:, t : t + 1], ki[:, : t + 1], w[:, t : t + 1], t), 16, t, pad=True)
            for t in range(60)
        ]
        assert torch.equal(torch.cat(steps, 1), short)


def test_future_padded_and_minus_infinity_are_never_selected():
    scores = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))
    scores[:, :, 9:] = 100.0  # later keys look best
    scores[0, :, 4] = float("-inf")
    first = torch.tensor([[0], [3]]).expand(2, 9)
    chosen = dsa.select(scores, 5, 0, first_BT=first)
    for b in range(2):
        for t in range(9):
            got = [x for x in chosen[b, t].tolist() if x >= 0]
            allowed = set(range(3 * b, t + 1)) - ({4} if b == 0 else set())
            assert set(got) <= allowed and len(got) == min(5, len(allowed))


@pytest.mark.parametrize("start", [0, 3])
def test_fewer_visible_keys_than_k_selects_exactly_all_of_them(start):
    scores = torch.randn(1, 6, 6 + start, generator=torch.Generator().manual_seed(0))
    chosen = dsa.select(scores, 50, start)
    assert chosen.shape == (1, 6, 6 + start)
    for t in range(6):
        assert sorted(x for x in chosen[0, t].tolist() if x >= 0) == list(range(start + t + 1))
    assert dsa.select(scores, 50, start, pad=True).shape == (1, 6, 50)


def test_nan_is_refused_where_it_would_count_and_k_must_be_positive():
    scores = torch.zeros(1, 3, 3)
    scores[0, 0, 2] = float("nan")  # in the future of its query
    dsa.select(scores, 2)
    scores[0, 2, 1] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        dsa.select(scores, 2)
    with pytest.raises(UserError, match="k: at least 1"):
        dsa.select(scores, 0)


def test_the_layout_of_the_indexers_rotation_shows_when_k_is_below_the_context():
    g = torch.Generator().manual_seed(0)
    T = 40
    qi, ki, w = (
        torch.randn(1, T, J, 16, generator=g),
        torch.randn(1, T, 16, generator=g),
        torch.rand(1, T, J, generator=g),
    )
    chosen = {}
    for layout in ("half", "interleaved"):
        turned = [rotate(x, torch.arange(T), layout=layout, width=8) for x in (qi, ki)]
        scores = naive_scores(turned[0], turned[1], w)
        for k in (8, T):
            got = dsa.select(dsa.index_scores(*turned, w), k)
            assert [set(x) for x in as_lists(got)] == [set(x) for x in naive_selection(scores, k)]
            chosen[layout, k] = dsa.selection_mask(got, T)
    assert torch.equal(chosen["half", T], chosen["interleaved", T])
    assert not torch.equal(chosen["half", 8], chosen["interleaved", 8])


# ---- pooled and shared


def test_pooled_keys_select_whole_pools_and_the_tail():
    g = torch.Generator().manual_seed(0)
    T, P, k = 30, 4, 8
    ki, gate, bias = (
        torch.randn(1, T, D, generator=g),
        torch.randn(1, T, D, generator=g),
        torch.randn(P, D, generator=g),
    )
    qi, w = torch.randn(1, T, J, D, generator=g), torch.rand(1, T, J, generator=g)
    pooled = dsa.pool_keys(ki, gate, bias)
    assert pooled.shape == (1, T // P, D)
    for i in range(T // P):
        share = (gate[0, i * P : i * P + P] + bias).softmax(0)
        torch.testing.assert_close(pooled[0, i], (share * ki[0, i * P : i * P + P]).sum(0))
    chosen = dsa.select_pooled(dsa.index_scores(qi, pooled, w, 0, pool=P), k, P)
    scores = naive_scores(qi, pooled, w)
    for t in range(T):
        complete = (t + 1) // P
        best = sorted(range(complete), key=lambda s: (-float(scores[0, t, s]), s))[: k // P]
        want = [s * P + i for s in best for i in range(P)] + list(range(complete * P, t + 1))
        assert [x for x in chosen[0, t].tolist() if x >= 0] == want
    step = dsa.select_pooled(dsa.index_scores(qi[:, 21:22], pooled[:, :5], w[:, 21:22], 21, pool=P), k, P, 21)
    assert as_lists(step) == as_lists(chosen[:, 21:22])
    assert dsa.select_pooled(torch.zeros(1, 3, 0), k, P).tolist() == [[[0, -1, -1], [0, 1, -1], [0, 1, 2]]]
    with pytest.raises(UserError, match="multiple of the pool size 4"):
        dsa.select_pooled(scores, 10, P)


def test_shared_indices_name_the_layer_they_come_from():
    assert dsa.index_sources("KDSSKDS") == [None, 1, 1, 1, None, 5, 5]
    with pytest.raises(UserError, match=r"layer 1 \(S\)"):
        dsa.index_sources("KSD")


# ---- attention


@pytest.mark.parametrize("k", [1, 4, 50])
def test_gathered_and_masked_attention_equal_the_naive_one(k):
    qi, ki, w = indexer(2, 13)
    q, rows = attention(2, 13)
    chosen = dsa.select(dsa.index_scores(qi, ki, w), k)
    want = naive_attention(q, rows, as_lists(chosen), C)
    torch.testing.assert_close(dsa.sparse_attention(q, rows, chosen, SCALE, C), want, atol=1e-5, rtol=0)
    masked = mla.absorbed_attention(q, rows, SCALE, C, mask_BTS=dsa.selection_mask(chosen, 13))
    torch.testing.assert_close(masked, want, atol=1e-5, rtol=0)


def test_gradients_of_gathered_and_masked_attention_agree_and_are_right():
    qi, ki, w = indexer(2, 9)
    chosen = dsa.select(dsa.index_scores(qi, ki, w), 4)
    chosen[1, 5] = -1  # a query without keys
    mask = dsa.selection_mask(chosen, 9)
    grads = []
    for form in ("gather", "mask"):
        q, rows = (x.requires_grad_() for x in attention(2, 9, dtype=torch.float64))
        if form == "gather":
            out = dsa.sparse_attention(q, rows, chosen, SCALE, C)
            assert torch.autograd.gradcheck(lambda a, b: dsa.sparse_attention(a, b, chosen, SCALE, C), (q, rows))
        else:
            out = mla.absorbed_attention(q, rows, SCALE, C, mask_BTS=mask)
        assert bool((out[1, 5] == 0).all())
        out.pow(3).sum().backward()
        grads.append((q.grad, rows.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_k_that_covers_everything_is_dense_attention():
    q, rows = attention(2, 9)
    chosen = dsa.select(dsa.index_scores(*indexer(2, 9)), 9)
    dense = mla.absorbed_attention(q, rows, SCALE, C)
    torch.testing.assert_close(dsa.sparse_attention(q, rows, chosen, SCALE, C), dense, atol=1e-5, rtol=0)


def test_peak_memory_grows_with_k_and_not_with_the_context():
    def peak(S, k):
        g = torch.Generator().manual_seed(0)
        q, rows = torch.randn(1, 64, H, R, generator=g), torch.randn(1, S, R, generator=g)
        chosen = torch.randint(0, S, (1, 64, k), generator=g)
        return peak_bytes(lambda: dsa.sparse_attention(q, rows, chosen, SCALE, C))

    small = peak(500, 32)
    assert small > 64 * 32 * R * 4  # the account does see the gathered rows
    assert peak(50_000, 32) == small
    assert peak(500, 128) > 2 * small


# ---- training the indexer


def kl_reference(qi, ki, w, q, rows, chosen=None):
    """From the definitions, with everything held at once."""
    B, T = q.shape[:2]
    total = 0.0
    scores = torch.einsum("btjs,btj->bts", torch.einsum("btji,bsi->btjs", qi, ki).mul(D**-0.5).relu(), w)
    for b in range(B):
        for t in range(T):
            keys = list(range(t + 1)) if chosen is None else [x for x in chosen[b, t].tolist() if x >= 0]
            p = (torch.einsum("hr,sr->hs", q[b, t], rows[b, keys]) * SCALE).softmax(-1).sum(0)
            p = (p / p.sum()).detach()
            total = total + (p * (p.log() - scores[b, t, keys].log_softmax(0))).sum()
    return total / (B * T)


@pytest.mark.parametrize("stage", ["warm-up", "joint"])
def test_the_indexers_loss_and_gradients_equal_the_definition(stage):
    q, rows = attention(2, 11, dtype=torch.float64)
    chosen = None
    if stage == "joint":
        chosen = dsa.select(dsa.index_scores(*indexer(2, 11, dtype=torch.float64)), 4)
    grads = []
    for ours in (True, False):
        inputs = [x.requires_grad_() for x in indexer(2, 11, dtype=torch.float64)]
        if ours:
            loss = dsa.indexer_kl(*inputs, q, rows, SCALE, indices_BTK=chosen)
        else:
            loss = kl_reference(*inputs, q, rows, chosen)
        (2 * loss).backward()
        grads.append([loss.detach(), *(x.grad for x in inputs)])
    assert float(grads[0][0]) > 0.01
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def pooled_reference(qi, pools, w, q, rows, P, chosen=None):
    """Attention summed over each pool that can be chosen (or was), without the tail's share, against the scores."""
    B, T = q.shape[:2]
    scores = torch.einsum("btjs,btj->bts", torch.einsum("btji,bsi->btjs", qi, pools).mul(D**-0.5).relu(), w)
    total = 0.0
    for b in range(B):
        for t in range(T):
            keys = list(range(t + 1)) if chosen is None else [x for x in chosen[b, t].tolist() if x >= 0]
            p = (torch.einsum("hr,sr->hs", q[b, t], rows[b, keys]) * SCALE).softmax(-1).mean(0).detach()
            complete = sorted({x // P for x in keys if x // P < (t + 1) // P})
            if not complete:
                continue
            mass = torch.stack([sum(p[i] for i, x in enumerate(keys) if x // P == s) for s in complete])
            mass = mass / mass.sum()
            total = total + (mass * (mass.log() - scores[b, t, complete].log_softmax(0))).sum()
    return total / (B * T)


@pytest.mark.parametrize("stage", ["warm-up", "joint"])
def test_the_loss_of_pooled_keys_equals_its_definition(stage):
    T, P = 14, 3
    q, rows = attention(2, T, dtype=torch.float64)
    chosen = None
    grads = []
    for ours in (True, False):
        qi, ki, w = (x.requires_grad_() for x in indexer(2, T, dtype=torch.float64))
        gate = ki.detach().roll(1, 1).requires_grad_()
        bias = torch.linspace(-1, 1, P * D, dtype=torch.float64).view(P, D).requires_grad_()
        pools = dsa.pool_keys(ki, gate, bias)
        if stage == "joint":
            chosen = dsa.select_pooled(dsa.index_scores(qi, pools, w, 0, pool=P), 2 * P, P, pad=True)
        if ours:
            loss = dsa.indexer_kl(qi, pools, w, q, rows, SCALE, indices_BTK=chosen, pool=P)
        else:
            loss = pooled_reference(qi, pools, w, q, rows, P, chosen)
        loss.backward()
        grads.append([loss.detach(), *(x.grad for x in (qi, ki, w, gate, bias))])
    assert float(grads[0][0]) > 0.01
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_a_selection_that_is_not_of_pools_is_refused_by_the_pooled_loss():
    q, rows = attention(1, 9)
    qi, ki, w = indexer(1, 9)
    pools = dsa.pool_keys(ki, ki, torch.zeros(3, D))
    for k, message in ((8, "belongs to another model"), (6, "not pools of 3")):
        tokens = dsa.select(dsa.index_scores(qi, ki, w), k, pad=True)
        with pytest.raises(UserError, match=message):
            dsa.indexer_kl(qi, pools, w, q, rows, SCALE, indices_BTK=tokens, pool=3)
    with pytest.raises(UserError, match="9 keys, but the attention has 9 and 9 in pools of 3"):
        dsa.indexer_kl(qi, ki, w, q, rows, SCALE, pool=3)


def test_uncounted_queries_and_other_documents_do_not_enter_the_loss():
    qi, ki, w = indexer(1, 12)
    q, rows = attention(1, 12)
    first = torch.tensor([[0] * 5 + [5] * 7])
    count = torch.tensor([[False] * 5 + [True] * 7])
    got = dsa.indexer_kl(qi, ki, w, q, rows, SCALE, first_BT=first, count_BT=count)
    alone = dsa.indexer_kl(qi[:, 5:], ki[:, 5:], w[:, 5:], q[:, 5:], rows[:, 5:], SCALE)
    torch.testing.assert_close(got, alone)


class Toy(torch.nn.Module):
    """One sparse layer: a projection is the model, three are the indexer, whose input is detached."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.ModuleDict({"q": torch.nn.Linear(16, H * R), "rows": torch.nn.Linear(16, R)})
        self.indexer = torch.nn.ModuleDict(
            {"q": torch.nn.Linear(16, J * D), "k": torch.nn.Linear(16, D), "w": torch.nn.Linear(16, J)}
        )

    def forward(self, x, stage):
        B, T = x.shape[:2]
        q, rows = self.model["q"](x).view(B, T, H, R), self.model["rows"](x)
        seen = x.detach()
        parts = self.indexer["q"](seen).view(B, T, J, D), self.indexer["k"](seen), self.indexer["w"](seen)
        chosen = dsa.select(dsa.index_scores(*parts), 4) if stage == "joint" else None
        kl = dsa.indexer_kl(*parts, q, rows, SCALE, indices_BTK=chosen)
        if chosen is None:
            return kl, mla.absorbed_attention(q, rows, SCALE, C)
        return kl, dsa.sparse_attention(q, rows, chosen, SCALE, C)


@pytest.mark.parametrize("stage", ["warm-up", "joint"])
def test_gradient_walls_stand_in_both_stages(stage):
    x = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(0))
    for loss in ("kl", "lm"):
        toy = Toy()
        kl, out = toy(x.clone().requires_grad_(), stage)
        (kl if loss == "kl" else out.pow(2).sum()).backward()
        reached = {name for name, p in toy.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
        want = "indexer" if loss == "kl" else "model"
        assert reached and all(name.startswith(want) for name in reached)
        assert {name.split(".")[1] for name in reached} == ({"q", "k", "w"} if loss == "kl" else {"q", "rows"})


def test_warm_up_teaches_the_indexer_where_the_attention_looks():
    torch.manual_seed(0)
    toy, T = Toy(), 48
    with torch.no_grad():
        toy.model["q"].weight.mul_(6)
    x = torch.randn(4, T, 16)
    optimiser = torch.optim.Adam(toy.indexer.parameters(), lr=0.03)
    before = {name: p.clone() for name, p in toy.model.named_parameters()}

    def mass():
        with torch.no_grad():
            q, rows = toy.model["q"](x).view(4, T, H, R), toy.model["rows"](x)
            parts = toy.indexer["q"](x).view(4, T, J, D), toy.indexer["k"](x), toy.indexer["w"](x)
            return float(dsa.attention_mass(q, rows, dsa.index_select(*parts, 8), SCALE)[:, 16:].mean())

    untrained = mass()
    for _ in range(60):
        kl, _ = toy(x, "warm-up")
        optimiser.zero_grad()
        kl.backward()
        optimiser.step()
    assert mass() > untrained + 0.2
    assert all(torch.equal(p, before[name]) for name, p in toy.model.named_parameters())


def peak_bytes(work):
    """Bytes that torch holds at most beyond what it held before, from the profiler's own account of allocations."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("what", ["loss", "scores", "attention"])
def test_training_holds_blocks_and_never_everything(what):
    """At once, [J, T, T] or [T, K, R] is 100 MB here; forward and backward stay below a third of that."""
    T, heads, k, width = 1250, 16, 200, 100
    g = torch.Generator().manual_seed(0)
    qi, ki, w = (torch.randn(1, T, *rest, generator=g).requires_grad_() for rest in ((heads, 4), (4,), (heads,)))
    q, rows = (torch.randn(1, T, *rest, generator=g).requires_grad_() for rest in ((heads, 4), (4,)))
    wide_q, wide = (torch.randn(1, T, *rest, generator=g).requires_grad_() for rest in ((2, width), (width,)))
    chosen = torch.randint(0, T, (1, T, k), generator=g)
    works = {
        "loss": lambda: dsa.indexer_kl(qi, ki, w, q, rows, SCALE).backward(),
        "scores": lambda: dsa.index_scores(qi, ki, w, None).sum().backward(),
        "attention": lambda: dsa.sparse_attention(wide_q, wide, chosen, SCALE).sum().backward(),
    }
    assert 1e6 < peak_bytes(works[what]) < 100e6 / 3


# ---- recorded selections


def test_a_recorded_selection_replays_to_the_same_bits():
    qi, ki, w = indexer(2, 20)
    q, rows = attention(2, 20)
    chosen = dsa.select(dsa.index_scores(qi, ki, w), 6)
    record = dsa.to_record(chosen)
    assert record.dtype == np.int32 and record.nbytes == 2 * 20 * 6 * 4
    again = dsa.from_record(record, 20)
    assert torch.equal(again, chosen)
    direct, replayed = (dsa.sparse_attention(q, rows, i, SCALE, C) for i in (chosen, again))
    assert torch.equal(direct, replayed)
    assert bool((dsa.selection_overlap(chosen, again, 20) == 1).all())


def test_overlap_counts_what_two_selections_share():
    a, b = torch.tensor([[[0, 1, 2, 3], [4, -1, -1, -1]]]), torch.tensor([[[3, 2, 7, 8], [-1, -1, -1, -1]]])
    assert dsa.selection_overlap(a, b, 9).tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (np.array([[[0, 1]]], dtype=np.int32), "position 0 names key 1"),
        (np.array([[[-2, 0]]], dtype=np.int32), "names key -2"),
        (np.array([[[0.0]]]), "must be integers"),
        (np.array([[0]], dtype=np.int32), r"must be integers \[B, T, K\]"),
        (np.array([[[0, -1], [1, 1]]], dtype=np.int32), "twice"),
    ],
)
def test_a_record_of_another_prompt_is_refused(record, message):
    with pytest.raises(UserError, match=message):
        dsa.from_record(record, 8)


def test_bad_shapes_are_named():
    qi, ki, w = indexer(2, 5)
    q, rows = attention(2, 5)
    with pytest.raises(UserError, match="ki is"):
        dsa.index_scores(qi, ki[:1], w)
    with pytest.raises(UserError, match="w is"):
        dsa.index_scores(qi, ki, w[..., :2])
    with pytest.raises(UserError, match="name key 5 of 5"):
        dsa.sparse_attention(q, rows, torch.full((2, 5, 1), 5), SCALE)
    with pytest.raises(UserError, match="latents"):
        dsa.sparse_attention(q, rows[..., 1:], torch.zeros(2, 5, 1, dtype=torch.long), SCALE)
    with pytest.raises(UserError, match="value_dim"):
        dsa.sparse_attention(q, rows, torch.zeros(2, 5, 1, dtype=torch.long), SCALE, R + 1)
    with pytest.raises(UserError, match="pooled keys"):
        dsa.pool_keys(ki, ki[:, 1:], torch.zeros(2, D))
