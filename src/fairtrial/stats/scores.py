"""Scores as a study hands them over, and the blocks (task, repeat) that two arms share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairtrial.core.errors import UserError

Array = NDArray[np.float64]
Rng = np.random.Generator | int
"""A generator, or an integer that seeds a fresh one (the same integer gives the same result)."""
Repeats = Sequence[float | None] | NDArray[np.floating] | Mapping[int, float | None]
"""The scores of one task: by repeat, or in the order of the repeats. None: a trial without a score (never a zero)."""
Scores = Mapping[str, Repeats]
"""The scores of one arm by task."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A block that cannot be compared, and whose score is missing."""

    task: str
    repeat: int
    missing: Literal["control", "arm", "both"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """What two arms share: for each task (sorted by id) the scores of the repeats in which both have one."""

    tasks: tuple[str, ...]
    control: tuple[tuple[float, ...], ...]
    arm: tuple[tuple[float, ...], ...]
    dropped: tuple[Dropped, ...]

    @property
    def count(self) -> int:
        """Blocks in which both arms have a score."""
        return sum(len(values) for values in self.control)


def by_repeat(task: str, values: Repeats) -> dict[int, float | None]:
    """The scores of one task as repeat -> score or None. Raises UserError on NaN and infinity."""
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    result: dict[int, float | None] = {}
    for repeat, value in pairs:
        if value is not None and not math.isfinite(value):
            raise UserError(
                f"task {task!r}, repeat {repeat}: the score is {float(value)}; scores are finite numbers, "
                "and a trial without a score is given as None"
            )
        result[int(repeat)] = None if value is None else float(value)
    return result


def pair_blocks(control: Scores, arm: Scores) -> Blocks:
    """Pair two arms block by block; every block that is dropped is listed.

    A block that only one of the two mappings knows counts as missing in the other.
    """
    tasks: list[str] = []
    kept: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
    dropped: list[Dropped] = []
    for task in sorted({*control, *arm}):
        left, right = by_repeat(task, control.get(task, ())), by_repeat(task, arm.get(task, ()))
        pairs: list[tuple[float, float]] = []
        for repeat in sorted({*left, *right}):
            a, b = left.get(repeat), right.get(repeat)
            if a is not None and b is not None:
                pairs.append((a, b))
            else:
                both = a is None and b is None
                dropped.append(Dropped(task, repeat, "both" if both else "control" if a is None else "arm"))
        if pairs:
            tasks.append(task)
            kept[0].append(tuple(a for a, _ in pairs))
            kept[1].append(tuple(b for _, b in pairs))
    return Blocks(tuple(tasks), tuple(kept[0]), tuple(kept[1]), tuple(dropped))


def task_scores(scores: Scores) -> dict[str, tuple[float, ...]]:
    """The scores that exist, by task (sorted); tasks without any are left out."""
    found = {task: tuple(v for v in by_repeat(task, scores[task]).values() if v is not None) for task in sorted(scores)}
    return {task: values for task, values in found.items() if values}


def means(groups: Sequence[Sequence[float]]) -> Array:
    """The mean of each group."""
    return np.array([math.fsum(group) / len(group) for group in groups], dtype=np.float64)


def families(tasks: Sequence[str], clusters: Mapping[str, str] | None) -> tuple[str, ...] | None:
    """The family of each task, or None where no clusters are given. Raises UserError on a task without one."""
    if clusters is None:
        return None
    unknown = [task for task in tasks if task not in clusters]
    if unknown:
        raise UserError(
            f"task {unknown[0]!r} has no family ({len(unknown)} of {len(tasks)}): name one for each task or for none"
        )
    return tuple(clusters[task] for task in tasks)


def labels(names: Sequence[str] | None) -> NDArray[np.intp] | None:
    """Family names as integers 0 .. G-1."""
    return None if names is None else np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)[1]


def group_sums(values: Array, labels: NDArray[np.intp] | None) -> Array:
    """The sum of `values` [N] in each family [G]; the values themselves where there are no families."""
    return values if labels is None else np.bincount(labels, weights=values).astype(np.float64, copy=False)
