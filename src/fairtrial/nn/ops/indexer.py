"""The lightning indexer of DeepSeek Sparse Attention: scores, stable top-k, pooled keys.

DeepSeek-V3.2-Exp report, section 2 (equation of I[t, s] and top-k selection); pooled keys as in GLM-5.3-Flash; shared
indices as in GLM-5.2 (IndexCache, arXiv 2603.12201).

The tie rule, which the papers leave open: **a higher score comes first; of equal scores the lower position comes
first**. A key appended later can therefore only enter a selection of an earlier query if it were visible to it, which
causality forbids, so a selection never depends on what follows.

What is bitwise: the sum over the heads is made one head after the other, with separate products and sums, and so does
not depend on any shape. The products with the keys are matrix products whose last dimension is padded to a multiple of
16 and whose rows to at least 16; measured with MKL on x86-64 each of their elements is then the same bits for any
number of queries, of later keys and of sequences in the batch. Another BLAS may choose its order of summation by
shape: there, equality holds within rounding, and exactly for exactly representable scores.

Axes: B batch, T queries, S keys, J indexer heads, I indexer width, K chosen keys, P pool size, N rows, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fairtrial.core.errors import UserError

# A block of products: at most _ROWS query heads and _BLOCK floats (1 MiB in fp32), which stay in a core's cache.
_ROWS = 256
_BLOCK = 1 << 18
_PAD = 16


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of at most `size` that cover 0 to `total`."""
    for low in range(0, total, size):
        yield low, min(low + size, total)


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype that scores and softmax are computed in: fp64 for fp64, else fp32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def visible_keys(
    queries: int,
    keys: int,
    start: int = 0,
    *,
    first_BT: Tensor | None = None,
    pool: int = 1,
    device: torch.device | str | None = None,
) -> Tensor:
    """Which keys each query may see.

    Args:
        queries: T, the queries stand at positions start .. start+T-1.
        keys: S, number of keys (of pools, where `pool` > 1).
        start: absolute position of the first query.
        first_BT: the first position that each query may see (the start of its document, or of its sequence behind left
            padding); none: 0.
        pool: tokens per key; a pool is visible when its last token is.
        device: where the mask is made; that of `first_BT` where it is given.

    Returns:
        bool [1, T, S], or [B, T, S] with `first_BT`.
    """
    device = first_BT.device if first_BT is not None else device
    position_T = torch.arange(start, start + queries, device=device)
    token_S = torch.arange(keys, device=device) * pool
    seen = (token_S + (pool - 1) <= position_T[:, None])[None]
    return seen if first_BT is None else seen & (token_S >= first_BT[..., None])


def head_products(q_TJI: Tensor, k_SI: Tensor) -> Tensor:
    """ReLU(I^-1/2 q.k) of one sequence, [T, J, S]; each element independent of T and S (see the module's note)."""
    T, J, width = q_TJI.shape
    S = k_SI.shape[0]
    rows = q_TJI.reshape(T * J, width) * width**-0.5
    if T * J < _PAD:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, _PAD - T * J))
    if S % _PAD:
        k_SI = torch.nn.functional.pad(k_SI, (0, 0, 0, -S % _PAD))
    return (rows @ k_SI.T).relu_()[: T * J, :S].view(T, J, S)


def weigh_heads(product_TJS: Tensor, w_TJ: Tensor) -> Tensor:
    """The weighted sum over the heads, one after the other, [T, S]. `product_TJS` is used up."""
    product_TJS.mul_(w_TJ[..., None])
    total = product_TJS[:, 0].clone()
    for j in range(1, product_TJS.shape[1]):
        total += product_TJS[:, j]
    return total


def head_gradients(
    grad_TS: Tensor, q_TJI: Tensor, k_SI: Tensor, w_TJ: Tensor, product_TJS: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one block of scores for q [T, J, I], k [S, I] and w [T, J]."""
    scale = q_TJI.shape[-1] ** -0.5
    dw_TJ = torch.matmul(product_TJS, grad_TS[..., None])[..., 0]
    d_TJS = grad_TS[:, None] * w_TJ[..., None] * (product_TJS > 0)
    dq_TJI = torch.matmul(d_TJS, k_SI) * scale
    dk_SI = d_TJS.flatten(0, 1).T @ q_TJI.flatten(0, 1) * scale
    return dq_TJI, dk_SI, dw_TJ


def check_indexer(qi_BTJI: Tensor, ki_BSI: Tensor, w_BTJ: Tensor) -> None:
    """Raise UserError where the shapes of the indexer's tensors do not belong together."""
    if qi_BTJI.ndim != 4 or ki_BSI.ndim != 3 or w_BTJ.ndim != 3:
        raise UserError(
            f"indexer: qi must be [B, T, J, I], ki [B, S, I] and w [B, T, J]; got {list(qi_BTJI.shape)}, "
            f"{list(ki_BSI.shape)} and {list(w_BTJ.shape)}"
        )
    B, _, _, width = qi_BTJI.shape
    if ki_BSI.shape[0] != B or ki_BSI.shape[2] != width:
        raise UserError(f"indexer: ki is {list(ki_BSI.shape)} but qi asks for [{B}, S, {width}]")
    if w_BTJ.shape != qi_BTJI.shape[:3]:
        raise UserError(f"indexer: w is {list(w_BTJ.shape)} but qi asks for {list(qi_BTJI.shape[:3])}")


class _IndexScores(torch.autograd.Function):
    """Scores block by block; the products of the heads are made again in the backward pass, never kept."""

    @staticmethod
    def forward(
        ctx: Any,
        qi_BTJI: Tensor,
        ki_BSI: Tensor,
        w_BTJ: Tensor,
        hidden_BTS: Tensor | None,
        reach: tuple[int, int] | None,
    ) -> Tensor:
        dtype = working_dtype(qi_BTJI)
        B, T, J, _ = qi_BTJI.shape
        S = ki_BSI.shape[1]
        out = qi_BTJI.new_zeros(B, T, S, dtype=dtype)
        for b, (t0, t1), (s0, s1) in _tiles(B, T, S, J, reach):
            product = head_products(qi_BTJI[b, t0:t1].to(dtype), ki_BSI[b, s0:s1].to(dtype))
            out[b, t0:t1, s0:s1] = weigh_heads(product, w_BTJ[b, t0:t1].to(dtype))
        ctx.save_for_backward(qi_BTJI, ki_BSI, w_BTJ, hidden_BTS)
        ctx.reach = reach
        return out if hidden_BTS is None else out.masked_fill_(hidden_BTS, float("-inf"))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BTS: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        qi, ki, w, hidden_BTS = ctx.saved_tensors
        dtype = working_dtype(qi)
        grad_BTS = grad_BTS if hidden_BTS is None else grad_BTS.masked_fill(hidden_BTS, 0.0)
        dqi, dki, dw = (torch.zeros_like(x, dtype=dtype) for x in (qi, ki, w))
        for b, (t0, t1), (s0, s1) in _tiles(qi.shape[0], qi.shape[1], ki.shape[1], qi.shape[2], ctx.reach):
            q, k, weight = qi[b, t0:t1].to(dtype), ki[b, s0:s1].to(dtype), w[b, t0:t1].to(dtype)
            parts = head_gradients(grad_BTS[b, t0:t1, s0:s1], q, k, weight, head_products(q, k))
            dqi[b, t0:t1] += parts[0]
            dki[b, s0:s1] += parts[1]
            dw[b, t0:t1] += parts[2]
        return dqi.to(qi.dtype), dki.to(ki.dtype), dw.to(w.dtype), None, None


def _tiles(
    B: int, T: int, S: int, J: int, reach: tuple[int, int] | None
) -> Iterator[tuple[int, tuple[int, int], tuple[int, int]]]:
    """Blocks of queries and keys, without those that lie in the future of all their queries."""
    for b in range(B):
        for t0, t1 in blocks(T, max(1, _ROWS // J)):
            # With `reach` = (start, pool), the last query of the block sees (start + t1) // pool keys.
            end = S if reach is None else min(S, (reach[0] + t1) // reach[1])
            for s in blocks(end, _BLOCK // max(_PAD, (t1 - t0) * J)):
                yield b, (t0, t1), s


def index_scores(
    qi_BTJI: Tensor,
    ki_BSI: Tensor,
    w_BTJ: Tensor,
    start: int | None = 0,
    *,
    first_BT: Tensor | None = None,
    pool: int = 1,
) -> Tensor:
    """The indexer's scores I[t, s] = sum over j of w[t, j] ReLU(I^-1/2 q[t, j].k[s]).

    Computed in blocks of queries and keys in fp32 (fp64 for fp64 input); differentiable in q, k and w, with the heads'
    products made again in the backward pass. Source: DeepSeek-V3.2-Exp report, equation 1.

    Args:
        qi_BTJI: queries of the indexer, positions already applied.
        ki_BSI: keys of the indexer, shared by its heads (pooled keys where `pool` > 1).
        w_BTJ: weights of the heads, of any sign; J^-1/2 is the caller's.
        start: absolute position of the first query; none: nothing is hidden.
        first_BT: first position that each query may see; none: 0.
        pool: tokens per key; a pool is visible when its last token is.

    Returns:
        [B, T, S] fp32 or fp64; -inf at keys that a query may not see.

    Raises:
        UserError: shapes that do not belong together.
    """
    check_indexer(qi_BTJI, ki_BSI, w_BTJ)
    T, S = qi_BTJI.shape[1], ki_BSI.shape[1]
    if start is None:
        return _IndexScores.apply(qi_BTJI, ki_BSI, w_BTJ, None, None)  # type: ignore[no-any-return]
    seen = visible_keys(T, S, start, first_BT=first_BT, pool=pool, device=qi_BTJI.device)
    return _IndexScores.apply(qi_BTJI, ki_BSI, w_BTJ, ~seen, (start, pool))  # type: ignore[no-any-return]


def select(
    scores_BTS: Tensor,
    k: int,
    start: int | None = 0,
    *,
    first_BT: Tensor | None = None,
    pool: int = 1,
    pad: bool = False,
) -> Tensor:
    """The k best visible keys of each query, in the order of the tie rule (score descending, then lower position).

    A query with fewer visible keys than k gets all of them and -1 for the rest. A score of -inf is never selected.

    Args:
        scores_BTS: scores of any float dtype.
        k: how many keys.
        start: absolute position of the first query; none: all keys with a score above -inf are visible.
        first_BT: first position that each query may see; none: 0.
        pool: tokens per key (see `index_scores`); the result counts keys, not tokens.
        pad: always k wide, so that what follows has one shape at any context.

    Returns:
        int64 [B, T, min(k, S)] ([B, T, k] with `pad`), -1 where there is none.

    Raises:
        UserError: k below 1, or a NaN among the visible scores.
    """
    if k < 1:
        raise UserError(f"k: at least 1 key must be selected, got {k}")
    B, T, S = scores_BTS.shape
    scores = scores_BTS.detach()
    if start is not None:
        seen = visible_keys(T, S, start, first_BT=first_BT, pool=pool, device=scores.device)
        scores = scores.masked_fill(~seen, float("-inf"))
    width = min(k, S)
    chosen = _stable_top(scores.reshape(B * T, S), width).view(B, T, width)
    return torch.nn.functional.pad(chosen, (0, k - width), value=-1) if pad and width < k else chosen


def _stable_top(scores_NS: Tensor, k: int) -> Tensor:
    """Top k of each row by (score descending, position ascending); -1 for -inf.

    torch.topk alone leaves open which of equal scores it takes; here it only finds the k-th best score, and rows where
    that score occurs on both sides of the border are filled from the lowest position up.
    """
    if scores_NS.numel() == 0:
        return torch.empty(scores_NS.shape[0], k, dtype=torch.int64, device=scores_NS.device)
    top = scores_NS.topk(k, dim=-1, sorted=False)
    if bool(top.values.isnan().any()):
        raise UserError("scores: NaN among the indexer's scores; look for NaN or infinity in its inputs and weights")
    index_NK = top.indices
    border_N1 = top.values.amin(-1, keepdim=True)
    tied_N = ((scores_NS >= border_N1).sum(-1) > k) & (border_N1[:, 0] > float("-inf"))
    rows = tied_N.nonzero()[:, 0]
    if len(rows):
        some, border = scores_NS[rows], border_N1[rows]
        above, equal = some > border, some == border
        keep = above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
        index_NK[rows] = keep.nonzero()[:, 1].view(-1, k)
    index_NK = index_NK.sort(-1).values
    order = scores_NS.gather(-1, index_NK).sort(dim=-1, descending=True, stable=True)
    return index_NK.gather(-1, order.indices).masked_fill(order.values == float("-inf"), -1)


@torch.no_grad()
def index_select(
    qi_BTJI: Tensor,
    ki_BSI: Tensor,
    w_BTJ: Tensor,
    k: int,
    start: int = 0,
    *,
    first_BT: Tensor | None = None,
    pool: int = 1,
    pad: bool = False,
) -> Tensor:
    """`select(index_scores(...))` by blocks of queries, without ever holding [T, S] scores. int64 [B, T, min(k, S)]."""
    check_indexer(qi_BTJI, ki_BSI, w_BTJ)
    T, J = qi_BTJI.shape[1:3]
    parts = []
    for t0, t1 in blocks(T, max(1, _ROWS // J)):
        first = None if first_BT is None else first_BT[:, t0:t1]
        scores = index_scores(qi_BTJI[:, t0:t1], ki_BSI, w_BTJ[:, t0:t1], start + t0, first_BT=first, pool=pool)
        parts.append(select(scores, k, None, pad=pad))
    return torch.cat(parts, dim=1)


def pool_keys(ki_BSI: Tensor, gate_BSI: Tensor, bias_PI: Tensor) -> Tensor:
    """Pooled indexer keys: in each complete pool of P tokens a gated average, per dimension.

    key = sum over the pool of softmax(gate + bias) * k, the softmax over the P tokens in fp32. Source: GLM-5.3-Flash
    (P = 16; gate a linear map of the layer's input, bias one learned row per place in the pool).

    Args:
        ki_BSI: one key per token.
        gate_BSI: gate logits per token.
        bias_PI: bias per place in the pool; its first dimension is the pool size P.

    Returns:
        [B, S // P, I]; the incomplete tail has no pool.

    Raises:
        UserError: shapes that do not belong together.
    """
    if gate_BSI.shape != ki_BSI.shape or bias_PI.ndim != 2 or bias_PI.shape[1] != ki_BSI.shape[2]:
        raise UserError(
            f"pooled keys: gate {list(gate_BSI.shape)} must have the shape of the keys {list(ki_BSI.shape)} and bias "
            f"{list(bias_PI.shape)} must be [pool size, {ki_BSI.shape[-1]}]"
        )
    P = bias_PI.shape[0]
    B, S, width = ki_BSI.shape
    pools, dtype = S // P, working_dtype(ki_BSI)
    gate, key = (x[:, : pools * P].reshape(B, pools, P, width).to(dtype) for x in (gate_BSI, ki_BSI))
    logits = gate + bias_PI.to(dtype)
    share = (logits - logits.detach().amax(dim=2, keepdim=True)).exp()
    # One place after the other: the order of the sums depends on no shape.
    total, above = share[:, :, 0], share[:, :, 0] * key[:, :, 0]
    for place in range(1, P):
        total = total + share[:, :, place]
        above = above + share[:, :, place] * key[:, :, place]
    return (above / total).to(ki_BSI.dtype)


def select_pooled(scores_BTS: Tensor, k: int, pool: int, start: int = 0, *, pad: bool = False) -> Tensor:
    """Tokens of the k // pool best complete pools, then those of the incomplete tail up to the query.

    Pools come in the order of the tie rule, tokens of a pool in theirs; a pool is complete for a query at position p
    when its last token is at p or before. Source: GLM-5.3-Flash. Documents packed into one row are not supported:
    pools start at the row's first token.

    Args:
        scores_BTS: scores of the pools (`index_scores(..., pool=pool)`), S = number of pools.
        k: budget in tokens, a multiple of `pool`.
        pool: tokens per pool.
        start: absolute position of the first query.
        pad: always k + pool - 1 wide, so that what follows has one shape at any context.

    Returns:
        int64 [B, T, min(k // pool, S) * pool + pool - 1], -1 where there is none.

    Raises:
        UserError: k is not a multiple of the pool size.
    """
    _check_pool(k, pool)
    return pool_tokens(select(scores_BTS, k // pool, start, pool=pool, pad=pad), pool, start)


def pool_tokens(chosen_BTK: Tensor, pool: int, start: int = 0) -> Tensor:
    """Positions of the tokens of chosen pools (-1: none), and behind them the tail that is in no complete pool yet.

    Returns:
        int64 [B, T, K * pool + pool - 1]: for each pool its tokens in order, then up to pool - 1 tokens of the tail.
    """
    B, T, K = chosen_BTK.shape
    device = chosen_BTK.device
    ends_T = torch.arange(start + 1, start + T + 1, device=device)
    tail_TP = (ends_T // pool * pool)[:, None] + torch.arange(pool - 1, device=device)
    tail_BTP = tail_TP.masked_fill(tail_TP >= ends_T[:, None], -1).expand(B, T, pool - 1)
    tokens = chosen_BTK[..., None] * pool + torch.arange(pool, device=device)
    tokens = tokens.masked_fill(chosen_BTK[..., None] < 0, -1).view(B, T, K * pool)
    return torch.cat([tokens, tail_BTP], dim=-1)


def chosen_pools(indices_BTK: Tensor, pool: int) -> Tensor:
    """The pools that a selection of tokens was made of by `pool_tokens` [B, T, (K - pool + 1) // pool], -1 for none.

    Raises:
        UserError: tokens that are not whole pools followed by a tail.
    """
    whole = indices_BTK.shape[-1] - (pool - 1)
    tokens = indices_BTK[..., : max(whole, 0)]
    if whole < 0 or whole % pool:
        raise UserError(f"selection: {indices_BTK.shape[-1]} places are not pools of {pool} tokens and a tail")
    tokens = tokens.unflatten(-1, (whole // pool, pool))
    first = tokens[..., :1]
    want = torch.where(first < 0, -1, first + torch.arange(pool, device=tokens.device))
    if bool(((first >= 0) & (first % pool != 0)).any()) or not torch.equal(tokens, want):
        raise UserError(f"selection: its tokens are not whole pools of {pool}; it belongs to another model")
    return torch.div(first[..., 0], pool, rounding_mode="floor")


def _check_pool(k: int, pool: int) -> None:
    if pool < 1 or k < pool or k % pool:
        raise UserError(f"k: with pooled keys it must be a multiple of the pool size {pool}, got {k}")


def index_sources(pattern: str) -> list[int | None]:
    """Whose indices each layer of a pattern uses: its own for D, those of the last D for S, none for other letters.

    Source: IndexShare of GLM-5.2 (IndexCache, arXiv 2603.12201).

    Raises:
        UserError: an S before the first D.
    """
    sources: list[int | None] = []
    last: int | None = None
    for layer, letter in enumerate(pattern):
        last = layer if letter == "D" else last
        if letter == "S" and last is None:
            raise UserError(
                f'pattern "{pattern}": layer {layer} (S) shares the indices of the last D, but none precedes'
            )
        sources.append(last if letter in "DS" else None)
    return sources
