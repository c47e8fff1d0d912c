"""Kimi Delta Attention in chunks, with its own backward (torch, CPU and CUDA).

Source: Kimi Linear technical report, section 3 (WY/UT chunk form). The published form divides by cumulated decays and
overflows for strong gates. Here the scores of a chunk come from recursive halving: at block size s (1, 2, 4 ... C/2)
the rows of a right half meet the columns of the left half beside it; their decay splits at the border between the two,

    exp(g_{i+1} + ... + g_r) = exp(g_{border} + ... + g_r) * exp(g_{i+1} + ... + g_{border-1}),

so that both factors are at most one for any gate. The two exponents are running sums inside the block, grown from one
block size to the next by additions of numbers of one sign: nothing cancels, and no gate of a later token enters an
earlier row. With E = v - (Gamma k) S, R = beta E and N = (I + L)^-1 R the chunk is
o = (scale Gamma q) S + A_qk N and S' = Diag(gamma_C) S + (exp(G_C - G) k)^T N.

Legend: n tiles (a chunk of one value head), C chunk length, K key dim, V value dim, p pairs of blocks, s block size,
B batch, T time, H heads, HV value heads, N sequences, M chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairtrial.core.errors import UserError

CHUNK = 64
_CPU_TILE_FLOATS = 1 << 17  # floats of one [n, C, K] temporary: half a MiB, so that the dozen of them stay in cache
_GPU_TILE_FLOATS = 1 << 26


@dataclass(frozen=True, slots=True)
class Step:
    """One chunk of some sequences: tiles [low, high) of the group carry the states [first, last) forward."""

    low: int
    high: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Group:
    """Chunks that are processed together: `rows_MC` are positions in the flattened batch.

    Where a chunk is short, `pad_MC` marks the filling and `real` lists what is none (flat, as `rows_MC` flattened).
    """

    rows_MC: Tensor
    pad_MC: Tensor | None
    real: Tensor | None
    steps: tuple[Step, ...]


def make_plan(
    spans: list[tuple[int, int]], chunk: int, most: int, device: torch.device
) -> tuple[list[int], list[Group]]:
    """Order of the sequences (longest first) and the groups of at most about `most` chunks that cover them.

    `spans` holds (first position, length) per sequence. Chunks of one group are ordered by their place in the sequence,
    so that every sequence still running advances in one batched product.
    """
    order = sorted(range(len(spans)), key=lambda i: -spans[i][1])
    order_spans = [spans[i] for i in order]
    groups: list[Group] = []
    for base in range(0, len(order), most):
        some = [(start, length) for start, length in order_spans[base : base + most] if length]
        parts: list[tuple[int, int]] = []
        steps: list[Step] = []
        for place in range(-(-some[0][1] // chunk) if some else 0):
            active = [(start, length) for start, length in some if length > place * chunk]
            if parts and len(parts) + len(active) > most:
                groups.append(_group(parts, steps, chunk, device))
                parts, steps = [], []
            steps.append(Step(len(parts), len(parts) + len(active), base, base + len(active)))
            parts += [(start + place * chunk, min(chunk, length - place * chunk)) for start, length in active]
        if parts:
            groups.append(_group(parts, steps, chunk, device))
    return order, groups


def _group(parts: list[tuple[int, int]], steps: list[Step], chunk: int, device: torch.device) -> Group:
    table = torch.tensor(parts, dtype=torch.int64)
    within = torch.arange(chunk)
    rows_MC = table[:, :1] + within
    pad_MC = within >= table[:, 1:]
    if not bool(pad_MC.any()):
        return Group(rows_MC.to(device), None, None, tuple(steps))
    real = (~pad_MC).reshape(-1).nonzero()[:, 0]
    return Group(rows_MC.masked_fill(pad_MC, 0).to(device), pad_MC.to(device), real.to(device), tuple(steps))


@dataclass(slots=True)
class Tiles:
    """The inputs of one group as tiles of one value head each (scale already in q), and what the forward leaves."""

    q_nCK: Tensor
    k_nCK: Tensor
    v_nCV: Tensor
    g_nCK: Tensor
    beta_nC: Tensor


def _gather(x: Tensor, group: Group, repeat: int = 1) -> Tensor:
    """[tokens, H, F] -> [M * H * repeat, C, F]; filling is zero."""
    chunks, length = group.rows_MC.shape
    heads, width = x.shape[1], x.shape[2]
    part = x.index_select(0, group.rows_MC.reshape(-1))
    if group.pad_MC is not None:
        part.masked_fill_(group.pad_MC.reshape(-1, 1, 1), 0)
    part = part.view(chunks, length, heads, width).permute(0, 2, 1, 3)
    if repeat > 1:
        part = part.unsqueeze(2).expand(chunks, heads, repeat, length, width)
    return part.reshape(chunks * heads * repeat, length, width)


def _scatter(into: Tensor, tiles: Tensor, group: Group) -> None:
    """The reverse of `_gather`: adds up repeats of a head and drops filling."""
    chunks, length = group.rows_MC.shape
    heads, width = into.shape[1], into.shape[2]
    tiles = tiles.view(chunks, heads, -1, length, width)
    part = (tiles.sum(2) if tiles.shape[2] > 1 else tiles[:, :, 0]).permute(0, 2, 1, 3).reshape(-1, heads, width)
    rows = group.rows_MC.reshape(-1)
    if group.real is not None:
        part, rows = part.index_select(0, group.real), rows.index_select(0, group.real)
    into.index_copy_(0, rows, part)


def _decays(g_nCK: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Per block size: exp of the rows' and the columns' exponents; then exp(G) and exp(G_C - G) of the whole chunk."""
    n, length, width = g_nCK.shape
    before, after = g_nCK.clone(), torch.zeros_like(g_nCK)
    levels: list[tuple[Tensor, Tensor]] = []
    size = 1
    while size < length:
        shape = (n, length // (2 * size), 2, size, width)
        head, tail = before.view(shape), after.view(shape)
        levels.append((head[:, :, 1].exp(), tail[:, :, 0].exp()))
        tail[:, :, 0] += head[:, :, 1, -1:]
        head[:, :, 1] += head[:, :, 0, -1:]
        size *= 2
    return levels, before.exp_(), after.exp_()


def _blocks(a_nCXC: Tensor, size: int) -> Tensor:
    """The off-diagonal blocks that belong to block size `size`, as a writable view [n, s, X, s, p]."""
    n, length, kinds, _ = a_nCXC.shape
    pairs = length // (2 * size)
    view = a_nCXC.view(n, pairs, 2, size, kinds, pairs, 2, size)[:, :, 1, :, :, :, 0]
    return view.diagonal(dim1=1, dim2=4)


def _scores(tiles: Tiles, levels: list[tuple[Tensor, Tensor]]) -> Tensor:
    """a[n, r, 0, i] = decayed k_r . k_i (r > i) and a[n, r, 1, i] = decayed q_r . k_i (r >= i)."""
    n, length, width = tiles.k_nCK.shape
    a_nCXC = tiles.k_nCK.new_zeros(n, length, 2, length)
    both = torch.stack((tiles.k_nCK, tiles.q_nCK), 2)
    size = 1
    for up, down in levels:
        pairs = length // (2 * size)
        rows = both.view(n, pairs, 2, size, 2, width)[:, :, 1] * up.unsqueeze(3)
        columns = tiles.k_nCK.view(n, pairs, 2, size, width)[:, :, 0] * down
        if size == 1:
            block = (rows * columns.unsqueeze(3)).sum(-1)
        else:
            block = torch.bmm(rows.reshape(-1, 2 * size, width), columns.reshape(-1, size, width).transpose(1, 2))
        _blocks(a_nCXC, size).copy_(block.reshape(n, pairs, size, 2, size).permute(0, 2, 3, 4, 1))
        size *= 2
    a_nCXC[:, :, 1].diagonal(dim1=1, dim2=2).copy_((tiles.q_nCK * tiles.k_nCK).sum(-1))
    return a_nCXC


def _inverse(a_nCXC: Tensor, beta_nC: Tensor) -> Tensor:
    """(I + Diag(beta) A_kk)^-1, unit lower triangular [n, C, C]."""
    lower = a_nCXC[:, :, 0] * beta_nC.unsqueeze(-1)
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)


@dataclass(slots=True)
class Kept:
    """What the backward of one group needs beside the inputs."""

    a_nCXC: Tensor
    inverse_nCC: Tensor
    new_nCV: Tensor
    state_nKV: Tensor


def _forward_group(tiles: Tiles, steps: tuple[Step, ...], heads: int, state: Tensor) -> tuple[Tensor, Kept]:
    """Outputs of a group; advances `state` [N, HV, K, V] in place."""
    levels, gamma, rest = _decays(tiles.g_nCK)
    a_nCXC = _scores(tiles, levels)
    inverse = _inverse(a_nCXC, tiles.beta_nC)
    decayed_k = gamma * tiles.k_nCK
    carried_k = (rest * tiles.k_nCK).transpose(1, 2)
    beta = tiles.beta_nC.unsqueeze(-1)
    last = gamma[:, -1].unsqueeze(-1)
    n, _, width = tiles.k_nCK.shape
    value = tiles.v_nCV.shape[-1]
    new = torch.empty_like(tiles.v_nCV)
    states = new.new_empty(n, width, value)
    for step in steps:
        part = slice(step.low * heads, step.high * heads)
        carried = state[step.first : step.last].view(-1, width, value)
        states[part] = carried
        error = torch.baddbmm(tiles.v_nCV[part], decayed_k[part], carried, alpha=-1).mul_(beta[part])
        new[part] = torch.bmm(inverse[part], error)
        torch.baddbmm(carried * last[part], carried_k[part], new[part], out=carried)
    o = torch.bmm(gamma * tiles.q_nCK, states).baddbmm_(a_nCXC[:, :, 1], new)
    return o, Kept(a_nCXC, inverse, new, states)


def _scores_backward(
    tiles: Tiles, levels: list[tuple[Tensor, Tensor]], da_nCXC: Tensor, d_before: Tensor, d_after: Tensor, grads: Tiles
) -> None:
    """Adds the scores' part to the gradients of q, k; turns the gradients of the two exponents into that of g."""
    n, length, width = tiles.k_nCK.shape
    both = torch.stack((tiles.k_nCK, tiles.q_nCK), 2)
    size = length // 2
    for up, down in reversed(levels):
        pairs = length // (2 * size)
        shape = (n, pairs, 2, size, width)
        d_head, d_tail = d_before.view(shape), d_after.view(shape)
        d_head[:, :, 0, -1] += d_head[:, :, 1].sum(2)
        d_head[:, :, 1, -1] += d_tail[:, :, 0].sum(2)
        rows = both.view(n, pairs, 2, size, 2, width)[:, :, 1] * up.unsqueeze(3)
        columns = tiles.k_nCK.view(shape)[:, :, 0] * down
        block = _blocks(da_nCXC, size).permute(0, 4, 1, 2, 3).reshape(-1, 2 * size, size)
        d_rows = torch.bmm(block, columns.reshape(-1, size, width)).view_as(rows)
        d_columns = torch.bmm(block.transpose(1, 2), rows.reshape(-1, 2 * size, width)).view_as(columns)
        d_head[:, :, 1] += (rows * d_rows).sum(3)
        d_tail[:, :, 0] += columns * d_columns
        grads.k_nCK.view(shape)[:, :, 1] += d_rows[:, :, :, 0] * up
        grads.q_nCK.view(shape)[:, :, 1] += d_rows[:, :, :, 1] * up
        grads.k_nCK.view(shape)[:, :, 0] += d_columns * down
        size //= 2
    same = da_nCXC[:, :, 1].diagonal(dim1=1, dim2=2).unsqueeze(-1)
    grads.q_nCK += same * tiles.k_nCK
    grads.k_nCK += same * tiles.q_nCK
    grads.g_nCK = d_before


def _backward_group(
    tiles: Tiles, kept: Kept, steps: tuple[Step, ...], heads: int, d_o: Tensor, d_state: Tensor
) -> Tiles:
    """Gradients of a group's inputs (q as it enters, scale included); moves `d_state` to the group's start."""
    levels, gamma, rest = _decays(tiles.g_nCK)
    decayed_k, decayed_q, carried_k = gamma * tiles.k_nCK, gamma * tiles.q_nCK, rest * tiles.k_nCK
    beta = tiles.beta_nC.unsqueeze(-1)
    last = gamma[:, -1].unsqueeze(-1)
    width, value = kept.state_nKV.shape[1:]
    d_new = torch.bmm(kept.a_nCXC[:, :, 1].transpose(1, 2), d_o)
    d_error = torch.empty_like(d_new)
    d_states = torch.empty_like(kept.state_nKV)
    from_o = torch.bmm(decayed_q.transpose(1, 2), d_o)
    scaled_k = (beta * decayed_k).transpose(1, 2)
    for step in reversed(steps):
        part = slice(step.low * heads, step.high * heads)
        d_carried = d_state[step.first : step.last].view(-1, width, value)
        d_states[part] = d_carried
        d_new[part] += torch.bmm(carried_k[part], d_carried)
        d_error[part] = torch.bmm(kept.inverse_nCC[part].transpose(1, 2), d_new[part])
        start = from_o[part].addcmul_(last[part], d_carried)
        torch.baddbmm(start, scaled_k[part], d_error[part], alpha=-1, out=d_carried)
    da_nCXC = torch.empty_like(kept.a_nCXC)
    da_nCXC[:, :, 1] = torch.bmm(d_o, kept.new_nCV.transpose(1, 2))
    d_lower = torch.bmm(d_error, kept.new_nCV.transpose(1, 2)).neg_()
    da_nCXC[:, :, 0] = beta * d_lower
    error = torch.baddbmm(tiles.v_nCV, decayed_k, kept.state_nKV, alpha=-1)
    d_beta = (d_error * error).sum(-1) + (d_lower * kept.a_nCXC[:, :, 0]).sum(-1)
    d_v = beta * d_error
    d_decayed_k = torch.bmm(d_v, kept.state_nKV.transpose(1, 2)).neg_()
    d_decayed_q = torch.bmm(d_o, kept.state_nKV.transpose(1, 2))
    d_carried_k = torch.bmm(kept.new_nCV, d_states.transpose(1, 2))
    d_before = decayed_k * d_decayed_k + decayed_q * d_decayed_q
    d_before[:, -1] += gamma[:, -1] * (kept.state_nKV * d_states).sum(-1)
    d_after = carried_k * d_carried_k
    d_k = (gamma * d_decayed_k).addcmul_(rest, d_carried_k)
    grads = Tiles(gamma * d_decayed_q, d_k, d_v, d_before, d_beta)
    _scores_backward(tiles, levels, da_nCXC, d_before, d_after, grads)
    return grads


class KdaChunk(torch.autograd.Function):
    """The chunk form with the chunk adjoint; temporaries live for one group of chunks at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        state: Tensor,
        scale: float,
        plan: tuple[list[int], list[Group]],
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        """All inputs flat over tokens ([tokens, H, F]); returns (o, final state), both of the compute type."""
        order, groups = plan
        sorted_state = state[order]  # a copy: advanced in place
        heads = v.shape[1]
        o = torch.empty_like(v)
        kept: list[Kept] = []
        for group in groups:
            part, left = _forward_group(_tiles(q, k, v, g, beta, scale, group), group.steps, heads, sorted_state)
            _scatter(o, part, group)
            if keep:
                kept.append(left)
        final = torch.empty_like(sorted_state)
        final[order] = sorted_state
        ctx.save_for_backward(q, k, v, g, beta)
        ctx.kept, ctx.plan, ctx.scale = kept, plan, scale
        return o, final

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *d_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, g, beta and the initial state; a second derivative is refused."""
        if torch.is_grad_enabled():
            raise UserError(
                "kda: the chunk form has no second derivative (create_graph=True); use backend='recurrent' for it"
            )
        q, k, v, g, beta = ctx.saved_tensors
        order, groups = ctx.plan
        d_o, d_final = d_outputs
        d_state = d_final[order]
        grads = [torch.zeros_like(x) for x in (q, k, v, g, beta)]
        for group, kept in zip(reversed(groups), reversed(ctx.kept), strict=True):
            tiles = _tiles(q, k, v, g, beta, ctx.scale, group)
            part = _backward_group(tiles, kept, group.steps, v.shape[1], _gather(d_o, group), d_state)
            part.q_nCK *= ctx.scale
            for into, piece in zip(grads, (part.q_nCK, part.k_nCK, part.v_nCV, part.g_nCK), strict=False):
                _scatter(into, piece, group)
            _scatter(grads[4].unsqueeze(-1), part.beta_nC.unsqueeze(-1), group)
        d_initial = torch.empty_like(d_state)
        d_initial[order] = d_state
        return (*grads, d_initial, None, None, None)


def _tiles(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float, group: Group) -> Tiles:
    repeat = v.shape[1] // q.shape[1]
    return Tiles(
        _gather(q, group, repeat) * scale,
        _gather(k, group, repeat),
        _gather(v, group),
        _gather(g, group),
        _gather(beta.unsqueeze(-1), group).squeeze(-1),
    )


def kda_chunk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float,
    initial_state: Tensor,
    spans: list[tuple[int, int]],
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """KDA over chunks of `chunk` (a power of two) tokens; first order derivatives only.

    Args:
        q: [B, T, H, K], as k; all tensors of one type, fp32 or fp64.
        k: see q.
        v: [B, T, HV, V] with HV a multiple of H.
        g: [B, T, HV, K] log decay, at most 0.
        beta: [B, T, HV].
        scale: factor on q.
        initial_state: [N, HV, K, V].
        spans: (first position in the flattened batch, length) of the N sequences.
        chunk: tokens per chunk.

    Returns:
        o [B, T, HV, V] and the final state [N, HV, K, V].
    """
    heads, width, value = v.shape[2], q.shape[3], v.shape[3]
    budget = _GPU_TILE_FLOATS if v.is_cuda else _CPU_TILE_FLOATS
    most = max(1, budget // (heads * chunk * max(width, value)))
    plan = make_plan(spans, chunk, most, v.device)
    flat = [x.reshape(-1, *x.shape[2:]) for x in (q, k, v, g, beta)]
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (*flat, initial_state))
    o, final = KdaChunk.apply(*flat, initial_state, scale, plan, keep)  # pyright: ignore[reportGeneralTypeIssues]
    return o.view_as(v), final
