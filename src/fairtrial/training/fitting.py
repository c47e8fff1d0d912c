"""One small training run with known answers: fixed steps, a validation curve, the best and the last weights; resumable.

Used by the trial kind "training". Step n's data depends on the seed and n alone, so that a run continues from its last
checkpoint as though it had never stopped, and arms with one seed see the same sequences in the same order.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairtrial.core.errors import UserError
from fairtrial.nn import checkpoint
from fairtrial.nn.optim import clip, load_state_tensors, optimisers, set_rate, state_tensors
from fairtrial.nn.schedule import OptimConfig, Schedule, factor
from fairtrial.training.synthetic import IGNORED, Batch, SyntheticTask

Logits = Callable[[Tensor], Tensor]
"""int64 tokens [B, T] -> logits [B, T, vocabulary]."""

TEST_BATCH = 64
"""Sequences scored at once."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How long and how fast; part of what names a run."""

    steps: int
    lr: float
    evaluations: int = 8


@dataclass(slots=True)
class Fitted:
    """What a run left behind."""

    last: dict[str, Tensor]
    best: dict[str, Tensor]
    """Weights at the highest validation accuracy (the first such evaluation)."""
    curve: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    """(step, mean loss since the last evaluation, validation accuracy)."""
    cpu_s: float = 0.0
    """CPU seconds of training, evaluations included, over all resumes."""
    tokens: int = 0
    diverged: int | None = None
    """The step whose loss was not finite: the run ended there."""

    @property
    def peak(self) -> float:
        """Highest validation accuracy; 0 where there is none."""
        return max((accuracy for _, _, accuracy in self.curve), default=0.0)


def split_batch(task: SyntheticTask, seed: int, split: str, step: int, size: int) -> Batch:
    """Batch `step` of a split ("train" draws from the training settings; "validation" and "test" from the test's)."""
    number = {"train": 0, "validation": 1, "test": 2, "warmup": 3, "joint": 4}[split]
    rng = np.random.default_rng([seed, number, step])
    return task.batch(rng, size) if split in ("validation", "test") else task.training_batch(rng, size)


def tensors(batch: Batch) -> tuple[Tensor, Tensor]:
    """Tokens and targets, int64 [B, T] each."""
    return torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)


@torch.no_grad()
def accuracy(logits_of: Logits, batch: Batch) -> float:
    """Share of the asked positions whose most likely token is the right one."""
    right = asked = 0
    for start in range(0, len(batch.tokens), TEST_BATCH):
        tokens = torch.from_numpy(batch.tokens[start : start + TEST_BATCH])
        targets = torch.from_numpy(batch.targets[start : start + TEST_BATCH])
        where = targets != IGNORED
        right += int((logits_of(tokens).argmax(-1)[where] == targets[where]).sum())
        asked += int(where.sum())
    return right / asked if asked else 0.0


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the asked positions; logits [B, T, vocabulary], targets [B, T]."""
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


def fit(
    model: nn.Module,
    loss_at: Callable[[int], tuple[Tensor, int]],
    evaluate: Callable[[], float],
    settings: Fit,
    folder: Path | None,
    cpu: Callable[[], float] = time.process_time,
) -> Generator[float, None, Fitted]:
    """Train what of `model` requires a gradient; yields after each step, so that a caller can stop in between.

    `loss_at(step)` gives the loss and how many tokens it took; `evaluate()` the validation accuracy. With a `folder`,
    checkpoints go there at each evaluation and a later call continues (or returns at once what was finished).
    The rate warms up over a tenth of the steps and falls along a cosine to a tenth of the peak.
    """
    config = OptimConfig(lr=settings.lr)
    found = optimisers(model, config)
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    schedule = Schedule(kind="cosine", warmup=max(1, settings.steps // 10), floor=0.1)
    every = max(1, settings.steps // settings.evaluations)
    result, step, losses = Fitted({}, {}), 0, list[float]()
    if (state := _resume(folder)) is not None:
        step, result = state.step, _restore(state, model, found, names)
        if state.meta["done"]:
            return result
    started = cpu() - result.cpu_s
    while step < settings.steps and result.diverged is None:
        set_rate(found, factor(schedule, step, settings.steps))
        loss, tokens = loss_at(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip(trained, config.clip)
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            result.diverged = step
        else:
            for optimiser in found:
                optimiser.step()
            losses.append(loss.item())
            result.tokens += tokens
            step += 1
        if result.diverged is not None or step % every == 0 or step == settings.steps:
            _look(result, model, evaluate, step, losses)
            result.cpu_s = cpu() - started
            done = step == settings.steps or result.diverged is not None
            _keep(folder, step, result, state_tensors(found, names), done)
            losses.clear()
        yield 0.0
    return result


def _look(result: Fitted, model: nn.Module, evaluate: Callable[[], float], step: int, losses: Sequence[float]) -> None:
    """Measure the validation accuracy; remember the weights where they are the best so far."""
    if result.diverged is not None:
        result.last = result.best  # what is left of a broken run; nothing where it broke before the first look
        return
    result.last = _copy(model)
    reached = evaluate()
    if not result.best or reached > result.peak:
        result.best = result.last
    result.curve.append((step, sum(losses) / len(losses), reached))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in checkpoint.module_tensors(model).items()}


def _keep(folder: Path | None, step: int, result: Fitted, optimiser: dict[str, Tensor], done: bool) -> None:
    if folder is None:
        return
    meta: dict[str, Any] = {
        "done": done, "curve": result.curve, "cpu_s": result.cpu_s, "tokens": result.tokens, "diverged": result.diverged
    }  # fmt: skip
    groups = {"model": result.last, "best": result.best, **({} if done else {"optimiser": optimiser})}
    if (folder / f"step-{step:08d}").exists():  # a run that diverged right at its last checkpoint
        shutil.rmtree(folder / f"step-{step:08d}")
    checkpoint.save(folder, checkpoint.Checkpoint(step, groups, meta), keep=1)


def _resume(folder: Path | None) -> checkpoint.Checkpoint | None:
    """The last checkpoint; one that cannot be read is dropped with its folder, since a run can always start again."""
    path = checkpoint.latest(folder) if folder is not None else None
    if path is None:
        return None
    try:
        return checkpoint.load(path)
    except UserError:
        shutil.rmtree(path)
        return None


def _restore(
    state: checkpoint.Checkpoint,
    model: nn.Module,
    found: list[torch.optim.Optimizer],
    names: dict[Tensor, str],
) -> Fitted:
    if not state.meta["done"]:
        checkpoint.load_module(model, state.groups["model"], "checkpoint")
        load_state_tensors(found, names, state.groups["optimiser"])
    curve = [(int(step), float(loss), float(reached)) for step, loss, reached in state.meta["curve"]]
    return Fitted(
        dict(state.groups["model"]), dict(state.groups["best"]), curve, float(state.meta["cpu_s"]),
        int(state.meta["tokens"]), state.meta["diverged"],
    )  # fmt: skip
