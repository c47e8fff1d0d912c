"""The verbs run, resume and report."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairtrial.app.cli import print_json
from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.studies.gates import GateResult
    from fairtrial.studies.result import StudyResult
    from fairtrial.studies.runner import Finished
    from fairtrial.studies.study import BoundStudy


@dataclass(frozen=True, slots=True)
class Options:
    """Flags that run and resume share."""

    gates: tuple[str, ...]
    gate_on: str
    max_errored: float
    retry_errored: bool
    report: bool
    quiet: bool
    as_json: bool


def run(study_file: Path, path: Path, overrides: tuple[str, ...], options: Options) -> int:
    """Run a study file into a directory; returns the exit code."""
    from fairtrial.studies.study import bind, load_study

    study, text = load_study(study_file, overrides)
    return _execute(bind(study, base_of(study_file)), path, text, options)


def base_of(study_file: Path) -> Path:
    """The folder that relative paths in a study start from; a study.toml inside a run remembers its own."""
    from fairtrial.store import RunDir

    folder = study_file.resolve().parent
    if study_file.name == "study.toml" and RunDir.exists(folder):
        with RunDir.open(folder) as run:
            return Path(run.manifest["base"])
    return folder


def resume(path: Path, overrides: tuple[str, ...], options: Options) -> int:
    """Continue a run from what its manifest says; returns the exit code."""
    from fairtrial.core.config import parse
    from fairtrial.store import RunDir
    from fairtrial.studies.plan import study_of
    from fairtrial.studies.study import Study, apply_override, bind

    with RunDir.open(path) as opened:
        study, _ = study_of(opened.manifest, path)
        base = Path(opened.manifest["base"])
    if overrides:
        data: dict[str, Any] = study.model_dump(mode="json")
        for override in overrides:
            apply_override(data, override)
        study = parse(Study, data, where="--set")
    return _execute(bind(study, base), path, "", options)


def _execute(bound: BoundStudy, path: Path, text: str, options: Options) -> int:
    _check_gates(bound, options)
    finished = watched(bound, path, text, options.quiet or options.as_json, options.retry_errored)
    if finished is None:
        return 130
    if finished.interrupted:
        sys.stderr.write(f"interrupted; nothing that was done is lost. Continue with: fairtrial resume {path}\n")
        return 130
    return _conclude(path, options, finished)


def watched(bound: BoundStudy, path: Path, text: str, quiet: bool, retry_errored: bool = False) -> Finished | None:
    """Run a study with progress shown; None when it was interrupted before the first trial."""
    from fairtrial.app.progress import LiveProgress
    from fairtrial.studies.runner import execute

    progress = LiveProgress(quiet)
    try:
        with progress.watching():
            return asyncio.run(execute(bound, path, text, progress=progress, retry_errored=retry_errored))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before the first trial; run the same command again\n")
        return None


def _check_gates(bound: BoundStudy, options: Options) -> None:
    """Refuse gates that cannot be read before anything is run."""
    from fairtrial.studies.gates import check_syntax

    if options.gate_on not in ("estimate", "bound"):
        raise UserError(f'--gate-on {options.gate_on!r}: use "estimate" or "bound"')
    for gate in options.gates:
        check_syntax(gate, [*bound.study.arms, "control"])


def report(path: Path, gates: tuple[str, ...], gate_on: str, as_json: bool) -> int:
    """Analyse what a run holds and write its report; returns the exit code."""
    return _conclude(path, Options(gates, gate_on, 1.0, False, True, True, as_json), None)


def _conclude(path: Path, options: Options, finished: Finished | None) -> int:
    from fairtrial.studies.analysis import analyse
    from fairtrial.studies.gates import check_gate

    result = analyse(path)
    page = None
    if options.report:
        from fairtrial.studies.report.html import write_report

        page = write_report(result, path)
    gates = [check_gate(gate, result, "bound" if options.gate_on == "bound" else "estimate") for gate in options.gates]
    if options.as_json:
        print_json(
            {
                **result.model_dump(mode="json"),
                "report": str(page) if page else None,
                "gates": [{"gate": gate.gate, "passed": gate.passed, "reason": gate.reason} for gate in gates],
                "out_of_budget": bool(finished and finished.out_of_budget),
            }
        )
    else:
        from fairtrial.studies.report.terminal import print_result

        print_result(result, page)
    return _exit_code(result, gates, options)


def _exit_code(result: StudyResult, gates: list[GateResult], options: Options) -> int:
    planned = sum(arm.mix.planned for arm in result.arms)
    errored = sum(arm.mix.errored for arm in result.arms)
    if planned and errored / planned > options.max_errored:
        sys.stderr.write(
            f"fairtrial: {errored} of {planned} trials errored, more than --max-errored {options.max_errored:g}; "
            f"see why with: fairtrial show {result.path} --outcome errored; "
            f"try them again with: fairtrial resume {result.path} --retry-errored\n"
        )
        return 3
    for gate in gates:
        sys.stderr.write(f"gate {'holds' if gate.passed else 'FAILED'}: {gate.gate} ({gate.reason})\n")
    return 0 if all(gate.passed for gate in gates) else 1
