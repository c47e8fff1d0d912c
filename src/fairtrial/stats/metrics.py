"""Runs with their own metrics, against a baseline or a withheld reference; nothing averaged away, nothing left out.

The rules of ResearchGym (arXiv 2602.15112) with its traps closed: a run without a result counts as zero, improvement is
reported for each metric, and the best of k never stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fairtrial.core.errors import UserError


@dataclass(frozen=True, slots=True)
class RunScores:
    """k runs of one task: the best, beside what is typical and every value."""

    values: tuple[float, ...]
    """Every run, in order; runs without a result are 0."""
    missing: int
    """Runs without a result."""

    @property
    def k(self) -> int:
        """Runs, those without a result included."""
        return len(self.values)

    @property
    def best(self) -> float:
        """best@k."""
        return max(self.values)

    @property
    def mean(self) -> float:
        """Over all runs."""
        return math.fsum(self.values) / len(self.values)

    @property
    def sd(self) -> float | None:
        """Over all runs; None for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def __str__(self) -> str:
        sd = "" if self.sd is None else f" (sd {self.sd:.3f})"
        lost = f", {self.missing} without a result counted as 0" if self.missing else ""
        each = ", ".join(f"{v:.3f}" for v in self.values)
        return f"mean {self.mean:.3f}{sd} over {self.k} runs, best@{self.k} {self.best:.3f}; runs: {each}{lost}"


def run_scores(values: Sequence[float | None], *, planned: int | None = None) -> RunScores:
    """Scores of the runs of one task; None, and planned runs that are not listed, are runs without a result.

    Raises:
        UserError: no run, more runs than planned, or a score that is not finite.
    """
    total = len(values) if planned is None else planned
    if total < 1 or len(values) > total:
        raise UserError(f"{len(values)} runs of {total} planned: give at least one run, and no more than planned")
    if any(v is not None and not math.isfinite(v) for v in values):
        raise UserError("the score of a run must be finite: give None for a run without a result")
    padded = [*values, *[None] * (total - len(values))]
    return RunScores(tuple(0.0 if v is None else float(v) for v in padded), sum(v is None for v in padded))


def norm_perf(
    runs: Sequence[Mapping[str, float] | None], reference: Mapping[str, float], *, planned: int | None = None
) -> RunScores:
    """Each run's mean over metrics of score / reference; runs without a result are 0.

    Args:
        runs: The metrics of each run (higher is better); None for a run without a result.
        reference: The withheld method's score for each metric.
        planned: Runs planned, where some are not even listed.

    Raises:
        UserError: a run lacks a metric of the reference, or a reference is not positive.
    """
    if not reference or any(value <= 0 for value in reference.values()):
        raise UserError("normalised performance divides by the reference: it needs at least one metric, all positive")
    ratios: list[float | None] = []
    for number, run in enumerate(runs):
        if run is None:
            ratios.append(None)
            continue
        lacking = [name for name in reference if name not in run]
        if lacking:
            raise UserError(f"run {number} lacks the metric {lacking[0]!r}: give all metrics, or None for the run")
        ratios.append(math.fsum(run[name] / value for name, value in reference.items()) / len(reference))
    return run_scores(ratios, planned=planned)


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric against its baseline."""

    name: str
    value: float
    baseline: float
    change: float
    """Relative to the baseline, positive where better (0.315 is +31.5 %)."""

    def __str__(self) -> str:
        return f"{self.name} {self.change * 100:+.1f} %"


@dataclass(frozen=True, slots=True)
class Improvement:
    """Every metric against its baseline; there is no average."""

    changes: tuple[MetricChange, ...]

    @property
    def improved(self) -> int:
        """Metrics that beat their baseline."""
        return sum(change.change > 0 for change in self.changes)

    @property
    def success(self) -> bool:
        """Whether every metric beats its baseline."""
        return self.improved == len(self.changes)

    def __str__(self) -> str:
        each = ", ".join(map(str, self.changes))
        words = "improved" if self.success else f"{self.improved} of {len(self.changes)} metrics improved"
        return f"{words}: {each}" if self.improved else f"not improved: {each}"


def improvement(
    values: Mapping[str, float], baselines: Mapping[str, float], *, lower_is_better: frozenset[str] = frozenset()
) -> Improvement:
    """Compare each metric with its baseline.

    Raises:
        UserError: the two name different metrics, or a baseline is zero.
    """
    if not values or set(values) != set(baselines):
        odd = sorted(set(values) ^ set(baselines))
        raise UserError(
            f"metrics and baselines must be the same, at least one; only in one of them: {', '.join(odd) or 'none'}"
        )
    if any(value == 0 for value in baselines.values()):
        raise UserError("a relative change needs baselines that are not zero")
    changes = [
        MetricChange(name, value, base, (value - base) / abs(base) * (-1 if name in lower_is_better else 1))
        for (name, value), base in ((item, baselines[item[0]]) for item in values.items())
    ]
    return Improvement(tuple(changes))
