"""Supervised training on trajectories: weighted next-token loss on what the model said, checkpoints that resume.

A step's loss is the weighted mean over all its learned tokens, whatever rows they are in, so accumulation and packing
change nothing but speed. What is drawn at a step depends on the seed and the position alone: a run that was killed ends
with the same weights, bit for bit, as one that was not (same machine, same number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.core.clock import Clock
from fairtrial.core.errors import UserError
from fairtrial.nn import checkpoint
from fairtrial.nn.checkpoint import Checkpoint
from fairtrial.nn.schedule import Schedule, factor
from fairtrial.store import storing
from fairtrial.training.journal import Journal, Watcher
from fairtrial.training.sft_data import Pack, Packer, Rows, held_packs
from fairtrial.training.sft_learners import Learner
from fairtrial.training.sft_settings import SftConfig
from fairtrial.training.updates import Updates

CHECKPOINTS = "checkpoints"
_FREE = {"steps", "epochs", "schedule", "eval_every", "eval_tokens", "save_every", "keep", "device", "practice",
         "model", "data"}  # fmt: skip
"""Fields that a continued run may change; schedule, model and data are looked at by what they come to."""


@dataclass(frozen=True, slots=True)
class SftEnded:
    """How a call of `SftTrainer.run` ended."""

    step: int
    """Steps made in all, earlier calls included."""
    finished: bool
    """False: it was asked to stop; the checkpoint at `step` continues it."""
    checkpoint: Path
    loss: float | None
    """Of the last step; None where this call made none."""
    held: Mapping[str, float]
    """The last evaluation on held-out runs: loss (nats per token), accuracy (share of tokens said greedily)."""
    practice: Mapping[str, Any]
    """The last round of episodes: em, episodes, and how many ended without an answer."""
    skipped: int
    """fp16 steps that were skipped because a gradient overflowed."""


def weighted_loss(logits_LV: Tensor, pack: Pack, total: float) -> Tensor:
    """Sum of weight * cross-entropy over the learned places of a pack, divided by `total`, in fp32.

    Args:
        logits_LV: At the learned places.
        pack: Their targets and weights.
        total: The weights of all packs of the step.
    """
    targets = torch.from_numpy(pack.targets).to(logits_LV.device)
    weights = torch.from_numpy(pack.weights).to(logits_LV.device)
    return (functional.cross_entropy(logits_LV.float(), targets, reduction="none") * weights).sum() / total


@dataclass
class SftTrainer:
    """One run in one folder."""

    config: SftConfig
    steps: int
    learner: Learner
    rows: Rows
    out: Path
    clock: Clock
    watcher: Watcher
    stop: Callable[[], bool] = lambda: False
    """Asked after each step whether to save and leave."""
    practise: Callable[[Learner], Mapping[str, Any]] | None = None
    """Plays episodes with the current weights."""
    step: int = 0
    tokens: int = 0
    """Of all rows so far, context included."""
    learned: int = 0
    """Tokens with a weight so far."""
    held: dict[str, float] = field(default_factory=dict[str, float])
    practice: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        self._updates = Updates(self.learner.precision, self.config.optim)
        self._packer = Packer(self.rows.train, self.config.batch_tokens, self.config.seed)
        self._schedule = self.config.settled(self.steps)
        self._journal = Journal(self.out, self.watcher)

    def run(self) -> SftEnded:
        """Train to the end, or until `stop`; continues from the folder's last checkpoint.

        Raises UserError where the run cannot go on (NaN, other settings or data, a damaged checkpoint) and StorageError
        where the disk refuses; the last good checkpoint stays.
        """
        last = checkpoint.latest(self.out / CHECKPOINTS)
        if last is not None:
            self._restore(last)
        self._journal.open(self.step)
        try:
            if last is None:
                self._journal.write("data", 0, **self.rows.about())
            return self._train()
        finally:
            self._journal.close()

    def _train(self) -> SftEnded:
        config, loss = self.config, None
        self.watcher.began(self.step, self.steps)
        began, done, seen = self.clock.monotonic(), 0, self.tokens
        while self.step < self.steps:
            loss, norm = self._forward_backward()
            made = self._updates.step(self.step + 1, norm, factor(self._schedule, self.step, self.steps))
            self.learner.precision.updated()
            self.step, done = self.step + 1, done + 1
            self._note(loss, norm, made, self.clock.monotonic() - began, done, self.tokens - seen)
            halted, over = self.stop(), self.step == self.steps
            if self.step % config.eval_every == 0 or over:
                self._evaluate()
            if self.practise is not None and (over or (self._every and self.step % self._every == 0)):
                self.practice = dict(self.practise(self.learner))
                self._journal.write("practice", self.step, **self.practice)
            if self.step % config.save_every == 0 or over or halted:
                self._save()
            if halted and not over:
                return self._ended(loss, finished=False)
        return self._ended(loss, finished=True)

    @property
    def _every(self) -> int | None:
        return None if self.config.practice is None else self.config.practice.every

    def _ended(self, loss: float | None, *, finished: bool) -> SftEnded:
        path = checkpoint.latest(self.out / CHECKPOINTS)
        if path is None:
            path = self._save()
        skipped = self.learner.precision.scale.skipped
        return SftEnded(self.step, finished, path, loss, self.held, self.practice, skipped)

    def _forward_backward(self) -> tuple[float, float]:
        """(loss of the step, norm of its gradient)."""
        self._updates.clear()
        packs = [self._packer.draw() for _ in range(self.config.accumulate)]
        total = float(sum(pack.weights.sum(dtype="float64") for pack in packs))
        loss = 0.0
        for pack in packs:
            part = weighted_loss(self._logits(pack), pack, total)
            self._updates.refuse_loss(self.step + 1, part.item())
            self.learner.precision.backward(part)
            loss += part.item()
            self.tokens += len(pack.inputs)
            self.learned += len(pack.places)
        return loss, self._updates.clipped()

    def _logits(self, pack: Pack) -> Tensor:
        try:
            return self.learner.logits(pack)
        except UserError as error:
            # A layer that refuses NaN speaks first; the weight behind it says more.
            self._updates.refuse_weights(self.step + 1)
            raise UserError(f"step {self.step + 1}: {error}; training stopped") from None

    def _note(self, loss: float, norm: float, made: bool, seconds: float, done: int, tokens: int) -> None:
        self._journal.write(
            "step",
            self.step,
            loss=loss,
            **self._updates.row(norm, made),
            tokens=self.tokens,
            learned=self.learned,
            tokens_per_s=tokens / max(seconds, 1e-9),
            eta_s=(self.steps - self.step) * seconds / done,
            epochs=self._packer.epochs,
        )

    @torch.no_grad()
    def _evaluate(self) -> None:
        nats = weight = right = count = 0.0
        for pack in held_packs(self.rows.held, self.config.batch_tokens, self.config.eval_tokens):
            logits_LV = self._logits(pack)
            nats += float(weighted_loss(logits_LV, pack, 1.0))
            weight += float(pack.weights.sum())
            right += int((logits_LV.argmax(-1).cpu() == torch.from_numpy(pack.targets)).sum())
            count += len(pack.targets)
        if not math.isfinite(nats):
            raise self._updates.stopped(self.step, f"the held-out loss is {nats}")
        if count:
            self.held = {"loss": nats / weight, "accuracy": right / count}
            self._journal.write("held_out_runs", self.step, **self.held)

    def _save(self) -> Path:
        meta = {
            "config": self.config.model_dump(mode="json"),
            "steps": self.steps,
            "schedule": self._schedule.model_dump(mode="json"),
            "base": self.learner.base,
            "data": self.rows.digest,
            "position": self._packer.state(),
            "tokens": self.tokens,
            "learned": self.learned,
            "loss_scale": self.learner.precision.scale.state(),
            "held": self.held,
            "practice": self.practice,
        }
        groups = {"model": self.learner.kept(), "optimiser": self._updates.state()}
        folder = self.out / CHECKPOINTS
        with storing(folder):
            return checkpoint.save(folder, Checkpoint(self.step, groups, meta), keep=self.config.keep)

    def _restore(self, path: Path) -> None:
        saved = checkpoint.load(path)
        self._check_continues(saved, path)
        checkpoint.load_tensors(self.learner.kept(), saved.groups["model"], str(path))
        self._updates.restore(saved.groups["optimiser"])
        meta = saved.meta
        self.learner.precision.updated()
        self.learner.precision.scale.restore(meta["loss_scale"])
        self._packer.restore(meta["position"])
        self.step, self.tokens, self.learned = saved.step, int(meta["tokens"]), int(meta["learned"])
        self.held, self.practice = dict(meta["held"]), dict(meta["practice"])

    def _check_continues(self, saved: Checkpoint, path: Path) -> None:
        """Raises UserError that names the first thing that makes a checkpoint part of another run."""
        again = "; set it back, or start a new run with another --out"
        if "position" not in saved.meta:
            raise UserError(f"{path}: a checkpoint of another kind of training{again}")
        old, new = saved.meta["config"], self.config.model_dump(mode="json")
        for name in sorted(new.keys() - _FREE):
            if old.get(name) != new[name]:
                raise UserError(f"{path}: made with {name} = {_short(old.get(name))}, now {_short(new[name])}{again}")
        if saved.meta["base"] != self.learner.base:
            raise UserError(f"{path}: training began from another model ({saved.meta['base']}){again}")
        if saved.meta["data"] != self.rows.digest:
            raise UserError(f"{path}: the samples have changed since{again}")
        if saved.step > self.steps:
            raise UserError(f"{path}: has made {saved.step} steps already, more than steps = {self.steps}")
        before, end = Schedule.model_validate(saved.meta["schedule"]), int(saved.meta["steps"])
        if any(factor(before, n, end) != factor(self._schedule, n, self.steps) for n in range(saved.step)):
            raise UserError(f"{path}: was trained with other learning rates than this schedule's{again}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
