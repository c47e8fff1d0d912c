"""One arm by itself: its mean with an error over tasks, and where its variance comes from.

Miller, arXiv 2411.00640: repeats of a task are not independent, and neither are tasks of
one family. Trials are never pooled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.stats.intervals import Interval, check_level, t_interval, wilson
from fairtrial.stats.paired import clustered_se
from fairtrial.stats.scores import Array, Scores, families, labels, means, task_scores


@dataclass(frozen=True, slots=True)
class VarianceSplit:
    """Var(task mean) = between tasks + within tasks / repeats: more repeats shrink only the second part."""

    between: float
    """Variance of the tasks' true means."""
    within: float
    """Mean variance of one trial about its task's mean."""
    repeats: float
    """Harmonic mean of the repeats per task."""

    def se(self, n_tasks: int, repeats: float) -> float:
        """The standard error of the arm's mean to expect from so many tasks and repeats."""
        return math.sqrt((self.between + self.within / repeats) / n_tasks)


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """The mean of the task means, over the tasks that have a score."""

    n_tasks: int
    n_trials: int
    n_clusters: int
    mean: float
    se: float | None
    interval: Interval | None
    """Student's t over tasks (or families), cut to 0 .. 1 where all scores lie there; Wilson over tasks (or families)
    where all task means are 0, or all are 1."""
    split: VarianceSplit | None
    """None where no task has two scores."""


def summarise_arm(scores: Scores, *, clusters: Mapping[str, str] | None = None, confidence: float = 0.95) -> ArmSummary:
    """Mean, clustered standard error and interval of one arm.

    Raises:
        UserError: no trial has a score.
    """
    check_level(confidence)
    found = task_scores(scores)
    if not found:
        raise UserError("the arm has no scores: every trial is missing, errored or skipped")
    groups = list(found.values())
    values = means(groups)
    se, n_clusters = clustered_se(values, labels(families(list(found), clusters)))
    mean = float(values.mean())
    return ArmSummary(
        n_tasks=len(found),
        n_trials=sum(map(len, groups)),
        n_clusters=n_clusters,
        mean=mean,
        se=se,
        interval=None if se is None else mean_interval(values, mean, se, n_clusters, confidence),
        split=split_variance(groups),
    )


def mean_interval(values: Array, mean: float, se: float, units: int, confidence: float) -> Interval:
    """The interval of a mean of task values, honest at the ends of 0 .. 1."""
    if se == 0 and mean in (0.0, 1.0):
        return wilson(mean * units, units, confidence)
    raw = t_interval(mean, se, units - 1, confidence)
    if values.min() < 0 or values.max() > 1:
        return raw
    return Interval(max(0.0, raw.low), min(1.0, raw.high), confidence, raw.method)


def split_variance(groups: list[tuple[float, ...]]) -> VarianceSplit | None:
    """Split the variance of task means; None where fewer than two tasks, or no task with two scores."""
    repeated = [np.var(group, ddof=1) for group in groups if len(group) > 1]
    if len(groups) < 2 or not repeated:
        return None
    within = float(np.mean(repeated))
    inverse = math.fsum(1 / len(group) for group in groups) / len(groups)
    between = max(0.0, float(np.var(means(groups), ddof=1)) - within * inverse)
    return VarianceSplit(between, within, 1 / inverse)
