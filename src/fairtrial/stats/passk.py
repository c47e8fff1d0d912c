"""pass@k (at least one of k trials passes) and pass^k (all k pass), unbiased from n >= k trials a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.stats.arms import mean_interval
from fairtrial.stats.intervals import Interval, check_level
from fairtrial.stats.paired import BOOTSTRAP_FROM, clustered_se
from fairtrial.stats.resampling import bca_of, collapse, mean_of_first, resample
from fairtrial.stats.scores import Rng, Scores, families, labels, task_scores


@dataclass(frozen=True, slots=True)
class PassRate:
    """A mean over tasks of pass@k or pass^k."""

    kind: str
    """pass@k or pass^k, with k filled in."""
    k: int
    estimate: float
    interval: Interval | None
    """Over tasks or families: bootstrap from 30 of them, t below, Wilson where all agree on 0 or 1."""
    n_tasks: int
    by_task: Mapping[str, float]


def pass_at_k(
    scores: Scores,
    k: int,
    *,
    threshold: float | None = None,
    clusters: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    rng: Rng,
) -> PassRate:
    """The chance that at least one of k trials passes: 1 - C(n - c, k) / C(n, k), mean over tasks.

    Args:
        scores: Of one arm.
        k: At most the number of scores of each task.
        threshold: A score at or above it passes; needed where scores are not 0 or 1.
        clusters: The family of each task.
        confidence: Of the interval.
        resamples: For the bootstrap.
        rng: Generator or seed.

    Raises:
        UserError: a task has fewer than k scores, or scores are fractional and no threshold is given.
    """
    counts = _passes(scores, k, threshold)
    rates = {task: 1 - math.comb(n - c, k) / math.comb(n, k) for task, (n, c) in counts.items()}
    return _over_tasks(f"pass@{k}", k, rates, clusters, confidence, resamples, rng)


def pass_hat_k(
    scores: Scores,
    k: int,
    *,
    threshold: float | None = None,
    clusters: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    rng: Rng,
) -> PassRate:
    """The chance that all of k trials pass: C(c, k) / C(n, k), mean over tasks. Arguments and errors as `pass_at_k`."""
    counts = _passes(scores, k, threshold)
    rates = {task: math.comb(c, k) / math.comb(n, k) for task, (n, c) in counts.items()}
    return _over_tasks(f"pass^{k}", k, rates, clusters, confidence, resamples, rng)


def _passes(scores: Scores, k: int, threshold: float | None) -> dict[str, tuple[int, int]]:
    """(scores, passes) of each task."""
    if k < 1:
        raise UserError(f"k must be at least 1, not {k}")
    found = task_scores(scores)
    if not found:
        raise UserError(f"pass rates over {k} trials need scores: the arm has none")
    result: dict[str, tuple[int, int]] = {}
    for task in sorted(scores):
        values = found.get(task, ())
        if len(values) < k:
            raise UserError(
                f"k = {k} needs {k} scores of each task, and task {task!r} has {len(values)}: lower k or run more"
            )
        fractional = next((v for v in values if v not in (0, 1)), None)
        if threshold is None and fractional is not None:
            raise UserError(
                f"task {task!r} has the score {fractional:g}: say from which score on a trial passes (threshold)"
            )
        bar = 1.0 if threshold is None else threshold
        result[task] = len(values), sum(v >= bar for v in values)
    return result


def _over_tasks(
    kind: str,
    k: int,
    rates: dict[str, float],
    clusters: Mapping[str, str] | None,
    confidence: float,
    resamples: int,
    rng: Rng,
) -> PassRate:
    check_level(confidence)
    values = np.array(list(rates.values()))
    label = labels(families(list(rates), clusters))
    se, groups = clustered_se(values, label)
    interval = None
    if se is not None and groups >= BOOTSTRAP_FROM and se > 0:
        units = collapse(values[:, None], label)
        interval = bca_of(mean_of_first, units, resample(units, resamples, rng), confidence)
    if se is not None and interval is None:
        interval = mean_interval(values, float(values.mean()), se, groups, confidence)
    return PassRate(kind, k, float(values.mean()), interval, len(values), rates)
