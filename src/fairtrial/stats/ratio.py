"""The ratio of two arms' means, paired: what "92 % fewer tokens" is checked with.

The interval comes from the logarithm of the ratio, linearised: a change of the means by (dA, dB) moves log(B / A) by
dB / B - dA / A. Its error is taken over tasks or families, as that of the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fairtrial.stats.intervals import Interval, t_interval
from fairtrial.stats.paired import Effect, clustered_se
from fairtrial.stats.scores import labels


@dataclass(frozen=True, slots=True)
class Ratio:
    """Mean of the arm over mean of the control, over the blocks that both share."""

    estimate: float
    interval: Interval | None
    """Student's t on the logarithm; None with a single task or family."""


def paired_ratio(effect: Effect) -> Ratio | None:
    """The ratio of an effect's two means; None where one of them is not positive, or any task's mean is negative."""
    control, arm = np.asarray(effect.control_means), np.asarray(effect.arm_means)
    if min(effect.control_mean, effect.arm_mean) <= 0 or min(control.min(), arm.min()) < 0:
        return None
    estimate = effect.arm_mean / effect.control_mean
    se, groups = clustered_se(arm / effect.arm_mean - control / effect.control_mean, labels(effect.families))
    if se is None:
        return Ratio(estimate, None)
    raw = t_interval(math.log(estimate), se, groups - 1, effect.confidence)
    return Ratio(estimate, Interval(math.exp(raw.low), math.exp(raw.high), effect.confidence, raw.method))
