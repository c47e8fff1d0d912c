"""McNemar's exact test for pairs of single 0/1 trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairtrial.core.errors import UserError


@dataclass(frozen=True, slots=True)
class McNemar:
    """The discordant pairs and the exact two-sided p."""

    only_control: int
    only_arm: int
    p: float


def mcnemar(control: Sequence[float], arm: Sequence[float]) -> McNemar:
    """McNemar's exact test: are the tasks that only one arm solves split evenly?

    Args:
        control: 0 or 1 for each task.
        arm: 0 or 1 for the same tasks in the same order.

    Raises:
        UserError: lengths differ, or a score is neither 0 nor 1.
    """
    if len(control) != len(arm):
        raise UserError(f"McNemar's test pairs tasks: {len(control)} scores of the control, {len(arm)} of the arm")
    if not {*control, *arm} <= {0, 1}:
        raise UserError("McNemar's test is for scores of 0 and 1: use the paired effect for fractional scores")
    only_control = sum(a > b for a, b in zip(control, arm, strict=True))
    only_arm = sum(b > a for a, b in zip(control, arm, strict=True))
    n, few = only_control + only_arm, min(only_control, only_arm)
    tail = sum(math.comb(n, k) for k in range(few + 1))
    return McNemar(only_control, only_arm, min(1.0, 2 * tail / 2**n))
