"""What it costs to start: CPU seconds of `fairtrial --help`, of importing fairtrial, and of opening large runs.

usage: python benchmarks/startup.py [--save] [--records 100000]

Each figure is the median of several processes (user + system CPU, as the kernel accounts it). The run directory is made
first with the store's own writer and is not counted; `report` is the whole verb (analysis, statistics, HTML page).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine, save

from fairtrial import Study
from fairtrial.core.record import Record
from fairtrial.core.redact import Redactor
from fairtrial.store import RunDir
from fairtrial.studies.plan import manifest, planned
from fairtrial.studies.study import bind, study_toml

SUMMARY = """
from pathlib import Path
from fairtrial.store import RunDir
with RunDir.open(Path({path!r})) as run:
    assert sum(arm.trials for arm in run.arms()) == len(run) == {records}
"""


def cpu_of(command: list[str], times: int = 7) -> float:
    """Median user + system CPU seconds of a command, over some processes."""
    spent: list[float] = []
    for _ in range(times):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{command} failed with status {status}")
        spent.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(spent)


def large_run(folder: Path, records: int) -> Path:
    """A finished planted run of so many records, written directly."""
    study = Study.model_validate(
        {
            "title": "large",
            "kind": "planted",
            "suite": {"n": records // 4},
            "repeats": 2,
            "arms": {"base": {"control": True}, "more": {"effect": 0.1}},
        }
    )
    bound = bind(study, folder)
    tasks = list(bound.kind.tasks(bound.suite, folder))
    path = folder / "large"
    with RunDir.create(path, manifest(bound, tasks, "now"), study_toml(study), Redactor()) as writer:
        batch: list[Record] = []
        for number, key in enumerate(planned(study, tasks)):
            reward = float((number * 2654435761) % 97 < (40 if key.arm == "base" else 50))
            batch.append(
                Record.model_validate({"key": key, "seed": number, "outcome": "scored", "scores": {"reward": reward}})
            )
            if len(batch) == 6400:
                writer.append_many(batch)
                batch.clear()
        writer.append_many(batch)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--records", type=int, default=100_000)
    options = parser.parse_args()
    python, records = sys.executable, options.records
    with tempfile.TemporaryDirectory() as name:
        path = large_run(Path(name), records)
        rows = [
            ("python -c pass (the bound)", cpu_of([python, "-c", "pass"])),
            ("import fairtrial", cpu_of([python, "-c", "import fairtrial"])),
            ("fairtrial --help", cpu_of([python, "-m", "fairtrial.app.cli", "--help"])),
            (
                f"open and summarise {records:,} records",
                cpu_of([python, "-c", SUMMARY.format(path=str(path), records=records)], 3),
            ),
            (
                f"fairtrial report on {records:,} records",
                cpu_of([python, "-m", "fairtrial.app.cli", "report", str(path)], 3),
            ),
        ]
    lines = ["Starting and opening, CPU seconds (median)", machine(), ""]
    lines += [f"{what:<44}{seconds:>9.2f}" for what, seconds in rows]
    text = "\n".join(lines)
    print(text)
    if options.save:
        print(f"\nsaved: {save('startup', text)}")


if __name__ == "__main__":
    main()
