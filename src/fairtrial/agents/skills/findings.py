"""What a study with skills shows beside its verdicts: who read what, and scores cut as 2602.12670 cuts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairtrial.core.findings import Cell, Finding, Table
from fairtrial.core.record import Record

_LENGTHS = ("compact", "standard", "detailed", "comprehensive")
_WORDS = ((0, 199, "under 200 words"), (200, 499, "200 to 499"), (500, 1499, "500 to 1,499"), (1500, 10**9, "1,500 on"))


@dataclass(frozen=True, slots=True)
class _Row:
    arm: str
    skills: Mapping[str, Any]
    domain: str | None
    scores: Mapping[str, float]


def skill_findings(arms: Sequence[str], score: str, records: Iterable[Record]) -> list[Finding]:
    """Tables over the arms, in their order; none where no arm shows a skill or all tasks fall into one class."""
    rows: list[_Row] = []
    for record in records:
        said = record.details.get("skills")
        if record.key.arm in arms and isinstance(said, dict) and "own" in said:
            domain = record.details.get("world", {}).get("domain") or said["own"].get("domain")
            rows.append(_Row(record.key.arm, said, domain, dict(record.scores)))
    if not any(row.skills["shown"] for row in rows):
        return []
    found: list[Finding] = [_read(arms, rows)]
    cuts: tuple[tuple[str, Callable[[_Row], str | None]], ...] = (
        ("domain", lambda row: row.domain),
        ("number of the task's skills", lambda row: row.skills["own"]["number_class"]),
        ("length of the task's skills", _length),
    )
    for name, label in cuts:
        found += _cut(arms, score, rows, name, label)
    return found


def _read(arms: Sequence[str], rows: Sequence[_Row]) -> Table:
    made: list[tuple[Cell, ...]] = []
    for arm in arms:
        own = [row for row in rows if row.arm == arm]
        if own:
            said = [row.skills for row in own]
            made.append(
                (
                    arm,
                    str(said[0]["arm"]),
                    _mean([len(each["shown"]) for each in said]),
                    _mean([each.get("readable_characters") for each in said]),
                    _mean([each["invoked"] for each in said]),
                    _mean([each["invoked_own"] for each in said]),
                    _mean([row.scores.get("swapped") for row in own]),
                )
            )
    columns = ("arm", "skills", "shown", "characters", "invoked", "of its name", "answers as swapped texts say")
    note = (
        "Invoked: share of trials that read any skill that they had to open; of its name: one that is called like the "
        "task's own (whatever its text says). Empty where nothing had to be opened, or it is not known. The last "
        "column: share of answers that would be right if the swapped texts were the right ones."
    )
    return Table(title="Skills that were shown and read", columns=columns, rows=tuple(made), note=note)


def _cut(
    arms: Sequence[str], score: str, rows: Sequence[_Row], name: str, label: Callable[[_Row], str | None]
) -> list[Finding]:
    """The mean score of each arm in each class of tasks."""
    classes = {given for row in rows if (given := label(row)) is not None}
    if len(classes) < 2:
        return []
    order = [*_LENGTHS, *(words for _, _, words in _WORDS)]
    named = sorted(classes, key=lambda each: (order.index(each) if each in order else -1, each))
    made: list[tuple[Cell, ...]] = []
    for arm in arms:
        own = [row for row in rows if row.arm == arm]
        if own:
            means = [_mean([row.scores.get(score) for row in own if label(row) == each]) for each in named]
            made.append((arm, *means))
    note = "Mean over trials; few tasks in a class say little, and differences between classes are not tested."
    return [Table(title=f"{score} by {name}", columns=("arm", *named), rows=tuple(made), note=note)]


def _length(row: _Row) -> str | None:
    own = row.skills["own"]
    if "length" in own:
        return own["length"]
    return (
        next((name for least, most, name in _WORDS if least <= own["words"] <= most), None) if own["number"] else None
    )


def _mean(values: Sequence[float | None]) -> float | None:
    present = [float(value) for value in values if value is not None]
    return sum(present) / len(present) if present else None
