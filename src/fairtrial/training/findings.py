"""What a study of trained models shows beside its verdicts: every condition by arm, and what training cost."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from fairtrial.core.findings import Table
from fairtrial.core.record import Record
from fairtrial.training.trial_settings import ArmSettings


def condition(task: str) -> str:
    """The task without the number of its draw."""
    head, slash, last = task.rpartition("/")
    return head if slash and last.isdigit() else task


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts k8 before k16."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def scores(arms: Sequence[str], records: Sequence[Record], score: str) -> Table:
    """Mean over the draws, the lowest and the highest draw, by arm and condition."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        if score in record.scores:
            found[record.key.arm, condition(record.key.task)].append(record.scores[score])
    order = sorted({name for _, name in found}, key=natural)

    def cell(arm: str, name: str) -> str | None:
        values = found.get((arm, name))
        return f"{sum(values) / len(values):.3f} ({min(values):.2f}-{max(values):.2f})" if values else None

    rows = tuple((arm, *(cell(arm, name) for name in order)) for arm in arms)
    return Table(title=f"{score}: mean (lowest - highest draw)", columns=("arm", *order), rows=rows)


def costs(arms: Mapping[str, ArmSettings], records: Sequence[Record]) -> Table:
    """Size, learning rates that validation chose, and training speed."""
    rows: list[tuple[str | int | None, ...]] = []
    for name, arm in arms.items():
        mine = [record for record in records if record.key.arm == name and "parameters" in record.details]
        rates = sorted({float(record.details["lr"]) for record in mine})
        speeds = sorted(speed for record in mine if (speed := record.details.get("tokens_per_cpu_s")))
        rows.append(
            (
                name,
                arm.pattern,
                int(mine[0].details["parameters"]) if mine else None,
                ", ".join(f"{rate:g}" for rate in rates) or None,
                int(speeds[len(speeds) // 2]) if speeds else None,
            )
        )
    return Table(
        title="What training cost",
        columns=("arm", "layers", "parameters", "rates chosen", "tokens per CPU s"),
        rows=tuple(rows),
    )
