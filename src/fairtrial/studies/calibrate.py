"""Calibration: the instrument on data whose answer is known.

Two parts. A real one: the control runs against itself, both arms for real, and every block in which two identical arms
disagree is counted. And a simulated one: studies are drawn from the scores that the control really got (per-task
success rates shrunk towards their mean; tasks drawn with replacement), once without any effect (false-positive rate)
and once with planted effects (power), and put through the very analysis that the study uses. The real runs have two
repeats at least: two arms share their seeds, so only a repeat tells how much a task's score varies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.core.ids import seed
from fairtrial.stats.paired import paired_effect
from fairtrial.studies.study import Analysis, Study

Array = NDArray[np.float64]
TWIN = "control-again"
SEEDS = 2
"""Repeats of the real runs at least."""


class Rate(Config):
    """How often a verdict came out over simulated studies, with its 95 % interval."""

    planted: float
    """The mean effect that was planted; 0: none."""
    achieved: float
    """The mean effect after scores were kept inside 0 .. 1."""
    found: float
    """Share of studies with p below 1 - confidence (at 0: the false-positive rate; else: the power)."""
    found_ci: tuple[float, float]
    covered: float
    """Share of intervals that hold the achieved effect."""


class Calibration(Config):
    """What a calibration found."""

    arm: str | None = None
    """The arm that was played against itself, where `[calibration]` names one; None: the control."""
    tasks: int
    repeats: int
    """Of each simulated study, as are the tasks."""
    studies: int
    alpha: float
    disagreements: int
    """Blocks of the real A-against-A run in which the two identical arms scored differently."""
    blocks: int
    real_p: float | None
    real_estimate: float | None
    rates: tuple[Rate, ...]
    notes: tuple[str, ...] = ()


def twin_study(study: Study) -> Study:
    """The study with one arm (its control, or the one that `[calibration]` names) twice and no other."""
    name = study.calibration.arm or study.control
    data: dict[str, Any] = json.loads(study.model_dump_json())
    arm = json.loads(study.arms[name].model_dump_json())
    data["title"] = f"A against A: {study.title}"
    data["claims"] = []
    data["arms"] = {name: {**arm, "control": True}, TWIN: {**arm, "control": False}}
    data["repeats"] = max(SEEDS, study.repeats)
    data["calibration"]["repeats"] = study.calibration.repeats or study.repeats
    return Study.model_validate(data)


def simulate(
    scores: Mapping[str, Sequence[float]],
    analysis: Analysis,
    *,
    tasks: int,
    repeats: int,
    studies: int,
    study_seed: int,
    planted: Sequence[float],
    families: Mapping[str, str] | None = None,
) -> tuple[Rate, ...]:
    """False-positive rate and power from the scores that an arm really got.

    Args:
        scores: By task, the scores of the pilot's repeats (both twins pooled), each in 0 .. 1.
        analysis: The study's own; intervals and p come out of `paired_effect` with it (999 resamples).
        tasks: Tasks of the simulated studies.
        repeats: Repeats of the simulated studies.
        studies: Simulated studies for each rate.
        study_seed: Seeds the simulation.
        planted: Sizes of the mean effects to plant; upwards, or downwards where scores are above 0.5 on average.
        families: The family of each task where the study clusters.

    Raises UserError for scores outside of 0 .. 1, where an effect cannot be planted honestly.
    """
    names = sorted(scores)
    pools = [np.asarray(scores[task], dtype=np.float64) for task in names]
    if not names or any(pool.size == 0 for pool in pools):
        raise UserError("calibration needs at least one score of the arm for each task")
    if min(pool.min() for pool in pools) < 0 or max(pool.max() for pool in pools) > 1:
        raise UserError("calibration plants effects in scores between 0 and 1; this score leaves that range")
    population = _Population(names, pools, families)
    sign = -1.0 if population.means.mean() > 0.5 else 1.0
    rng = np.random.default_rng(seed(study_seed, "calibration", 0, "analysis"))
    return tuple(
        _rate(population, tasks, repeats, analysis, studies, effect, rng)
        for effect in (0.0, *(sign * size for size in planted))
    )


class _Population:
    """The tasks that were played, as what simulated scores are drawn from."""

    def __init__(self, names: list[str], pools: list[Array], families: Mapping[str, str] | None) -> None:
        self.names, self.pools, self.families = names, pools, families
        self.all: Array = np.concatenate(pools)
        self.binary = bool(np.isin(self.all, (0.0, 1.0)).all())
        sizes = np.array([pool.size for pool in pools])
        self.own = sizes / (sizes + 1)
        self.means = _shrunk(np.array([pool.mean() for pool in pools]), sizes)

    def draw(self, tasks: NDArray[np.intp], repeats: int, effect: float, rng: np.random.Generator) -> Array:
        """Scores [N, K] of the given tasks with an effect planted in their means.

        0/1 scores come from the shrunken success rates. Others come from the task's own scores, or (with the weight of
        one score) from all; then as many become 1 (or 0, for a loss) as move the mean by the effect.
        """
        means, shape = self.means[tasks, None], (len(tasks), repeats)
        if self.binary:
            return (rng.random(shape) < np.clip(means + effect, 0, 1)).astype(np.float64)
        own = np.stack([rng.choice(self.pools[int(task)], size=repeats) for task in tasks])
        found = np.where(rng.random(shape) < self.own[tasks, None], own, rng.choice(self.all, size=shape))
        room = 1 - means if effect > 0 else means
        moved = rng.random(shape) * room < abs(effect)
        return np.where(moved, float(effect > 0), found)


def _shrunk(means: Array, sizes: NDArray[np.intp]) -> Array:
    """Task means pulled towards the grand mean by one pseudo-trial each: seen once is not 0 or 1 for sure."""
    return (means * sizes + means.mean()) / (sizes + 1)


def _rate(
    population: _Population,
    tasks: int,
    repeats: int,
    analysis: Analysis,
    studies: int,
    effect: float,
    rng: np.random.Generator,
) -> Rate:
    alpha, means, families = 1 - analysis.confidence, population.means, population.families
    achieved = float((np.clip(means + effect, 0, 1) - means).mean())
    names = [f"{index:05d}" for index in range(tasks)]
    found = covered = intervals = 0
    for _ in range(studies):
        drawn = rng.integers(len(means), size=tasks)
        control = population.draw(drawn, repeats, 0.0, rng)
        arm = population.draw(drawn, repeats, effect, rng)
        result = paired_effect(
            dict(zip(names, control.tolist(), strict=True)),
            dict(zip(names, arm.tolist(), strict=True)),
            clusters={name: families[population.names[index]] for name, index in zip(names, drawn, strict=True)}
            if families
            else None,
            confidence=analysis.confidence,
            resamples=999,
            rng=rng,
        )
        found += result.p <= alpha
        if result.interval is not None:
            intervals += 1
            covered += result.interval.low - 1e-12 <= achieved <= result.interval.high + 1e-12
    return Rate(
        planted=effect,
        achieved=achieved,
        found=found / studies,
        found_ci=_wilson(found, studies),
        covered=covered / max(1, intervals),
    )


def _wilson(successes: int, n: int) -> tuple[float, float]:
    from fairtrial.stats.intervals import wilson

    interval = wilson(successes, n)
    return interval.low, interval.high
