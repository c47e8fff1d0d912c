"""A published claim (more, less, or the same within a margin) against a measured effect: holds, or does not, or open.

Each claim leans one way, with one p and one interval; it is decided where that p, adjusted over the claims of a study,
is small and the interval agrees. "More by at least m" is tested against m and not against 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fairtrial.stats.equivalence import tost
from fairtrial.stats.paired import Effect
from fairtrial.stats.permutation import sign_flip
from fairtrial.stats.scores import Rng, labels

Direction = Literal["more", "less", "same"]
ClaimWord = Literal["holds", "does not hold here", "not decided", "not measured"]


@dataclass(frozen=True, slots=True)
class ClaimTest:
    """Which way the data lean, and how sure that is."""

    leans: Literal["holds", "does not hold here"]
    p: float
    """Of what speaks against that: two-sided sign flips about a bound, or two one-sided tests for being within both."""
    clear: bool
    """Whether the interval lies wholly on that side."""

    def word(self, p_adjusted: float, alpha: float) -> ClaimWord:
        """The verdict, with p adjusted over all claims of the study."""
        return self.leans if self.clear and p_adjusted <= alpha else "not decided"


def weigh_claim(
    effect: Effect, direction: Direction, margin: float = 0.0, *, flips: int = 10_000, rng: Rng
) -> ClaimTest:
    """Weigh a claim on an effect.

    more, less: holds where the effect lies beyond `margin` on the claimed side; does not hold where it lies beyond 0 on
    the other side, or is shown to be smaller than the margin. same: holds where it is shown to be smaller than the
    margin; does not where it lies beyond.

    Args:
        effect: Of the arm against the other arm of the claim.
        direction: What is claimed of it.
        margin: In units of the measure; positive where the direction is "same".
        flips: Random sign patterns, where p cannot be exact.
        rng: For the same.
    """
    sign = -1.0 if direction == "less" else 1.0
    size = sign * effect.estimate

    def beyond(bound: float) -> tuple[float, bool]:
        """(p, clear) of lying on the estimate's side of `bound`, in the claim's own sign."""
        p = effect.p
        if bound:
            moved = np.asarray(effect.differences) - sign * bound
            p = sign_flip(moved, labels(effect.families), flips=flips, rng=rng).p
        return p, effect.interval is not None and effect.interval.excludes(sign * bound)

    if direction == "same":
        if abs(size) < margin:
            return ClaimTest("holds", tost(effect, margin, alpha=1 - effect.confidence).p, effect.interval is not None)
        return ClaimTest("does not hold here", *beyond(margin if size > 0 else -margin))
    if size > margin:
        return ClaimTest("holds", *beyond(margin))
    against = ClaimTest("does not hold here", *beyond(0.0)) if size < 0 else None
    if margin and abs(size) < margin:
        within = tost(effect, margin, alpha=1 - effect.confidence).p
        if against is None or not against.clear or within < against.p:
            return ClaimTest("does not hold here", within, effect.interval is not None)
    return against or ClaimTest("does not hold here", 1.0, False)
