"""The terminal report: the verdicts in words, effects with intervals, arms with one denominator, warnings."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairtrial.core.findings import Table as FindingTable
from fairtrial.studies.report.wording import (
    cell,
    claimed,
    claims_note,
    interval,
    measured,
    method,
    money,
    number,
    p_value,
    promise,
    seconds,
    signed,
)
from fairtrial.studies.result import StudyResult

_STYLE = {"better": "bold green", "worse": "bold red", "equivalent": "bold cyan", "not decided": "bold yellow"}


def open_console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for a table where it is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def print_result(result: StudyResult, page: Path | None) -> None:
    """Print a study's result on standard output."""
    console = open_console()
    console.print()
    console.print(Text(result.title, style="bold"))
    if result.question:
        console.print(Text(result.question, style="dim"))
    console.print()
    for effect in result.effects:
        console.print(Text.assemble((f"{effect.verdict.upper():<12}", _STYLE[effect.verdict]), effect.sentence))
    console.print()
    console.print(_effects(result))
    methods = list(dict.fromkeys(method(e) for e in result.effects if e.ci_method not in ("", "constant")))
    if methods:
        console.print(Text(f"Intervals: {'; '.join(methods)}.", style="dim"))
    console.print()
    console.print(_arms(result))
    if result.claims:
        _claims(console, result)
    for finding in result.findings:
        if isinstance(finding, FindingTable):
            _finding(console, finding)
    if result.mde_before is not None:
        console.print(Text(f"\nBefore the run, the plan promised to find {promise(result)}.", style="dim"))
    if result.published:
        console.print(Text(f"\nPublished ({result.paper}): {result.published}", style="dim"))
    for warning in result.warnings:
        console.print(Text(f"! {warning}", style="yellow"))
    if page is not None:
        console.print(f"\nReport: {page}", soft_wrap=True)


def _effects(result: StudyResult) -> Table:
    percent = f"{100 * result.confidence:g} %"
    table = Table(box=None, header_style="dim", title_style="dim", pad_edge=False)
    for name in (f"arm - {result.control}", "effect", f"{percent} interval", "p", "p (Holm)", "tasks", "blocks", "MDE"):
        table.add_column(name, justify="left" if name.startswith("arm") else "right", no_wrap=True)
    for effect in result.effects:
        table.add_row(
            effect.arm,
            signed(effect.estimate),
            interval(effect.ci, sign=True),
            p_value(effect.p),
            p_value(effect.p_holm),
            str(effect.tasks),
            str(effect.blocks) + (f" (-{effect.dropped})" if effect.dropped else ""),
            number(effect.mde),
        )
    return table


def _arms(result: StudyResult) -> Table:
    """Arms with one denominator; a column that would be empty for every arm is left out."""
    columns: dict[str, list[str]] = {
        "arm": [arm.name + (" (control)" if arm.control else "") for arm in result.arms],
        result.score: [number(arm.mean) for arm in result.arms],
        "interval": [interval(arm.ci) for arm in result.arms],
        "planned": [str(arm.mix.planned) for arm in result.arms],
    }
    for outcome in ("scored", "failed", "errored", "skipped", "missing"):
        counts = [int(getattr(arm.mix, outcome)) for arm in result.arms]
        if any(counts):
            columns[outcome] = [str(count or "-") for count in counts]
    columns["time"] = [seconds(arm.working_s) for arm in result.arms]
    if any(arm.tokens for arm in result.arms):
        columns["tokens"] = [f"{arm.tokens:,}" for arm in result.arms]
    if any(arm.cost_usd for arm in result.arms):
        columns["cost"] = [money(arm.cost_usd) for arm in result.arms]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


_CLAIM_STYLE = {
    "holds": "bold green",
    "does not hold here": "bold red",
    "not decided": "bold yellow",
    "not measured": "dim",
}


def _claims(console: Console, result: StudyResult) -> None:
    """What the paper says, claim by claim."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, ratio in (("claim", 3), ("published", 3), ("measured", 4)):
        table.add_column(name, ratio=ratio)
    table.add_column("verdict", no_wrap=True)
    for claim in result.claims:
        table.add_row(
            Text(f"{claim.text} ({claimed(claim)})"),
            Text(claim.published or "-"),
            Text("\n".join(measured(claim))),
            Text(claim.verdict, style=_CLAIM_STYLE[claim.verdict]),
        )
    console.print(Text("\nWhat the paper says, and what was measured", style="bold"))
    console.print(table)
    console.print(Text(claims_note(result), style="dim"))


def _finding(console: Console, finding: FindingTable) -> None:
    """A table of the kind of trial."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for index, name in enumerate(finding.columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=not index)
    for row in finding.rows:
        table.add_row(*(cell(value) for value in row))
    console.print(Text(f"\n{finding.title}", style="bold"))
    console.print(table)
    if finding.note:
        console.print(Text(finding.note, style="dim"))
