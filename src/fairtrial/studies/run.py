"""Run: an opened run directory in Python, from records to effects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fairtrial.core.errors import UserError
from fairtrial.core.record import Record
from fairtrial.core.trajectory import Trajectory
from fairtrial.store import RunDir, export_jsonl, export_parquet
from fairtrial.studies.result import EffectResult, StudyResult


class Run:
    """What a study left in its directory. Read-only; works while a driver still writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._run = RunDir.open(self.path)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory."""
        self._run.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self._run)} records)"

    def records(self, arm: str | None = None, outcome: str | None = None) -> Iterator[Record]:
        """The last attempt of each trial."""
        for record in self._run.records(latest=True, arm=arm):
            if outcome is None or record.outcome == outcome:
                yield record

    def trajectories(self, arm: str | None = None, outcome: str | None = None) -> Iterator[Trajectory]:
        """The trajectories of the last attempts that have one."""
        return (record.trajectory for record in self.records(arm, outcome) if record.trajectory is not None)

    def result(self) -> StudyResult:
        """The analysis: arms, effects, verdicts, warnings."""
        from fairtrial.studies.analysis import analyse

        return analyse(self.path)

    def effect(self, arm: str) -> EffectResult:
        """The effect of one arm against the control; prints as a sentence."""
        return self.result().effect(arm)

    def report(self) -> Path:
        """Write report/index.html and return its path."""
        from fairtrial.studies.report.html import write_report

        return write_report(self.result(), self.path)

    def export(self, out: str | Path) -> int:
        """Write the records as .parquet (scalars) or .jsonl (whole records); returns how many."""
        writers = {".parquet": export_parquet, ".jsonl": export_jsonl}
        target = Path(out)
        if target.suffix not in writers:
            raise UserError(f"{target}: end the name in .parquet (scalars, for analysis) or .jsonl (whole records)")
        return writers[target.suffix](self.path, target)
