"""Analysis: from a run directory to effects, verdicts and warnings. One denominator: the planned trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.findings import Finding
from fairtrial.core.ids import seed
from fairtrial.core.record import Outcome
from fairtrial.core.trial import TaskInfo
from fairtrial.stats import power
from fairtrial.stats.arms import summarise_arm
from fairtrial.stats.intervals import Interval
from fairtrial.stats.multiplicity import holm
from fairtrial.stats.outcomes import OutcomeMix, attrition_warning, outcome_mix, sensitivity
from fairtrial.stats.paired import Effect, paired_effect
from fairtrial.stats.passk import pass_at_k, pass_hat_k
from fairtrial.stats.verdict import Verdict, decide
from fairtrial.store import ArmSummary, RunDir
from fairtrial.studies.claims import judge_claims
from fairtrial.studies.plan import study_of
from fairtrial.studies.result import ArmResult, EffectResult, Mix, PassK, StudyResult
from fairtrial.studies.study import BoundStudy, Study, bind

ScoresByRepeat = dict[str, dict[int, float | None]]
_FAMILIES = 8
"""With cluster = "auto", families are used from this many on."""


def analyse(path: Path) -> StudyResult:
    """Analyse what a run directory holds, finished or not. Raises UserError where the score is unknown."""
    with RunDir.open(path) as run:
        study, tasks = study_of(run.manifest, path)
        score = str(run.manifest["score"])
        scores, mixes = scores_of(run, score), _mixes(run, study, tasks)
        known = run.score_names()
        if known and score not in known:
            raise UserError(f'no record of {path} has a score "{score}"{did_you_mean(score, known)}')
        manifest, causes, totals = run.manifest, _causes(run), {arm.arm: arm for arm in run.arms()}
        flags, sandboxes = _marks(run)
        bound, clusters = bind(study, path), clusters_of(study, tasks)
        findings = _findings(bound, run, score)
        claims = judge_claims(bound, run, tasks, clusters)
    arms: list[ArmResult] = []
    for name in _ordered(study):
        known_of_it = {
            "facts": manifest["arms"].get(name, {}),
            "flags": dict(flags.get(name, {})),
            "causes": dict(sum(causes.get(name, {}).values(), Counter[str]())),
            **_spent(totals.get(name)),
        }
        arm = _arm(study, name, scores.get(name, {}), mixes[name], clusters)
        arms.append(arm.model_copy(update=known_of_it))
    effects = _effects(study, scores, mixes, clusters)
    machine = manifest["machine"]
    return StudyResult(
        title=study.title,
        question=study.question,
        paper=study.paper,
        published=study.published,
        path=str(path),
        kind=study.kind,
        score=score,
        control=study.control,
        confidence=study.analysis.confidence,
        repeats=study.repeats,
        seed=study.seed,
        tasks=len(tasks),
        complete=all(mix.missing == mix.skipped == 0 for mix in mixes.values()),
        arms=tuple(arms),
        effects=effects,
        claims=claims,
        findings=findings,
        warnings=tuple(_warnings(study, mixes, flags, causes)),
        mde_before=mde_before(study, len(tasks)),
        sandboxes=dict(sandboxes),
        created=manifest["created"],
        version=manifest["fairtrial"],
        machine={"python": machine["python"], "system": machine["system"], "processor": machine["processor"]},
    )


def _findings(bound: BoundStudy, run: RunDir, score: str) -> tuple[Finding, ...]:
    """What the kind of trial has to show; in the order of the arms."""
    arms = {name: bound.arms[name] for name in _ordered(bound.study)}
    return tuple(bound.kind.findings(arms, score, lambda: run.records(latest=True)))


def _spent(summary: ArmSummary | None) -> dict[str, float]:
    """What an arm used over all its attempts; nothing for an arm without any."""
    if summary is None:
        return {}
    usage = summary.spent.usage
    return {
        "tokens": usage.tokens,
        "calls": usage.calls,
        "cost_usd": usage.cost_usd,
        "working_s": summary.spent.working_s,
    }


def scores_of(run: RunDir, score: str) -> dict[str, ScoresByRepeat]:
    """By arm, task and repeat: the score, or None for a trial that has none (errored, skipped)."""
    found: dict[str, ScoresByRepeat] = {}
    for row in run.score_rows(score):
        value = row.value if row.outcome.counts else None
        found.setdefault(row.arm, {}).setdefault(row.task, {})[row.repeat] = value
    return found


def clusters_of(study: Study, tasks: Sequence[TaskInfo]) -> dict[str, str] | None:
    """The family of each task where the study resamples families as a whole, else None."""
    families = {task.id: task.family or f"task {task.id}" for task in tasks}
    wanted = study.analysis.cluster
    if wanted == "family":
        if not any(task.family for task in tasks):
            raise UserError('analysis.cluster = "family", but no task names its family; use cluster = "task"')
        return families
    named = {task.family for task in tasks if task.family}
    several = len(named) < sum(1 for task in tasks if task.family)
    return families if wanted == "auto" and len(named) >= _FAMILIES and several else None


def _ordered(study: Study) -> list[str]:
    """The control first, then the arms in the order of the file."""
    return [study.control, *(name for name in study.arms if name != study.control)]


def _mixes(run: RunDir, study: Study, tasks: Sequence[TaskInfo]) -> dict[str, OutcomeMix]:
    outcomes: dict[str, list[Outcome]] = {name: [] for name in study.arms}
    for (arm, _, _), done in run.done().items():
        outcomes[arm].append(done.outcome)
    return {name: outcome_mix(len(tasks) * study.repeats, found) for name, found in outcomes.items()}


def _causes(run: RunDir) -> dict[str, dict[str, Counter[str]]]:
    """By arm and outcome."""
    causes: dict[str, dict[str, Counter[str]]] = {}
    for row in run.rows(latest=True):
        if row.cause:
            causes.setdefault(row.arm, {}).setdefault(row.outcome, Counter())[row.cause] += 1
    return causes


def _marks(run: RunDir) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Flags by arm, and trials by sandbox; what follows a colon is detail and does not make a flag another one."""
    flags: dict[str, Counter[str]] = {}
    sandboxes: Counter[str] = Counter()
    for mark in run.marks():
        for flag in sorted({flag.split(":", 1)[0] for flag in mark.flags}):
            flags.setdefault(mark.arm, Counter())[flag] += mark.trials
        if "sandbox" in mark.provenance:
            sandboxes[mark.provenance["sandbox"]] += mark.trials
    return flags, sandboxes


def _arm(
    study: Study, name: str, scores: ScoresByRepeat, mix: OutcomeMix, clusters: Mapping[str, str] | None
) -> ArmResult:
    empty = not any(value is not None for repeats in scores.values() for value in repeats.values())
    summary = None if empty else summarise_arm(scores, clusters=clusters, confidence=study.analysis.confidence)
    values = {
        task: sum(present) / len(present)
        for task, repeats in sorted(scores.items())
        if (present := [value for value in repeats.values() if value is not None])
    }
    return ArmResult(
        name=name,
        title=study.arms[name].title,
        control=study.arms[name].control,
        mix=_mix(mix),
        mean=summary.mean if summary else None,
        se=summary.se if summary else None,
        ci=_pair(summary.interval) if summary else None,
        values=values,
        pass_k=tuple(_pass_k(study, scores, k, clusters) for k in study.analysis.pass_k) if not empty else (),
    )


def _pass_k(study: Study, scores: ScoresByRepeat, k: int, clusters: Mapping[str, str] | None) -> PassK:
    """pass@k and pass^k over the tasks that have k scores; a pass is a score of 1."""
    enough = {task: repeats for task, repeats in scores.items() if sum(v is not None for v in repeats.values()) >= k}
    rng = seed(study.seed, "pass", k, "analysis")
    at, hat = (
        rate(enough, k, threshold=1.0, clusters=clusters, confidence=study.analysis.confidence, rng=rng)
        for rate in (pass_at_k, pass_hat_k)
    )
    return PassK(k=k, at=at.estimate, at_ci=_pair(at.interval), hat=hat.estimate, hat_ci=_pair(hat.interval))


def _mix(mix: OutcomeMix) -> Mix:
    return Mix(
        planned=mix.planned,
        scored=mix.scored,
        failed=mix.failed,
        errored=mix.errored,
        skipped=mix.skipped,
        missing=mix.missing,
    )


def _pair(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _effects(
    study: Study,
    scores: Mapping[str, ScoresByRepeat],
    mixes: Mapping[str, OutcomeMix],
    clusters: Mapping[str, str] | None,
) -> tuple[EffectResult, ...]:
    control = scores.get(study.control, {})
    found: dict[str, Effect | str] = {}
    for name in _ordered(study)[1:]:
        found[name] = effect_of(study, control, scores.get(name, {}), clusters)
    measured = {name: effect for name, effect in found.items() if isinstance(effect, Effect)}
    adjusted = dict(zip(measured, holm([effect.p for effect in measured.values()]), strict=True))
    return tuple(
        described(study, name, effect, adjusted[name], control, scores.get(name, {}))
        if isinstance(effect, Effect)
        else _undecided(study, name, effect, mixes[name])
        for name, effect in found.items()
    )


def effect_of(
    study: Study, control: ScoresByRepeat, arm: ScoresByRepeat, clusters: Mapping[str, str] | None
) -> Effect | str:
    """The paired effect, or why there is none."""
    try:
        return paired_of(study, control, arm, clusters)
    except UserError as error:
        return str(error)


def paired_of(
    study: Study,
    control: ScoresByRepeat,
    arm: ScoresByRepeat,
    clusters: Mapping[str, str] | None,
    purpose: str = "effect",
) -> Effect:
    """The paired effect as the study wants it analysed; `purpose` names the random stream of the resampling."""
    return paired_effect(
        control,
        arm,
        clusters=clusters,
        confidence=study.analysis.confidence,
        resamples=study.analysis.resamples,
        rng=seed(study.seed, purpose, 0, "analysis"),
    )


def described(
    study: Study, name: str, effect: Effect, p_holm: float, control: ScoresByRepeat, arm: ScoresByRepeat
) -> EffectResult:
    """An effect of a study with its verdict, as data."""
    verdict = decide(
        effect,
        alpha=1 - study.analysis.confidence,
        margin=study.analysis.margin,
        p_adjusted=p_holm,
        arm=study.arms[name].title or name,
        control=study.arms[study.control].title or study.control,
    )
    result = effect_result(effect, verdict, arm=name, control=study.control, p_holm=p_holm)
    return result.model_copy(update={"sensitivity": _sensitivity(effect, control, arm)})


def effect_result(effect: Effect, verdict: Verdict, *, arm: str, control: str, p_holm: float) -> EffectResult:
    """An effect and its verdict as data."""
    return EffectResult(
        arm=arm,
        control=control,
        estimate=effect.estimate,
        ci=_pair(effect.interval),
        ci_method=effect.interval.method if effect.interval else "",
        p=effect.p,
        p_holm=p_holm,
        p_mcnemar=effect.mcnemar.p if effect.mcnemar else None,
        tasks=effect.n_tasks,
        clusters=effect.n_clusters if effect.families else None,
        blocks=effect.n_blocks,
        dropped=effect.n_dropped,
        mean_arm=effect.arm_mean,
        mean_control=effect.control_mean,
        gain=effect.gain,
        equivalence_p=verdict.equivalence.p if verdict.equivalence else None,
        mde=effect.mde(),
        tasks_needed=verdict.tasks_to_decide,
        verdict=verdict.word,
        sentence=verdict.sentence,
        differences=dict(zip(effect.tasks, effect.differences, strict=True)),
        notes=effect.notes,
    )


def _sensitivity(effect: Effect, control: ScoresByRepeat, arm: ScoresByRepeat) -> dict[str, float]:
    """The estimate under other treatments of missing scores; only for scores between 0 and 1."""
    if not effect.bounded:
        return {"errors dropped": effect.estimate}
    found = sensitivity(control, arm)
    shown = {
        "errors dropped": found.dropped,
        "errors as 0": found.as_low,
        "worst case": found.worst,
        "best case": found.best,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _undecided(study: Study, name: str, why: str, mix: OutcomeMix) -> EffectResult:
    return EffectResult(
        arm=name,
        control=study.control,
        estimate=None,
        ci=None,
        tasks=0,
        blocks=0,
        dropped=mix.planned,
        verdict="not decided",
        sentence=f"Not decided: {name} and {study.control} share no scored block ({mix}).",
        notes=(why,),
    )


def _warnings(
    study: Study,
    mixes: Mapping[str, OutcomeMix],
    flags: Mapping[str, Counter[str]],
    causes: Mapping[str, Mapping[str, Counter[str]]],
) -> list[str]:
    warnings: list[str] = []
    missing = sum(mix.missing for mix in mixes.values())
    if missing:
        warnings.append(f"{missing} planned trials have not run yet: figures may change.")
    for name in _ordered(study)[1:]:
        text = attrition_warning(mixes[study.control], mixes[name], control_name=study.control, arm_name=name)
        if text:
            warnings.append(text)
    for name in _ordered(study):
        for flag, count in sorted(flags.get(name, Counter[str]()).items()):
            warnings.append(f"Noticed in {name}: {flag.replace('_', ' ')} ({count} trials).")
        skipped = mixes[name].skipped
        if skipped:
            warnings.append(f"{name}: {skipped} trials were skipped, the study's budget was spent.")
    counted = {"failed": "failed and count as failures", "errored": "errored and count nowhere"}
    for name in _ordered(study):
        for outcome, told in counted.items():
            if found := causes.get(name, {}).get(outcome):
                listed = ", ".join(f"{cause} {count}" for cause, count in sorted(found.items()))
                warnings.append(f"{name}: {found.total()} trials {told} ({listed}).")
    return warnings


def mde_before(study: Study, tasks: int) -> float | None:
    """The smallest difference that the plan alone promises to find in 80 of 100 studies; None for a single task.

    Assumes 0/1 scores, difficulties spread like a hard benchmark's (Beta, mean 0.34, concentration 0.7) and effects
    that vary between tasks with a standard deviation of 0.1.
    """
    if tasks < 2:
        return None
    variance = power.bernoulli_variance(0.34, 0.7)
    sd = power.planning_sd(0.1, control_variance=variance, control_repeats=study.repeats)
    return power.mde(tasks, sd, alpha=1 - study.analysis.confidence)
