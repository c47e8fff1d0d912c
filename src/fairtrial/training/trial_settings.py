"""What the kind of trial "training" reads from a study file; loads without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fairtrial.core.config import Config
from fairtrial.core.errors import did_you_mean
from fairtrial.nn.config import LATENT
from fairtrial.training.synthetic import SyntheticTask

Select = Literal["all", "window", "random", "indexer"]


class TrainedTask(SyntheticTask):
    """A synthetic task that a model is trained on and then tested."""

    k: int | None = Field(default=None, ge=1)
    """Keys that each position may attend to in arms that select."""
    group: str | None = None
    """Tasks of one group share seeds: the same data and the same dense model, tested under different `k`."""


class ProbeTask(Config):
    """A probe of the arm's mixers that needs no training; see `training.mixer_probes`."""

    task: Literal["overwrite", "two-channel"]


Rate = Annotated[float, Field(gt=0)]
AnyTask = Annotated[TrainedTask | ProbeTask, Field(discriminator="task")]


class SuiteSettings(Config):
    """The `[suite]` table of a study of trained models."""

    tasks: dict[str, AnyTask] = Field(min_length=1)
    """`[suite.tasks.NAME]`: what is trained and tested, or probed."""
    model: dict[str, Any]
    """Keys of `ModelConfig` that all arms share, without vocab and pattern."""
    only: tuple[str, ...] = ()
    """Names of the tasks to take; none: all."""
    lr: tuple[Rate, ...] = Field(default=(1e-3,), min_length=1)
    """Of arms that name none: peak learning rates; each is trained, and the one with the best peak accuracy on the
    validation split is tested."""
    steps: int = Field(default=400, ge=1)
    """Of arms that name none: steps of training."""
    batch: int = Field(default=32, ge=1)
    """Sequences in a step, in every arm."""
    validation: int = Field(default=128, ge=8)
    """Sequences that choose the learning rate and the checkpoint."""
    test: int = Field(default=512, ge=8)
    """Sequences that the scores are measured on; never used to choose."""
    evaluations: int = Field(default=8, ge=1)
    """How often during training the validation accuracy is measured, at even distances."""

    @model_validator(mode="after")
    def _only_known(self) -> SuiteSettings:
        for name in self.only:
            if name not in self.tasks:
                raise ValueError(f'only: no task "{name}"{did_you_mean(name, self.tasks)}')
        return self

    @property
    def chosen(self) -> dict[str, TrainedTask | ProbeTask]:
        """The tasks that are run."""
        return {name: task for name, task in self.tasks.items() if not self.only or name in self.only}


class ArmSettings(Config):
    """An arm: a pattern of mixers and how it is trained; for sparse attention, what selects the keys."""

    pattern: str
    """One letter for each layer; see `ModelConfig`."""
    model: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Keys of `ModelConfig` that differ in this arm."""
    lr: tuple[Rate, ...] | None = Field(default=None, min_length=1)
    """Peak learning rates; none: the suite's."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of training; none: the suite's."""
    select: Select = "all"
    """What chooses a task's `k` keys for each position: "indexer" is DSA's; "window" takes the latest and "random" any.
    The model is trained with attention to all keys first, unless `from_start`."""
    from_start: bool = False
    """Train under the selection from the first step, instead of after dense training."""
    warmup: int = Field(default=0, ge=0)
    """Steps of the indexer alone on the KL divergence to dense attention."""
    joint: int = Field(default=0, ge=0)
    """Further steps of everything under the selection."""
    warmup_lr: float = Field(default=1e-3, gt=0)
    joint_lr: float = Field(default=3e-4, gt=0)

    @model_validator(mode="after")
    def _stages_fit(self) -> ArmSettings:
        if self.select == "all" and (self.warmup or self.joint or self.from_start):
            raise ValueError(
                'warmup, joint and from_start need a selection: set select = "indexer" (or leave them out)'
            )
        if self.warmup and self.select != "indexer":
            raise ValueError(f'warmup trains the indexer, but select = "{self.select}" does not use it')
        if self.select == "indexer" and self.from_start:
            raise ValueError("from_start: an indexer is warmed up on a dense model; leave it out")
        if self.select != "all" and not set(self.pattern) & set("DS"):
            raise ValueError(
                f'select = "{self.select}" needs layers that can select (D, S) in pattern "{self.pattern}"; '
                f"{LATENT[0]} layers attend to all"
            )
        if self.select == "all" and set(self.pattern) & set("DS"):
            raise ValueError(f'pattern "{self.pattern}" has layers that select (D, S): say how with "select"')
        return self
