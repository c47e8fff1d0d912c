"""Calibration: the instrument on data whose answer is known.

Two parts. A real one: the control runs against itself, both arms for real, and every block in which two identical arms
disagree is counted. And a simulated one: studies are drawn from the scores that the control really got (per-task
success rates shrunk towards their mean; tasks drawn with replacement), once without any effect (false-positive rate)
and once with planted effects (power), and put through the very analysis that the study uses.
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
PLANTED = (0.05, 0.1, 0.2, 0.3)


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

    tasks: int
    repeats: int
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
    """The study with its control twice and no other arm."""
    control = study.arms[study.control]
    data: dict[str, Any] = json.loads(study.model_dump_json())
    arm = json.loads(control.model_dump_json())
    data["title"] = f"A against A: {study.title}"
    data["claims"] = []
    data["arms"] = {study.control: arm, TWIN: {**arm, "control": False}}
    return Study.model_validate(data)


def simulate(
    scores: Mapping[str, Sequence[float]],
    repeats: int,
    analysis: Analysis,
    *,
    studies: int,
    study_seed: int,
    planted: Sequence[float] = PLANTED,
    families: Mapping[str, str] | None = None,
) -> tuple[Rate, ...]:
    """False-positive rate and power from the scores that a control really got.

    Args:
        scores: By task, the scores of the pilot's repeats (both twins pooled), each in 0 .. 1.
        repeats: Repeats of the simulated studies.
        analysis: The study's own; intervals and p come out of `paired_effect` with it (999 resamples).
        studies: Simulated studies for each rate.
        study_seed: Seeds the simulation.
        planted: Mean effects to plant.
        families: The family of each task where the study clusters.

    Raises UserError for scores outside of 0 .. 1, where an effect cannot be planted honestly.
    """
    tasks = sorted(scores)
    pools = [np.asarray(scores[task], dtype=np.float64) for task in tasks]
    if not tasks or any(pool.size == 0 for pool in pools):
        raise UserError("calibration needs at least one score of the control for each task")
    if min(pool.min() for pool in pools) < 0 or max(pool.max() for pool in pools) > 1:
        raise UserError("calibration plants effects in scores between 0 and 1; this score leaves that range")
    means = _shrunk(np.array([pool.mean() for pool in pools]), np.array([pool.size for pool in pools]))
    rng = np.random.default_rng(seed(study_seed, "calibration", 0, "analysis"))
    return tuple(_rate(means, repeats, analysis, studies, effect, rng, tasks, families) for effect in (0.0, *planted))


def _shrunk(means: Array, sizes: NDArray[np.intp]) -> Array:
    """Task means pulled towards the grand mean by one pseudo-trial each: seen once is not 0 or 1 for sure."""
    return (means * sizes + means.mean()) / (sizes + 1)


def _rate(
    means: Array,
    repeats: int,
    analysis: Analysis,
    studies: int,
    effect: float,
    rng: np.random.Generator,
    tasks: list[str],
    families: Mapping[str, str] | None,
) -> Rate:
    alpha = 1 - analysis.confidence
    shifted = np.clip(means + effect, 0, 1)
    achieved = float((shifted - means).mean())
    names = [f"{index:05d}" for index in range(len(tasks))]
    found = covered = intervals = 0
    for _ in range(studies):
        drawn = rng.integers(len(tasks), size=len(tasks))
        control = (rng.random((len(tasks), repeats)) < means[drawn, None]).astype(np.float64)
        arm = (rng.random((len(tasks), repeats)) < shifted[drawn, None]).astype(np.float64)
        result = paired_effect(
            dict(zip(names, control.tolist(), strict=True)),
            dict(zip(names, arm.tolist(), strict=True)),
            clusters={name: families[tasks[index]] for name, index in zip(names, drawn, strict=True)}
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
