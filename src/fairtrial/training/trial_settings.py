"""What the kind of trial "training" reads from a study file; loads without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fairtrial.core.config import Config
from fairtrial.core.errors import did_you_mean
from fairtrial.nn.config import LATENT
from fairtrial.training.synthetic import SyntheticTask

Select = Literal["all", "window", "random", "indexer"]


class TrainedTask(SyntheticTask):
    """A synthetic task that a model is trained on and then tested."""

    k: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Keys that each position may attend to in arms that select: a number, or several, each a task of its own. They
    share the seed, so the same data and the same dense model is tested under each `k`."""

    @field_validator("k", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) else value

    @field_validator("k")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"names a number of keys twice: {list(value)}")
        return value


class ProbeTask(Config):
    """A probe of the arm's mixers that needs no training; see `training.mixer_probes`."""

    task: Literal["overwrite", "two-channel"]


Rate = Annotated[float, Field(gt=0)]
AnyTask = Annotated[TrainedTask | ProbeTask, Field(discriminator="task")]


@dataclass(frozen=True, slots=True)
class Cell:
    """What one trial runs: a task of the file at one `k` and one draw of data and initial weights."""

    name: str
    """Of the task: as in the file, then "/k8" where it has several `k`, then "/3" where there are several draws."""
    table: str
    """Its name in the file."""
    task: TrainedTask | ProbeTask
    k: int | None
    family: str | None
    """What shares a seed with other cells: one draw of a task with several `k`."""


class SuiteSettings(Config):
    """The `[suite]` table of a study of trained models."""

    tasks: dict[str, AnyTask] = Field(min_length=1)
    """`[suite.tasks.NAME]`: what is trained and tested, or probed."""
    model: dict[str, Any]
    """Keys of `ModelConfig` that all arms share, without vocab and pattern."""
    only: tuple[str, ...] = ()
    """Names of the tasks to take; none: all."""
    draws: int = Field(default=1, ge=1, le=10_000)
    """Draws of data and initial weights of each task. Each draw is a task of its own: an independent unit of the
    analysis, which a repeat of one task is not."""
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
    def cells(self) -> dict[str, Cell]:
        """The tasks that are run, by name: each of the file at each `k` and each draw."""
        found: dict[str, Cell] = {}
        for table, task in self.tasks.items():
            if self.only and table not in self.only:
                continue
            sizes: tuple[int | None, ...] = (task.k if isinstance(task, TrainedTask) else ()) or (None,)
            for k in sizes:
                for draw in range(1, self.draws + 1):
                    number = f"/{draw}" if self.draws > 1 else ""
                    name = f"{table}/k{k}{number}" if len(sizes) > 1 else f"{table}{number}"
                    family = f"{table}{number}" if len(sizes) > 1 else None
                    found[name] = Cell(name, table, task, k, family)
        return found


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
