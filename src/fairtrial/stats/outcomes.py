"""One denominator: what became of every planned trial, whether errors fell on one arm, and what they could change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.record import Outcome
from fairtrial.stats.scores import Scores, by_repeat


@dataclass(frozen=True, slots=True)
class OutcomeMix:
    """Counts of one arm's planned trials; they add up to `planned`."""

    planned: int
    scored: int
    failed: int
    errored: int
    skipped: int
    missing: int
    """Planned, and not run (yet)."""

    @property
    def counted(self) -> int:
        """Trials that carry a score: scored and failed."""
        return self.scored + self.failed

    @property
    def dropped_share(self) -> float:
        """The share of planned trials without a score."""
        return 1 - self.counted / self.planned if self.planned else 0.0

    def __str__(self) -> str:
        parts = {"scored": self.scored, "failed": self.failed, "errored": self.errored, "skipped": self.skipped}
        shown = [f"{n} {name}" for name, n in {**parts, "missing": self.missing}.items() if n]
        return f"{self.planned} planned: " + (", ".join(shown) or "none run")


def outcome_mix(planned: int, outcomes: Iterable[Outcome | str]) -> OutcomeMix:
    """Count the outcomes of one arm, one for each trial that ran (its last attempt).

    Raises:
        UserError: an unknown outcome, or more outcomes than planned trials (a trial was counted twice).
    """
    known = [outcome.value for outcome in Outcome]
    counts = Counter(str(outcome) for outcome in outcomes)
    for name in counts:
        if name not in known:
            raise UserError(f"{name!r} is no outcome{did_you_mean(name, known)}")
    run = counts.total()
    if run > planned:
        raise UserError(
            f"{run} outcomes of {planned} planned trials: give one outcome a trial, that of its last attempt"
        )
    return OutcomeMix(planned, *(counts[name] for name in known), missing=planned - run)


def attrition_warning(
    control: OutcomeMix,
    arm: OutcomeMix,
    *,
    control_name: str = "control",
    arm_name: str = "the arm",
    limit: float = 0.02,
) -> str | None:
    """A sentence where the shares of trials without a score differ by more than `limit`, else None."""
    gap = arm.dropped_share - control.dropped_share
    if abs(gap) <= limit + 1e-12:
        return None
    more, less = (arm_name, control_name) if gap > 0 else (control_name, arm_name)
    shares = sorted((arm.dropped_share, control.dropped_share), reverse=True)
    return (
        f"Differential attrition: {shares[0]:.1%} of {more}'s trials have no score against {shares[1]:.1%} "
        f"of {less}'s; what went missing may not be like what stayed, so read the sensitivity table."
    )


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The estimate (arm minus control, mean over tasks) under each way of treating blocks without a score."""

    dropped: float | None
    """Only blocks where both arms have a score: the reported estimate. None where there is none."""
    as_low: float
    """Missing scores are the lowest possible in both arms."""
    as_high: float
    """Missing scores are the highest possible in both arms."""
    worst: float
    """Missing scores are the lowest for the arm, the highest for the control."""
    best: float
    """The other way round; no treatment of the missing scores leaves worst .. best."""
    missing_control: int
    missing_arm: int


def sensitivity(control: Scores, arm: Scores, *, low: float = 0.0, high: float = 1.0) -> Sensitivity:
    """How far the trials without a score could move the estimate.

    Args:
        control: Scores of the control by task and repeat; None for a planned trial without a score.
        arm: Scores of the arm, the same way.
        low: The lowest possible score.
        high: The highest possible score.

    Raises:
        UserError: nothing was planned, or a score lies outside low .. high.
    """
    blocks = _planned(control, arm)
    values = [v for pairs in blocks.values() for pair in pairs for v in pair if v is not None]
    if not blocks:
        raise UserError("the sensitivity of an empty study cannot be computed: no trial is planned")
    if values and not low <= min(values) <= max(values) <= high:
        raise UserError(
            f"scores reach from {min(values):g} to {max(values):g}, outside {low:g} .. {high:g}: give low and high"
        )

    def filled(for_control: float, for_arm: float) -> float:
        deltas = [
            math.fsum((for_arm if b is None else b) - (for_control if a is None else a) for a, b in pairs) / len(pairs)
            for pairs in blocks.values()
        ]
        return math.fsum(deltas) / len(deltas)

    kept = [[b - a for a, b in pairs if a is not None and b is not None] for pairs in blocks.values()]
    deltas = [math.fsum(d) / len(d) for d in kept if d]
    return Sensitivity(
        dropped=math.fsum(deltas) / len(deltas) if deltas else None,
        as_low=filled(low, low),
        as_high=filled(high, high),
        worst=filled(high, low),
        best=filled(low, high),
        missing_control=sum(a is None for pairs in blocks.values() for a, _ in pairs),
        missing_arm=sum(b is None for pairs in blocks.values() for _, b in pairs),
    )


def _planned(control: Scores, arm: Scores) -> Mapping[str, list[tuple[float | None, float | None]]]:
    result: dict[str, list[tuple[float | None, float | None]]] = {}
    for task in sorted({*control, *arm}):
        left, right = by_repeat(task, control.get(task, ())), by_repeat(task, arm.get(task, ()))
        pairs = [(left.get(repeat), right.get(repeat)) for repeat in sorted({*left, *right})]
        if pairs:
            result[task] = pairs
    return result
