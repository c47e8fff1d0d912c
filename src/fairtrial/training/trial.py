"""The kind of trial "training": a small model is trained on a synthetic task from the trial's seed, then tested.

Arms of one (task, repeat) block see the same sequences in the same order and, where their models have the same
parameters, start from the same ones; so they are paired. Loads without torch; the worker process imports it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError
from fairtrial.core.findings import Finding
from fairtrial.core.ids import check_name, digest, seed
from fairtrial.core.places import cache_folder
from fairtrial.core.record import Outcome, Record
from fairtrial.core.trial import Job, Refusal, TaskInfo, TrialContext, Work
from fairtrial.nn.config import ModelConfig
from fairtrial.training.trial_settings import ArmSettings, Cell, ProbeTask, SuiteSettings, TrainedTask

if TYPE_CHECKING:
    from fairtrial.training.measuring import Measured

log = logging.getLogger("fairtrial.training")


class TrainingTrial:
    """Small models trained on synthetic tasks. Registered as the kind of trial "training"."""

    name = "training"
    score = "accuracy"
    suite_settings: type[Config] = SuiteSettings
    arm_settings: type[Config] = ArmSettings

    def tasks(self, suite: Config, base: Path) -> Sequence[TaskInfo]:
        """The tasks in the order of the file; one draw at several `k` is a family, since these share a dense model."""
        return [
            TaskInfo(
                check_name(name, "task"),
                digest([cell.task.model_dump(mode="json", exclude={"k"}), cell.k]),
                cell.family,
                (cell.task.task,),
            )
            for name, cell in _suite(suite).cells.items()
        ]

    def check(self, suite: Config, arms: Mapping[str, Config], base: Path) -> None:
        """Refuse models that do not fit together, selecting arms on tasks without `k`, and a machine without torch."""
        settings = _suite(suite)
        if importlib.util.find_spec("torch") is None:
            raise UserError('training needs torch: pip install "fairtrial[local]"')
        trained = {cell.table: cell for cell in settings.cells.values() if isinstance(cell.task, TrainedTask)}
        for name, arm in arms.items():
            chosen = _arm(arm)
            for table, cell in trained.items():
                model_config(settings, chosen, cell, where=f'arm "{name}", task "{table}": model')
                if chosen.select != "all" and cell.k is None:
                    raise UserError(
                        f'arm "{name}" selects keys, but [suite.tasks.{table}] says not how many: set its "k"'
                    )
        sizes = {name: _cost(settings, _arm(arm)) for name, arm in arms.items()}
        if len(set(sizes.values())) > 1:
            shown = ", ".join(f"{name}: {size:,}" for name, size in sizes.items())
            log.warning("the arms do not train for the same number of steps (over all rates; %s)", shown)

    async def gate(self, suite: Config, base: Path, tasks: Sequence[TaskInfo], cache: Path) -> Sequence[Refusal]:
        """Generated tasks need no proof: each right answer is part of the sequence."""
        return ()

    def work(self, suite: Config, arms: Mapping[str, Config], base: Path) -> Work:
        """Workers in processes of their own: training computes and waits for nothing."""
        settings = {
            "suite": suite.model_dump(mode="json"),
            "arms": {name: arm.model_dump(mode="json") for name, arm in arms.items()},
        }
        return Work("fairtrial.training.trial:open_worker", settings, mode="process")

    def describe(self, suite: Config, arm: Config, base: Path) -> Mapping[str, str]:
        """Pattern, selection and training of an arm."""
        chosen = _arm(arm)
        stages = [f"{chosen.steps} steps" if chosen.steps else "the suite's steps"]
        if chosen.from_start:
            stages[0] += f" under the {chosen.select}"
        if chosen.warmup:
            stages.append(f"{chosen.warmup} of the indexer alone")
        if chosen.joint:
            stages.append(f"{chosen.joint} of all under the selection")
        select = {
            "all": "all keys", "window": "the latest k keys", "random": "k keys at random", "indexer": "DSA, k keys"
        }  # fmt: skip
        return {
            "layers": chosen.pattern,
            "attends to": select[chosen.select],
            "training": ", ".join(stages),
            "learning rates tried": ", ".join(f"{lr:g}" for lr in chosen.lr) if chosen.lr else "the suite's",
        }

    def measures(self, suite: Config, base: Path) -> Mapping[str, bool]:
        """The two scores."""
        return dict.fromkeys(SCORES, False)

    def measured(self, record: Record) -> Mapping[str, float]:
        """Nothing beside them."""
        return {}

    def findings(
        self, arms: Mapping[str, Config], score: str, records: Callable[[], Iterable[Record]]
    ) -> Sequence[Finding]:
        """The score by arm and condition, and what training cost."""
        from fairtrial.training.findings import costs, scores

        found = list(records())
        return [scores(list(arms), found, score), costs({name: _arm(arm) for name, arm in arms.items()}, found)]


def model_config(suite: SuiteSettings, arm: ArmSettings, cell: Cell, *, where: str = "model") -> ModelConfig:
    """The model of an arm on a task. Raises UserError, prefixed with `where`."""
    task = cell.task
    assert isinstance(task, TrainedTask)
    data: dict[str, Any] = {"layers": len(arm.pattern), **suite.model, **arm.model}
    for key in ("vocab", "pattern", *(("index_topk",) if cell.k is not None else ())):
        if key in data:
            raise UserError(f'{where}: "{key}" is set by the task or the arm itself; take it out of the model table')
    if cell.k is not None and arm.select != "all":
        data["index_topk"] = cell.k
    return parse(ModelConfig, {**data, "vocab": task.vocab, "pattern": arm.pattern}, where=where)


def _cost(suite: SuiteSettings, arm: ArmSettings) -> int:
    return (arm.steps or suite.steps) * len(arm.lr or suite.lr)


def _suite(suite: Config) -> SuiteSettings:
    assert isinstance(suite, SuiteSettings)
    return suite


def _arm(arm: Config) -> ArmSettings:
    assert isinstance(arm, ArmSettings)
    return arm


@dataclass(slots=True)
class TrainingWorker:
    """Runs trials of the kind "training", one at a time, on one thread."""

    suite: SuiteSettings
    arms: Mapping[str, ArmSettings]
    cache: Path

    async def run(self, job: Job, context: TrialContext) -> Record:
        """Train (or continue from the cache) and test; can be cancelled between any two steps."""
        cell, arm = self.suite.cells[job.key.task], self.arms[job.key.arm]
        task = cell.task
        if isinstance(task, ProbeTask):
            return self._probe(job, task, arm)
        data_seed = job.seed
        if cell.family is not None:
            data_seed = seed(job.block_seed, f"family {cell.family}", job.key.repeat, "sampling")
        from fairtrial.training.measuring import measure

        config = model_config(self.suite, arm, cell)
        measured = await _in_steps(measure(self.suite, arm, task, config, data_seed, self.cache))
        return Record(
            key=job.key,
            seed=job.seed,
            outcome=Outcome.FAILED if measured.diverged else Outcome.SCORED,
            scores=measured.scores,
            cause="diverged" if measured.diverged else None,
            message="at every learning rate the loss was not finite before the first evaluation"
            if measured.diverged
            else None,
            details=measured.details,
        )

    def _probe(self, job: Job, task: ProbeTask, arm: ArmSettings) -> Record:
        from fairtrial.training.mixer_probes import probe

        value = probe(task.task, arm.pattern, job.seed % 2**31)
        return Record(key=job.key, seed=job.seed, outcome=Outcome.SCORED, scores=dict.fromkeys(SCORES, value))

    def failed_scores(self, job: Job) -> dict[str, float]:
        """A model that was never finished has learned nothing."""
        return dict.fromkeys(SCORES, 0.0)

    async def close(self) -> None:
        """Nothing to release."""


SCORES = ("accuracy", "peak")
"""accuracy: of the last weights; peak: of the weights with the best validation accuracy. Both on the test split."""


async def _in_steps(run: Generator[float, None, Measured]) -> Measured:
    """Drive a generator to its end, letting the event loop cancel it between steps."""
    while True:
        try:
            pause = next(run)
        except StopIteration as end:
            return end.value
        await asyncio.sleep(pause)


def open_worker(settings: Mapping[str, Any]) -> TrainingWorker:
    """The worker of `TrainingTrial.work`; sets torch to one thread in this process."""
    import torch

    torch.set_num_threads(1)
    suite = parse(SuiteSettings, settings["suite"], where="suite")
    arms = {name: parse(ArmSettings, arm, where=f'arm "{name}"') for name, arm in settings["arms"].items()}
    return TrainingWorker(suite, arms, cache_folder() / "training")
