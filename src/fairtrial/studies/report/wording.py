"""How figures are written, the same in every report."""

from __future__ import annotations

from fairtrial.core.findings import Cell
from fairtrial.studies.result import EffectResult, StudyResult


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
    return "-" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """+0.123."""
    return "-" if value is None else f"{value:+.3f}"


def interval(ci: tuple[float, float] | None, sign: bool = False) -> str:
    """[low, high]."""
    if ci is None:
        return "-"
    return f"[{ci[0]:+.3f}, {ci[1]:+.3f}]" if sign else f"[{ci[0]:.3f}, {ci[1]:.3f}]"


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
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 100):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
