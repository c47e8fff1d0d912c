"""Equivalence by two one-sided tests (TOST): is the effect shown to be smaller than a margin, either way?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.stats.intervals import Interval, check_level, t_interval, t_tail
from fairtrial.stats.paired import Effect


@dataclass(frozen=True, slots=True)
class Equivalence:
    """The outcome of two one-sided tests against -margin and +margin."""

    margin: float
    alpha: float
    p: float
    """The larger of the two one-sided p values."""
    interval: Interval | None
    """At confidence 1 - 2 alpha: equivalence holds when it lies within the margins. None with one task or family."""

    @property
    def equivalent(self) -> bool:
        """Whether the effect is shown to be smaller than the margin."""
        return self.p <= self.alpha


def tost(effect: Effect, margin: float, *, alpha: float = 0.05) -> Equivalence:
    """Test whether |effect| < `margin`, paired, over tasks or families.

    Student's t; where all units show the same difference there is no spread to divide by, and the one-sided sign
    test stands in: p = 2^-n, so that two tasks without any difference do not prove equivalence.

    Args:
        effect: What was measured.
        margin: The smallest difference that matters, in units of the score (0.02 for 2 points).
        alpha: Level of each of the two tests.
    """
    check_level(alpha, "alpha")
    if margin <= 0:
        raise UserError(
            f"the equivalence margin must be positive, not {margin}: name the smallest difference that matters"
        )
    if effect.se is None:
        return Equivalence(margin, alpha, 1.0, None)
    freedom, distance = effect.n_clusters - 1, margin - abs(effect.estimate)
    if effect.se <= 1e-12 * max(map(abs, effect.differences), default=0.0) or effect.se == 0:
        p = float(np.exp2(-effect.n_clusters)) if distance > 0 else 1.0
    else:
        p = t_tail(distance / effect.se, freedom)
    return Equivalence(margin, alpha, p, t_interval(effect.estimate, effect.se, freedom, 1 - 2 * alpha))
