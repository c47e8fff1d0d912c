"""What a training trial does: train at each learning rate, choose on the validation split, score on the test split.

Every run is a node named by all that decides its result (model, data, seed, settings, this code, torch's version) and
kept in the cache under that name. So a killed trial continues where it was, and arms that begin with the same dense
model train it once. A node that another process is working on is waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fairtrial
from fairtrial.core.ids import digest, file_digest
from fairtrial.nn.checkpoint import load_module
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.training.fitting import Fit, Fitted, Logits, accuracy, answer_loss, fit, split_batch, tensors
from fairtrial.training.trial_settings import ArmSettings, SuiteSettings, TrainedTask

Pause = Generator[float, None, Any]
"""Yields the seconds that it wants to wait (0: go on at once) and returns its result."""

WAIT_S = 0.2
"""Between two looks at a node that another process works on."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores of a trial and what a reader may want to know beside them."""

    scores: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs of one trial share."""

    suite: SuiteSettings
    arm: ArmSettings
    task: TrainedTask
    seed: int
    cache: Path

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to try."""
        return self.arm.lr or self.suite.lr

    @property
    def steps(self) -> int:
        """Steps of training before any stage."""
        return self.arm.steps or self.suite.steps

    def name(self, config: ModelConfig, stage: Mapping[str, Any]) -> str:
        """The digest of everything that decides a run's result."""
        return digest(
            {
                "code": code_digest(),
                "model": config.model_dump(mode="json"),
                "task": self.task.model_dump(mode="json", exclude={"k"}),
                "seed": self.seed,
                "batch": self.suite.batch,
                "validation": [self.suite.validation, self.suite.evaluations],
                "stage": dict(stage),
            }
        )[:32]

    def validate(self, logits_of: Logits) -> float:
        """Accuracy on the validation split."""
        return accuracy(logits_of, split_batch(self.task, self.seed, "validation", 0, self.suite.validation))

    def test(self, logits_of: Logits) -> float:
        """Accuracy on the test split."""
        return accuracy(logits_of, split_batch(self.task, self.seed, "test", 0, self.suite.test))

    def answer_loss_at(self, logits_of: Logits, split: str = "train") -> Callable[[int], tuple[Tensor, int]]:
        """The loss of a step and its number of tokens, for `fit`."""

        def at(step: int) -> tuple[Tensor, int]:
            tokens, targets = tensors(split_batch(self.task, self.seed, split, step, self.suite.batch))
            return answer_loss(logits_of(tokens), targets), tokens.numel()

        return at

    def run(self, config: ModelConfig, stage: Mapping[str, Any], start: Callable[[Path], Pause]) -> Pause:
        """One node: `start` with the node's folder, while no other process works on the same node."""
        folder = self.cache / self.name(config, stage)
        while True:
            with _lock(folder) as mine:
                if mine:
                    return (yield from start(folder))
            yield WAIT_S


def measure(
    suite: SuiteSettings, arm: ArmSettings, task: TrainedTask, config: ModelConfig, seed: int, cache: Path
) -> Generator[float, None, Measured]:
    """Train and test one arm on one task from `seed`; yields between steps (see `Pause`)."""
    bench = Bench(suite, arm, task, seed, cache)
    if arm.select == "all":
        runs = yield from dense_runs(bench, config)
        return scored(bench, config, runs, lambda model: plain_logits(model))
    from fairtrial.training.dsa_stages import measure_selected

    return (yield from measure_selected(bench, config))


def dense_runs(bench: Bench, config: ModelConfig) -> Generator[float, None, dict[float, Fitted]]:
    """A model trained with attention to all keys, for each learning rate of the arm."""
    runs: dict[float, Fitted] = {}
    for lr in bench.rates:
        settings = Fit(bench.steps, lr, bench.suite.evaluations)

        def start(folder: Path, settings: Fit = settings) -> Pause:
            model = Model(config, bench.seed % 2**63)
            logits_of = plain_logits(model)
            loss_at = bench.answer_loss_at(logits_of)
            return (yield from fit(model, loss_at, lambda: bench.validate(logits_of), settings, folder))

        runs[lr] = yield from bench.run(config, {"dense": [settings.steps, lr]}, start)
    return runs


def plain_logits(model: Model) -> Logits:
    """The model as it is: tokens to logits."""
    return lambda tokens: model(tokens).logits


def best_rate(runs: Mapping[float, Fitted]) -> float:
    """The learning rate with the highest validation accuracy; the first of equals."""
    return max(runs, key=lambda lr: (bool(runs[lr].best), runs[lr].peak))


def scored(
    bench: Bench, config: ModelConfig, runs: Mapping[float, Fitted], logits_of: Callable[[Model], Logits]
) -> Measured:
    """Test the last and the best weights of the best learning rate."""
    lr = best_rate(runs)
    chosen = runs[lr]
    details: dict[str, Any] = {
        "parameters": config.parameters(),
        "lr": lr,
        "validation_peak": {f"{rate:g}": run.peak for rate, run in runs.items()},
        "curve": chosen.curve,
        "tokens_per_cpu_s": round(chosen.tokens / chosen.cpu_s) if chosen.cpu_s else None,
        "cpu_s": round(sum(run.cpu_s for run in runs.values()), 2),
        "diverged_at": {f"{rate:g}": run.diverged for rate, run in runs.items() if run.diverged is not None},
        "cache_bytes": {str(context): config.cache_bytes(context) for context in (1024, 16384, 131072)},
    }
    if not chosen.best:
        return Measured({"accuracy": 0.0, "peak": 0.0}, details, diverged=True)
    model = Model(config, 0)
    scores: dict[str, float] = {}
    load_module(model, chosen.last, "the trained model")
    scores["accuracy"] = scores["peak"] = bench.test(logits_of(model))
    if any((chosen.best[name] != tensor).any() for name, tensor in chosen.last.items()):
        load_module(model, chosen.best, "the trained model")
        scores["peak"] = bench.test(logits_of(model))
    return Measured(scores, details)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Whether this process may work on a node now; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


@functools.cache
def code_digest() -> str:
    """A digest of the code and the torch version that a trained model depends on."""
    root = Path(fairtrial.__file__).parent
    files = sorted(
        path for room in ("nn", "training") for path in (root / room).rglob("*") if path.suffix in (".py", ".c")
    )
    return digest([torch.__version__, *([str(path.relative_to(root)), file_digest(path)] for path in files)])
