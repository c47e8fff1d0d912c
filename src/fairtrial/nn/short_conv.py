"""The short convolution over queries, keys and values: depthwise and causal, of a few taps.

Kimi Linear technical report, section 4 (KDA layers); the softmax layers have it where `softmax_conv` says so.
Legend: B batch, T time, S time with the last inputs before it, C channels, N sequences, W taps.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.nn.call import Call


def causal_conv(x_BTC: Tensor, weight_CW: Tensor, tail_NWC: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution of each sequence behind its last W - 1 inputs; returns (output, new last inputs).

    Where no gradient is wanted, and in an exact pass, it is summed tap by tap, oldest first, so that a value's rounding
    does not depend on what is computed beside it; else torch's own convolution does it, several times faster.
    """
    taps = weight_CW.shape[1]
    summed = _summed if call.exact or not torch.is_grad_enabled() else _convolved
    if not call.packed:
        longer = torch.cat([tail_NWC, x_BTC], 1)
        return summed(longer, weight_CW), longer[:, x_BTC.shape[1] :].clone()
    pieces = zip(tail_NWC, x_BTC[0].split(call.lengths), strict=True)
    longer = torch.cat([part for pair in pieces for part in pair])[None]
    between = [size for length in call.lengths for size in (length, taps - 1)][:-1]
    ends = accumulate(length + taps - 1 for length in call.lengths)
    tails = torch.stack([longer[0, end - taps + 1 : end] for end in ends])
    return torch.cat(summed(longer, weight_CW).split(between, 1)[::2], 1), tails


def _summed(x_BSC: Tensor, weight_CW: Tensor) -> Tensor:
    """Sum over taps of x[t + tap] * weight[tap], [B, T, C]."""
    size = x_BSC.shape[1] - weight_CW.shape[1] + 1
    y = x_BSC[:, :size] * weight_CW[:, 0]
    for tap in range(1, weight_CW.shape[1]):
        y += x_BSC[:, tap : tap + size] * weight_CW[:, tap]
    return y


def _convolved(x_BSC: Tensor, weight_CW: Tensor) -> Tensor:
    """The same, by rows of an image whose channels lie last."""
    y_BC1T = functional.conv2d(x_BSC.transpose(1, 2)[:, :, None], weight_CW[:, None, None], groups=len(weight_CW))
    return y_BC1T[:, :, 0].transpose(1, 2)
