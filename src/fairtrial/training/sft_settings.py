"""What a run of supervised training on trajectories is, as data. Loads without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fairtrial.agents.samples.filters import Filters
from fairtrial.agents.samples.runs import Purpose
from fairtrial.agents.samples.sample import Weights
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.models.hf.kind import HuggingFaceSettings
from fairtrial.models.native.kind import NativeSettings
from fairtrial.models.opening import model_settings
from fairtrial.nn.schedule import OptimConfig, Schedule

ModelSettings = NativeSettings | HuggingFaceSettings


class Lora(Config):
    """Low-rank deltas on the linear maps of the layers (LoRA, Hu et al. 2021, 2106.09685, section 4.1)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The delta is alpha / rank times the product of its two factors."""
    targets: tuple[str, ...] = ()
    """Last parts of the names of the linear maps, such as q_proj; none: all linear maps of the layers."""


class Practice(Config):
    """Real episodes that are played with the current weights, to see whether what is learned is of use."""

    suite: dict[str, Any]
    """As [suite] of a study of episodes: world, turns, window, sampling (default: temperature 0) ..."""
    arm: dict[str, Any] = Field(default_factory=dict)
    """As an arm without its model: policy, planner, execution ..."""
    limit: int = Field(default=16, ge=1)
    """Episodes of the world, the first in order."""
    every: int | None = Field(default=None, ge=1)
    """Steps between two rounds; None: at the end alone."""
    at_once: int = Field(default=8, ge=1)
    """Episodes that are played together."""


class SftConfig(Config):
    """One run of supervised training."""

    data: tuple[str, ...] = Field(min_length=1)
    """Run directories, collections, files of trajectories in any known format, or files of samples (JSONL)."""
    model: str | dict[str, Any]
    """native:FOLDER or hf:FOLDER, or a table with `kind` and settings of that kind."""
    method: Literal["full", "lora"] = "full"
    """lora: the model stays as it is and a small adapter is trained."""
    lora: Lora = Lora()
    arm: str | None = None
    """Of run directories: only this arm."""
    policy: str | dict[str, Any] | None = None
    """Show the runs of run directories under this context policy instead of the one that they were played under."""
    filters: Filters = Filters()
    weights: Weights = Weights()
    purposes: tuple[Purpose, ...] = Field(default=("turn", "summary"), min_length=1)
    """Which model calls are learned."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of the runs that is not trained on and scored instead; whole runs, never the only one."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens of a sample; None: what the model takes."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of longer samples. They are never cut."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens of one packed row; a longer sample is a row of its own."""
    accumulate: int = Field(default=1, ge=1)
    """Rows whose gradients make one step; each learned token counts alike, whatever row it is in."""
    epochs: float = Field(default=3.0, gt=0)
    """How often each sample is seen; the number of steps follows from it."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps in all, instead of `epochs`."""
    seed: int = Field(default=0, ge=0)
    """Order of the samples, and the initial values of adapters."""
    optim: OptimConfig = OptimConfig(lr=1e-4, weight_decay=0.0)
    schedule: Schedule | None = None
    """None: warm-up over a twentieth of the steps, stable, decay to 0 over the last fifth."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward and backward pass; the weights that are updated are always fp32."""
    device: str = "cpu"
    eval_every: int = Field(default=100, ge=1)
    eval_tokens: int = Field(default=100_000, ge=1)
    """Held-out tokens that are scored."""
    save_every: int = Field(default=100, ge=1)
    keep: int = Field(default=2, ge=1)
    """Checkpoints that stay."""
    practice: Practice | None = None

    def settled(self, steps: int) -> Schedule:
        """The schedule of a run of so many steps."""
        if self.schedule is not None:
            return self.schedule
        return Schedule(warmup=min(steps, max(1, steps // 20)), decay=steps // 5)


def learner_settings(config: SftConfig, where: str) -> ModelSettings:
    """The model's settings. Raises UserError for a kind that cannot be trained."""
    _, settings = model_settings(config.model, where=f"{where}: model")
    if not isinstance(settings, NativeSettings | HuggingFaceSettings):
        raise UserError(f'{where}: model: only native:FOLDER and hf:FOLDER can be trained, not "{config.model}"')
    if getattr(settings, "adapter", None) is not None:
        raise UserError(f"{where}: model: leave out adapter; training starts from the model itself")
    return settings


def data_paths(config: SftConfig, base: Path) -> list[Path]:
    """The sources, relative ones from `base`. Raises UserError for one that is not there."""
    paths = [base / Path(name).expanduser() for name in config.data]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give a run directory or a file of trajectories")
    return paths
