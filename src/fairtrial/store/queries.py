"""Questions to the index: everything a summary, a resume or the statistics need, without reading a segment."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fairtrial.core.limits import Usage
from fairtrial.core.record import Outcome
from fairtrial.store.index import indexing, outcome_of


class ScoreRow(NamedTuple):
    """One trial for the statistics; `value` is None where the trial's latest attempt carries no such score."""

    arm: str
    task: str
    repeat: int
    value: float | None
    outcome: Outcome


class Done(NamedTuple):
    """The latest attempt of a trial."""

    attempt: int
    outcome: Outcome


class Place(NamedTuple):
    """Where a record lies."""

    segment: str
    offset: int
    length: int
    line: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the index knows of one attempt."""

    arm: str
    task: str
    repeat: int
    attempt: int
    latest: bool
    outcome: Outcome
    cause: str | None
    usage: Usage
    started: float | None
    """Unix time."""
    wall_s: float
    working_s: float
    waiting_s: float
    place: Place


@dataclass(frozen=True, slots=True)
class Marked:
    """Trials of an arm that share what was noticed and where they ran."""

    arm: str
    flags: tuple[str, ...]
    provenance: dict[str, str]
    trials: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What was spent over all attempts, errored and superseded ones included."""

    attempts: int
    usage: Usage
    wall_s: float
    working_s: float
    waiting_s: float


@dataclass(frozen=True, slots=True)
class Mean:
    """The plain mean of a score over the `n` trials that carry it."""

    n: int
    mean: float


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm. Outcomes and scores are of each trial's latest attempt; attempts and spending are of all attempts."""

    arm: str
    trials: int
    outcomes: dict[Outcome, int]
    scores: dict[str, Mean]
    spent: Totals


_BY_ARM = (
    "SELECT arm, latest, outcome, count(*), sum(calls), sum(input_tokens), sum(output_tokens), sum(cached_tokens),"
    " total(cost_usd), total(wall_s), total(working_s), total(waiting_s)"
    " FROM trials GROUP BY arm, latest, outcome ORDER BY arm"
)
_MEANS = "SELECT arm, score, count(*), avg(value) FROM scores GROUP BY arm, score"
_MEANS_OF_LATEST = (
    "SELECT v.arm, v.score, count(*), avg(v.value) FROM scores v JOIN trials t USING (arm, task, repeat, attempt)"
    " WHERE t.latest GROUP BY v.arm, v.score"
)


def _totals(rows: Iterable[Sequence[Any]]) -> Totals:
    """The sum of groups: count, calls, input, output and cached tokens, dollars, wall, working and waiting seconds."""
    zero: list[Any] = [0] * 5 + [0.0] * 4
    attempts, calls, read, written, cached, cost, wall, working, waiting = map(sum, zip(zero, *rows, strict=True))
    usage = Usage(calls=calls, input_tokens=read, output_tokens=written, cached_tokens=cached, cost_usd=cost)
    return Totals(attempts, usage, wall, working, waiting)


class Queries:
    """Read-only questions over one connection."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self.db, self.path = db, path

    def _all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with indexing(self.path):
            return self.db.execute(sql, values).fetchall()

    def count(self) -> int:
        """Attempts stored."""
        return self._all("SELECT count(*) FROM trials")[0][0]

    def segments(self) -> dict[str, int]:
        """Segment name -> the offset up to which it is indexed."""
        return dict(self._all("SELECT name, indexed FROM segments"))

    def names(self) -> dict[int, str]:
        """Interned id -> name."""
        return dict(self._all("SELECT id, name FROM names"))

    def done(self) -> dict[tuple[str, str, int], Done]:
        """The latest attempt of every trial that has one."""
        name = self.names()
        rows = self._all("SELECT arm, task, repeat, attempt, outcome FROM trials WHERE latest")
        return {
            (name[arm], name[task], repeat): Done(attempt, outcome_of(outcome))
            for arm, task, repeat, attempt, outcome in rows
        }

    def place(self, arm: str, task: str, repeat: int, attempt: int | None) -> tuple[Place, int] | None:
        """Where an attempt lies (None: the latest) and its number, or None where there is none."""
        rows = self._all(
            "SELECT s.name, offset, length, line, attempt FROM trials JOIN segments s ON s.id = segment"
            " WHERE arm = (SELECT id FROM names WHERE name = ?) AND task = (SELECT id FROM names WHERE name = ?)"
            " AND repeat = ? AND CASE WHEN ?4 IS NULL THEN latest ELSE attempt = ?4 END",
            arm,
            task,
            repeat,
            attempt,
        )
        return (Place(*rows[0][:4]), rows[0][4]) if rows else None

    def places(self, *, latest: bool, arm: str | None) -> Iterator[tuple[Place, list[int]]]:
        """Every frame that holds wanted records, oldest first, with the wanted lines."""
        with indexing(self.path):
            cursor = self.db.execute(
                "SELECT s.name, offset, length, line FROM trials JOIN segments s ON s.id = segment"
                " WHERE (?1 = 0 OR latest) AND (?2 IS NULL OR arm = (SELECT id FROM names WHERE name = ?2))"
                " ORDER BY segment, offset, line",
                (int(latest), arm),
            )
            frame: Place | None = None
            lines: list[int] = []
            for segment, offset, length, line in cursor:
                if frame is None or (frame.segment, frame.offset) != (segment, offset):
                    if frame is not None:
                        yield frame, lines
                    frame, lines = Place(segment, offset, length, line), []
                lines.append(line)
            if frame is not None:
                yield frame, lines

    def rows(self, *, latest: bool) -> Iterator[Row]:
        """Every attempt (or every trial's latest), grouped by arm, then task."""
        name = self.names()
        with indexing(self.path):
            segment: dict[int, str] = dict(self.db.execute("SELECT id, name FROM segments"))
            row: tuple[Any, ...]
            for row in self.db.execute("SELECT * FROM trials WHERE ? = 0 OR latest", (int(latest),)):
                calls, read, written, cached, cost = row[7:12]
                yield Row(
                    name[row[0]],
                    name[row[1]],
                    row[2],
                    row[3],
                    bool(row[4]),
                    outcome_of(row[5]),
                    name.get(row[6]),
                    Usage(calls=calls, input_tokens=read, output_tokens=written, cached_tokens=cached, cost_usd=cost),
                    row[12],
                    row[13],
                    row[14],
                    row[15],
                    Place(segment[row[16]], row[17], row[18], row[19]),
                )

    def marks(self) -> Iterator[Marked]:
        """Flags and provenance of the latest attempts, by arm, with the trials that share them."""
        rows = self._all(
            "SELECT a.name, m.name, count(*) FROM trials JOIN names a ON a.id = arm JOIN names m ON m.id = marks"
            " WHERE latest GROUP BY arm, marks"
        )
        for arm, text, count in rows:
            marks = json.loads(text)
            yield Marked(arm, tuple(marks["flags"]), marks["provenance"], count)

    def score_names(self) -> list[str]:
        """The names of all scores that a record carries, sorted."""
        return sorted(
            name
            for (name,) in self._all(
                "SELECT n.name FROM names n WHERE EXISTS (SELECT 1 FROM scores WHERE score = n.id)"
            )
        )

    def score_rows(self, score: str) -> Iterator[ScoreRow]:
        """The latest attempt of every trial, whatever its outcome, with its value of one score."""
        name = self.names()
        with indexing(self.path):
            cursor = self.db.execute(
                "SELECT t.arm, t.task, t.repeat, v.value, t.outcome FROM trials t LEFT JOIN scores v"
                " ON v.score = (SELECT id FROM names WHERE name = ?)"
                " AND v.arm = t.arm AND v.task = t.task AND v.repeat = t.repeat AND v.attempt = t.attempt"
                " WHERE t.latest",
                (score,),
            )
            for arm, task, repeat, value, outcome in cursor:
                yield ScoreRow(name[arm], name[task], repeat, value, outcome_of(outcome))

    def arms(self) -> list[ArmSummary]:
        """A summary of each arm, in the order in which the arms first appeared."""
        name, groups = self.names(), self._all(_BY_ARM)
        scores: dict[int, dict[str, Mean]] = {}
        # looking up every score's trial costs as much as all the rest, and is needed only where something was retried
        retried = any(not latest for _, latest, *_ in groups)
        for arm, score, count, mean in self._all(_MEANS_OF_LATEST if retried else _MEANS):
            scores.setdefault(arm, {})[name[score]] = Mean(count, mean)
        found: list[ArmSummary] = []
        for arm in dict.fromkeys(group[0] for group in groups):
            mine = [group for group in groups if group[0] == arm]
            outcomes = dict.fromkeys(Outcome, 0)
            for _, latest, outcome, count, *_ in mine:
                if latest:
                    outcomes[outcome_of(outcome)] = count
            spent = _totals(group[3:] for group in mine)
            found.append(ArmSummary(name[arm], sum(outcomes.values()), outcomes, scores.get(arm, {}), spent))
        return found

    def totals(self) -> Totals:
        """Spending over all attempts."""
        return _totals(group[3:] for group in self._all(_BY_ARM))
