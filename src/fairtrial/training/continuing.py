"""What a run stands on, and whether a checkpoint can be continued under a configuration; loads without torch.

A run may be made longer or shorter (where the schedule had not felt the end yet), evaluated and saved at other times,
and given other stages from where it stands on. Everything else would make it another run, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.schedule import Schedule, factor
from fairtrial.training.corpus import Encoder, Prepared, prepare
from fairtrial.training.settings import Stage, TrainConfig, model_config

_FREE = {"steps", "schedule", "stages", "eval_every", "eval_tokens", "save_every", "keep", "sources", "model", "device"}
"""Fields that a continued run may change (schedule, stages, sources and model are looked at by themselves)."""


class Saved(Protocol):
    """What is looked at of a checkpoint."""

    @property
    def step(self) -> int:
        """Steps made."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """What `Plan.record` gave, and more."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run stands on but the weights."""

    config: TrainConfig
    model: ModelConfig
    stages: tuple[Stage, ...]
    """The configuration's, or the one that stands for none."""
    sources: Mapping[str, Prepared]
    token_bytes: np.ndarray
    """int64 [vocabulary of the tokenizer]: bytes that each id stands for; markers count 0."""
    tokenizer: str
    """Digest."""
    base: str
    """The folder that relative paths start from."""

    def record(self) -> dict[str, Any]:
        """For a checkpoint: enough to continue from it alone, and to notice a change."""
        return {
            "config": self.config.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "stages": [stage.model_dump(mode="json") for stage in self.stages],
            "sources": {name: one.train.digest for name, one in self.sources.items()},
            "tokenizer": self.tokenizer,
            "base": self.base,
        }


def make_plan(config: TrainConfig, base: Path, out: Path, tokenizer: Encoder, where: str) -> Plan:
    """Tokenise the sources into `out`/data and settle the model and the stages.

    Raises UserError naming the field or the file.
    """
    model = model_config(config, tokenizer.vocab_size, where)
    sources = {
        name: prepare(name, source, base, tokenizer, config.held_out, out / "data")
        for name, source in config.sources.items()
    }
    stages = config.stages
    if not stages:
        total = sum(one.train.targets for one in sources.values())
        mixture = {name: one.train.targets / total for name, one in sources.items()}
        stages = (Stage(name="main", mixture=mixture, normalise=True),)
    lengths = [
        len(tokenizer.decode_bytes([index], skip_special=True)) if index < tokenizer.vocab_size else 0
        for index in range(model.vocab)
    ]
    return Plan(config, model, stages, sources, np.array(lengths, dtype=np.int64), tokenizer.sha256, str(base))


def check_continues(plan: Plan, saved: Saved, path: Path) -> None:
    """Raises UserError that names the first thing that makes a checkpoint part of another run."""
    old, new = saved.meta["config"], plan.config.model_dump(mode="json")
    start_again = "; set it back, or start a new run with another --out"
    for field in sorted(new.keys() - _FREE):
        if old.get(field) != new[field]:
            raise UserError(
                f"{path}: made with {field} = {_short(old.get(field))}, now {_short(new[field])}{start_again}"
            )
    for field, value in plan.model.model_dump(mode="json").items():
        if saved.meta["model"].get(field) != value:
            was = _short(saved.meta["model"].get(field))
            raise UserError(f"{path}: made with model.{field} = {was}, now {_short(value)}{start_again}")
    if saved.meta["tokenizer"] != plan.tokenizer:
        raise UserError(f"{path}: made with another tokenizer{start_again}")
    for name, digest in saved.meta["sources"].items():
        if name not in plan.sources or plan.sources[name].train.digest != digest:
            raise UserError(f'{path}: the text of source "{name}" has changed since{start_again}')
    if saved.step > plan.config.steps:
        raise UserError(f"{path}: has made {saved.step} steps already, more than steps = {plan.config.steps}")
    before = [stage for stage in saved.meta["stages"] if stage["start"] < saved.step]
    if before != [stage.model_dump(mode="json") for stage in plan.stages if stage.start < saved.step]:
        raise UserError(f"{path}: a stage that began before step {saved.step} was changed{start_again}")
    _check_rates(plan, saved, path)


def _check_rates(plan: Plan, saved: Saved, path: Path) -> None:
    schedule, steps = Schedule.model_validate(saved.meta["config"]["schedule"]), int(saved.meta["config"]["steps"])
    for step in range(saved.step):
        if factor(schedule, step, steps) != factor(plan.config.schedule, step, plan.config.steps):
            usable = [other.name for other in sorted(path.parent.glob("step-*")) if int(other.name[5:]) <= step]
            way = f"--from {path.parent / usable[-1]}" if usable else "a new run"
            raise UserError(
                f"{path}: from step {step} on it was trained with other learning rates than this schedule's, so it "
                f"cannot go on under it; begin in a new folder (--out) with {way}"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
