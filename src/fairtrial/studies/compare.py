"""Two runs against each other on the tasks and repeats that they share."""

from __future__ import annotations

from pathlib import Path

from fairtrial.core.config import Config
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.stats.multiplicity import holm
from fairtrial.stats.paired import Effect
from fairtrial.stats.verdict import decide
from fairtrial.store import RunDir
from fairtrial.studies.analysis import clusters_of, effect_result, paired_of, scores_of
from fairtrial.studies.plan import study_of
from fairtrial.studies.result import EffectResult


class Comparison(Config):
    """What two runs say about each other."""

    left: str
    right: str
    score: str
    effects: tuple[EffectResult, ...]
    warnings: tuple[str, ...] = ()


def compare_runs(left: Path, left_arm: str | None, right: Path, right_arm: str | None) -> Comparison:
    """Effects of arms of `left` against arms of `right`, paired on the (task, repeat) blocks of both.

    Without arm names: every arm that both runs have under one name. Tasks whose files differ between the runs are left
    out, with a warning. Raises UserError where there is nothing to compare.
    """
    with RunDir.open(left) as run:
        study, tasks = study_of(run.manifest, left)
        score, ours = str(run.manifest["score"]), scores_of(run, str(run.manifest["score"]))
    with RunDir.open(right) as run:
        other_study, other_tasks = study_of(run.manifest, right)
        other_score, theirs = str(run.manifest["score"]), scores_of(run, str(run.manifest["score"]))
    if score != other_score:
        raise UserError(f'{left} analyses "{score}" and {right} "{other_score}": these cannot be compared')
    warnings: list[str] = []
    if study.seed != other_study.seed:
        warnings.append(f"The runs have different seeds ({study.seed}, {other_study.seed}): paired by task only.")
    digests = {task.id: task.digest for task in other_tasks}
    shared = {task.id for task in tasks if digests.get(task.id) == task.digest}
    if changed := {task.id for task in tasks if task.id in digests} - shared:
        warnings.append(f"{len(changed)} tasks differ in their files between the runs and are left out.")
    if not shared:
        raise UserError(f"{left} and {right} share no task")
    pairs = _pairs(list(study.arms), left_arm, left, list(other_study.arms), right_arm, right)
    clusters = clusters_of(study, tasks)
    effects: list[tuple[str, str, Effect]] = []
    for arm, other in pairs:
        a = {task: repeats for task, repeats in theirs.get(other, {}).items() if task in shared}
        b = {task: repeats for task, repeats in ours.get(arm, {}).items() if task in shared}
        effects.append((arm, other, paired_of(study, a, b, clusters, "compare")))
    adjusted = holm([effect.p for _, _, effect in effects])
    return Comparison(
        left=str(left),
        right=str(right),
        score=score,
        effects=tuple(
            _described(f"{left}:{arm}", f"{right}:{other}", effect, p, 1 - study.analysis.confidence)
            for (arm, other, effect), p in zip(effects, adjusted, strict=True)
        ),
        warnings=tuple(warnings),
    )


def _pairs(
    ours: list[str], arm: str | None, left: Path, theirs: list[str], other: str | None, right: Path
) -> list[tuple[str, str]]:
    for name, known, path in ((arm, ours, left), (other, theirs, right)):
        if name is not None and name not in known:
            raise UserError(f'{path} has no arm "{name}"{did_you_mean(name, known)}')
    if arm is None and other is None:
        both = [name for name in ours if name in theirs]
        if not both:
            raise UserError(f"the runs share no arm name; name them: {left}:ARM {right}:ARM")
        return [(name, name) for name in both]
    return [(arm or other or "", other or arm or "")]


def _described(arm: str, control: str, effect: Effect, p_holm: float, alpha: float) -> EffectResult:
    verdict = decide(effect, alpha=alpha, p_adjusted=p_holm, arm=arm, control=control)
    return effect_result(effect, verdict, arm=arm, control=control, p_holm=p_holm)
