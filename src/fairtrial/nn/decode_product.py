"""A weight laid out for products with the few rows of a decode step: by the C kernel where there is one, else by torch.

Legend: N rows, D inner width, F outer width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fairtrial.nn.norm import RMSNorm
from fairtrial.nn.ops import decode_c


class Product(Protocol):
    """x [N, D] -> x W^T [N, F], of a copy of the weight W [F, D]."""

    def of(self, x_ND: Tensor) -> Tensor:
        """The product."""
        ...

    def add(self, x_ND: Tensor, to_NF: Tensor) -> None:
        """Add the product to `to`."""
        ...


def product(weight_FD: Tensor, rows: int, eps: float | None = None) -> Product:
    """For at most `rows` rows, which are scaled first if `eps` is given (see `scaled`)."""
    if decode_c.available() is None and weight_FD.dtype == torch.float32:
        return decode_c.PackedProduct(weight_FD, rows, eps)
    return LaidProduct(weight_FD, eps)


class LaidProduct:
    """By torch, with W so that its rows in memory are the longer ones.

    A product with few rows streams the weight once, and long rows stream 2 to 3 times faster on a CPU.
    """

    def __init__(self, weight_FD: Tensor, eps: float | None = None) -> None:
        """See `product`."""
        outputs, inputs = weight_FD.shape
        weight_FD = weight_FD.detach().contiguous()
        self.w, self.eps = weight_FD.t().contiguous() if outputs > inputs else weight_FD.t(), eps

    def of(self, x_ND: Tensor) -> Tensor:
        """See `Product`."""
        return torch.mm(x_ND if self.eps is None else scaled(x_ND, self.eps), self.w)

    def add(self, x_ND: Tensor, to_NF: Tensor) -> None:
        """See `Product`."""
        to_NF.addmm_(x_ND if self.eps is None else scaled(x_ND, self.eps), self.w)


def scaled(x_ND: Tensor, eps: float) -> Tensor:
    """RMSNorm without its weight: x / sqrt(mean(x^2) + eps) over the last axis."""
    norm = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
    return x_ND * norm.square_().mul_(1 / x_ND.shape[-1]).add_(eps).rsqrt_()


def behind(norm: RMSNorm, *weights: Tensor) -> Tensor:
    """Weights [F, D] one below the other, with the weight of the norm in front of them folded in: [F, D]."""
    return torch.cat([weight.detach() for weight in weights]) * norm.weight.detach()
