"""Normalised gain g = (B - A) / (1 - A) (Hake), in the two definitions that published tables mix up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairtrial.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Gains:
    """Gains of several configurations; `macro` is their mean, `of_means` the gain of the mean scores."""

    each: tuple[float | None, ...]
    """None where the control is perfect: there was nothing to gain."""
    macro: float | None
    """Over the configurations in which it is defined."""
    of_means: float | None
    undefined: int
    """Configurations left out of `macro` because the control is perfect."""


def normalised_gain(control: float, arm: float) -> float | None:
    """(arm - control) / (1 - control) of mean scores in 0 .. 1; None where the control is perfect."""
    if not (0 <= control <= 1 and 0 <= arm <= 1):
        raise UserError(f"the normalised gain is for scores in 0 .. 1, not {control} and {arm}")
    return None if control == 1 else (arm - control) / (1 - control)


def gains(control: Sequence[float], arm: Sequence[float]) -> Gains:
    """Both definitions over configurations: the mean of the gains, and the gain of the means.

    Args:
        control: Mean score in 0 .. 1 of each configuration without the treatment.
        arm: Of the same configurations in the same order with it.
    """
    if len(control) != len(arm) or not control:
        raise UserError(f"gains pair configurations: {len(control)} scores of the control, {len(arm)} of the arm")
    each = tuple(normalised_gain(a, b) for a, b in zip(control, arm, strict=True))
    defined = [g for g in each if g is not None]
    n = len(control)
    return Gains(
        each=each,
        macro=math.fsum(defined) / len(defined) if defined else None,
        of_means=normalised_gain(math.fsum(control) / n, math.fsum(arm) / n),
        undefined=n - len(defined),
    )
