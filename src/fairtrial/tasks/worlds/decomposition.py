"""Decompositions of a question into steps, in the notation of MuSiQue (2108.00573): `#n` is the answer of step n.

The graph of a decomposition is in these references: a step needs exactly the steps that its question names. What needs
nothing of each other can be looked up at the same time; the levels say how much of that there is at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fairtrial.core.errors import UserError
from fairtrial.tasks.worlds.world import GoldStep

_NUMBER = re.compile(r"#(\d+)")


def named(number: int) -> str:
    """The id of step `number`, from 1."""
    return f"s{number}"


def step(
    number: int, question: str, value: str, *, of: int, page: str | None = None, where: str = "decomposition"
) -> GoldStep:
    """Step `number` (from 1) of `of`, with `#n` of earlier steps as {sn} and as dependencies.

    `#n` with an n that is no step, or the step itself, is text ("the #1 single"). Raises UserError, prefixed with
    `where`, for a later step.
    """
    deps: dict[str, None] = {}

    def reference(found: re.Match[str]) -> str:
        n = int(found[1])
        if number < n <= of:
            raise UserError(f"{where}: step {number} refers to #{n}, which comes later; put the steps in order")
        if not 1 <= n < number:
            return found[0]
        deps[named(n)] = None
        return "{" + named(n) + "}"

    text = _NUMBER.sub(reference, question)
    return GoldStep(named(number), text, value, tuple(deps), page)


def fill(step: GoldStep, values: Mapping[str, str]) -> str:
    """The step's question with the values of its dependencies in place; all other braces are text.

    Raises KeyError where a value is missing.
    """
    if not step.deps:
        return step.question
    places = "|".join(re.escape(dep) for dep in step.deps)
    return re.sub(r"\{(" + places + r")\}", lambda found: values[found[1]], step.question)


def levels(plan: Sequence[GoldStep]) -> tuple[tuple[str, ...], ...]:
    """Ids by the length of the longest chain before them; the plan is in order. (3, 1) steps: a fan into a join."""
    depth: dict[str, int] = {}
    rows: list[list[str]] = []
    for each in plan:
        depth[each.id] = 1 + max((depth[dep] for dep in each.deps), default=-1)
        if depth[each.id] == len(rows):
            rows.append([])
        rows[depth[each.id]].append(each.id)
    return tuple(tuple(row) for row in rows)
