"""The report's figures as SVG (matplotlib, no display, no script), each returned as text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fairtrial.core.findings import Curves
from fairtrial.studies.result import EffectResult, StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TALLEST = 9
"""Dots in one stack; what is more is not drawn higher."""
INK, MUTED, GRID = "#1c2430", "#6b7685", "#e3e7ec"
COLOURS = {"better": "#1a7f5a", "worse": "#c2413b", "equivalent": "#2f6fb0", "not decided": "#a0730f"}
OUTCOMES = {
    "scored": "#2f6fb0",
    "failed": "#d9822b",
    "errored": "#c2413b",
    "skipped": "#a9b4c0",
    "missing": "#e3e7ec",
}


def forest(result: StudyResult) -> str:
    """Effects against the control: every task as a dot, the estimate as a diamond with its interval."""
    effects = [effect for effect in result.effects if effect.estimate is not None]
    figure, axes = _figure(8.4, 1.0 + 0.95 * len(effects))
    for row, effect in enumerate(reversed(effects)):
        _forest_row(axes, row, effect)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(effects)), [_label(effect.arm) for effect in reversed(effects)], color=INK)
    axes.set_ylim(-0.6, len(effects) - 0.4)
    span = max([abs(value) for effect in effects for value in effect.differences.values()] + [0.05])
    axes.set_xlim(-1.08 * span, 1.08 * span)
    axes.set_xlabel(f"{result.score}: arm minus {_label(result.control)}, per task and on average", color=MUTED)
    return _svg(figure)


def _forest_row(axes: Any, row: int, effect: EffectResult) -> None:
    colour = COLOURS[effect.verdict]
    seen: dict[float, int] = {}
    dots: dict[tuple[float, int], None] = {}
    for value in sorted(effect.differences.values()):
        place = round(value, 2)
        seen[place] = stack = min(seen.get(place, -1) + 1, _TALLEST)
        dots[place, stack] = None
    xs, stacks = [place for place, _ in dots], [stack for _, stack in dots]
    axes.scatter(xs, [row - 0.1 - 0.045 * stack for stack in stacks], s=16, color=colour, alpha=0.45, linewidths=0)
    if effect.ci is not None:
        axes.plot(effect.ci, [row + 0.14] * 2, color=colour, linewidth=3, solid_capstyle="butt")
    axes.plot([effect.estimate], [row + 0.14], marker="D", markersize=8, color=colour, markeredgecolor="white")


def outcome_mix(result: StudyResult) -> str:
    """What became of every planned trial, by arm."""
    arms = list(reversed(result.arms))
    figure, axes = _figure(8.4, 0.9 + 0.42 * len(arms))
    left = [0] * len(arms)
    for outcome, colour in OUTCOMES.items():
        counts = [int(getattr(arm.mix, outcome)) for arm in arms]
        if any(counts):
            axes.barh(range(len(arms)), counts, left=left, color=colour, height=0.62, label=outcome)
            left = [before + count for before, count in zip(left, counts, strict=True)]
    axes.set_yticks(range(len(arms)), [_label(arm.name) for arm in arms], color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trials", color=MUTED)
    axes.legend(ncols=5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9, labelcolor=MUTED)
    return _svg(figure)


def spending(result: StudyResult) -> str:
    """Mean score against working time (and money where any was spent) for each trial, by arm."""
    amounts: list[tuple[str, Sequence[float]]] = [
        (
            "working seconds per trial",
            [arm.working_s / max(1, arm.mix.planned - arm.mix.missing) for arm in result.arms],
        )
    ]
    if any(arm.cost_usd for arm in result.arms):
        amounts.append(("US dollars per trial", [arm.cost_usd / max(1, arm.mix.planned) for arm in result.arms]))
    figure, all_axes = _figure(8.4, 2.9, columns=len(amounts))
    for axes, (label, values) in zip(all_axes if len(amounts) > 1 else [all_axes], amounts, strict=True):
        for arm, value in zip(result.arms, values, strict=True):
            if arm.mean is None:
                continue
            axes.scatter([value], [arm.mean], s=48, color=INK if arm.control else "#2f6fb0", zorder=3)
            axes.annotate(
                _label(arm.name), (value, arm.mean), xytext=(7, 5), textcoords="offset points", fontsize=9, color=MUTED
            )
        axes.set_ylim(-0.06, 1.12)
        axes.set_xlim(left=0, right=1.25 * max([*values, 1e-9]))
        axes.set_xlabel(label, color=MUTED)
        axes.set_ylabel(result.score, color=MUTED)
    return _svg(figure)


_LINES = ("#2f6fb0", "#d9822b", "#1a7f5a", "#c2413b", "#7a56a8", "#a0730f", "#3d8f9c", "#b05c8a", "#6b7685", "#1c2430")


def curves(finding: Curves, *, control: str) -> str:
    """Lines over a common axis; the control's is black."""
    figure, axes = _figure(8.4, 3.6)
    colours = iter(_LINES * (1 + len(finding.series) // len(_LINES)))
    for name, points in finding.series.items():
        colour = INK if name == control else next(colours)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, color=colour, linewidth=1.6, marker="o", markersize=3, label=_label(name))
    axes.set_xlabel(finding.x, color=MUTED)
    axes.set_ylabel(finding.y, color=MUTED)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(frameon=False, fontsize=9, labelcolor=MUTED, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _label(name: str) -> str:
    """A name that fits beside an axis, with nothing that matplotlib reads as mathematics."""
    return (name if len(name) <= 28 else name[:27] + "…").replace("$", r"\$")


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, columns)
    for each in axes if columns > 1 else [axes]:
        for side in ("top", "right", "left"):
            each.spines[side].set_visible(False)
        each.spines["bottom"].set_color(GRID)
        each.tick_params(length=0, labelsize=9.5, colors=MUTED)
        each.grid(axis="x", color=GRID, linewidth=0.8)
        each.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import style

    buffer = io.StringIO()
    with style.context({"svg.fonttype": "none", "svg.hashsalt": "fairtrial", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
