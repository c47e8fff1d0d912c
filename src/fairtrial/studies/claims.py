"""Claims: what a paper says, judged on what a run measured. Paired and clustered as the study's own effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.ids import seed
from fairtrial.core.record import Record
from fairtrial.core.trial import TaskInfo
from fairtrial.stats.claimed import ClaimTest, weigh_claim
from fairtrial.stats.multiplicity import holm
from fairtrial.stats.paired import Effect, paired_effect
from fairtrial.stats.ratio import paired_ratio
from fairtrial.store import RunDir
from fairtrial.studies.result import ClaimResult
from fairtrial.studies.study import BoundStudy, Claim, Study

Values = dict[str, dict[str, dict[int, float | None]]]
"""By arm, task and repeat."""


_COUNTED: dict[str, Callable[[Record], float]] = {
    "tokens": lambda record: record.usage.tokens,
    "calls": lambda record: record.usage.calls,
    "cost_usd": lambda record: record.usage.cost_usd,
}
"""What every record counts, whatever the kind."""


def check_claims(bound: BoundStudy) -> None:
    """Refuse (UserError) a claim about something that the study's records do not tell."""
    if not bound.study.claims:
        return
    measures = bound.kind.measures(bound.suite, bound.base)
    known = {*measures, *_COUNTED, bound.score}
    facts = [name for name, of_task in measures.items() if of_task]
    for index, claim in enumerate(bound.study.claims):
        if claim.measure is not None and claim.measure not in known:
            raise UserError(
                f'claims.{index}.measure: nothing is called "{claim.measure}" here{did_you_mean(claim.measure, known)}'
            )
        for fact in claim.where:
            if fact not in facts:
                raise UserError(
                    f'claims.{index}.where: "{fact}" is no fact of these tasks'
                    f"{did_you_mean(fact, facts) if facts else '; they have none, take it out'}"
                )


def judge_claims(
    bound: BoundStudy, run: RunDir, tasks: Sequence[TaskInfo], clusters: Mapping[str, str] | None
) -> tuple[ClaimResult, ...]:
    """Every claim of a study on the last attempts of a run; Holm over those that could be measured."""
    study = bound.study
    if not study.claims:
        return ()
    values = _values(bound, run)
    tested: dict[int, tuple[Effect, ClaimTest]] = {}
    reasons: dict[int, str] = {}
    for index, claim in enumerate(study.claims):
        other = claim.against or study.control
        kept = [task.id for task in tasks if _within(claim, task.id, values)]
        arm, against = (
            {task: found[task] for task in kept if task in found}
            for found in (values[claim.measure or bound.score].get(name, {}) for name in (claim.arm, other))
        )
        rng = seed(study.seed, "effect", 0, "analysis")  # as the effects: one comparison, one interval
        analysis = study.analysis
        try:
            effect = paired_effect(
                against,
                arm,
                clusters=clusters,
                confidence=analysis.confidence,
                resamples=analysis.resamples,
                rng=rng,
            )
        except UserError as error:
            reasons[index] = str(error)
            continue
        test = weigh_claim(effect, claim.direction, claim.margin, flips=analysis.resamples, rng=rng)
        tested[index] = effect, test
    adjusted = dict(zip(tested, holm([test.p for _, test in tested.values()]), strict=True))
    return tuple(
        _judged(study, claim, bound.score, *tested[index], adjusted[index])
        if index in tested
        else _stated(study, claim, bound.score).model_copy(update={"notes": (reasons[index],)})
        for index, claim in enumerate(study.claims)
    )


def _values(bound: BoundStudy, run: RunDir) -> dict[str, Values]:
    """By measure, then arm, task and repeat; None where a trial does not count or its record does not tell."""
    claims = bound.study.claims
    names = {claim.measure or bound.score for claim in claims} | {fact for claim in claims for fact in claim.where}
    found: dict[str, Values] = {name: {} for name in names}
    for record in run.records(latest=True):
        key, told = record.key, dict[str, float]()
        if record.outcome.counts:
            counted = {name: count(record) for name, count in _COUNTED.items()}
            told = {**counted, **bound.kind.measured(record), **record.scores}
        for name, values in found.items():
            values.setdefault(key.arm, {}).setdefault(key.task, {})[key.repeat] = told.get(name)
    return found


def _within(claim: Claim, task: str, values: Mapping[str, Values]) -> bool:
    """Whether a task's facts, as any arm's record tells them, lie in the claim's ranges."""
    for fact, (low, high) in claim.where.items():
        told = (value for tasks in values[fact].values() for value in tasks.get(task, {}).values() if value is not None)
        value = next(told, None)
        if value is None or not low <= value <= high:
            return False
    return True


def _stated(study: Study, claim: Claim, score: str) -> ClaimResult:
    return ClaimResult(
        text=claim.text,
        published=claim.published,
        arm=claim.arm,
        against=claim.against or study.control,
        measure=claim.measure or score,
        direction=claim.direction,
        margin=claim.margin,
        where=claim.where,
        verdict="not measured",
    )


def _judged(study: Study, claim: Claim, score: str, effect: Effect, test: ClaimTest, p_holm: float) -> ClaimResult:
    ratio = paired_ratio(effect)
    ci, ratio_ci = effect.interval, ratio.interval if ratio else None
    return _stated(study, claim, score).model_copy(
        update={
            "verdict": test.word(p_holm, 1 - study.analysis.confidence),
            "estimate": effect.estimate,
            "ci": (ci.low, ci.high) if ci else None,
            "ratio": ratio.estimate if ratio else None,
            "ratio_ci": (ratio_ci.low, ratio_ci.high) if ratio_ci else None,
            "mean_arm": effect.arm_mean,
            "mean_against": effect.control_mean,
            "p": test.p,
            "p_holm": p_holm,
            "tasks": effect.n_tasks,
            "blocks": effect.n_blocks,
            "dropped": effect.n_dropped,
            "notes": effect.notes,
        }
    )
