"""ParallelQA (LLMCompiler, 2312.04511): questions whose answer joins two to five independent look-ups.

The data set has no page text, so nothing can be searched: it serves to judge answers, and plans by what they would run
side by side. A plan is given as its dependencies: for each node the nodes that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError
from fairtrial.tasks.worlds.answers import exact_match, numbers, within
from fairtrial.tasks.worlds.questions import read_records

Dependencies = Mapping[str, Sequence[str]]


class ParallelQuestion(Config):
    """One question."""

    id: str
    question: str
    answer: str
    branch: int = Field(ge=1)
    """Things to look up that need nothing of each other."""

    def grade(self, answer: str | None, margin: float = 0.1) -> float:
        """1.0 for a number within the margin of the label (see `within`), or for the label's words; else 0.0."""
        label = self.answer.strip()
        number = numbers(label)
        if len(number) == 1 and not any(letter.isalpha() for letter in label):
            return within(answer, label, margin)
        return exact_match(answer, (self.answer,))


def read_parallelqa(path: Path) -> tuple[ParallelQuestion, ...]:
    """The questions of a file. Raises UserError."""
    found = tuple(
        parse(ParallelQuestion, record, where=f"{path}, question {number}")
        for number, record in enumerate(read_records(path), 1)
    )
    if not found:
        raise UserError(f"{path}: no question in it")
    return found


def width(plan: Dependencies) -> int:
    """How many nodes of a plan can start at once."""
    return sum(not needed for needed in plan.values())


def fits(question: ParallelQuestion, plan: Dependencies) -> bool:
    """Whether a plan starts at least one node for each branch, and joins all that it starts.

    The join may be left to the model (no node needs another), or one of its ends needs all that starts.
    """
    starts = {node for node, needed in plan.items() if not needed}
    if len(starts) < question.branch:
        return False
    if starts == set(plan):
        return True
    needed_by_some = {dep for needed in plan.values() for dep in needed}
    ends = [node for node in plan if node not in needed_by_some]
    return any(starts <= _before(plan, end) | {end} for end in ends)


def _before(plan: Dependencies, node: str) -> set[str]:
    """All nodes that must end before this one."""
    found: set[str] = set()
    waiting = list(plan[node])
    while waiting:
        dep = waiting.pop()
        if dep not in found:
            found.add(dep)
            waiting.extend(plan[dep])
    return found
