"""The arithmetic of a decode step by a C kernel: products with few rows, attention of one new token, greedy tokens.

For few rows torch's products spend most of their time on preparing weights that are the same in every step; here the
weights are laid out once. What the kernel guarantees (decode.c says how): a row's result is bitwise the same whatever
other rows share the call and for any number of threads. All tensors fp32, on the CPU, contiguous.

Legend: N sequences, D inner width, F outer width, H heads, J key heads, E head width, S columns, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.nn.ops.library import load

LIBRARY = Path(__file__).parent / "_decode.so"
SWITCH = "FAIRTRIAL_DECODE_C"
PANEL = 32  # columns of a weight that lie side by side, as in decode.c
UNIT = 16  # head and inner widths are multiples of it, for whole vectors
WORTH_A_THREAD = 1 << 24  # multiplications: about 0.4 ms of work


class _Struct(ctypes.Structure):
    def point(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            setattr(self, name, tensor.data_ptr())


class _Product(_Struct):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "inner", "outer", "stride", "add", "threads")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("x", "w", "out", "scales")),
    ]


class _Gated(_Struct):
    _fields_ = [("rows", ctypes.c_int64), ("width", ctypes.c_int64), ("x", ctypes.c_void_p), ("out", ctypes.c_void_p)]


class _Attend(_Struct):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "heads", "key_heads", "width")),
        *((name, ctypes.c_int64) for name in ("columns", "now", "window", "threads")),
        *((name, ctypes.c_void_p) for name in ("lengths", "p", "cos", "sin", "cache", "out")),
    ]


class _Likeliest(_Struct):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "width")),
        *((name, ctypes.c_void_p) for name in ("x", "best", "sums")),
    ]


def available() -> str | None:
    """None where the compiled kernel can be used, else the reason why not.

    The environment variable FAIRTRIAL_DECODE_C switches it off ("0") or asks for the code of one instruction set, as
    FAIRTRIAL_KDA_C does for KDA.
    """
    switch = os.environ.get(SWITCH, "")
    if switch == "0":
        return f"switched off by {SWITCH}=0"
    loaded = _load(switch)
    return loaded if isinstance(loaded, str) else None


def entry(name: str) -> Any:
    """A function of the library, for whoever asked `available`."""
    loaded = _load(os.environ.get(SWITCH, ""))
    assert not isinstance(loaded, str), "available() was not asked"
    return loaded[name]


class PackedProduct:
    """x [N, D] -> x W^T [N, F] for a weight W [F, D], which is copied; rows of x are scaled to RMS 1 if `eps` is given.

    x / sqrt(mean(x^2) + eps), as an RMSNorm without weight does.
    """

    def __init__(self, weight_FD: Tensor, rows: int, eps: float | None = None) -> None:
        """`rows`: N at most."""
        self.outer, self.inner = weight_FD.shape
        panels = -(-self.outer // PANEL)
        padded = functional.pad(weight_FD.detach(), (0, 0, 0, panels * PANEL - self.outer))
        self.w = padded.view(panels, PANEL, self.inner).transpose(1, 2).contiguous()
        self.scales = self.w.new_empty(rows)
        self.run = entry("product")
        self.arguments = _Product(inner=self.inner, outer=self.outer, eps=-1.0 if eps is None else eps)
        self.arguments.point(w=self.w, scales=self.scales)
        self.reference = ctypes.byref(self.arguments)

    def of(self, x_ND: Tensor) -> Tensor:
        """The product [N, F]. Rows of x may lie apart."""
        out = x_ND.new_empty(len(x_ND), self.outer)
        self._run(x_ND, out, 0)
        return out

    def add(self, x_ND: Tensor, to_NF: Tensor) -> None:
        """Add the product to `to`."""
        self._run(x_ND, to_NF, 1)

    def _run(self, x_ND: Tensor, out_NF: Tensor, add: int) -> None:
        a, rows = self.arguments, len(x_ND)
        a.rows, a.stride, a.add, a.threads = rows, x_ND.stride(0), add, _threads(rows * self.inner * self.outer)
        a.x, a.out = x_ND.data_ptr(), out_NF.data_ptr()
        if self.run(self.reference):
            raise MemoryError("product: no memory for its working space")


class Attention:
    """One new token of each sequence against cached keys and values."""

    def __init__(self, heads: int, key_heads: int, width: int, window: int | None) -> None:
        """`width` is a multiple of UNIT."""
        self.run = entry("attend")
        self.arguments = _Attend(heads=heads, key_heads=key_heads, width=width, window=window or 0)
        self.reference = ctypes.byref(self.arguments)

    def of(
        self,
        p_NI: Tensor,
        turns: tuple[Tensor, Tensor] | None,
        cache_NSI: Tensor,
        lengths_N: Tensor,
        now: int,
    ) -> Tensor:
        """Write the new keys and values into column `now`, and attend.

        Args:
            p_NI: [N, (H + 2 J) E]: queries with the softmax scale in them, keys, values.
            turns: cosine and signed sine [positions, E] for queries and keys, or None; a new token's position is its
                sequence's length.
            cache_NSI: [slots, S, 2 J E], keys and then values, where sequence n's tokens are in columns
                [now - lengths[n], now).
            lengths_N: int64.
            now: the column of the new token.

        Returns:
            [N, H E].
        """
        a, rows = self.arguments, len(p_NI)
        out = p_NI.new_empty(rows, a.heads * a.width)
        a.rows, a.columns, a.now, a.threads = rows, cache_NSI.shape[1], now, _threads(rows * a.heads * a.width * now)
        a.cos, a.sin = (None, None) if turns is None else (turns[0].data_ptr(), turns[1].data_ptr())
        a.point(lengths=lengths_N, p=p_NI, cache=cache_NSI, out=out)
        if self.run(self.reference):
            raise MemoryError("attend: no memory for its working space")
        return out


def gated(x_NI: Tensor) -> Tensor:
    """silu(gate) * up [N, I] of both side by side [N, 2 I]; I is a multiple of UNIT."""
    rows, width = x_NI.shape
    out = x_NI.new_empty(rows, width // 2)
    entry("gated")(ctypes.byref(_Gated(rows, width // 2, x_NI.data_ptr(), out.data_ptr())))
    return out


def likeliest(logits_NV: Tensor) -> tuple[list[int], list[float]]:
    """For each row the lowest id of its largest logit, which is finite, and that token's log-probability in nats."""
    rows, width = logits_NV.shape
    best, sums = torch.empty(rows, dtype=torch.long), logits_NV.new_empty(rows)
    entry("likeliest")(ctypes.byref(_Likeliest(rows, width, logits_NV.data_ptr(), best.data_ptr(), sums.data_ptr())))
    return best.tolist(), [-math.log(one) for one in sums.tolist()]


def _threads(work: int) -> int:
    return max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD))


@cache
def _load(isa: str) -> dict[str, Any] | str:
    return load(LIBRARY, "decode.c", ("product", "gated", "attend", "likeliest"), isa, SWITCH)
