"""The paired effect of an arm against the control: estimate, interval, permutation p, normalised gain.

Blocks (task, repeat) in which both arms have a score are paired; the unit of inference is the task, or the family of
tasks where families are given, never the single trial. Miller, arXiv 2411.00640 (clustered errors); Efron 1987 (BCa).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairtrial.core.errors import UserError
from fairtrial.stats.binary import McNemar, mcnemar
from fairtrial.stats.gain import normalised_gain
from fairtrial.stats.intervals import Interval, check_level, t_interval
from fairtrial.stats.permutation import sign_flip
from fairtrial.stats.power import mde as detectable
from fairtrial.stats.resampling import bca_of, collapse, mean_of_first, resample
from fairtrial.stats.scores import Array, Blocks, Dropped, Rng, Scores, families, group_sums, labels, means, pair_blocks

BOOTSTRAP_FROM = 50
"""From so many tasks (or families) on, the interval is BCa, which follows one-sided differences (where an arm solves a
few tasks more, BCa covers 95-99 % and Student's t 88-94 %). Below, resampling 0/1 scores covers too little (88-94 %)
and Student's t is used."""
SMALL = 8
"""Below so many tasks (or families) even the t interval is a rough guide, and the effect says so."""


@dataclass(frozen=True, slots=True)
class Effect:
    """Arm minus control over the blocks that both share."""

    tasks: tuple[str, ...]
    differences: tuple[float, ...]
    """Of the task means, arm minus control, in the order of `tasks`."""
    control_means: tuple[float, ...]
    arm_means: tuple[float, ...]
    families: tuple[str, ...] | None
    n_blocks: int
    dropped: tuple[Dropped, ...]
    control_mean: float
    """Mean of the task means over the shared blocks, so that arm_mean - control_mean = estimate."""
    arm_mean: float
    estimate: float
    se: float | None
    """Standard error over tasks, or clustered over families; None with a single one."""
    n_clusters: int
    """Independent units: families where given, else tasks."""
    confidence: float
    interval: Interval | None
    """The interval to report; None with a single task or family."""
    t_interval: Interval | None
    p: float
    """Two-sided sign-flip p of "no difference", ties counted half (mid-p)."""
    p_strict: float
    """The same with ties counted in full; see `permutation.FlipTest`."""
    p_exact: bool
    mcnemar: McNemar | None
    """Where each task has one 0/1 trial an arm."""
    gain: float | None
    """Normalised gain of the means; None where the control is perfect or scores leave 0 .. 1."""
    gain_interval: Interval | None
    small: bool
    notes: tuple[str, ...]
    """What a reader must know of the figures above, each one sentence."""

    @property
    def n_tasks(self) -> int:
        """Tasks with at least one shared block."""
        return len(self.tasks)

    @property
    def n_dropped(self) -> int:
        """Blocks that could not be paired."""
        return len(self.dropped)

    @property
    def bounded(self) -> bool:
        """Whether all task means lie in 0 .. 1, so that differences read as percentage points."""
        return min(*self.control_means, *self.arm_means) >= 0 and max(*self.control_means, *self.arm_means) <= 1

    @property
    def task_sd(self) -> float | None:
        """The spread of one task's difference that explains `se`: sd of the differences, inflated by clustering."""
        return None if self.se is None else self.se * math.sqrt(self.n_tasks)

    def mde(self, power: float = 0.8) -> float | None:
        """The effect that a study like this finds with probability `power`, from the observed spread."""
        sd = self.task_sd
        return None if sd is None else detectable(self.n_tasks, sd, alpha=1 - self.confidence, power=power)


def clustered_se(values: Array, label: NDArray[np.intp] | None) -> tuple[float | None, int]:
    """(standard error of the mean of `values` [N], clusters G), with the factor G / (G - 1); None for G = 1.

    Without labels each value is its own cluster and this is sd / sqrt(N).
    """
    centred = values - values.mean()
    sums = group_sums(centred, label)
    groups = len(sums)
    if groups < 2:
        return None, groups
    return math.sqrt(groups / (groups - 1) * float(sums @ sums)) / len(values), groups


def paired_effect(
    control: Scores,
    arm: Scores,
    *,
    clusters: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    rng: Rng,
) -> Effect:
    """Compare an arm with the control.

    Args:
        control: Scores of the control by task, then by repeat (a list, or repeat -> score); None where there is none.
        arm: Scores of the arm, the same way.
        clusters: The family of each task where tasks are not independent.
        confidence: Of the intervals. BCa over tasks or families; Student's t below `BOOTSTRAP_FROM` of them.
        resamples: Bootstrap resamples and, where p cannot be exact, random sign flips.
        rng: Generator or seed.

    Raises:
        UserError: no block is shared, a score is not finite, or a task has no family while others have.
    """
    check_level(confidence)
    blocks = _shared(control, arm)
    a, b = means(blocks.control), means(blocks.arm)
    d = _difference(a, b)
    family = families(blocks.tasks, clusters)
    label = labels(family)
    generator = np.random.default_rng(rng)
    se, groups = clustered_se(d, label)
    test = sign_flip(d, label, flips=resamples, rng=generator)
    student = None if se is None else t_interval(float(d.mean()), se, groups - 1, confidence)
    bootstrap = _bootstrap(d, label, confidence, resamples, generator)
    gain, gain_interval = _gain(a, b, label, confidence)
    interval, notes = _chosen(student, bootstrap, groups, "task" if family is None else "family")
    return Effect(
        tasks=blocks.tasks,
        differences=tuple(d.tolist()),
        control_means=tuple(a.tolist()),
        arm_means=tuple(b.tolist()),
        families=family,
        n_blocks=blocks.count,
        dropped=blocks.dropped,
        control_mean=float(a.mean()),
        arm_mean=float(b.mean()),
        estimate=float(d.mean()),
        se=se,
        n_clusters=groups,
        confidence=confidence,
        interval=interval,
        t_interval=student,
        p=test.p,
        p_strict=test.p_strict,
        p_exact=test.exact,
        mcnemar=_mcnemar(blocks),
        gain=gain,
        gain_interval=gain_interval,
        small=groups < SMALL,
        notes=notes,
    )


def _shared(control: Scores, arm: Scores) -> Blocks:
    blocks = pair_blocks(control, arm)
    if not blocks.tasks:
        raise UserError(
            f"nothing to compare: no (task, repeat) has a score in both arms ({len(blocks.dropped)} blocks dropped)"
        )
    return blocks


def _difference(a: Array, b: Array) -> Array:
    """The difference b - a, with the rounding of equal means taken out."""
    d = b - a
    d[np.abs(d) <= 1e-14 * np.maximum(np.abs(a), np.abs(b))] = 0.0
    return d


def _bootstrap(
    d: Array, label: NDArray[np.intp] | None, confidence: float, resamples: int, rng: Rng
) -> Interval | None:
    """BCa interval of the mean difference; always drawn in the same direction, so that swapped arms mirror it."""
    sign = _direction(group_sums(d, label))
    units = collapse(sign * d[:, None], label)
    if units.number < BOOTSTRAP_FROM:
        return None
    interval = bca_of(mean_of_first, units, resample(units, resamples, rng), confidence)
    if interval is None or sign > 0:
        return interval
    return Interval(-interval.high, -interval.low, confidence, interval.method)


def _direction(sums: Array) -> float:
    """1 or -1, and the other for the negated sums: the sign of their total, else of their first asymmetry."""
    ordered = np.sort(sums)
    marks = np.concatenate([[sums.sum()], ordered + ordered[::-1]])
    clear = marks[np.abs(marks) > 1e-9 * np.abs(sums).sum()]
    return -1.0 if len(clear) and clear[0] < 0 else 1.0


def _chosen(
    student: Interval | None, bootstrap: Interval | None, groups: int, unit: str
) -> tuple[Interval | None, tuple[str, ...]]:
    """The interval to report, and what must be said of it."""
    if student is None:
        return None, (f"Only one {unit}: there is no interval.",)
    units = {"task": "tasks", "family": "families of tasks"}[unit]
    if student.width <= 1e-12 * max(abs(student.low), abs(student.high), 1e-300):
        note = (
            f"All {groups} {units} show the same difference: the interval has no width and says nothing of other tasks."
        )
        return Interval(student.low, student.high, student.confidence, "constant"), (note,)
    if groups < SMALL:
        return student, (f"Only {groups} {units}: Student's t interval, which leans on normal differences.",)
    if bootstrap is None and groups >= BOOTSTRAP_FROM:
        return student, ("The bootstrap gives no interval for these differences: Student's t interval.",)
    return bootstrap or student, ()


def _gain(
    a: Array, b: Array, label: NDArray[np.intp] | None, confidence: float
) -> tuple[float | None, Interval | None]:
    """Gain of the means, and a t interval from its linearisation.

    A change of the means by (dA, dD) moves g = D / (1 - A) by (dD + g dA) / (1 - A).
    """
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1:
        return None, None
    gain = normalised_gain(min(1.0, float(a.mean())), min(1.0, float(b.mean())))
    if gain is None:
        return None, None
    se, groups = clustered_se((b - a + gain * a) / (1 - float(a.mean())), label)
    return gain, None if se is None else t_interval(gain, se, groups - 1, confidence)


def _mcnemar(blocks: Blocks) -> McNemar | None:
    single = all(len(values) == 1 for values in blocks.control)
    a, b = [values[0] for values in blocks.control], [values[0] for values in blocks.arm]
    return mcnemar(a, b) if single and {*a, *b} <= {0.0, 1.0} else None
