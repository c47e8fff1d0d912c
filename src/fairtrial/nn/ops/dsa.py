"""DeepSeek Sparse Attention: attention over selected latent rows, its training signal, recorded selections.

DeepSeek-V3.2-Exp report, section 2; GLM-5 (arXiv 2602.15763). The indexer itself (scores, top-k with its tie rule,
pooled keys) is `fairtrial.nn.ops.indexer`; its functions are offered here too.

A query attends only to the rows that were selected for it, the same rows for all heads: a row is gathered once and read
by all of them (the absorbed form of MLA). `sparse_attention` gathers and needs memory for T * K rows, whatever the
context; `selection_mask` with a dense attention gives the same result and gradients and is the faster one for the short
sequences of training on a CPU.

The walls between the two trainings: a selection is integers, so the language model's loss cannot reach the indexer;
`indexer_kl` takes its target without gradient, so the indexer's loss cannot reach the attention that it imitates. The
third wall is the layer's: what enters the indexer's projections must be detached.

Axes: B batch, T queries, S keys, H heads, R latent row, C value part of a row, J indexer heads, I indexer width,
K chosen keys, N queries of a block, M rows of all sequences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.nn.ops.indexer import (
    blocks,
    check_indexer,
    chosen_pools,
    head_gradients,
    head_products,
    index_scores,
    index_select,
    index_sources,
    pool_keys,
    pool_tokens,
    select,
    select_pooled,
    visible_keys,
    weigh_heads,
    working_dtype,
)

__all__ = [
    "attention_mass",
    "check_selection",
    "chosen_pools",
    "from_record",
    "index_scores",
    "index_select",
    "index_sources",
    "indexer_kl",
    "pool_keys",
    "pool_tokens",
    "select",
    "select_pooled",
    "selection_mask",
    "selection_overlap",
    "sparse_attention",
    "to_record",
    "visible_keys",
]

# Floats that a block may hold at once (8 MiB in fp32): small enough for the caches, large enough to keep torch busy.
_BLOCK = 1 << 21


def selection_mask(indices_BTK: Tensor, keys: int) -> Tensor:
    """The selection as a bool mask [B, T, S] for a dense attention; -1 is left out."""
    B, T, _ = indices_BTK.shape
    mask = torch.zeros(B, T, keys + 1, dtype=torch.bool, device=indices_BTK.device)
    mask.scatter_(-1, indices_BTK.long().masked_fill(indices_BTK < 0, keys), True)
    return mask[..., :keys]


def _shares(q_NHR: Tensor, rows_NKR: Tensor, hidden_NK: Tensor, scale: float) -> Tensor:
    """Softmax over the gathered rows, [N, H, K]; zeros for a query without any row."""
    score = torch.bmm(q_NHR * scale, rows_NKR.transpose(1, 2))
    score.masked_fill_(hidden_NK[:, None], torch.finfo(score.dtype).min)
    return score.softmax(-1).masked_fill(hidden_NK[:, None], 0.0)


def _add_rows(total_MR: Tensor, index_L: Tensor, rows_LR: Tensor) -> None:
    """total[index] += rows, also where an index repeats."""
    total_MR.scatter_add_(0, index_L[:, None].expand_as(rows_LR), rows_LR)


class _SparseAttention(torch.autograd.Function):
    """Gathered attention in blocks of queries; rows and probabilities are made again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, q_NHR: Tensor, rows_MR: Tensor, index_NK: Tensor, hidden_NK: Tensor, scale: float, value_dim: int
    ) -> Tensor:
        ctx.save_for_backward(q_NHR, rows_MR, index_NK, hidden_NK)
        ctx.scale, ctx.value_dim = scale, value_dim
        dtype = working_dtype(q_NHR)
        out = q_NHR.new_empty(*q_NHR.shape[:2], value_dim)
        for low, high in _query_blocks(q_NHR, index_NK):
            rows = _gather(rows_MR, index_NK[low:high]).to(dtype)
            share = _shares(q_NHR[low:high].to(dtype), rows, hidden_NK[low:high], scale)
            out[low:high] = torch.bmm(share, rows[..., :value_dim])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NHC: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q_NHR, rows_MR, index_NK, hidden_NK = ctx.saved_tensors
        dtype = working_dtype(q_NHR)
        dq_NHR, drows_MR = torch.empty_like(q_NHR), torch.zeros_like(rows_MR, dtype=dtype)
        for low, high in _query_blocks(q_NHR, index_NK):
            rows = _gather(rows_MR, index_NK[low:high]).to(dtype)
            q, grad = q_NHR[low:high].to(dtype), grad_NHC[low:high].to(dtype)
            share = _shares(q, rows, hidden_NK[low:high], ctx.scale)
            dshare = torch.bmm(grad, rows[..., : ctx.value_dim].transpose(1, 2))
            dscore = share * (dshare - (dshare * share).sum(-1, keepdim=True)) * ctx.scale
            dq_NHR[low:high] = torch.bmm(dscore, rows)
            drows = torch.bmm(dscore.transpose(1, 2), q)
            drows[..., : ctx.value_dim] += torch.bmm(share.transpose(1, 2), grad)
            _add_rows(drows_MR, index_NK[low:high].flatten(), drows.flatten(0, 1))
        return dq_NHR, drows_MR.to(rows_MR.dtype), None, None, None, None


def _query_blocks(q_NHR: Tensor, index_NK: Tensor) -> list[tuple[int, int]]:
    per_query = index_NK.shape[1] * (q_NHR.shape[2] + q_NHR.shape[1])
    return list(blocks(len(q_NHR), max(1, _BLOCK // max(1, per_query))))


def _gather(rows_MR: Tensor, index_NK: Tensor) -> Tensor:
    return rows_MR.index_select(0, index_NK.flatten()).view(*index_NK.shape, rows_MR.shape[1])


def _flat_index(indices_BTK: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """Indices into the rows of all sequences laid end to end [B*T, K], and where there is none."""
    B, T, K = indices_BTK.shape
    hidden = indices_BTK < 0
    offset = torch.arange(B, device=indices_BTK.device)[:, None, None] * keys
    flat = indices_BTK.long().masked_fill(hidden, 0) + offset
    return flat.view(B * T, K), hidden.view(B * T, K)


def _check_attention(q_BTHR: Tensor, latents_BSR: Tensor, indices_BTK: Tensor | None) -> None:
    B, T, _, R = q_BTHR.shape
    if latents_BSR.ndim != 3 or latents_BSR.shape[0] != B or latents_BSR.shape[2] != R:
        raise UserError(
            f"latents: {list(latents_BSR.shape)} do not fit queries {list(q_BTHR.shape)}: need [{B}, S, {R}]"
        )
    if indices_BTK is not None and (indices_BTK.ndim != 3 or indices_BTK.shape[:2] != (B, T)):
        raise UserError(
            f"indices: {list(indices_BTK.shape)} do not fit queries {list(q_BTHR.shape)}: need [{B}, {T}, K]"
        )
    if indices_BTK is not None and indices_BTK.numel() and int(indices_BTK.max()) >= latents_BSR.shape[1]:
        raise UserError(f"indices: name key {int(indices_BTK.max())} of {latents_BSR.shape[1]} keys")


def sparse_attention(
    q_BTHR: Tensor, latents_BSR: Tensor, indices_BTK: Tensor, scale: float, value_dim: int | None = None
) -> Tensor:
    """Attention of each query to its selected latent rows; memory grows with T * K, not with T * S.

    Softmax in fp32 (fp64 for fp64 input). Differentiable in queries and latents; the gathered rows are made again in
    the backward pass. Source: DeepSeek-V3.2-Exp report, equation 2, in the absorbed form of MLA.

    Args:
        q_BTHR: absorbed queries (`mla.absorb_queries`).
        latents_BSR: cached rows, shared by the heads.
        indices_BTK: selected keys of each query, -1 for none, without repetitions (`select`, `from_record`).
        scale: softmax scale of the expanded form.
        value_dim: C, the first dimensions of a row that are summed; none: all.

    Returns:
        [B, T, H, C] in the dtype of the queries; zeros for a query without any key.

    Raises:
        UserError: shapes that do not belong together, or an index beyond the keys.
    """
    _check_attention(q_BTHR, latents_BSR, indices_BTK)
    value_dim = latents_BSR.shape[2] if value_dim is None else value_dim
    if not 0 < value_dim <= latents_BSR.shape[2]:
        raise UserError(f"value_dim: must be between 1 and the row width {latents_BSR.shape[2]}, got {value_dim}")
    index_NK, hidden_NK = _flat_index(indices_BTK, latents_BSR.shape[1])
    out_NHC = _SparseAttention.apply(
        q_BTHR.flatten(0, 1), latents_BSR.flatten(0, 1), index_NK, hidden_NK, scale, value_dim
    )
    return out_NHC.view(*q_BTHR.shape[:3], value_dim)  # type: ignore[union-attr]


def to_record(indices_BTK: Tensor) -> np.ndarray:
    """A selection as an int32 array [B, T, K], to be kept in a trajectory (4 K bytes per token and selecting layer)."""
    return indices_BTK.to("cpu", torch.int32).numpy().copy()


def from_record(
    record_BTK: np.ndarray,
    keys: int,
    start: int = 0,
    *,
    first_BT: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A recorded selection, checked, as `select` returned it: int64 [B, T, K].

    Args:
        record_BTK: what `to_record` gave.
        keys: S, number of keys now in the cache.
        start: absolute position of the first query.
        first_BT: first position that each query may see; none: 0.
        device: where the attention runs.

    Raises:
        UserError: not an integer array of three dimensions, or it names a key that its query may not see, or one twice.
    """
    if record_BTK.ndim != 3 or record_BTK.dtype.kind not in "iu":
        raise UserError(
            f"recorded selection: must be integers [B, T, K], got {record_BTK.dtype} {list(record_BTK.shape)}"
        )
    indices = torch.from_numpy(record_BTK.astype(np.int64)).to(device)
    position_T = torch.arange(start, start + indices.shape[1], device=indices.device)
    check_selection(indices, position_T.expand(indices.shape[:2]), "recorded selection", keys=keys, first_BT=first_BT)
    return indices


def check_selection(
    indices_BTK: Tensor, position_BT: Tensor, what: str, *, keys: int | None = None, first_BT: Tensor | None = None
) -> None:
    """Refuse a selection that names a key which its query may not see, or one key twice.

    Args:
        indices_BTK: int64, -1 for none.
        position_BT: absolute position of each query; it sees keys up to there.
        what: what messages call the selection.
        keys: number of keys, where there are fewer than the positions say; none: enough.
        first_BT: first position that each query may see; none: 0.

    Raises:
        UserError: naming sequence, position and key.
    """
    last_BT = position_BT if keys is None else position_BT.clamp(max=keys - 1)
    low = 0 if first_BT is None else first_BT.to(indices_BTK.device)[..., None]
    bad = (indices_BTK < -1) | (indices_BTK > last_BT[..., None]) | ((indices_BTK >= 0) & (indices_BTK < low))
    if bool(bad.any()):
        b, t, place = (int(x) for x in bad.nonzero()[0])
        of = "" if keys is None else f" (of {keys} keys)"
        raise UserError(
            f"{what}: sequence {b}, position {int(position_BT[b, t])} names key {int(indices_BTK[b, t, place])}, "
            f"which it may not see{of}; the record belongs to another prompt"
        )
    ordered = indices_BTK.sort(-1).values
    if bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()):
        raise UserError(f"{what}: a query names the same key twice")


def selection_overlap(a_BTK: Tensor, b_BTK: Tensor, keys: int) -> Tensor:
    """Share of keys that two selections have in common, per query: |a and b| / max(|a|, |b|), fp32 [B, T].

    1 where both are empty. One minus this is the mismatch between an engine's selection and a trainer's.
    """
    a, b = selection_mask(a_BTK, keys), selection_mask(b_BTK, keys)
    larger = torch.maximum(a.sum(-1), b.sum(-1))
    return torch.where(larger > 0, (a & b).sum(-1) / larger.clamp(min=1), 1.0)


def _dense_target(q_NHR: Tensor, latents_SR: Tensor, seen_NS: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Attention probabilities of a block of queries, averaged over the heads (sums to 1 per query), [N, S]."""
    N, H, R = q_NHR.shape
    score = ((q_NHR.reshape(N * H, R) * scale).to(dtype) @ latents_SR.to(dtype).T).view(N, H, -1)
    score.masked_fill_(~seen_NS[:, None], torch.finfo(dtype).min)
    return score.softmax(-1).mean(1).masked_fill(~seen_NS, 0.0)


@torch.no_grad()
def attention_mass(
    q_BTHR: Tensor,
    latents_BSR: Tensor,
    indices_BTK: Tensor,
    scale: float,
    *,
    start: int = 0,
    first_BT: Tensor | None = None,
) -> Tensor:
    """How much of the dense attention (mean over the heads) falls on the selected keys, fp32 [B, T]; 1 is lossless.

    Raises:
        UserError: shapes that do not belong together.
    """
    _check_attention(q_BTHR, latents_BSR, indices_BTK)
    B, T, H, _ = q_BTHR.shape
    S = latents_BSR.shape[1]
    seen = visible_keys(T, S, start, first_BT=first_BT, device=q_BTHR.device).expand(B, T, S)
    mass = q_BTHR.new_zeros(B, T, dtype=working_dtype(q_BTHR))
    for b in range(B):
        for low, high in blocks(T, max(1, _BLOCK // (H * S))):
            target = _dense_target(q_BTHR[b, low:high], latents_BSR[b], seen[b, low:high], scale, mass.dtype)
            index = indices_BTK[b, low:high].long()
            mass[b, low:high] = target.gather(-1, index.clamp(min=0)).masked_fill(index < 0, 0.0).sum(-1)
    return mass


def _over_pools(share_NS: Tensor, pool: int, seen_NK: Tensor) -> Tensor:
    """Mass of whole pools [N, K], made to sum to 1 over those that count (0 where none does)."""
    mass = share_NS.unflatten(-1, (-1, pool)).sum(-1).masked_fill(~seen_NK, 0.0)
    return mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)


class _IndexerKL(torch.autograd.Function):
    """The loss and its gradients in one pass over blocks of queries: dL/dI = softmax(I) - p is known at once.

    Nothing of size [J, T, T] or [H, T, T] is ever kept; between the passes only the gradients of q, k and w are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qi: Tensor,
        ki: Tensor,
        w: Tensor,
        q_lat: Tensor,
        latents: Tensor,
        indices: Tensor | None,
        first_BT: Tensor | None,
        weight_BT: Tensor,
        scale: float,
        start: int,
        pool: int,
    ) -> Tensor:
        dtype = working_dtype(qi)
        grads = [torch.zeros_like(x, dtype=dtype) for x in (qi, ki, w)] if any(ctx.needs_input_grad[:3]) else None
        loss = torch.zeros((), dtype=dtype, device=qi.device)
        B, T, H, R = q_lat.shape
        J, S = qi.shape[2], latents.shape[1]
        per_query = (H + J) * S if indices is None else indices.shape[2] * (R + qi.shape[3])
        for b in range(B):
            for low, high in blocks(T, max(1, _BLOCK // per_query)):
                some = slice(low, high)
                first = None if first_BT is None else first_BT[b : b + 1, some]
                end = S if indices is not None else min(S, start + high)
                inputs = qi[b, some].to(dtype), ki[b, : end // pool].to(dtype), w[b, some].to(dtype)
                q, rows = q_lat[b, some].to(dtype), latents[b, :end]
                if indices is None:
                    block, target = _dense_block(inputs, q, rows, scale, start + low, first, pool)
                else:
                    block, target = _chosen_block(inputs, q, rows, scale, indices[b, some].long(), pool)
                value, dscore = block.divergence(target, weight_BT[b, some].to(dtype))
                loss += value
                if grads is not None:
                    block.backward(dscore, grads[0][b, some], grads[1][b, : end // pool], grads[2][b, some])
        ctx.grads = None if grads is None else [g.to(x.dtype) for g, x in zip(grads, (qi, ki, w), strict=True)]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *(g * grad.to(g.dtype) for g in ctx.grads), *(None,) * 8


class _Block:
    """Queries of one sequence with their indexer scores, over all keys or gathered on a support."""

    def __init__(self, q_NJI: Tensor, k_SI: Tensor, w_NJ: Tensor, seen: Tensor, index_NK: Tensor | None = None) -> None:
        self.q, self.k, self.w, self.seen, self.index = q_NJI, k_SI, w_NJ, seen, index_NK
        if index_NK is None:
            self.product = head_products(q_NJI, k_SI)
        else:
            self.rows = _gather(k_SI, index_NK)
            self.product = torch.bmm(q_NJI * q_NJI.shape[-1] ** -0.5, self.rows.transpose(1, 2)).relu_()

    def divergence(self, target: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of KL(target || softmax(scores)) over the queries, and its gradient for the scores."""
        score = weigh_heads(self.product.clone(), self.w).masked_fill(~self.seen, torch.finfo(target.dtype).min)
        log_q = score.log_softmax(-1).masked_fill(~self.seen, 0.0)
        value = ((torch.xlogy(target, target) - target * log_q).sum(-1) * weight_N).sum()
        return value, (log_q.exp().masked_fill(~self.seen, 0.0) - target) * weight_N[:, None]

    def backward(self, dscore: Tensor, dq_NJI: Tensor, dk_SI: Tensor, dw_NJ: Tensor) -> None:
        """Add the gradients of this block."""
        if self.index is None:
            parts = head_gradients(dscore, self.q, self.k, self.w, self.product)
            dk_SI += parts[1]
            dq_NJI += parts[0]
            dw_NJ += parts[2]
            return
        scale = self.q.shape[-1] ** -0.5
        dw_NJ += torch.bmm(self.product, dscore[..., None])[..., 0]
        dproduct = dscore[:, None] * self.w[..., None] * (self.product > 0) * scale
        dq_NJI += torch.bmm(dproduct, self.rows)
        _add_rows(dk_SI, self.index.flatten(), torch.bmm(dproduct.transpose(1, 2), self.q).flatten(0, 1))


_Inputs = tuple[Tensor, Tensor, Tensor]
"""The indexer's q [N, J, I], k [S, I] and w [N, J] of a block of queries."""


def _dense_block(
    inputs: _Inputs, q_NHR: Tensor, rows_SR: Tensor, scale: float, start: int, first: Tensor | None, pool: int
) -> tuple[_Block, Tensor]:
    """Warm-up: scores of all visible keys (pools), and the attention that they should imitate."""
    N, S, dtype = len(q_NHR), len(rows_SR), q_NHR.dtype
    seen_NS = visible_keys(N, S, start, first_BT=first, device=q_NHR.device)[0]
    target = _dense_target(q_NHR, rows_SR, seen_NS, scale, dtype)
    if pool == 1:
        return _Block(*inputs, seen_NS), target
    seen_NK = visible_keys(N, S // pool, start, pool=pool, device=q_NHR.device)[0]
    return _Block(*inputs, seen_NK), _over_pools(target[:, : S // pool * pool], pool, seen_NK)


def _chosen_block(
    inputs: _Inputs, q_NHR: Tensor, rows_SR: Tensor, scale: float, index_NK: Tensor, pool: int
) -> tuple[_Block, Tensor]:
    """Joint stage: scores on the selection, and the sparse attention there."""
    hidden_NK = index_NK < 0
    rows = _gather(rows_SR, index_NK.clamp(min=0)).to(q_NHR.dtype)
    target = _shares(q_NHR, rows, hidden_NK, scale).mean(1)
    if pool == 1:
        return _Block(*inputs, ~hidden_NK, index_NK.clamp(min=0)), target
    pools_NK = chosen_pools(index_NK, pool)
    seen = pools_NK >= 0
    return _Block(*inputs, seen, pools_NK.clamp(min=0)), _over_pools(target[:, : seen.shape[1] * pool], pool, seen)


def _check_pair(qi_BTJI: Tensor, ki_BSI: Tensor, q_BTHR: Tensor, latents_BSR: Tensor, pool: int) -> None:
    T, S = qi_BTJI.shape[1], ki_BSI.shape[1]
    if q_BTHR.shape[:2] != qi_BTJI.shape[:2] or latents_BSR.shape[1] // pool != S:
        raise UserError(
            f"indexer: {T} queries and {S} keys, but the attention has {q_BTHR.shape[1]} and {latents_BSR.shape[1]}"
            + (f" in pools of {pool}" if pool > 1 else "")
        )


def indexer_kl(
    qi_BTJI: Tensor,
    ki_BSI: Tensor,
    w_BTJ: Tensor,
    q_BTHR: Tensor,
    latents_BSR: Tensor,
    scale: float,
    *,
    indices_BTK: Tensor | None = None,
    start: int = 0,
    first_BT: Tensor | None = None,
    count_BT: Tensor | None = None,
    pool: int = 1,
) -> Tensor:
    """The indexer's loss, mean over queries of KL(p[t] || softmax(I[t])); gradients reach qi, ki and w only.

    Without indices, the dense warm-up: p is the sum over the heads of their attention probabilities over all visible
    keys, L1-normalised. With indices, the joint stage: both distributions live on the selection (each head's softmax is
    the sparse attention's own). Source: DeepSeek-V3.2-Exp report, section 2.1 (continued pre-training).

    With pooled keys both distributions live on complete pools, visible ones (warm-up) or chosen ones (joint): p of a
    pool is the sum over its tokens of the attention probabilities above, and, because the tail is attended to whatever
    the indexer says, the tail's share is left out and the rest divided by its sum. A query before the first complete
    pool adds 0. (No paper says how GLM-5.3-Flash's target is pooled; this is the same loss on what is chosen between.)

    Args:
        qi_BTJI: queries of the indexer; they, ki and w must come from detached inputs (see the module's note).
        ki_BSI: keys of the indexer, one per token, or per complete pool [B, S // pool, I].
        w_BTJ: weights of the heads.
        q_BTHR: absorbed queries of the attention that is imitated; taken without gradient.
        latents_BSR: its rows; taken without gradient.
        scale: its softmax scale.
        indices_BTK: the selection (joint stage); none: warm-up.
        start: absolute position of the first query.
        first_BT: first position that each query may see; none: 0 (a selection already respects it).
        count_BT: bool, the queries that count (padding does not); none: all.
        pool: tokens per key; above 1 the selection is one of `pool_tokens`, and `first_BT` cannot be given.

    Returns:
        A scalar, fp32 (fp64 for fp64 input), zero where nothing counts.

    Raises:
        UserError: shapes that do not belong together.
    """
    check_indexer(qi_BTJI, ki_BSI, w_BTJ)
    _check_attention(q_BTHR, latents_BSR, indices_BTK)
    _check_pair(qi_BTJI, ki_BSI, q_BTHR, latents_BSR, pool)
    if pool > 1 and first_BT is not None:
        raise UserError("indexer: pools start at a row's first token; give each document a row of its own")
    B, T = qi_BTJI.shape[:2]
    counted = torch.ones(B, T, device=qi_BTJI.device) if count_BT is None else count_BT
    weight = counted.to(working_dtype(qi_BTJI))
    weight = weight / weight.sum().clamp(min=1)
    attention = (q_BTHR.detach(), latents_BSR.detach())
    return _IndexerKL.apply(  # type: ignore[no-any-return]
        qi_BTJI, ki_BSI, w_BTJ, *attention, indices_BTK, first_BT, weight, scale, start, pool
    )
