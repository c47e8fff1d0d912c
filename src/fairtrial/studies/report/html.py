"""The HTML report: one self-contained file, no script, a strict content policy, figures as embedded SVG."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from fairtrial.studies.report import figures, wording
from fairtrial.studies.result import StudyResult

_FOLDER = Path(__file__).parent
_FILTERS = (
    wording.cell,
    wording.number,
    wording.signed,
    wording.interval,
    wording.p_value,
    wording.money,
    wording.seconds,
    wording.method,
    wording.promise,
    wording.measured,
    wording.claimed,
    wording.claims_note,
)
_POLICY = "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'"
_MATRIX_TASKS = 200
"""More rows than this are left to `fairtrial show` and the Parquet export."""


def write_report(result: StudyResult, run: Path) -> Path:
    """Write `run`/report/index.html (atomically) and return its path."""
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    page, partial = folder / "index.html", folder / f".index.html.{os.getpid()}"
    partial.write_text(render(result), "utf-8")
    partial.replace(page)
    return page


def render(result: StudyResult) -> str:
    """The report as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment: Any = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in _FILTERS:
        environment.filters[function.__name__] = function
    environment.filters["shade"] = shade
    css = (_FOLDER / "report.css").read_text("utf-8")
    style_hash = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        result=result,
        css=css,
        policy=_POLICY.format(style_hash),
        charts=_charts(result),
        matrix=_matrix(result),
        outcomes=[name for name in figures.OUTCOMES if any(getattr(arm.mix, name) for arm in result.arms)],
        spent=any(arm.tokens or arm.cost_usd for arm in result.arms),
        passes=sorted({each.k for arm in result.arms for each in arm.pass_k}),
        treatments=list(dict.fromkeys(name for effect in result.effects for name in effect.sensitivity)),
        facts=sorted({fact for arm in result.arms for fact in arm.facts}),
    )


def shade(value: float | None) -> str:
    """The CSS class of a score between 0 and 1."""
    return "none" if value is None else f"s{round(10 * min(1.0, max(0.0, value)))}"


def _charts(result: StudyResult) -> dict[str, str]:
    charts: dict[str, str] = {}
    if any(effect.estimate is not None for effect in result.effects):
        charts["forest"] = _embedded(figures.forest(result))
    charts["mix"] = _embedded(figures.outcome_mix(result))
    if any(arm.mean is not None for arm in result.arms):
        charts["spending"] = _embedded(figures.spending(result))
    for index, finding in enumerate(result.findings):
        if finding.kind == "curves":
            charts[f"curves {index}"] = _embedded(figures.curves(finding, control=result.control))
    return charts


def _embedded(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _matrix(result: StudyResult) -> dict[str, Any]:
    """Rows of the arms x tasks table, tasks with the widest spread between arms first."""
    tasks = {task for arm in result.arms for task in arm.values}
    rows = [(task, [arm.values.get(task) for arm in result.arms]) for task in tasks]
    rows.sort(key=lambda row: (-_spread(row[1]), row[0]))
    return {"rows": rows[:_MATRIX_TASKS], "left_out": max(0, len(rows) - _MATRIX_TASKS)}


def _spread(values: list[float | None]) -> float:
    present = [value for value in values if value is not None]
    return max(present) - min(present) if present else 0.0
