"""KDA on a CPU by a C kernel: forward and backward in fp32, several times faster than any torch form.

Source: Kimi Linear technical report (Eq. 1); the adjoint is that of the recurrence, with the state kept every CHUNK
tokens and recomputed in between. kda.c says how it works. What it guarantees: every column of the state is computed in
one order of operations, so outputs, states and gradients are bitwise the same for a prefill, for any split of it into
calls (down to single tokens), for any batch, and for any number of threads.

The library is built with the package (hatch_build.py). Threads: as many as `torch.get_num_threads()`, none for little
work. The call releases the GIL.

Legend: B batch, T time, H heads of q and k, HV value heads, K key dim, V value dim, N sequences.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.nn.ops.library import load

LIBRARY = Path(__file__).parent / "_kda.so"
SWITCH = "FAIRTRIAL_KDA_C"
CHUNK = 32  # tokens between two kept states, as in kda.c
GROUP = 32  # columns whose gradients are summed together, as in kda.c
WORTH_A_THREAD = 1 << 20  # state elements times tokens: about 0.1 ms of work

_INTEGERS = ("n", "t", "h", "hv", "k", "v", "threads", "parts")
_INPUTS = ("cu", "q", "key", "val", "g", "beta", "s0")
_FORWARD = ("o", "s1", "r", "checkpoints")
_BACKWARD = ("dout", "ds1", "dq", "dkey", "dval", "dg", "dbeta", "ds0")


class _Arguments(ctypes.Structure):
    """`struct kda_args` of kda.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in (*_INPUTS, *_FORWARD, *_BACKWARD)),
        ("group_k", ctypes.c_int64),
        ("group_1", ctypes.c_int64),
    ]


def available() -> str | None:
    """None where the compiled kernel can be used, else the reason why not.

    The environment variable FAIRTRIAL_KDA_C switches it off ("0") or asks for the code of one instruction set ("base",
    "avx2", "avx512") instead of the widest that the processor has.
    """
    switch = os.environ.get(SWITCH, "")
    if switch == "0":
        return f"switched off by {SWITCH}=0"
    loaded = _load(switch)
    return loaded if isinstance(loaded, str) else None


def kda_c(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """KDA over whole sequences, differentiable once in every tensor but cu_seqlens. All tensors fp32, on the CPU.

    Args:
        q: [B, T, H, K], L2-normalised by the caller, as k.
        k: [B, T, H, K].
        v: [B, T, HV, V]; value head j reads q and k of head j // (HV // H).
        g: [B, T, HV, K], log decay.
        beta: [B, T, HV].
        scale: factor on q.
        initial_state: [N, HV, K, V], zeros by default.
        cu_seqlens: [N + 1] integers from 0 to T, the borders of packed sequences (B = 1). Without it N = B.

    Returns:
        o [B, T, HV, V] and the final state [N, HV, K, V]. Tensors that are not contiguous are copied.

    Raises:
        UserError: if the kernel is not available, or a tensor has another type, device or shape.
    """
    if (reason := available()) is not None:
        raise UserError(f"the C kernel for kda cannot be used ({reason}); use backend='auto' or 'chunk'")
    tensors = (q, k, v, g, beta, initial_state)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return KdaC.apply(q, k, v, g, beta, scale, initial_state, cu_seqlens)  # type: ignore[return-value]
    o, state, _, _ = kda_forward(q, k, v, g, beta, scale, initial_state, cu_seqlens)
    return o, state


class KdaC(torch.autograd.Function):
    """`kda_c` with its gradient. Keeps q, k, g, beta, the errors r [B, T, HV, V] and the states at every 32nd token."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        scale: float,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """See `kda_c`."""
        wanted = any(ctx.needs_input_grad)
        o, state, r, checkpoints = kda_forward(q, k, v, g, beta, scale, initial_state, cu_seqlens, gradient=wanted)
        ctx.set_materialize_grads(False)
        ctx.scale = scale
        if wanted:
            ctx.save_for_backward(q, k, g, beta, r, checkpoints, _borders(cu_seqlens))
        return o, state

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of q, k, v, g, beta and the initial state; a second derivative is refused.

        Refused here, where create_graph asks for it: torch's `once_differentiable` takes it as zero for constant d_o.
        """
        if torch.is_grad_enabled():
            raise UserError(
                "kda: the C kernel has no second derivative (create_graph=True); use backend='recurrent' for it"
            )
        q, k, g, beta, r, checkpoints, borders = ctx.saved_tensors
        wants_state = ctx.needs_input_grad[6]
        dq, dk, dv, dg, dbeta, ds0 = kda_backward(
            q, k, g, beta, r, checkpoints, borders, ctx.scale, *grads, state=wants_state
        )
        return dq, dk, dv, dg, dbeta, None, ds0, None


def kda_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    *,
    gradient: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`kda_c` without autograd. Returns o, the final state, and what `kda_backward` needs if `gradient` (else None).

    That is r = v - S^^T k [B, T, HV, V] and the decayed states at every 32nd token [T * B // 32 + N, HV, K, V].
    """
    _check(q, k, v, g, beta, initial_state, cu_seqlens)
    q, k, v, g, beta = (x.detach().contiguous() for x in (q, k, v, g, beta))
    state = None if initial_state is None else initial_state.detach().contiguous()
    batch, length, _, key_dim = q.shape
    heads, value_dim = v.shape[2:]
    borders = _borders(cu_seqlens)
    count = batch if borders is None else len(borders) - 1
    o = torch.empty_like(v)
    final = v.new_empty(count, heads, key_dim, value_dim)
    r = torch.empty_like(v) if gradient else None
    kept = v.new_empty(batch * length // CHUNK + count, heads, key_dim, value_dim) if gradient else None
    inputs = {"cu": borders, "q": q, "key": k, "val": v, "g": g, "beta": beta, "s0": state}
    outputs = {"o": o, "s1": final, "r": r, "checkpoints": kept}
    threads = _threads(batch * length * heads * key_dim * value_dim)
    parts = min(-(-value_dim // 16), -(-2 * threads // (count * heads))) if threads > 1 else 1
    _call("kda_forward", _sizes(q, v, count) | {"threads": threads, "parts": parts}, scale, inputs | outputs)
    return o, final, r, kept


def kda_backward(
    q: Tensor,
    k: Tensor,
    g: Tensor,
    beta: Tensor,
    r: Tensor,
    checkpoints: Tensor,
    borders: Tensor | None,
    scale: float,
    d_o: Tensor | None = None,
    d_state: Tensor | None = None,
    *,
    state: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v, g, beta and (if `state`) the initial state, from those of o and of the final state.

    `r`, `checkpoints`: from `kda_forward(..., gradient=True)`; `borders`: cu_seqlens as int64. None for `d_o` or
    `d_state` means zeros.
    """
    q, k, g, beta = (x.detach().contiguous() for x in (q, k, g, beta))
    batch, length, key_heads, key_dim = q.shape
    heads, value_dim = r.shape[2:]
    count = batch if borders is None else len(borders) - 1
    d_o = torch.zeros_like(r) if d_o is None else d_o.contiguous()
    d_state = None if d_state is None else d_state.contiguous()
    groups = -(-value_dim // GROUP)
    threads = _threads(3 * batch * length * heads * key_dim * value_dim)
    # where heads and sequences do not occupy the threads, groups of columns run at once, each into its own buffer
    parts = groups if count * heads < threads else 1
    copies = groups if parts > 1 else 1
    dq, dk, dg = (q.new_empty(copies, batch, length, heads, key_dim) for _ in range(3))
    dbeta = q.new_empty(copies, batch, length, heads)
    dv = torch.empty_like(r)
    ds0 = q.new_empty(count, heads, key_dim, value_dim) if state else None
    inputs = {"cu": borders, "q": q, "key": k, "g": g, "beta": beta, "r": r, "checkpoints": checkpoints}
    outputs = {"dq": dq, "dkey": dk, "dval": dv, "dg": dg, "dbeta": dbeta, "ds0": ds0}
    sizes = _sizes(q, r, count) | {"threads": threads, "parts": parts}
    sizes |= {"group_k": dq.stride(0), "group_1": dbeta.stride(0)} if copies > 1 else {}
    _call("kda_backward", sizes, scale, inputs | {"dout": d_o, "ds1": d_state} | outputs)
    dq, dk, dg, dbeta = (_in_order(x) for x in (dq, dk, dg, dbeta))
    if heads != key_heads:
        shape = (batch, length, key_heads, heads // key_heads, key_dim)
        dq, dk = (_in_order(x.view(shape).movedim(3, 0)) for x in (dq, dk))
    return dq, dk, dv, dg, dbeta, ds0


def _in_order(parts: Tensor) -> Tensor:
    """The sum over the first axis, first to last: the same bits for any number of threads."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _threads(work: int) -> int:
    return max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD))


def _borders(cu_seqlens: Tensor | None) -> Tensor | None:
    return None if cu_seqlens is None else cu_seqlens.detach().to(torch.int64).contiguous()


def _sizes(q: Tensor, v: Tensor, count: int) -> dict[str, int]:
    _, length, heads, key_dim = q.shape
    return {"n": count, "t": length, "h": heads, "hv": v.shape[2], "k": key_dim, "v": v.shape[3]}


def _call(name: str, sizes: dict[str, int], scale: float, tensors: dict[str, Tensor | None]) -> None:
    """Run one entry of the library. `tensors` keeps every argument alive until it returns."""
    loaded = _load(os.environ.get(SWITCH, ""))
    assert not isinstance(loaded, str), "available() was not asked"
    pointers = {key: None if x is None or x.numel() == 0 else x.data_ptr() for key, x in tensors.items()}
    if loaded[name](ctypes.byref(_Arguments(**sizes, scale=scale, **pointers))):
        raise MemoryError(f"{name}: no memory for its working space")


@cache
def _load(isa: str) -> dict[str, Any] | str:
    """The library's entries for an instruction set ("": the widest that runs here), or why there are none."""
    return load(LIBRARY, "kda.c", ("kda_forward", "kda_backward"), isa, SWITCH)


def _check(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None, cu_seqlens: Tensor | None
) -> None:
    if q.ndim != 4 or v.ndim != 4 or q.shape[1] != v.shape[1]:
        raise UserError(f"kda: q {list(q.shape)} and v {list(v.shape)} must be [B, T, H, K] and [B, T, HV, V]")
    batch, length, key_heads, key_dim = q.shape
    heads, value_dim = v.shape[2:]
    if 0 in (batch, key_heads, key_dim, heads, value_dim) or heads % key_heads:
        raise UserError(
            f"kda: v has {heads} heads, which must be a multiple of the {key_heads} heads of q, and no axis empty"
        )
    if cu_seqlens is not None:
        _check_borders(cu_seqlens, batch, length)
    count = batch if cu_seqlens is None else len(cu_seqlens) - 1
    shapes = {"q": (q, q.shape), "k": (k, q.shape), "v": (v, (batch, length, heads, value_dim))}
    shapes |= {"g": (g, (batch, length, heads, key_dim)), "beta": (beta, (batch, length, heads))}
    if state is not None:
        shapes["initial_state"] = (state, (count, heads, key_dim, value_dim))
    for name, (x, shape) in shapes.items():
        if x.shape != shape:
            raise UserError(f"kda: {name} is {list(x.shape)} but must be {list(shape)}")
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise UserError(
                f"kda: {name} is {x.dtype} on {x.device}; the C kernel takes float32 on the CPU: use 'chunk'"
            )


def _check_borders(cu_seqlens: Tensor, batch: int, length: int) -> None:
    if batch != 1:
        raise UserError(f"kda: cu_seqlens packs sequences into a batch of one, but the batch is {batch}")
    ok = cu_seqlens.ndim == 1 and len(cu_seqlens) >= 2 and cu_seqlens.dtype in (torch.int32, torch.int64)
    if not ok or cu_seqlens.device.type != "cpu":
        raise UserError("kda: cu_seqlens must be int32 or int64 [N + 1] on the CPU, with at least two borders")
    if cu_seqlens[0] != 0 or cu_seqlens[-1] != length or bool((cu_seqlens.diff() < 0).any()):
        raise UserError(f"kda: cu_seqlens must go from 0 to T = {length} without going back")
