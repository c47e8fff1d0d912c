"""From a finished A-against-A run to its calibration; an ordinary run serves as a pilot through its control."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from fairtrial.core.errors import UserError
from fairtrial.store import RunDir
from fairtrial.studies.analysis import ScoresByRepeat, clusters_of, paired_of, scores_of
from fairtrial.studies.calibrate import TWIN, Calibration, simulate
from fairtrial.studies.plan import study_of
from fairtrial.studies.study import CalibrationSpec

_ENOUGH = 10
"""With fewer blocks that differ, 0/1 scores are too coarse for a false alarm in twenty studies."""


def calibration_of(path: Path, studies: int, spec: CalibrationSpec | None = None) -> Calibration:
    """The calibration of a run directory.

    `spec` says otherwise than the run what to plant, and how large simulated studies are. Raises UserError where the
    arm has no scores.
    """
    with RunDir.open(path) as run:
        study, tasks = study_of(run.manifest, path)
        scores = scores_of(run, str(run.manifest["score"]))
    spec = spec or study.calibration
    name = study.control if TWIN in scores else spec.arm or study.control
    control, twin, families = scores.get(name, {}), scores.get(TWIN), clusters_of(study, tasks)
    pools = _pools(control, twin or {})
    if not pools:
        raise UserError(f"{path}: the arm {name} has no scores to calibrate with")
    size, repeats = spec.tasks or len(pools), spec.repeats or study.repeats
    rates = simulate(
        pools,
        study.analysis,
        tasks=size,
        repeats=repeats,
        studies=studies,
        study_seed=study.seed,
        planted=spec.planted,
        families=families,
    )
    effect = paired_of(study, control, twin, families) if twin else None
    differ = _disagreements(control, twin or {})
    return Calibration(
        arm=spec.arm,
        tasks=size,
        repeats=repeats,
        studies=studies,
        alpha=1 - study.analysis.confidence,
        disagreements=differ,
        blocks=effect.n_blocks if effect else 0,
        real_p=effect.p if effect else None,
        real_estimate=effect.estimate if effect else None,
        rates=rates,
        notes=tuple(_notes(pools, name, twin is None, differ, size * repeats)),
    )


def _pools(*arms: ScoresByRepeat) -> dict[str, list[float]]:
    """All scores of each task, over the given arms."""
    pools: dict[str, list[float]] = {}
    for arm in arms:
        for task, repeats in arm.items():
            pools.setdefault(task, []).extend(value for value in repeats.values() if value is not None)
    return {task: pool for task, pool in pools.items() if pool}


def _disagreements(control: ScoresByRepeat, twin: ScoresByRepeat) -> int:
    """Blocks in which two identical arms scored differently."""
    return sum(
        1
        for task, repeats in control.items()
        for repeat, value in repeats.items()
        if value is not None and (other := twin.get(task, {}).get(repeat)) is not None and other != value
    )


def _notes(pools: dict[str, list[float]], arm: str, no_twin: bool, disagreements: int, trials: int) -> Iterator[str]:
    if no_twin:
        yield "This run has no second control: the real A-against-A part needs `fairtrial calibrate STUDY.toml`."
    if disagreements:
        yield (
            f"{disagreements} blocks differ between identical arms: the agent, the environment or the verifier is "
            "random beyond the seed."
        )
    values = [value for pool in pools.values() for value in pool]
    if len(set(values)) == 1:
        yield (
            f"{arm} scored the same everywhere: the rates lean on the shrinkage; name an arm that sometimes succeeds "
            "as calibration.arm."
        )
    elif set(values) <= {0.0, 1.0} and (rare := trials * 2 * fmean(values) * (1 - fmean(values))) < _ENOUGH:
        yield (
            f"At most about {rare:.0f} of {trials} blocks would differ between two such arms: with so few the test "
            "raises fewer false alarms than it may, and finds less; take more tasks, harder ones, or a finer score."
        )
