"""How figures are written, the same in every report."""

from __future__ import annotations

from collections.abc import Callable

from fairtrial.core.findings import Cell, Estimate
from fairtrial.studies.result import ClaimResult, EffectResult, StudyResult


def promise(result: StudyResult) -> str:
    """What the plan alone could find."""
    return (
        f"differences from about {100 * (result.mde_before or 0):.0f} points on in 80 of 100 studies "
        "(0/1 scores, difficulties as in a hard benchmark)"
    )


_METHODS = {
    "bca": "BCa bootstrap over tasks",
    "t": "Student's t over tasks",
    "constant": "no width: all tasks agree",
    "wilson": "Wilson's score interval",
}


def method(effect: EffectResult) -> str:
    """How an effect's interval was made."""
    text = _METHODS.get(effect.ci_method, effect.ci_method)
    return text if effect.clusters is None else text.replace("tasks", "families of tasks")


def number(value: float | None) -> str:
    """0.123, or a dash where there is none."""
    return "-" if value is None else f"{value:z.3f}"


def signed(value: float | None) -> str:
    """+0.123."""
    return "-" if value is None else f"{value:+z.3f}"


def interval(ci: tuple[float, float] | None, sign: bool = False) -> str:
    """[low, high]."""
    if ci is None:
        return "-"
    return f"[{ci[0]:+z.3f}, {ci[1]:+z.3f}]" if sign else f"[{ci[0]:z.3f}, {ci[1]:z.3f}]"


def p_value(p: float | None) -> str:
    """Two significant digits, never "0"."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def money(usd: float) -> str:
    """US dollars."""
    return f"${usd:.4f}" if 0 < usd < 0.1 else f"${usd:,.2f}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def cell(value: Cell) -> str:
    """A value of a table: whole numbers with thousands separated, others with three significant digits at least."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        ends = "" if value.low is None else f" [{cell(value.low)}, {cell(value.high)}]"
        return cell(value.value) + ends
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 100):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.3f}" if abs(value) < 10 else f"{value:.1f}"


def measured(claim: ClaimResult) -> tuple[str, ...]:
    """What was measured of a claim, line by line."""
    ranges = ", ".join(f"{fact} {low:g} to {high:g}" for fact, (low, high) in claim.where.items())
    what = f"{claim.measure}, {claim.arm} - {claim.against}" + (f" (only {ranges})" if ranges else "")
    if claim.estimate is None:
        return what, "no task with a value in both arms"
    lines = [what, _change(claim.estimate) + _between(claim.ci, _change)]
    if claim.ratio is not None:
        lines.append(f"ratio {_factor(claim.ratio)}{_between(claim.ratio_ci, _factor)}")
    dropped = f", {claim.dropped} blocks dropped" if claim.dropped else ""
    return (*lines, f"p (Holm) {p_value(claim.p_holm)}, {claim.tasks} tasks{dropped}")


def claimed(claim: ClaimResult) -> str:
    """What a claim comes to, as a comparison."""
    if claim.direction == "same":
        return f"the same within {claim.margin:g}"
    return claim.direction + (f" by at least {claim.margin:g}" if claim.margin else "")


def claims_note(result: StudyResult) -> str:
    """How the claims were judged."""
    tested = sum(claim.p is not None for claim in result.claims)
    return (
        f"Differences and ratios of means with {100 * result.confidence:g} % intervals, paired by task and clustered "
        f"like the effects of this study; p adjusted over {tested} measured claims by Holm. A claim holds, or does not "
        "hold here, where both its p and its interval say so; a verdict is about these arms, tasks and models alone. "
        "Failed trials count with what they used until they ended."
    )


def _change(value: float) -> str:
    text = cell(value)
    return text if text.startswith("-") else f"+{text}"


def _factor(value: float) -> str:
    return f"{value:.3g}"


def _between(ci: tuple[float, float] | None, show: Callable[[float], str]) -> str:
    return "" if ci is None else f" [{show(ci[0])}, {show(ci[1])}]"
