"""What is minimised: next-token cross-entropy, multi-token prediction, the DSA indexers' KL; and audits of its walls.

The gradient walls of DSA training (DeepSeek-V3.2-Exp report, section 2): in warm-up only the indexers learn, and only
from the KL; in the joint stage the indexers learn from the KL alone and everything else from the other losses alone.
Legend: B batch (1 here), T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.core.errors import UserError
from fairtrial.training.settings import Stage, TrainConfig

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars in nats; `total` is what is differentiated."""

    total: Tensor
    lm: Tensor
    mtp: Tensor | None
    kl: Tensor | None


def objective(output: Any, targets_T: Tensor, borders: Sequence[int], config: TrainConfig, stage: Stage) -> Losses:
    """The losses of one packed row.

    Args:
        output: of the model: `logits` [1, T, V] and `aux` (`mtp_logits`, `indexer_kl`).
        targets_T: the next token of each position, int64.
        borders: first positions of the pieces, and T.
        config: weights of the losses.
        stage: with train = "indexer" the total is the KL alone.
    """
    lm = cross_entropy(output.logits[0], targets_T)
    mtp_logits = output.aux.mtp_logits
    kls = list(output.aux.indexer_kl.values())
    mtp = None
    if mtp_logits:
        ahead = [shifted(targets_T, borders, step + 1) for step in range(len(mtp_logits))]
        mtp = torch.stack([cross_entropy(one[0], to) for one, to in zip(mtp_logits, ahead, strict=True)]).mean()
    kl = torch.stack([one.float() for one in kls]).mean() if kls else None
    if stage.train == "indexer":
        if kl is None:
            raise UserError(f'stage "{stage.name}" trains the indexer, but the model has none (no D in its pattern)')
        return Losses(kl, lm.detach(), mtp, kl)
    total = lm
    if mtp is not None:
        total = total + config.mtp_weight * mtp
    if kl is not None:
        total = total + config.index_weight * kl
    return Losses(total, lm, mtp, kl)


def cross_entropy(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """Mean over positions with a target, in fp32; 0 where there is none."""
    count = (targets_T != IGNORED).sum().clamp(min=1)
    return functional.cross_entropy(logits_TV.float(), targets_T, ignore_index=IGNORED, reduction="sum") / count


def shifted(targets_T: Tensor, borders: Sequence[int], by: int) -> Tensor:
    """The targets `by` places later in the same piece; IGNORED where the piece has ended."""
    out = torch.full_like(targets_T, IGNORED)
    for first, last in pairwise(borders):
        if last - first > by:
            out[first : last - by] = targets_T[first + by : last]
    return out


def indexer_names(model: nn.Module) -> set[str]:
    """Names of the parameters of DSA indexers."""
    return {name for name, _ in model.named_parameters() if "indexer" in name.split(".")}


def trained_names(model: nn.Module, stage: Stage) -> set[str]:
    """Names of the parameters that a stage trains. Raises UserError where there is none."""
    if stage.train == "all":
        return {name for name, _ in model.named_parameters()}
    names = indexer_names(model)
    if not names:
        raise UserError(f'stage "{stage.name}" trains the indexer, but the model has none (no D in its pattern)')
    return names


def sparse_stage(stage: Stage, model: nn.Module, index_weight: float) -> str:
    """The model's DSA mode in a stage: "warmup", "joint", "dense" or "sparse" (see nn.call)."""
    if not indexer_names(model):
        return "sparse"
    if stage.train == "indexer":
        return "warmup"
    if stage.attention == "dense":
        return "dense"
    return "joint" if index_weight else "sparse"


def audit_frozen(model: nn.Module, trained: set[str], stage: Stage) -> None:
    """After a backward pass: nothing frozen has a gradient, and something that is trained has one that is not zero.

    Raises AssertionError for a leak (a bug in the model's walls), UserError where nothing would ever be learned.
    """
    moved = False
    for name, parameter in model.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.any())
        assert name in trained or not has, f"stage {stage.name}: frozen parameter {name} received a gradient"
        moved = moved or has
    if not moved:
        raise UserError(f'stage "{stage.name}": every gradient is zero, so nothing would be learned; correct the stage')


def audit_walls(losses: Losses, named: Iterable[tuple[str, Tensor]]) -> Mapping[str, int]:
    """Joint DSA stage: d(lm)/d(indexer) = 0 and d(kl)/d(everything else) = 0, by autograd. The graph is kept.

    Raises AssertionError naming the parameter. Returns how many parameters were on each side.
    """
    assert losses.kl is not None
    pairs = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    indexer = [(name, p) for name, p in pairs if "indexer" in name.split(".")]
    others = [(name, p) for name, p in pairs if "indexer" not in name.split(".")]
    for loss, side, what in ((losses.lm, indexer, "language-model loss"), (losses.kl, others, "indexer's KL")):
        if not loss.requires_grad or not side:
            continue
        grads = torch.autograd.grad(loss, [p for _, p in side], retain_graph=True, allow_unused=True)
        for (name, _), grad in zip(side, grads, strict=True):
            assert grad is None or not bool(grad.any()), f"the {what} reaches {name}, across the wall"
    return {"indexer": len(indexer), "others": len(others)}
