"""Kimi Delta Attention (KDA): the recurrence, its gates, and the choice between back ends.

Source: Kimi Linear technical report, section 2 (recurrence, Eq. 1) and section 4 (gates). One head, token by token:

    S^ = Diag(exp(g_t)) S;   e = beta_t (v_t - S^^T k_t);   S = S^ + k_t e^T;   o_t = scale * S^T q_t.

The decay comes first, then the erase and write. One decay per head makes it gated DeltaNet, g = 0 makes it DeltaNet.

Legend: B batch, T time, H heads of q and k, HV value heads, K key dim, V value dim, N sequences.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import torch
from torch import Tensor

from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.nn.ops import kda_c
from fairtrial.nn.ops.kda_chunk import kda_chunk

BACKENDS = ("recurrent", "chunk", "c", "fla")
FEW_TOKENS = 16  # up to here a loop is cheaper than a filled-up chunk of 64


def l2norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """L2 normalisation x / sqrt(sum(x^2) + eps) over the last axis, in at least fp32, returned in x's type."""
    wide = x.to(_compute_type(x))
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(x.dtype)


def gate_softplus(z: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """Log decay -exp(A_log) * softplus(z + dt_bias), as in Kimi-Linear-48B; unbounded below.

    Args:
        z: [B, T, H, K], the gate projection without its bias.
        A_log: H numbers, of any shape that holds H elements ([H], or [1, 1, H, 1] as stored).
        dt_bias: H * K numbers, [H * K] or [H, K].

    Returns:
        g [B, T, H, K] <= 0 in fp32 (fp64 for fp64 input). The softplus is exact far below zero, where log(1 + exp(z))
        rounds to 0.
    """
    rate, shifted = _gate_inputs(z, A_log, dt_bias)
    # log1p(exp(-|z|)) instead of F.softplus, which returns its input above a threshold of 20 (error 2e-9) in fp64 too
    return -rate * (shifted.clamp_min(0) + torch.log1p(torch.exp(-shifted.abs())))


def gate_bounded(z: Tensor, A_log: Tensor, dt_bias: Tensor, lower: float = -5.0) -> Tensor:
    """Log decay lower * sigmoid(exp(A_log) * (z + dt_bias)), in (lower, 0), as in Kimi K3 and GLM-5.3-Flash.

    Args:
        z: [B, T, H, K], the gate projection without its bias.
        A_log: H numbers; zeros for the published initialisation.
        dt_bias: H * K numbers.
        lower: the most negative log decay, below 0.

    Returns:
        g [B, T, H, K] in fp32 (fp64 for fp64 input).

    Raises:
        UserError: if `lower` is not below 0.
    """
    if not lower < 0:
        raise UserError(f"gate_bounded: lower = {lower} must be below 0 (a log decay), for example -5.0")
    rate, shifted = _gate_inputs(z, A_log, dt_bias)
    return lower * torch.sigmoid(rate * shifted)


def kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Kimi Delta Attention over whole sequences, differentiable in q, k, v, g, beta and initial_state.

    Args:
        q: [B, T, H, K], L2-normalised by the caller (`l2norm`), as k.
        k: see q.
        v: [B, T, HV, V]; HV a multiple of H, value head j reads q and k of head j // (HV // H).
        g: [B, T, HV, K] log decay, at most 0 (`gate_softplus`, `gate_bounded`).
        beta: [B, T, HV], in [0, 1] (up to 2 where negative eigenvalues are allowed).
        scale: factor on q; K ** -0.5 by default.
        initial_state: [N, HV, K, V], zeros by default.
        cu_seqlens: borders of N packed sequences, [N + 1] integers from 0 to T; B must be 1. Without it N = B.
        backend: "recurrent" (token by token: the oracle), "chunk" (torch, any device), "c" (the compiled CPU kernel),
            "fla" (Triton, CUDA only), or "auto": "c" for fp32 on CPU where it is built, else "recurrent" for up to
            16 tokens and "chunk" for more. "auto" never picks "fla".

    Returns:
        o [B, T, HV, V] in v's type and the final state [N, HV, K, V] in fp32. Computed in fp32, or in fp64 (state
        included) if any input is fp64.

    Raises:
        UserError: for shapes that do not fit, or a back end that is unknown or cannot run here.
    """
    spans = _check(q, k, v, g, beta, initial_state, cu_seqlens)
    kind = torch.float64 if any(x.dtype == torch.float64 for x in (q, k, v, g, beta)) else torch.float32
    name = _choose(backend, v, kind)
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if name == "fla":
        return _fla(q, k, v, g, beta, factor, initial_state, cu_seqlens)
    state = initial_state
    if state is None:
        state = v.new_zeros(len(spans), v.shape[2], q.shape[3], v.shape[3], dtype=kind)
    inputs = (q.to(kind), k.to(kind), v.to(kind), g.to(kind), beta.to(kind))
    if name == "c":
        o, final = kda_c.kda_c(*inputs, factor, state.to(kind), cu_seqlens)
    elif name == "chunk":
        o, final = kda_chunk(*inputs, scale=factor, initial_state=state.to(kind), spans=spans)
    else:
        o, final = _recurrent(*inputs, factor, state.to(kind), spans)
    return o.to(v.dtype), final


def backends() -> dict[str, str | None]:
    """Every back end with the reason why it cannot be used here, None where it can."""
    return {name: _reason(name) for name in BACKENDS}


def _reason(name: str) -> str | None:
    if name == "c":
        return kda_c.available()
    return _fla_reason() if name == "fla" else None


def _fla_reason() -> str | None:
    if not torch.cuda.is_available():
        return "it needs a CUDA device"
    if importlib.util.find_spec("fla") is None:
        return "the package flash-linear-attention is not installed (pip install flash-linear-attention)"
    return None


def _choose(backend: str, v: Tensor, kind: torch.dtype) -> str:
    if backend == "auto":
        if v.device.type == "cpu" and kind == torch.float32 and kda_c.available() is None:
            return "c"
        return "recurrent" if v.shape[1] <= FEW_TOKENS else "chunk"
    if backend not in BACKENDS:
        raise UserError(f'kda: backend "{backend}" is unknown{did_you_mean(backend, (*BACKENDS, "auto"))}')
    reason = _reason(backend)
    if reason is None and backend == "fla" and not v.is_cuda:
        reason = "it needs CUDA tensors, and v is on " + str(v.device)
    if reason is None and backend == "fla" and kind == torch.float64:
        reason = "it takes fp32, bf16 or fp16, not fp64"
    if reason is None and backend == "c" and (v.device.type != "cpu" or kind != torch.float32):
        reason = f"it takes fp32 on CPU, not {kind} on {v.device}".replace("torch.", "")
    if reason is not None:
        raise UserError(f'kda: backend "{backend}" cannot be used: {reason}; backend="auto" always works')
    return backend


def _recurrent(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float, state: Tensor, spans: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """The recurrence as written above, by autograd; the oracle for everything else."""
    repeat = v.shape[2] // q.shape[2]
    q, k = q.repeat_interleave(repeat, 2) * scale, k.repeat_interleave(repeat, 2)
    batch, length = v.shape[:2]
    if len(spans) == batch and all(span == (i * length, length) for i, span in enumerate(spans)):
        return _scan(q, k, v, g, beta, state)
    parts = [
        _scan(q[:, a:b], k[:, a:b], v[:, a:b], g[:, a:b], beta[:, a:b], state[i : i + 1])
        for i, (a, b) in enumerate((start, start + size) for start, size in spans)
    ]
    return torch.cat([o for o, _ in parts], 1), torch.cat([final for _, final in parts], 0)


def _scan(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(v.shape[1]):
        k_BHK1 = k[:, t].unsqueeze(-1)
        S = g[:, t].exp().unsqueeze(-1) * S
        e_BHV = beta[:, t].unsqueeze(-1) * (v[:, t] - (S * k_BHK1).sum(-2))
        S = S + k_BHK1 * e_BHV.unsqueeze(-2)
        outputs.append((S * q[:, t].unsqueeze(-1)).sum(-2))
    return (torch.stack(outputs, 1) if outputs else torch.zeros_like(v)), S


def _fla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """flash-linear-attention's Triton kernel (0.6), in v's type with fp32 gates and states."""
    from fla.ops.kda import chunk_kda  # pyright: ignore[reportMissingImports]

    o, final = chunk_kda(
        q.to(v.dtype).contiguous(),
        k.to(v.dtype).contiguous(),
        v.contiguous(),
        g.float().contiguous(),
        beta.float().contiguous(),
        scale=scale,
        initial_state=None if initial_state is None else initial_state.float().contiguous(),
        output_final_state=True,
        cu_seqlens=None if cu_seqlens is None else cu_seqlens.to(v.device, torch.int64),
    )
    return o.to(v.dtype), final


def _compute_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _gate_inputs(z: Tensor, A_log: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    heads, width = z.shape[-2:]
    for name, tensor, count in (("A_log", A_log, heads), ("dt_bias", dt_bias, heads * width)):
        if tensor.numel() != count:
            raise UserError(f"{name} {list(tensor.shape)} must hold {count} numbers to fit z {list(z.shape)}")
    kind = _compute_type(z)
    rate = A_log.to(kind).reshape(heads, 1).exp()
    return rate, z.to(kind) + dt_bias.to(kind).reshape(heads, width)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> list[tuple[int, int]]:
    """(first position in the flattened batch, length) per sequence, once every shape fits."""
    if q.ndim != 4 or v.ndim != 4:
        raise UserError(f"kda: q {list(q.shape)} and v {list(v.shape)} must have 4 axes: batch, time, heads, width")
    batch, time, heads, width = q.shape
    value_heads = v.shape[2]
    if heads == 0 or value_heads % heads:
        raise UserError(f"kda: v has {value_heads} heads, which must be a multiple of the {heads} heads of q and k")
    spans = [(i * time, time) for i in range(batch)] if cu_seqlens is None else _spans(cu_seqlens, batch, time)
    wanted = [
        ("k", k, (batch, time, heads, width)),
        ("v", v, (batch, time, value_heads, v.shape[3])),
        ("g", g, (batch, time, value_heads, width)),
        ("beta", beta, (batch, time, value_heads)),
    ]
    if initial_state is not None:
        wanted.append(("initial_state", initial_state, (len(spans), value_heads, width, v.shape[3])))
    for name, tensor, shape in wanted:
        if tuple(tensor.shape) != shape:
            raise UserError(f"kda: {name} {list(tensor.shape)} must be {list(shape)} to fit q {list(q.shape)}")
        if tensor.device != q.device:
            raise UserError(f"kda: {name} is on {tensor.device} and q on {q.device}; move them to one device")
    return spans


def _spans(cu_seqlens: Tensor, batch: int, time: int) -> list[tuple[int, int]]:
    if batch != 1:
        raise UserError(
            f"kda: cu_seqlens packs all sequences in one row, but the batch is {batch}; reshape to [1, B*T]"
        )
    whole = cu_seqlens.ndim == 1 and not cu_seqlens.is_floating_point()
    borders = cu_seqlens.tolist() if whole else []
    if len(borders) < 2 or borders[0] != 0 or borders[-1] != time or any(b < a for a, b in pairwise(borders)):
        raise UserError(
            f"kda: cu_seqlens must rise from 0 to T = {time}, one border more than sequences; got {borders}"
        )
    return [(a, b - a) for a, b in pairwise(borders)]
