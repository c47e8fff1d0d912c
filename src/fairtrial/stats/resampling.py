"""Resampling units (tasks, or families of tasks) with replacement, in bounded memory.

Equal units are collapsed first: with 0/1 scores and few repeats there are only a handful of different ones, and one
multinomial draw over these is the same bootstrap as drawing every unit, at a fraction of the work.
Axes: N tasks, U different units, R resamples, C columns of values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairtrial.core.errors import UserError
from fairtrial.stats.intervals import Interval, bca
from fairtrial.stats.scores import Array, Rng, group_sums

_CELLS = 1 << 20
"""Random numbers held at once."""
_MULTINOMIAL_COST = 6
"""One multinomial cell costs about as much as so many gathered ones (measured)."""

Statistic = Callable[[Array, Array], Array]
"""(sums [..., C], sizes [...]) -> statistic [...], where sizes counts tasks."""


@dataclass(frozen=True, slots=True)
class Units:
    """What is resampled, different units only."""

    sums: Array
    """[U, C]: the sum of each column over the tasks of the unit."""
    sizes: Array
    """[U]: tasks in the unit."""
    counts: NDArray[np.intp]
    """[U]: how many units are like this one."""

    @property
    def number(self) -> int:
        """Units in all, equal ones counted."""
        return int(self.counts.sum())

    def totals(self) -> tuple[Array, Array]:
        """(sums [C], size) over all units."""
        return np.asarray(self.counts @ self.sums, dtype=np.float64), np.asarray(
            self.counts @ self.sizes, dtype=np.float64
        )


def collapse(columns: Array, labels: NDArray[np.intp] | None = None) -> Units:
    """Units of `columns` [N, C], one for each task or each label; sorted, so that the order of tasks is irrelevant."""
    if labels is None:
        sums, sizes = columns, np.ones(len(columns))
    else:
        sizes = np.bincount(labels).astype(np.float64)
        sums = np.stack([group_sums(column, labels) for column in columns.T], axis=1)
    scale = np.abs(sums).max(axis=0)
    keys = np.round(sums / np.where(scale > 0, scale, 1), 12)
    _, first, counts = np.unique(np.column_stack([keys, sizes]), axis=0, return_index=True, return_counts=True)
    return Units(sums[first], sizes[first], counts)


def resample(units: Units, resamples: int, rng: Rng) -> tuple[Array, Array]:
    """Draw as many units as there are, with replacement, `resamples` times: (sums [R, C], sizes [R])."""
    if resamples < 100:
        raise UserError(f"{resamples} resamples are too few for an interval: use 1,000 or more")
    generator = np.random.default_rng(rng)
    values = np.column_stack([units.sums, units.sizes])
    if _MULTINOMIAL_COST * len(values) <= units.number:
        drawn = generator.multinomial(units.number, units.counts / units.number, size=resamples) @ values
    else:
        drawn = _gather(np.repeat(values, units.counts, axis=0), resamples, generator)
    return drawn[:, :-1], drawn[:, -1]


def _gather(values: Array, resamples: int, generator: np.random.Generator) -> Array:
    n, width = values.shape
    drawn = np.empty((resamples, width))
    columns = [np.ascontiguousarray(column) for column in values.T]
    rows = max(1, _CELLS // n)
    for start in range(0, resamples, rows):
        chosen = generator.integers(0, n, size=(min(rows, resamples - start), n), dtype=np.int32)
        for i, column in enumerate(columns):
            drawn[start : start + rows, i] = column[chosen].sum(axis=1)
    return drawn


def bca_of(
    statistic: Statistic, units: Units, drawn: tuple[Array, Array], confidence: float, *, widen: bool = True
) -> Interval | None:
    """BCa interval of `statistic` from resamples that were drawn once; None where they cannot give one."""
    sums, size = units.totals()
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(statistic(sums, size))
        draws = statistic(*drawn)
        jackknife = statistic(sums - units.sums, size - units.sizes)
    return bca(estimate, draws, jackknife, units.counts.astype(np.float64), confidence, widen=widen)


def mean_of_first(sums: Array, sizes: Array) -> Array:
    """The statistic "mean over tasks of the first column"."""
    return sums[..., 0] / sizes
