"""Power of a paired comparison: how small an effect a study can see, and how many tasks it takes to see one.

The spread is the standard deviation of the per-task differences of means: assumed, computed by `planning_sd`, or
observed (`Effect.task_sd`).
"""

from __future__ import annotations

import math

from fairtrial.core.errors import UserError
from fairtrial.stats.intervals import NORMAL, check_level


def bernoulli_variance(mean: float, concentration: float) -> float:
    """The expected variance E[p (1 - p)] of one 0/1 trial where task difficulties are Beta(mean, concentration)."""
    if not 0 <= mean <= 1 or concentration <= 0:
        raise UserError(f"difficulties need a mean in 0 .. 1 and a positive concentration, not {mean}, {concentration}")
    return mean * (1 - mean) * concentration / (concentration + 1)


def planning_sd(
    effect_sd: float,
    *,
    control_variance: float,
    arm_variance: float | None = None,
    control_repeats: int = 1,
    arm_repeats: int | None = None,
) -> float:
    """The standard deviation of per-task differences to expect: sqrt(omega^2 + s_A^2 / K_A + s_B^2 / K_B).

    Args:
        effect_sd: omega, how much the true effect varies between tasks.
        control_variance: s_A^2, the variance of one trial of a task (`bernoulli_variance` for 0/1 scores).
        arm_variance: s_B^2; the control's where not given.
        control_repeats: K_A.
        arm_repeats: K_B; the control's where not given.
    """
    other = control_variance if arm_variance is None else arm_variance
    repeats = control_repeats if arm_repeats is None else arm_repeats
    if min(control_repeats, repeats) < 1 or min(effect_sd, control_variance, other) < 0:
        raise UserError("planning needs at least one repeat an arm, and spreads that are not negative")
    return math.sqrt(effect_sd**2 + control_variance / control_repeats + other / repeats)


def mde(n_tasks: int, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The minimum detectable effect: found with probability `power` by a two-sided test at `alpha`."""
    if n_tasks < 1 or sd < 0:
        raise UserError(f"the detectable effect needs at least one task and a spread >= 0, not {n_tasks} and {sd}")
    return _z_sum(alpha, power) * sd / math.sqrt(n_tasks)


def tasks_needed(delta: float, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Tasks for a two-sided test at `alpha` to find a mean difference of `delta` with probability `power`.

    Never fewer than the sign-flip test needs to reach `alpha` at all (5 tasks for 0.05).
    """
    if delta == 0 or not math.isfinite(delta):
        raise UserError("no number of tasks finds a difference of zero: name the smallest difference that matters")
    if sd < 0:
        raise UserError(f"the spread of differences cannot be negative: {sd}")
    least = math.ceil(-math.log2(check_level(alpha, "alpha")))
    return max(least, math.ceil((_z_sum(alpha, power) * sd / delta) ** 2 - 1e-9))


def achieved_power(delta: float, n_tasks: int, sd: float, *, alpha: float = 0.05) -> float:
    """The probability that a two-sided test at `alpha` finds a true mean difference of `delta`."""
    check_level(alpha, "alpha")
    if n_tasks < 1 or sd <= 0:
        raise UserError(f"power needs at least one task and a positive spread, not {n_tasks} and {sd}")
    z, shift = NORMAL.inv_cdf(1 - alpha / 2), abs(delta) * math.sqrt(n_tasks) / sd
    return NORMAL.cdf(shift - z) + NORMAL.cdf(-shift - z)


def _z_sum(alpha: float, power: float) -> float:
    check_level(alpha, "alpha")
    check_level(power, "power")
    return NORMAL.inv_cdf(1 - alpha / 2) + NORMAL.inv_cdf(power)
