"""Intervals: Student's t, Wilson's score interval for one proportion, and BCa from bootstrap draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.stats.scores import Array

NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and how it was made: bca, t, wilson or constant (all values equal: no width)."""

    low: float
    high: float
    confidence: float
    method: str

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside; the ends belong to the interval, whatever rounding did to them."""
        slack = 1e-9 * self.width
        return value < self.low - slack or value > self.high + slack


def check_level(value: float, what: str = "confidence") -> float:
    """Return a level strictly between 0 and 1, or raise UserError."""
    if not 0 < value < 1:
        raise UserError(f"{what} must lie between 0 and 1, not {value}")
    return value


def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

    return float(stdtrit(freedom, probability))


def t_tail(statistic: float, freedom: float) -> float:
    """P(T >= statistic) of Student's t."""
    from scipy.special import stdtr  # pyright: ignore[reportMissingTypeStubs]

    return float(stdtr(freedom, -statistic))


def t_interval(estimate: float, se: float, freedom: float, confidence: float = 0.95) -> Interval:
    """Student's t interval: estimate -+ t x se."""
    half = t_quantile(0.5 + check_level(confidence) / 2, freedom) * se
    return Interval(estimate - half, estimate + half, confidence, "t")


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of one proportion, `successes` of `n` independent trials (or tasks).

    Raises:
        UserError: n is not positive, or successes lie outside 0 .. n.
    """
    check_level(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise UserError(f"{successes} successes of {n}: a proportion needs n >= 1 and 0 <= successes <= n")
    z, p = NORMAL.inv_cdf(0.5 + confidence / 2), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = centre - half, centre + half
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == n else high, confidence, "wilson")


def bca(
    estimate: float, draws: Array, jackknife: Array, weights: Array, confidence: float = 0.95, *, widen: bool = True
) -> Interval | None:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987).

    The plain interval is too narrow for few units, as if the normal quantile stood where Student's t belongs. With
    `widen` the tails are set from t x sqrt(n / (n - 1)) instead (Hesterberg 2015, "expanded" intervals); for a mean of
    symmetric values it then agrees with Student's t interval.

    Args:
        estimate: The statistic on the data.
        draws: The statistic on each resample.
        jackknife: The statistic with one unit left out.
        weights: How many units each jackknife value stands for.
        confidence: Of the interval.
        widen: Whether to make up for few units; the textbook interval without.

    Returns:
        The interval, or None where the draws cannot give one (not finite, all equal, all on one side).
    """
    check_level(confidence)
    if not (np.isfinite(draws).all() and np.isfinite(jackknife).all()):
        return None
    tie = 1e-10 * float(np.abs(draws - estimate).max())
    below = float(np.mean(draws < estimate - tie) + np.mean(draws <= estimate + tie)) / 2
    centred = np.average(jackknife, weights=weights) - jackknife
    spread = float(np.sum(weights * centred**2))
    if tie == 0 or not 0 < below < 1 or spread == 0:
        return None
    bias = NORMAL.inv_cdf(below)
    acceleration = float(np.sum(weights * centred**3)) / (6 * spread**1.5)
    reach = NORMAL.inv_cdf(0.5 + confidence / 2)
    if widen:
        n = float(weights.sum())
        reach = t_quantile(0.5 + confidence / 2, n - 1) * math.sqrt(n / (n - 1))
    shifted = np.array([bias - reach, bias + reach])
    if np.any(1 - acceleration * shifted <= 0):
        return None
    levels = [NORMAL.cdf(bias + float(z) / (1 - acceleration * float(z))) for z in shifted]
    scale = float(np.abs(draws).max())
    low, high = np.round(np.quantile(draws, levels) / scale, 12) * scale  # an end at zero is zero, not 1e-17
    return Interval(float(low), float(high), confidence, "bca")
