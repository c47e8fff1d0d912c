"""Multi-head latent attention in its two equal forms (DeepSeek-V2, arXiv 2405.04434, section 2.1).

A token is cached as one latent row [c | k_r]: c (normalised, width C) gives keys and values of all heads through the
up-projections, k_r (width P) is a key part shared by the heads, rotated or, in Kimi Linear, without any position.
Expanded: keys and values per head are made from the rows (training, prefill). Absorbed: the key up-projection moves to
the query and the value up-projection behind the sum, so that all heads read the same rows (decoding, sparse attention).

Axes: B batch, T queries, S keys, H heads, N width of the per-head key part, P width of the shared key part, C latent
width, R = C + P (a cached row), V value width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from fairtrial.core.errors import UserError
from fairtrial.nn.ops.indexer import visible_keys, working_dtype


def yarn_scale(scale: float, factor: float, mscale: float = 1.0) -> float:
    """The softmax scale under YaRN: scale * (0.1 mscale ln(factor) + 1)^2, unchanged for factor <= 1.

    Source: arXiv 2309.00071, section 3.4, as applied by DeepSeek-V3.2.
    """
    return scale * (0.1 * mscale * math.log(factor) + 1.0) ** 2 if factor > 1 else scale


def split_up_projection(weight: Tensor, heads: int, key: int) -> tuple[Tensor, Tensor]:
    """The published up-projection [H * (N + V), C], per head N key rows, then V value rows, as [H, N, C] and [H, V, C].

    Raises:
        UserError: rows that do not divide by the heads, or no value rows left.
    """
    rows, latent = weight.shape
    if rows % heads or rows // heads <= key:
        raise UserError(
            f"up-projection: {rows} rows do not make {heads} heads of {key} key rows and at least one value row"
        )
    per_head = weight.view(heads, rows // heads, latent)
    return per_head[:, :key], per_head[:, key:]


def absorb_queries(q_nope_BTHN: Tensor, q_shared_BTHP: Tensor, w_k_HNC: Tensor) -> Tensor:
    """Queries that read latent rows directly: [W_UK,h^T q_nope,h | q_shared,h], [B, T, H, R]."""
    return torch.cat([torch.einsum("bthn,hnc->bthc", q_nope_BTHN, w_k_HNC), q_shared_BTHP], dim=-1)


def expand_context(context_BTHC: Tensor, w_v_HVC: Tensor) -> Tensor:
    """The heads' outputs from sums of latents: W_UV,h context_h, [B, T, H, V]."""
    return torch.einsum("bthc,hvc->bthv", context_BTHC, w_v_HVC)


def expanded_attention(
    q_nope_BTHN: Tensor,
    q_shared_BTHP: Tensor,
    latents_BSR: Tensor,
    w_k_HNC: Tensor,
    w_v_HVC: Tensor,
    *,
    scale: float | None = None,
    start: int = 0,
    first_BT: Tensor | None = None,
    mask_BTS: Tensor | None = None,
) -> Tensor:
    """Causal attention with keys and values per head (MHA form).

    Args:
        q_nope_BTHN: query part that meets the per-head keys.
        q_shared_BTHP: query part that meets the shared key (rotated by the caller, or not at all).
        latents_BSR: cached rows [c | k_r], C + P wide.
        w_k_HNC: key up-projection.
        w_v_HVC: value up-projection.
        scale: softmax scale; none: (N + P)^-1/2.
        start: absolute position of the first query.
        first_BT: first position that each query may see; none: 0.
        mask_BTS: bool, further restriction (a selection as a mask); every query must keep at least one key.

    Returns:
        [B, T, H, V] in the dtype of the queries.

    Raises:
        UserError: shapes that do not belong together.
    """
    C, V = w_k_HNC.shape[2], w_v_HVC.shape[1]
    T, S, width = q_nope_BTHN.shape[1], latents_BSR.shape[1], q_nope_BTHN.shape[3] + q_shared_BTHP.shape[3]
    if latents_BSR.shape[2] != C + q_shared_BTHP.shape[3]:
        raise UserError(f"latents: rows are {latents_BSR.shape[2]} wide, expected {C} + {q_shared_BTHP.shape[3]}")
    c, shared = latents_BSR[..., :C], latents_BSR[..., C:]
    k_nope = torch.einsum("bsc,hnc->bhsn", c, w_k_HNC)
    v = torch.einsum("bsc,hvc->bhsv", c, w_v_HVC)
    k = torch.cat([k_nope, shared[:, None].expand(-1, k_nope.shape[1], -1, -1)], dim=-1)
    q = torch.cat([q_nope_BTHN, q_shared_BTHP], dim=-1).transpose(1, 2)
    scale = width**-0.5 if scale is None else scale
    if width > V:  # equal widths let torch take its blockwise kernel
        v = pad(v, (0, width - V))
    plain = mask_BTS is None and first_BT is None
    mask = None
    if not plain or (T > 1 and (start > 0 or T != S)) or (T == 1 and start + 1 < S):
        seen = visible_keys(T, S, start, first_BT=first_BT, device=q.device)
        mask = (seen if mask_BTS is None else seen & mask_BTS)[:, None]
    causal = mask is None and T > 1
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)[..., :V].transpose(1, 2)


def absorbed_attention(
    q_BTHR: Tensor,
    latents_BSR: Tensor,
    scale: float,
    value_dim: int,
    *,
    start: int = 0,
    first_BT: Tensor | None = None,
    mask_BTS: Tensor | None = None,
) -> Tensor:
    """Causal attention of all heads over the same latent rows (MQA form), as plain matrix products.

    The full [B, H, T, S] scores are held: meant for decoding (T small) and for masks at short T in training.

    Args:
        q_BTHR: absorbed queries (`absorb_queries`).
        latents_BSR: cached rows.
        scale: softmax scale of the expanded form, (N + P)^-1/2 and not R^-1/2.
        value_dim: C, the first dimensions of a row that are summed.
        start: absolute position of the first query.
        first_BT: first position that each query may see; none: 0.
        mask_BTS: bool, further restriction (a selection as a mask). A query without any key gets zeros.

    Returns:
        [B, T, H, value_dim] in the dtype of the queries, for `expand_context`.

    Raises:
        UserError: shapes that do not belong together.
    """
    B, T, H, R = q_BTHR.shape
    S = latents_BSR.shape[1]
    if latents_BSR.shape[0] != B or latents_BSR.shape[2] != R or not 0 < value_dim <= R:
        raise UserError(
            f"latents: {list(latents_BSR.shape)} with value_dim {value_dim} do not fit queries {list(q_BTHR.shape)}"
        )
    rows_BSR = latents_BSR.to(q_BTHR.dtype)
    score = (q_BTHR.reshape(B, T * H, R) * scale) @ rows_BSR.transpose(1, 2)
    score = score.view(B, T, H, S).to(working_dtype(q_BTHR))
    if T > 1 or start + 1 < S or first_BT is not None or mask_BTS is not None:
        seen = visible_keys(T, S, start, first_BT=first_BT, device=score.device)
        seen = (seen if mask_BTS is None else seen & mask_BTS)[:, :, None]
        score = score.masked_fill(~seen, torch.finfo(score.dtype).min)
        share = score.softmax(-1).masked_fill(~seen, 0.0)
    else:
        share = score.softmax(-1)
    out = share.to(q_BTHR.dtype).view(B, T * H, S) @ rows_BSR[..., :value_dim]
    return out.view(B, T, H, value_dim)
