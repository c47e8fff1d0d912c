"""Learning rates as pure functions of the step, and the settings of the optimisers; loads without torch.

WSD (warm-up, stable, decay) depends on the end of the run only in its last `decay` steps: a run is extended by raising
the number of steps, and branched from any checkpoint of the stable phase by lowering it.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from fairtrial.core.config import Config


class Schedule(Config):
    """How the learning rate moves; the peak belongs to the optimiser."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    decay: int = Field(default=0, ge=0)
    """wsd: the last so many steps fall linearly to `floor`. Not used by the others."""
    floor: float = Field(default=0.0, ge=0.0, le=1.0)
    """The share of the peak that is left at the end."""

    @model_validator(mode="after")
    def _decay_belongs_to_wsd(self) -> Self:
        if self.decay and self.kind != "wsd":
            raise ValueError(f'"decay" belongs to kind = "wsd", not to "{self.kind}"; leave it out')
        return self


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """The share of the peak learning rate at `step` (from 0) of a run of `steps` steps; `floor` from `steps` on."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if step >= steps:
        return 1.0 if schedule.kind == "constant" else schedule.floor
    if schedule.kind == "cosine":
        done = (step - schedule.warmup) / max(1, steps - schedule.warmup)
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * done))
    left = steps - step
    if schedule.kind == "wsd" and left <= schedule.decay:
        return schedule.floor + (1 - schedule.floor) * left / schedule.decay
    return 1.0


def first_changed(schedule: Schedule, old_steps: int, new_steps: int) -> int:
    """The first step whose rate differs when a run of `old_steps` becomes one of `new_steps`.

    A checkpoint up to there can be continued under the new length as though it had always been the plan.
    """
    if old_steps == new_steps:
        return max(old_steps, 1)
    for step in range(max(old_steps, new_steps)):
        if factor(schedule, step, old_steps) != factor(schedule, step, new_steps):
            return step
    return min(old_steps, new_steps)


class OptimConfig(Config):
    """The optimisers: AdamW for everything, or Muon for the matrices and AdamW for the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    """Peak rate of AdamW."""
    muon_lr: float = Field(default=0.02, gt=0)
    """Peak rate of Muon (the update of a square matrix has spectral norm about 1 times this)."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Of Muon (Nesterov)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled; never on norms, biases, A_log, dt_bias and what the model marks `no_decay`."""
    decay_embeddings: bool = False
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the whole gradient; 0 for none."""
    split_heads: bool = True
    """Muon: orthogonalise each head's block of a matrix by itself (GLM-5, Muon Split)."""

    @model_validator(mode="after")
    def _betas_in_range(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f'"betas" must lie in [0, 1), not {self.betas}')
        return self
