"""What a training run is, as data: sources, stages with their mixtures, optimiser, precision. Loads without torch.

A stage's mixture names its sources and their shares of the tokens. Shares that do not sum to 1 are refused with the
sum, unless the stage says `normalise = true`; then the run's log says what they summed to. (A published recipe has
shares that sum to 1.0056 and are rescaled in silence.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.presets import preset
from fairtrial.nn.schedule import OptimConfig, Schedule
from fairtrial.nn.tokenizer import SPECIALS

SUM_TOLERANCE = 1e-6


class Source(Config):
    """Text that is trained on: files or folders; `.jsonl` holds one object for each line, anything else is text."""

    files: tuple[str, ...] = Field(min_length=1)
    """Files and folders (all files below, by name; hidden ones left out), relative to the configuration file."""
    field: str = "text"
    """Of `.jsonl`: the key that holds the text; dots go into inner objects."""
    documents: Literal["file", "paragraphs", "lines"] = "file"
    """Of text files: what one document is. Nothing is seen across the border of two documents."""


class Stage(Config):
    """A range of steps, from `start` to the next stage's, with its own mixture and its own trained parameters."""

    name: str = Field(min_length=1)
    start: int = Field(default=0, ge=0)
    """First step (from 0)."""
    mixture: dict[str, float] = Field(min_length=1)
    """Source to share of tokens; the shares sum to 1."""
    normalise: bool = False
    """Rescale shares that do not sum to 1; the log says so."""
    train: Literal["all", "indexer"] = "all"
    """indexer: the DSA indexers learn from the dense attention alone, everything else is frozen (warm-up)."""
    attention: Literal["sparse", "dense"] = "sparse"
    """Of DSA layers while everything is trained: to the indexer's selection, or to all keys (before a warm-up)."""
    lr: float | None = Field(default=None, gt=0)
    """Peak rate in this stage instead of the optimiser's (AdamW; Muon's is scaled alike)."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        for source, share in self.mixture.items():
            if not share >= 0:
                raise ValueError(f'stage "{self.name}": the share of "{source}" is {share:g}; shares are 0 or more')
        total = self.total
        if total <= 0:
            raise ValueError(f'stage "{self.name}": every share is 0; give at least one source a share')
        if abs(total - 1) > SUM_TOLERANCE and not self.normalise:
            raise ValueError(
                f'stage "{self.name}": the shares of its {len(self.mixture)} sources sum to {total:.10g}, not 1; '
                "correct them, or say normalise = true to have them divided by the sum"
            )
        return self

    @property
    def total(self) -> float:
        """What the shares sum to as they are written."""
        return sum(self.mixture.values())

    @property
    def shares(self) -> dict[str, float]:
        """The shares, summing to 1, without the sources that have none."""
        return {source: share / self.total for source, share in self.mixture.items() if share > 0}


class TrainConfig(Config):
    """One training run."""

    steps: int = Field(default=300, ge=1)
    """Optimiser steps in all; raise it to extend a run, lower it to branch into the decay."""
    seed: int = Field(default=0, ge=0)
    """Initialisation and order of the documents."""
    model: dict[str, Any] = Field(default_factory=lambda: {"preset": "tiny"})
    """Fields of a model configuration, on top of `preset` where it is named; `vocab` follows from the tokenizer."""
    tokenizer: str = "train"
    """A tokenizer file, "bytes" (a token for each byte), or "train": learned from the sources, kept beside the run."""
    vocabulary: int = Field(default=4096, ge=256 + len(SPECIALS))
    """With tokenizer = "train": its size."""
    sources: dict[str, Source] = Field(min_length=1)
    stages: tuple[Stage, ...] = ()
    """Empty: one stage over all sources, each by its share of the tokens there are."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of each source that is never trained on: whole documents, or the end of the longest where there are few."""
    context: int = Field(default=256, ge=1)
    """Longest sequence in tokens."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens in one forward pass."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes whose gradients make one step."""
    optim: OptimConfig = OptimConfig()
    schedule: Schedule = Schedule(warmup=20, decay=60)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward and backward pass; the weights that are updated are always fp32."""
    mtp_weight: float = Field(default=0.3, ge=0)
    """Weight of the multi-token-prediction loss, where the model has it."""
    index_weight: float = Field(default=1.0, ge=0)
    """Weight of the indexer's KL loss, where the model has one."""
    router_rate: float = Field(default=1e-3, ge=0)
    """How far a step moves the selection bias of experts with too much or too little load."""
    device: str = "cpu"
    eval_every: int = Field(default=100, ge=1)
    eval_tokens: int = Field(default=20_000, ge=1)
    """Held-out tokens of each source that are scored."""
    save_every: int = Field(default=100, ge=1)
    keep: int = Field(default=2, ge=1)
    """Checkpoints that stay; the last one before the decay begins stays as well, to extend or branch from."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        for stage in self.stages:
            for source in stage.mixture:
                if source not in self.sources:
                    hint = did_you_mean(source, self.sources)
                    raise ValueError(f'stage "{stage.name}": there is no source "{source}"{hint}')
        starts = [stage.start for stage in self.stages]
        if starts and starts[0] != 0:
            raise ValueError(
                f'the first stage, "{self.stages[0].name}", starts at step {starts[0]}; it must start at 0'
            )
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if after.start <= before.start:
                raise ValueError(
                    f'stage "{after.name}" starts at step {after.start}, not after "{before.name}" ({before.start})'
                )
        if starts and starts[-1] >= self.steps:
            raise ValueError(
                f'stage "{self.stages[-1].name}" starts at step {starts[-1]}, but the run has {self.steps} steps'
            )
        if self.context > self.batch_tokens:
            raise ValueError(f"context ({self.context}) is longer than batch_tokens ({self.batch_tokens})")
        return self

    def stage_at(self, step: int, stages: tuple[Stage, ...]) -> int:
        """Index of the stage that `step` belongs to."""
        return max(index for index, stage in enumerate(stages) if stage.start <= step)


def model_config(config: TrainConfig, vocabulary: int, where: str) -> ModelConfig:
    """The model's configuration for a tokenizer of `vocabulary` ids. Raises UserError naming the field."""
    fields = dict(config.model)
    named = fields.pop("preset", None)
    wanted = fields.setdefault("vocab", vocabulary)
    if isinstance(wanted, int) and wanted < vocabulary:
        raise UserError(f'{where}: "model.vocab" is {wanted}, but the tokenizer has {vocabulary} ids; leave it out')
    if named is not None:
        return preset(str(named), **fields)
    return parse(ModelConfig, fields, where=f"{where} [model]")


def folder_of(files: tuple[str, ...], base: Path) -> list[Path]:
    """The files and folders of a source, relative ones from `base`."""
    return [base / Path(name).expanduser() for name in files]
