"""Run a study of trained models and print the scores by arm and condition, with their range over the draws.

usage: python benchmarks/training_recipe.py recipes/dsa.toml --run runs/dsa [--set KEY=VALUE ...] [--save]

Runs (or resumes) the study as `fairtrial run` does, then prints from its records: the mean over the draws, the lowest
and the highest draw, the verdicts against the control, and what training cost. Saved as <name of the recipe>-recipe.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from machine import machine, save

from fairtrial.core.record import Record
from fairtrial.store import RunDir
from fairtrial.studies.analysis import analyse
from fairtrial.studies.result import StudyResult


def condition(task: str) -> str:
    """The task without the number of its draw."""
    head, slash, last = task.rpartition("/")
    return head if slash and last.isdigit() else task


def score_lines(result: StudyResult, records: list[Record]) -> list[str]:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    conditions: dict[str, None] = {}
    for record in records:
        if result.score in record.scores:
            name = condition(record.key.task)
            conditions[name] = None
            found[record.key.arm, name].append(record.scores[result.score])
    order = sorted(conditions, key=natural)
    width = max(len(arm.name) for arm in result.arms) + 2
    cell = max(19, *(len(name) + 2 for name in order))
    lines = [f"{result.score}: mean (lowest - highest draw)", "", " " * width + "".join(f"{n:>{cell}}" for n in order)]
    for arm in result.arms:
        row = f"{arm.name:<{width}}"
        for name in order:
            values = found.get((arm.name, name), [])
            text = f"{sum(values) / len(values):.3f} ({min(values):.2f}-{max(values):.2f})" if values else "-"
            row += f"{text:>{cell}}"
        lines.append(row)
    return lines


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts k8 before k16."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def cost_lines(result: StudyResult, records: list[Record]) -> list[str]:
    lines = ["", f"{'arm':<22}{'layers':<12}{'parameters':>12}{'rates chosen':>16}{'tokens per CPU s':>18}"]
    for arm in result.arms:
        mine = [record for record in records if record.key.arm == arm.name and "parameters" in record.details]
        if not mine:
            continue
        rates = sorted({f"{record.details['lr']:g}" for record in mine})
        speeds = sorted(s for record in mine if (s := record.details.get("tokens_per_cpu_s")))
        speed = f"{speeds[len(speeds) // 2]:,}" if speeds else "-"
        parameters = f"{mine[0].details['parameters']:,}"
        lines.append(
            f"{arm.name:<22}{arm.facts.get('layers', ''):<12}{parameters:>12}{', '.join(rates):>16}{speed:>18}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="the run directory, made or resumed")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--only-report", action="store_true", help="of what the run directory holds already")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if not options.only_report:
        command = [
            str(Path(sys.executable).parent / "fairtrial"),
            "run",
            str(options.recipe),
            "--out",
            str(options.run),
        ]
        for override in options.overrides:
            command += ["--set", override]
        done = subprocess.run(command, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(done.returncode)
    result = analyse(options.run)
    with RunDir.open(options.run) as run:
        records = list(run.records())
    planned = sum(arm.mix.planned for arm in result.arms)
    lines = [
        result.title, f"{options.recipe.name}: {len(records)} of {planned} trials"
        + ("" if result.complete else " (NOT FINISHED: figures may change)"), "",
        *score_lines(result, records), "", f"against {result.control}:",
        *(f"- {effect.sentence}" for effect in result.effects), *cost_lines(result, records),
        "", f"published ({result.paper}): {result.published}", "", machine(),
    ]  # fmt: skip
    text = "\n".join(lines)
    print(text)
    if options.save:
        print(f"saved: {save(f'{options.recipe.stem}-recipe', text)}")


if __name__ == "__main__":
    main()
