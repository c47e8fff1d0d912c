"""From a finished A-against-A run to its calibration; an ordinary run serves as a pilot through its control."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fairtrial.core.errors import UserError
from fairtrial.store import RunDir
from fairtrial.studies.analysis import ScoresByRepeat, clusters_of, paired_of, scores_of
from fairtrial.studies.calibrate import TWIN, Calibration, simulate
from fairtrial.studies.plan import study_of


def calibration_of(path: Path, studies: int) -> Calibration:
    """The calibration of a run directory. Raises UserError where its control has no scores."""
    with RunDir.open(path) as run:
        study, tasks = study_of(run.manifest, path)
        scores = scores_of(run, str(run.manifest["score"]))
    control, twin, families = scores.get(study.control, {}), scores.get(TWIN), clusters_of(study, tasks)
    pools = _pools(control, twin or {})
    if not pools:
        raise UserError(f"{path}: the control arm has no scores to calibrate with")
    rates = simulate(pools, study.repeats, study.analysis, studies=studies, study_seed=study.seed, families=families)
    effect = paired_of(study, control, twin, families) if twin else None
    differ = _disagreements(control, twin or {})
    return Calibration(
        tasks=len(pools),
        repeats=study.repeats,
        studies=studies,
        alpha=1 - study.analysis.confidence,
        disagreements=differ,
        blocks=effect.n_blocks if effect else 0,
        real_p=effect.p if effect else None,
        real_estimate=effect.estimate if effect else None,
        rates=rates,
        notes=tuple(_notes(pools, twin is None, differ)),
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


def _notes(pools: dict[str, list[float]], no_twin: bool, disagreements: int) -> Iterator[str]:
    if no_twin:
        yield "This run has no second control: the real A-against-A part needs `fairtrial calibrate STUDY.toml`."
    if disagreements:
        yield (
            f"{disagreements} blocks differ between identical arms: the agent, the environment or the verifier is "
            "random beyond the seed."
        )
    if len({value for pool in pools.values() for value in pool}) == 1:
        yield (
            "The control scored the same everywhere: the rates lean on the shrinkage; use a pilot whose control "
            "sometimes succeeds."
        )
