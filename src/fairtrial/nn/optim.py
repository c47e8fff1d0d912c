"""Which parameter is optimised how: AdamW groups, Muon for matrices, clipping, and the state as named tensors.

A model says what its names cannot: `mark(parameter, no_decay=True)` for a parameter without weight decay, and
`mark(parameter, head_rows=(d,))` for a matrix whose rows belong to heads of d rows (Muon's per-head split).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairtrial.core.errors import UserError
from fairtrial.nn.muon import Muon
from fairtrial.nn.schedule import OptimConfig

_NEVER_DECAYED = ("A_log", "dt_bias", "bias", "e_score_correction_bias")
_TABLES = ("embed_tokens", "embedding", "embed", "lm_head", "head")
"""Modules whose weight has one row for each token: always AdamW."""


def mark(parameter: Tensor, *, no_decay: bool = False, head_rows: tuple[int, ...] = ()) -> Tensor:
    """Note on a parameter how it wants to be optimised; returns it. Reading: `optimisers`."""
    parameter.no_decay = no_decay  # type: ignore[attr-defined]
    parameter.head_rows = head_rows  # type: ignore[attr-defined]
    return parameter


def is_table(module: nn.Module, name: str) -> bool:
    """Whether a parameter has one row for each token: an embedding's weight, or the output head's."""
    path, _, leaf = name.rpartition(".")
    if leaf == "weight" and isinstance(module.get_submodule(path), nn.Embedding):
        return True
    return any(part in _TABLES for part in name.split("."))


def decays(name: str, parameter: Tensor, table: bool, decay_embeddings: bool) -> bool:
    """Whether weight decay applies: not to vectors (norms, biases), A_log, dt_bias, marked ones, usually not tables."""
    if parameter.ndim < 2 or name.rpartition(".")[2] in _NEVER_DECAYED or getattr(parameter, "no_decay", False):
        return False
    return decay_embeddings or not table


def optimisers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and before it Muon where `config.kind` is "muon", over all parameters of `model` that are trained.

    Each group carries its peak rate as `peak`; `set_rate` moves the rate. Muon takes matrices of linear maps (also
    stacks of them), never embeddings, the output head or convolutions. Raises UserError where nothing is trained.
    """
    muon: dict[tuple[tuple[int, ...], bool], list[Tensor]] = {}
    adam: dict[bool, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        table = is_table(model, name)
        decayed = decays(name, parameter, table, config.decay_embeddings)
        if config.kind == "muon" and parameter.ndim >= 2 and not table and decayed and not _is_filter(parameter):
            sections = getattr(parameter, "head_rows", ()) if config.split_heads else ()
            muon.setdefault((sections, decayed), []).append(parameter)
        else:
            adam.setdefault(decayed, []).append(parameter)
    if not muon and not adam:
        raise UserError("no parameter is trained: every one is frozen; correct the stage's `train`")
    result: list[torch.optim.Optimizer] = []
    if muon:
        result.append(Muon([_group(p, config, d, sections=s) for (s, d), p in muon.items()], momentum=config.momentum))
    if adam:
        groups = [_group(p, config, d) for d, p in sorted(adam.items())]
        result.append(torch.optim.AdamW(groups, betas=config.betas, eps=config.eps))
    return result


def _is_filter(parameter: Tensor) -> bool:
    """Depthwise convolutions [D, 1, width] are vectors in disguise."""
    return parameter.ndim == 3 and parameter.shape[1] == 1


def _group(
    params: Sequence[Tensor], config: OptimConfig, decayed: bool, sections: tuple[int, ...] | None = None
) -> dict[str, Any]:
    peak = config.lr if sections is None else config.muon_lr
    group = {"params": list(params), "lr": peak, "peak": peak, "weight_decay": config.weight_decay if decayed else 0.0}
    return group if sections is None else group | {"sections": sections}


def set_rate(optimisers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Set every group's rate to `share` of its peak."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * share


@torch.no_grad()
def clip(parameters: Iterable[Tensor], largest: float) -> float:
    """Scale the gradients so that their norm over all parameters is at most `largest` (0: only measure it).

    Returns the norm before. A norm that is not finite is returned and changes nothing.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return 0.0
    norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad.float()) for grad in grads])))
    if 0 < largest < norm < float("inf"):
        for grad in grads:
            grad.mul_(largest / norm)
    return norm


def state_tensors(optimisers: Iterable[torch.optim.Optimizer], names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The state of the optimisers as `parameter/key` tensors; `names` maps each parameter to its name."""
    found: dict[str, Tensor] = {}
    for optimiser in optimisers:
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                found[f"{names[parameter]}/{key}"] = torch.as_tensor(value)
    return found


@torch.no_grad()
def load_state_tensors(
    optimisers: Iterable[torch.optim.Optimizer], names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `state_tensors`. Raises UserError for a state that belongs to no parameter or does not fit it."""
    left = dict(tensors)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                name = names[parameter]
                mine = {key: left.pop(f"{name}/{key}") for key in _keys(optimiser) if f"{name}/{key}" in left}
                for key, value in mine.items():
                    if value.ndim and value.shape != parameter.shape:
                        raise UserError(
                            f"optimiser state {name}/{key} has shape {list(value.shape)}, the parameter "
                            f"{list(parameter.shape)}; the checkpoint belongs to another model"
                        )
                if mine:
                    # The counter of steps stays on the CPU, where AdamW keeps it.
                    optimiser.state[parameter] = {
                        key: value.clone() if value.ndim == 0 else value.to(parameter.device).clone()
                        for key, value in mine.items()
                    }
    if left:
        raise UserError(
            f"optimiser state {min(left)} belongs to no parameter that this configuration trains that way "
            "(was the kind of optimiser changed?); start a new run, or keep the old setting"
        )


def _keys(optimiser: torch.optim.Optimizer) -> tuple[str, ...]:
    return ("momentum",) if isinstance(optimiser, Muon) else ("step", "exp_avg", "exp_avg_sq")
