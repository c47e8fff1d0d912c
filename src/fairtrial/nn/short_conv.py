"""The short convolution over queries, keys and values: depthwise and causal, of a few taps.

Kimi Linear technical report, section 4 (KDA layers); the softmax layers have it where `softmax_conv` says so.
Legend: B batch, T time, S time with the last inputs before it, C channels, N sequences, W taps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairtrial.nn.call import Call


class _Taps(torch.autograd.Function):
    """Sum over taps of x[t + tap] * weight[tap], [B, T, C]; gradients are summed in place, faster than autograd's."""

    @staticmethod
    def forward(ctx: Any, x_BSC: Tensor, weight_CW: Tensor) -> Tensor:
        ctx.save_for_backward(x_BSC, weight_CW)
        size = x_BSC.shape[1] - weight_CW.shape[1] + 1
        y = x_BSC[:, :size] * weight_CW[:, 0]
        for tap in range(1, weight_CW.shape[1]):
            y += x_BSC[:, tap : tap + size] * weight_CW[:, tap]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x_BSC, weight_CW = ctx.saved_tensors
        dx_BSC, dweight_CW, size = torch.zeros_like(x_BSC), torch.empty_like(weight_CW), grad_BTC.shape[1]
        for tap in range(weight_CW.shape[1]):
            dx_BSC[:, tap : tap + size] += grad_BTC * weight_CW[:, tap]
            dweight_CW[:, tap] = (grad_BTC * x_BSC[:, tap : tap + size]).sum((0, 1))
        return dx_BSC, dweight_CW


def causal_conv(x_BTC: Tensor, weight_CW: Tensor, tail_NWC: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution of each sequence behind its last W - 1 inputs; returns (output, new last inputs).

    Summed tap by tap, oldest first, so that a value's rounding does not depend on what is computed beside it.
    """
    taps = weight_CW.shape[1]
    if call.packed:
        parts: list[Tensor] = []
        for index, piece in enumerate(x_BTC[0].split(call.lengths)):
            parts += [tail_NWC[index], piece]
        longer, lengths = torch.cat(parts)[None], [n + taps - 1 for n in call.lengths]
    else:
        longer, lengths = torch.cat([tail_NWC, x_BTC], 1), []
    y = _Taps.apply(longer, weight_CW)
    assert isinstance(y, Tensor)
    size = y.shape[1]
    if not call.packed:
        return y, longer[:, size:].clone()
    ends = torch.tensor(lengths).cumsum(0).tolist()
    spans = [(end - n, end) for end, n in zip(ends, lengths, strict=True)]
    out = torch.cat([y[:, first : end - taps + 1] for first, end in spans], 1)
    return out, torch.stack([longer[0, end - taps + 1 : end] for _, end in spans])
