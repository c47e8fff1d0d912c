"""The verb calibrate: the control against itself for real, then rates over simulated studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fairtrial.app.cli import print_json
from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.studies.calibrate import Calibration
    from fairtrial.studies.study import CalibrationSpec


def calibrate(
    source: Path, out: Path | None, studies: int, overrides: tuple[str, ...], quiet: bool, as_json: bool
) -> None:
    """Run the A-against-A study of a study file, or take a run directory as it is, and print rates."""
    from fairtrial.studies.calibration_run import calibration_of

    if source.is_dir():
        if overrides or out:
            raise UserError(f"{source} is a run directory: --set and --out go with a study file")
        path = source
        spec = None
    else:
        path = out or Path("runs") / f"{source.stem}-calibration"
        spec = _run_twins(source, path, overrides, quiet or as_json)
    found = calibration_of(path, studies, spec)
    if as_json:
        print_json({"path": str(path), **found.model_dump(mode="json")})
    else:
        _print(found, path)


def _run_twins(source: Path, path: Path, overrides: tuple[str, ...], quiet: bool) -> CalibrationSpec:
    from fairtrial.app.running import base_of, watched
    from fairtrial.studies.calibrate import twin_study
    from fairtrial.studies.study import bind, load_study, study_toml

    study, _ = load_study(source, overrides)
    twins = twin_study(study)
    finished = watched(bind(twins, base_of(source)), path, study_toml(twins), quiet)
    if finished is None or finished.interrupted:
        sys.stderr.write("interrupted; run the same command again to continue\n")
        raise SystemExit(130)
    return twins.calibration


def _print(found: Calibration, path: Path) -> None:
    from rich.table import Table

    from fairtrial.studies.report.terminal import open_console
    from fairtrial.studies.report.wording import signed

    console = open_console()
    named, whose = (f" ({found.arm})", f"the scores of {found.arm}") if found.arm else ("", "the control's own scores")
    console.print(
        f"A against A{named}, run for real ({path}): {found.blocks} paired blocks, "
        f"{found.disagreements} in which two identical arms scored differently",
        markup=False,
        soft_wrap=True,
    )
    if found.real_p is not None:
        console.print(f"  estimate {signed(found.real_estimate)}, p = {found.real_p:.3f}", markup=False)
    console.print(
        f"\nSimulated from {whose}: {found.studies} studies of {found.tasks} tasks x {found.repeats} repeats for each "
        f"line, alpha {found.alpha:.2g}",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("planted", "achieved", "found", "95 % interval", "interval covers", "reads as"):
        table.add_column(name, justify="left" if name == "reads as" else "right")
    for rate in found.rates:
        table.add_row(
            f"{rate.planted:+z.2f}",
            signed(rate.achieved),
            f"{100 * rate.found:.1f} %",
            f"[{100 * rate.found_ci[0]:.1f}, {100 * rate.found_ci[1]:.1f}]",
            f"{100 * rate.covered:.1f} %",
            "false positives" if rate.planted == 0 else "power",
        )
    console.print(table)
    for note in found.notes:
        console.print(f"! {note}", style="yellow", markup=False, soft_wrap=True)
