"""Adjusted p values for several comparisons: Holm for a family of arms, Benjamini-Hochberg for a screen of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.stats.scores import Array


def _checked(p: Sequence[float]) -> Array:
    values = np.asarray(p, dtype=np.float64)
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UserError("p values must lie between 0 and 1")
    return values


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment: controls the chance of any false alarm; same order as given."""
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty(len(values))
    result[order] = np.minimum(raised, 1.0)
    return tuple(result.tolist())


def benjamini_hochberg(p: Sequence[float]) -> tuple[float, ...]:
    """Benjamini and Hochberg's step-up adjustment: controls the share of false alarms; same order as given."""
    values = _checked(p)
    n = len(values)
    order = np.argsort(values, kind="stable")[::-1]
    lowered = np.minimum.accumulate(values[order] * n / np.arange(n, 0, -1))
    result = np.empty(n)
    result[order] = np.minimum(lowered, 1.0)
    return tuple(result.tolist())
