"""The pieces that every layer is built from: RMSNorm, linear maps without bias, SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.nn.call import Call, wide
from fairtrial.nn.optim import mark


def empty(*shape: int) -> nn.Parameter:
    """A parameter that `Model` fills."""
    return nn.Parameter(torch.empty(*shape))


class Linear(nn.Module):
    """Holds the weight [width_out, width_in] of a linear map; `Call.product` applies it."""

    def __init__(self, width_in: int, width_out: int, *, rows: tuple[int, ...] = ()) -> None:
        """`rows`: rows of the parts of one head, for Muon's per-head split."""
        super().__init__()
        self.weight = empty(width_out, width_in)
        mark(self.weight, head_rows=rows)


class Conv(nn.Module):
    """Holds the weight [channels, 1, taps] of a depthwise convolution."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight = empty(channels, 1, taps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, the mean in at least fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = empty(width)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., width] of any type; returns x's type."""
        broad = wide(x)
        return (broad * torch.rsqrt(broad.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class SwiGlu(nn.Module):
    """down( silu(gate x) * up x )."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, width)
        self.up_proj = Linear(hidden, width)
        self.down_proj = Linear(width, hidden)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        """Map x [..., hidden] to [..., hidden]."""
        gate = call.smooth(functional.silu, call.product(x, self.gate_proj.weight))
        return call.product(gate * call.product(x, self.up_proj.weight), self.down_proj.weight)
