"""Multi-head latent attention: the two forms are one function, and it keeps causality and NoPE's symmetry."""

import math

import pytest

torch = pytest.importorskip("torch")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.ops import mla  # noqa: E402
from fairtrial.nn.ops.rotary import rotate  # noqa: E402

B, T, H, N, P, C, V = 2, 11, 3, 8, 4, 16, 6
SCALE = (N + P) ** -0.5


def inputs(dtype=torch.float32, seed=0, queries=T):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, queries, H, N), (B, queries, H, P), (B, T, C + P), (H, N, C), (H, V, C)
    return [torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def absorbed(q, qs, latents, wk, wv, **options):
    rows = mla.absorb_queries(q, qs, wk)
    return mla.expand_context(mla.absorbed_attention(rows, latents, SCALE, C, **options), wv)


def naive(q, qs, latents, wk, wv, start=0, first=0):
    """One query, one head, one key at a time."""
    out = torch.zeros(q.shape[0], q.shape[1], H, V, dtype=q.dtype)
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            for h in range(H):
                keys = range(first, start + t + 1)
                score = [(wk[h] @ latents[b, s, :C]) @ q[b, t, h] + latents[b, s, C:] @ qs[b, t, h] for s in keys]
                share = torch.stack(score).mul(SCALE).softmax(0)
                for p, s in zip(share, keys, strict=True):
                    out[b, t, h] += p * (wv[h] @ latents[b, s, :C])
    return out


@pytest.mark.parametrize("rotary", [None, "interleaved", "half"])
def test_expanded_equals_absorbed_equals_naive(rotary):
    q, qs, latents, wk, wv = inputs()
    if rotary:
        qs = rotate(qs, torch.arange(T), layout=rotary)
        latents = torch.cat([latents[..., :C], rotate(latents[..., C:], torch.arange(T), layout=rotary)], -1)
    want = naive(q, qs, latents, wk, wv)
    torch.testing.assert_close(mla.expanded_attention(q, qs, latents, wk, wv), want, atol=1e-5, rtol=0)
    torch.testing.assert_close(absorbed(q, qs, latents, wk, wv), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("queries", [1, 4])
def test_decoding_over_a_cache_equals_the_end_of_the_whole(queries):
    q, qs, latents, wk, wv = inputs()
    whole = mla.expanded_attention(q, qs, latents, wk, wv)[:, -queries:]
    start = T - queries
    for form in (mla.expanded_attention, absorbed):
        torch.testing.assert_close(
            form(q[:, start:], qs[:, start:], latents, wk, wv, start=start), whole, atol=1e-5, rtol=0
        )
    # A cache with room behind the last token gives the same: what is not yet written is not seen.
    room = torch.cat([latents, torch.full((B, 3, C + P), 1e3)], 1)
    for form in (mla.expanded_attention, absorbed):
        torch.testing.assert_close(
            form(q[:, start:], qs[:, start:], room, wk, wv, start=start), whole, atol=1e-5, rtol=0
        )


def test_gradients_of_the_two_forms_agree():
    grads = []
    for form in (mla.expanded_attention, absorbed):
        tensors = [x.requires_grad_() for x in inputs(torch.float64)]
        form(*tensors).pow(2).sum().backward()
        grads.append([x.grad for x in tensors])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_first_hides_other_documents_and_left_padding():
    q, qs, latents, wk, wv = inputs()
    first = torch.tensor([4]).expand(B, T).contiguous()
    first = torch.minimum(first, torch.arange(T))
    for form in (mla.expanded_attention, absorbed):
        got = form(q, qs, latents, wk, wv, first_BT=first)
        alone = naive(q[:, 4:], qs[:, 4:], latents[:, 4:], wk, wv)
        torch.testing.assert_close(got[:, 4:], alone, atol=1e-5, rtol=0)


def test_a_query_without_keys_gives_zeros_not_nan():
    q, qs, latents, wk, wv = inputs()
    mask = torch.ones(B, T, T, dtype=torch.bool)
    mask[0, 3] = False
    out = absorbed(q, qs, latents, wk, wv, mask_BTS=mask)
    assert bool(out.isfinite().all()) and bool((out[0, 3] == 0).all()) and bool((out[0, 4] != 0).all())


def test_without_positions_the_order_of_earlier_tokens_does_not_matter_and_with_rotary_it_does():
    q, qs, latents, wk, wv = inputs()
    shuffled = latents.clone()
    shuffled[:, : T - 1] = latents[:, torch.randperm(T - 1, generator=torch.Generator().manual_seed(5))]
    for form in (mla.expanded_attention, absorbed):
        last, moved = (form(q, qs, rows, wk, wv)[:, -1] for rows in (latents, shuffled))
        torch.testing.assert_close(moved, last, atol=1e-5, rtol=0)

    def with_rotary(rows):
        turned = rotate(rows[..., C:], torch.arange(T), layout="interleaved")
        turned_q = rotate(qs, torch.arange(T), layout="interleaved")
        return mla.expanded_attention(q, turned_q, torch.cat([rows[..., :C], turned], -1), wk, wv)[:, -1]

    assert float((with_rotary(shuffled) - with_rotary(latents)).abs().max()) > 1e-3


def test_published_up_projection_is_split_per_head():
    weight = torch.arange(H * (N + V) * C, dtype=torch.float32).view(H * (N + V), C)
    wk, wv = mla.split_up_projection(weight, H, N)
    assert torch.equal(wk[1], weight[N + V : N + V + N]) and torch.equal(wv[2], weight[3 * (N + V) - V :])
    with pytest.raises(UserError, match="up-projection"):
        mla.split_up_projection(weight, 5, N)


def test_yarn_scale():
    assert mla.yarn_scale(0.5, 1.0) == 0.5
    assert mla.yarn_scale(192**-0.5, 40.0) == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2)


def test_bad_shapes_are_named():
    q, qs, latents, wk, wv = inputs()
    with pytest.raises(UserError, match="latents"):
        mla.expanded_attention(q, qs, latents[..., 1:], wk, wv)
    with pytest.raises(UserError, match="latents"):
        absorbed(q, qs, latents[:1], wk, wv)
