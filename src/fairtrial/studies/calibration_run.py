"""From a finished A-against-A run to its calibration; an ordinary run serves as a pilot through its control."""

from __future__ import annotations

from pathlib import Path

from fairtrial.core.errors import UserError
from fairtrial.core.ids import seed
from fairtrial.stats.paired import paired_effect
from fairtrial.store import RunDir
from fairtrial.studies.analysis import clusters_of, scores_of
from fairtrial.studies.calibrate import TWIN, Calibration, simulate
from fairtrial.studies.plan import study_of


def calibration_of(path: Path, studies: int) -> Calibration:
    """The calibration of a run directory. Raises UserError where its control has no scores."""
    with RunDir.open(path) as run:
        study, tasks = study_of(run.manifest, path)
        scores = scores_of(run, str(run.manifest["score"]))
    control = scores.get(study.control, {})
    if not any(value is not None for repeats in control.values() for value in repeats.values()):
        raise UserError(f"{path}: the control arm has no scores to calibrate with")
    twin = scores.get(TWIN)
    analysis, families = study.analysis, clusters_of(study, tasks)
    pools: dict[str, list[float]] = {}
    for arm in (control, twin or {}):
        for task, repeats in arm.items():
            pools.setdefault(task, []).extend(value for value in repeats.values() if value is not None)
    rates = simulate(
        {task: pool for task, pool in pools.items() if pool},
        study.repeats,
        analysis,
        studies=studies,
        study_seed=study.seed,
        families=families,
    )
    notes: list[str] = []
    blocks = disagreements = 0
    real_p = real_estimate = None
    if twin is None:
        notes.append(
            "This run has no second control: the real A-against-A part needs `fairtrial calibrate STUDY.toml`."
        )
    else:
        effect = paired_effect(
            control,
            twin,
            clusters=families,
            confidence=analysis.confidence,
            resamples=analysis.resamples,
            rng=seed(study.seed, "effect", 0, "analysis"),
        )
        real_p, real_estimate, blocks = effect.p, effect.estimate, effect.n_blocks
        disagreements = sum(
            1
            for task, repeats in control.items()
            for repeat, value in repeats.items()
            if value is not None and (other := twin.get(task, {}).get(repeat)) is not None and other != value
        )
        if disagreements:
            notes.append(
                f"{disagreements} blocks differ between identical arms: the agent, the environment or the verifier is random "
                "beyond the seed."
            )
    if (
        all(value in (0.0, 1.0) for pool in pools.values() for value in pool)
        and len({v for p in pools.values() for v in p}) == 1
    ):
        notes.append(
            "The control scored the same everywhere: rates lean on the shrinkage, use a pilot with a less extreme control."
        )
    return Calibration(
        tasks=len(pools),
        repeats=study.repeats,
        studies=studies,
        alpha=1 - analysis.confidence,
        disagreements=disagreements,
        blocks=blocks,
        real_p=real_p,
        real_estimate=real_estimate,
        rates=rates,
        notes=tuple(notes),
    )
