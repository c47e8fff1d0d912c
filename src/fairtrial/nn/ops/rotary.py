"""Rotary positions (RoFormer, arXiv 2104.09864) in both layouts in use, with YaRN's frequencies (arXiv 2309.00071).

Interleaved: dimensions (0, 1), (2, 3), ... turn together (DeepSeek's and GLM's MLA, GLM's indexer). Half: dimensions
(0, r/2), (1, r/2 + 1), ... turn together (Llama, the indexer of DeepSeek-V3.2). A layout exchanged for the other goes
unnoticed until the selection is tighter than the context, so it is always an explicit word here.

Axes: B batch, T time, H heads, K head width, R rotated width (two per frequency).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from fairtrial.core.errors import UserError, did_you_mean

Layout = Literal["interleaved", "half"]


def frequencies(width: int, base: float = 10_000.0, device: torch.device | str | None = None) -> Tensor:
    """base^(-2i/width) for i < width/2, fp32 [width / 2].

    Raises:
        UserError: an odd width.
    """
    if width < 2 or width % 2:
        raise UserError(f"rotary width: must be even and at least 2, got {width}")
    return 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)


def yarn_frequencies(
    width: int,
    base: float,
    factor: float,
    original_context: int,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """YaRN's mixture of kept and interpolated frequencies, fp32 [width / 2] (arXiv 2309.00071, section 3.2).

    A dimension that turns more than `beta_fast` times over the original context keeps its frequency, one that turns
    less than `beta_slow` times is slowed down by `factor`, with a linear ramp between.
    """

    def dimension(turns: float) -> float:
        return width * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(dimension(beta_fast)), 0)
    high = min(math.ceil(dimension(beta_slow)), width - 1)
    place = torch.arange(width // 2, dtype=torch.float32, device=device)
    slowed = ((place - low) / max(high - low, 1e-3)).clamp(0, 1)
    kept = frequencies(width, base, device)
    return kept / factor * slowed + kept * (1 - slowed)


def rotate(
    x: Tensor,
    positions: Tensor,
    *,
    layout: Layout,
    width: int | None = None,
    base: float = 10_000.0,
    frequencies_R: Tensor | None = None,
    amplitude: float = 1.0,
) -> Tensor:
    """Turn the first `width` dimensions of x by its positions; the others pass unchanged.

    Cosine and sine are computed on the fly in fp32 and the product is made in fp32 (fp64 for fp64 input); nothing is
    cached, so there is no longest context.

    Args:
        x: [B, T, K] or [B, T, H, K].
        positions: absolute positions, integers [T] or [B, T] (cached decoding passes those of the new tokens).
        layout: "interleaved" or "half".
        width: rotated dimensions; none: all.
        base: base of the frequencies.
        frequencies_R: frequencies [width / 2] instead of `base` (YaRN).
        amplitude: factor on cosine and sine (YaRN's attention factor where a model puts it there).

    Returns:
        Of x's shape and dtype.

    Raises:
        UserError: unknown layout, odd or too large width, positions of another length.
    """
    if layout not in get_args(Layout):
        raise UserError(f'rotary layout: "{layout}" is unknown{did_you_mean(str(layout), get_args(Layout))}')
    width = x.shape[-1] if width is None else width
    if width % 2 or not 0 < width <= x.shape[-1]:
        raise UserError(f"rotary width: must be even and at most the head width {x.shape[-1]}, got {width}")
    if positions.shape[-1] != x.shape[1] or positions.ndim not in (1, 2):
        raise UserError(f"positions: {list(positions.shape)} do not fit {x.shape[1]} tokens; give [T] or [B, T]")
    if frequencies_R is None:
        frequencies_R = frequencies(width, base, x.device)
    angle = positions.to(torch.float32)[..., None] * frequencies_R
    angle = angle[:, :, None] if x.ndim == 4 and positions.ndim == 2 else angle
    angle = angle[:, None] if x.ndim == 4 and positions.ndim == 1 else angle
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = (angle.cos() * amplitude).to(dtype), (angle.sin() * amplitude).to(dtype)
    turned, rest = x[..., :width].to(dtype), x[..., width:]
    if layout == "interleaved":
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    else:
        a, b = turned.chunk(2, dim=-1)
        out = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    return torch.cat([out.to(x.dtype), rest], dim=-1)
