"""Muon (Jordan et al. 2024) with the per-head split of GLM-5 (2602.15763, "Muon Split").

Letters: N blocks, R rows, C columns. A matrix [H*d, r] whose rows belong to H heads is seen as [H, d, r] and each
block is orthogonalised by itself, so that no head's update is scaled by another head's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from fairtrial.core.errors import UserError

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic Newton-Schulz iteration: singular values end near 1 (within about [0.7, 1.2]), not at 1."""


def orthogonalise(matrix_NRC: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each block towards 1; the singular vectors stay.

    Args:
        matrix_NRC: [..., R, C], any float dtype; the arithmetic is done in float32.
        steps: Newton-Schulz iterations.

    Returns:
        The same shape and dtype. A zero block stays zero.
    """
    a, b, c = COEFFICIENTS
    x_NRC = matrix_NRC.float()
    tall = x_NRC.shape[-2] > x_NRC.shape[-1]
    if tall:
        x_NRC = x_NRC.mT
    x_NRC = x_NRC / (x_NRC.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = a * x_NRC + (b * gram_NRR + c * gram_NRR @ gram_NRR) @ x_NRC
    return (x_NRC.mT if tall else x_NRC).to(matrix_NRC.dtype)


def muon_update(matrix: Tensor, sections: tuple[int, ...] = (), steps: int = 5) -> Tensor:
    """The orthogonalised update of a matrix [R, C] or of a stack of matrices [..., R, C].

    Args:
        matrix: momentum of the gradient.
        sections: () for the whole matrix; otherwise the rows of the parts of one head, e.g. (d,) or (d_k, d_v) for a
            projection that holds keys and values per head: the rows are H times these parts, and each part of each
            head is a block of its own.
        steps: Newton-Schulz iterations.

    Returns:
        Same shape; each block is scaled by sqrt(max(1, rows / columns)).
    """
    if not sections:
        rows, columns = matrix.shape[-2:]
        return orthogonalise(matrix, steps) * max(1.0, rows / columns) ** 0.5
    per_head, columns = sum(sections), matrix.shape[-1]
    by_head_HRC = matrix.view(-1, per_head, columns)
    parts = [
        orthogonalise(part, steps) * max(1.0, part.shape[-2] / columns) ** 0.5
        for part in by_head_HRC.split(list(sections), dim=1)
    ]
    return torch.cat(parts, dim=1).view_as(matrix)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised per block; decoupled weight decay. Matrices only.

    A parameter's group may give `sections` (see `muon_update`): parameters of one group share them.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]] | Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        sections: tuple[int, ...] = (),
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "sections": sections})
        for group in self.param_groups:
            for param in group["params"]:
                _check(param, group["sections"])

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                state["momentum"].lerp_(param.grad, 1 - group["momentum"])
                nesterov = param.grad.lerp(state["momentum"], group["momentum"])
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(muon_update(nesterov, group["sections"]), alpha=-group["lr"])
        return loss


def _check(param: Tensor, sections: tuple[int, ...]) -> None:
    if param.ndim < 2:
        raise UserError(f"Muon takes matrices; a parameter of shape {list(param.shape)} belongs to AdamW")
    if sections and (param.ndim != 2 or param.shape[0] % sum(sections)):
        raise UserError(
            f"Muon: a matrix of shape {list(param.shape)} does not divide into heads of {'+'.join(map(str, sections))}"
            " rows; correct its `head_rows`"
        )
