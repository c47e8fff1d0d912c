"""What a study of episodes shows beside its verdicts: what each arm took, what it kept, and how its context grew.

Means over an arm's trials that ran (scored and failed alike), each trial by its last attempt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairtrial.core.findings import Cell, Curves, Estimate, Finding, Table
from fairtrial.core.record import Record
from fairtrial.stats.arms import summarise_arm
from fairtrial.stats.intervals import wilson

_AGES = ((1, 1), (2, 4), (5, 9), (10, 19), (20, 39), (40, 10**9))
"""Ages of facts in steps that make one column."""
_STEPS = 6
"""More numbers of gold steps than this are put together in so many columns."""


@dataclass(slots=True)
class _Arm:
    """What is kept of an arm's records: small, however many there are."""

    details: list[dict[str, Any]] = field(default_factory=list)
    scores: list[tuple[int, str, float]] = field(default_factory=list)
    """(steps of the gold plan, task, score)."""
    right: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """(task, repeat) -> details of trials with a score of 1 or more."""


def findings(arms: Sequence[str], score: str, records: Iterable[Record]) -> list[Finding]:
    """Tables and curves over the arms, in their order; what no arm has anything for is left out."""
    found: dict[str, _Arm] = {name: _Arm() for name in arms}
    for record in records:
        if record.key.arm in found and "turns" in record.details:
            arm = found[record.key.arm]
            arm.details.append(dict(record.details))
            if record.scores.get(score, 0.0) >= 1:
                arm.right[record.key.task, record.key.repeat] = arm.details[-1]
            if score in record.scores:
                arm.scores.append((int(record.details["world"]["steps"]), record.key.task, record.scores[score]))
    found = {name: arm for name, arm in found.items() if arm.details}
    made = [
        _took(found),
        _by_steps(found, score),
        *_costs_by_steps(found),
        _where_both_were_right(found, score),
        _survival(found),
        _by_turn(found, "context", "Tokens of the prompt, by turn", "tokens of the prompt"),
        _by_turn(found, "blocks", "Blocks and steps that the context holds, by turn", "blocks and untold steps"),
        _going(found),
    ]
    return [finding for finding in made if finding is not None]


_TAKEN: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "turns": lambda of: of["turns"],
    "read at once": lambda of: of["valid_turns"],
    "prompt tokens": lambda of: of["tokens"]["prompt"],
    "uncached": lambda of: of["tokens"]["uncached"],
    "output": lambda of: of["tokens"]["output"],
    "last prompt": lambda of: of["final_context"],
    "tool calls": lambda of: of["tools"]["calls"],
    "wasted": lambda of: of["tools"]["wasted"],
    "makespan s": lambda of: of["time"]["makespan_s"],
    "/ critical": lambda of: of["time"]["ratio"],
}


_COUNTED: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    **_TAKEN,
    "largest prompt": lambda of: of["largest_context"],
    "repairs": lambda of: sum(of["rejected"].values()),
    "facts kept": lambda of: _kept(of["survival"]),
}
"""What claims may be about, beside scores and facts."""
_SHAPE = {"steps": "steps", "critical path": "critical_path"}
"""Facts of every world's episodes."""


def measures(facts: Iterable[Mapping[str, Any]], scores: Iterable[str]) -> dict[str, bool]:
    """Names of what a study of episodes measures; True for a number that belongs to the episode.

    Args:
        facts: Of each episode, as its world tells them.
        scores: Names of the world's scores.
    """
    told = {name for each in facts for name, value in each.items() if _is_number(value)}
    return {**dict.fromkeys([*told, *_SHAPE], True), **dict.fromkeys([*_COUNTED, *scores], False)}


def measured(record: Record) -> dict[str, float]:
    """What a record of an episode tells beside its scores, by the names of `measures`."""
    details = record.details
    if "turns" not in details:  # ended by the engine: it tells nothing
        return {}
    world = details["world"]
    found: dict[str, float | None] = {name: value for name, value in world.items() if _is_number(value)}
    found |= {name: world[key] for name, key in _SHAPE.items()}
    found |= {name: count(details) for name, count in _COUNTED.items()}
    return {name: value for name, value in found.items() if value is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kept(survival: Iterable[tuple[int, int, int]]) -> float | None:
    """The share of (fact, turn) pairs in which a fact that was still needed was in the prompt."""
    rows = list(survival)
    needed = sum(row[2] for row in rows)
    return sum(row[1] for row in rows) / needed if needed else None


def _took(found: Mapping[str, _Arm]) -> Table | None:
    if not found:
        return None
    rows: list[tuple[Cell, ...]] = []
    for name, arm in found.items():
        rows.append((name, *(_mean([value(each) for each in arm.details]) for value in _TAKEN.values())))
    whole = [each["world"] for arm in found.values() for each in arm.details if each["world"]["critical_path"]]
    ratio = _mean([_parallel(each) for each in whole])
    parallel = (
        ""
        if ratio is None
        else f" The world's own steps over its critical path: {ratio:.2f}; at 1 no planner can gain."
    )
    counted = sorted({each["tokens"]["counted_by"] for arm in found.values() for each in arm.details})
    note = (
        "Uncached: what a perfect prefix cache would not have held; a shorter context need not lower it. "
        f"/ critical: makespan over critical path. Tokens counted by: {', '.join(counted)}.{parallel}"
    )
    return Table(title="What a trial took, on average", columns=("arm", *_TAKEN), rows=tuple(rows), note=note)


def _by_steps(found: Mapping[str, _Arm], score: str) -> Table | None:
    steps = sorted({steps for arm in found.values() for steps, _, _ in arm.scores})
    if len(steps) < 2 or steps[-1] == 0:
        return None
    groups = _groups(steps)
    rows: list[tuple[Cell, ...]] = []
    for name, arm in found.items():
        cells = [_estimate([(task, value) for at, task, value in arm.scores if at in group]) for group in groups]
        rows.append((name, *cells, _holds_up_to(groups, cells)))
    note = (
        f"95 % intervals over tasks: Wilson's where every task is {score} 0 or 1, else Student's t. Holds up to: going "
        f"up from the fewest steps, the last number before {score} falls below half of what it is there; with "
        f"{steps[-1]} it never does here, with a dash there is nothing to fall from."
    )
    title = f"{score} by steps of the gold plan"
    return Table(title=title, columns=("arm", *_labels(groups), "holds up to"), rows=tuple(rows), note=note)


def _costs_by_steps(found: Mapping[str, _Arm]) -> list[Table]:
    """What runs took by the size of their episodes, with what the world itself would allow beside it."""
    worlds = [each["world"] for arm in found.values() for each in arm.details]
    groups = _groups(sorted({int(world["steps"]) for world in worlds}))
    if len(groups) < 2:
        return []

    def row_of(name: str, of: Sequence[tuple[int, float | None]]) -> tuple[Cell, ...]:
        return (name, *(_mean([value for steps, value in of if steps in group]) for group in groups))

    made: list[Table] = []
    for measure in ("turns", "prompt tokens", "makespan s"):
        rows = [
            row_of(name, [(int(each["world"]["steps"]), _TAKEN[measure](each)) for each in arm.details])
            for name, arm in found.items()
        ]
        if not any(value for row in rows for value in row[1:]):  # no tool of this world takes time
            continue
        note = "Mean over the trials that ran."
        if measure == "makespan s":
            allowed = [(int(world["steps"]), _parallel(world)) for world in worlds]
            rows.append(row_of("steps / critical path", allowed))
            note += " Last row: the world's own steps over its critical path, the most that any planner can gain."
        title = f"{measure[0].upper()}{measure[1:]} by steps of the gold plan"
        made.append(Table(title=title, columns=("arm", *_labels(groups)), rows=tuple(rows), note=note))
    return made


def _where_both_were_right(found: Mapping[str, _Arm], score: str) -> Table | None:
    """What each arm took as a share of what the first one (the control) took, at equal accuracy."""
    if not found:
        return None
    first, *others = found
    shown = ("turns", "prompt tokens", "output", "makespan s")
    rows: list[tuple[Cell, ...]] = []
    for name in others:
        both = sorted(found[name].right.keys() & found[first].right.keys())
        pairs = [(found[name].right[key], found[first].right[key]) for key in both]
        ratios = [_ratio([(_TAKEN[what](a), _TAKEN[what](b)) for a, b in pairs]) for what in shown]
        rows.append((name, len(both), *ratios, _mean([_parallel(a["world"]) for a, _ in pairs])))
    if not any(row[1] for row in rows):
        return None
    note = (
        "Sums over these trials, divided. They are chosen by their outcome, so easy ones are too many among them. Last "
        "column: the world's own steps over its critical path there."
    )
    columns = (f"arm / {first}", "trials", *shown, "steps / critical path")
    title = f"What it took where both were right ({score} 1), as a share of {first}"
    return Table(title=title, columns=columns, rows=tuple(rows), note=note)


def _ratio(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """The first ones' sum over the second ones'; None where one is missing or there is nothing to divide by."""
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    under = sum(b for _, b in known)
    return sum(a for a, _ in known) / under if len(known) == len(pairs) and under else None


def _parallel(world: Mapping[str, Any]) -> float | None:
    return world["steps"] / world["critical_path"] if world["critical_path"] else None


def _groups(steps: Sequence[int]) -> list[Sequence[int]]:
    size = -(-len(steps) // _STEPS) or 1
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def _labels(groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple(f"{group[0]}" if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups)


def _estimate(scored: Sequence[tuple[str, float]]) -> Estimate | None:
    """The mean of the tasks' means with its interval; None without any."""
    by_task: dict[str, list[float]] = {}
    for task, value in scored:
        by_task.setdefault(task, []).append(value)
    if not by_task:
        return None
    summary = summarise_arm(by_task)
    means = [sum(values) / len(values) for values in by_task.values()]
    interval = wilson(sum(means), len(means)) if set(means) <= {0.0, 1.0} else summary.interval
    ends = (interval.low, interval.high) if interval else (None, None)
    return Estimate(value=summary.mean, low=ends[0], high=ends[1])


def _holds_up_to(groups: Sequence[Sequence[int]], cells: Sequence[Estimate | None]) -> int | None:
    """The most steps before the score first falls below half of what it is at the fewest."""
    last, first = None, next((cell.value for cell in cells if cell is not None), 0.0)
    for group, cell in zip(groups, cells, strict=True):
        if cell is None:
            continue
        if not first or cell.value < first / 2:
            break
        last = group[-1]
    return last


def _survival(found: Mapping[str, _Arm]) -> Table | None:
    present: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for name, arm in found.items():
        for each in arm.details:
            for age, here, needed in each["survival"]:
                column = next(i for i, (_, last) in enumerate(_AGES) if age <= last)
                present[name, column][0] += here
                present[name, column][1] += needed
    used = [column for column in range(len(_AGES)) if any((name, column) in present for name in found)]
    if not used:
        return None

    def share(name: str, column: int) -> float | None:
        here, needed = present.get((name, column), (0, 0))
        return here / needed if needed else None

    labels = [f"{a}" if a == b else f"{a} on" if b > 1000 else f"{a} to {b}" for a, b in _AGES]
    return Table(
        title="Facts that are still needed and still in the context, by age in steps",
        columns=("arm", *(labels[column] for column in used)),
        rows=tuple((name, *(share(name, column) for column in used)) for name in found),
        note="Share of (fact, turn) pairs in which the fact's text is in the prompt.",
    )


def _by_turn(found: Mapping[str, _Arm], key: str, title: str, y: str) -> Curves | None:
    series: dict[str, tuple[tuple[float, float], ...]] = {}
    for name, arm in found.items():
        runs = [each[key] for each in arm.details if each[key]]
        lasting = len(runs) / 2
        points: list[tuple[float, float]] = []
        for turn in range(max(map(len, runs), default=0)):
            alive = [run[turn] for run in runs if len(run) > turn]
            if len(alive) < lasting:
                break
            points.append((turn + 1, sum(alive) / len(alive)))
        if len(points) > 1:
            series[name] = tuple(points)
    if not series:
        return None
    note = "Mean over the runs that are still going, as long as at least half of the arm's runs are."
    return Curves(title=title, x="turn", y=y, series=series, note=note)


def _going(found: Mapping[str, _Arm]) -> Curves | None:
    """How many runs the curves over turns are means of: a run that has ended is in none of their later points."""
    series: dict[str, tuple[tuple[float, float], ...]] = {}
    for name, arm in found.items():
        lengths = [len(each["context"]) for each in arm.details]
        last = max(lengths, default=0)
        if last > 1:
            series[name] = tuple((turn, sum(length >= turn for length in lengths)) for turn in range(1, last + 1))
    if not series:
        return None
    note = "The means over turns are of these runs; the last ones to go on may be the hard ones."
    return Curves(title="Runs that are still going, by turn", x="turn", y="runs", series=series, note=note)


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
