"""The verb compare: arms of two runs on the tasks that they share."""

from __future__ import annotations

from pathlib import Path

from fairtrial.app.cli import print_json
from fairtrial.core.errors import UserError


def compare(left: str, right: str, as_json: bool) -> None:
    """Print the paired effect of LEFT against RIGHT, arm by arm."""
    from fairtrial.studies.compare import compare_runs

    (left_path, left_arm), (right_path, right_arm) = _split(left), _split(right)
    result = compare_runs(left_path, left_arm, right_path, right_arm)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    from rich.table import Table

    from fairtrial.studies.report.terminal import open_console
    from fairtrial.studies.report.wording import interval, p_value, signed

    console = open_console()
    for warning in result.warnings:
        console.print(f"! {warning}", style="yellow", markup=False, soft_wrap=True)
    for effect in result.effects:
        console.print(effect.sentence, markup=False, soft_wrap=True)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("left", "right", "left - right", "interval", "p", "p (Holm)", "tasks"):
        table.add_column(name, justify="left" if name in ("left", "right") else "right")
    for effect in result.effects:
        figures = (signed(effect.estimate), interval(effect.ci, sign=True), p_value(effect.p), p_value(effect.p_holm))
        table.add_row(effect.arm, effect.control, *figures, str(effect.tasks))
    console.print()
    console.print(table)


def _split(text: str) -> tuple[Path, str | None]:
    """RUN or RUN:ARM; a folder whose own name has a colon wins."""
    if Path(text).is_dir():
        return Path(text), None
    path, colon, arm = text.rpartition(":")
    if colon and Path(path).is_dir():
        return Path(path), arm
    raise UserError(f"{text}: no such run directory; write RUN or RUN:ARM")
