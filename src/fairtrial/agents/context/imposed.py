"""The nulls of `fold`: the same prompts and folds, but the policy says what to fold; the model only writes the text.

`fold-fixed` consolidates every `period` steps (what AgentFold learned to do in the second run of 2510.24699, table 3,
is close to that: ranges that all start at 0, every 10 to 13 steps). `fold-random` consolidates at random steps over
random ranges, as often on average as in the first run (table 2: 4 of 33 folds). A `fold` that does not beat them
has not shown that its choice of ranges is worth anything.
"""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from fairtrial.agents.context.fold import escaped, read_object
from fairtrial.agents.context.folding import MOTIVATION, Folding, starts
from fairtrial.agents.context.policy import Count
from fairtrial.agents.context.window import PolicySettings
from fairtrial.agents.log import Folded, Log
from fairtrial.agents.planners.planner import RejectedTurn

_RULES = (
    "You see the question, summaries of your earlier steps, and only the latest step in full. In every turn but the "
    "first you are told which steps to fold. Before you act, write\n"
    '<folding>{"summary": "what is known now"}</folding>\n'
    "Your summary replaces these steps and all earlier summaries of them; whatever it does not say is lost.\n"
    f"Then say in <{MOTIVATION}>...</{MOTIVATION}> why you do what you do next, and then act."
)


class _Imposed(Folding):
    """A fold whose JSON needs no range; one that is there must be the imposed one."""

    rules = _RULES

    def _parse(self, inner: str) -> tuple[tuple[int, int] | None, str]:
        wanted = 'write {"summary": "..."} in <folding>'
        directive = read_object(inner, wanted)
        text, span = directive.get("summary"), directive.get("range")
        if not isinstance(text, str):
            raise RejectedTurn("fold-json", f"The fold has no summary: {wanted}.")
        if span is None:
            return None, text
        if not isinstance(span, list) or len(span) != 2 or not all(isinstance(number, int) for number in span):
            raise RejectedTurn("fold-json", f"The range is not needed and cannot be read: {wanted}.")
        return (span[0], span[1]), text

    def _written(self, fold: Folded) -> str:
        return escaped({"summary": fold.text})


class FoldFixedSettings(PolicySettings):
    """Settings of `fold-fixed`."""

    period: int = Field(default=10, ge=1)
    """Steps between two consolidations; 1: each fold consolidates."""
    start: Literal["period", "first"] = "period"
    """What is consolidated: the steps of the period, or all from the first step on."""


class FoldFixed(_Imposed):
    """One block for each step, and every `period` steps one for many."""

    settings_type = FoldFixedSettings

    def __init__(self, settings: FoldFixedSettings, count: Count) -> None:
        super().__init__(settings, count)
        self._settings = settings

    def _range(self, log: Log) -> tuple[int, int] | None:
        last, possible = len(log.steps) - 1, starts(log)
        if (last + 1) % self._settings.period:
            return possible[-1], last
        wanted = 0 if self._settings.start == "first" else last + 1 - self._settings.period
        return max(start for start in possible if start <= max(wanted, possible[0])), last


class FoldRandomSettings(PolicySettings):
    """Settings of `fold-random`."""

    deep: float = Field(default=0.12, ge=0, le=1)
    """Probability that a fold takes in earlier blocks; its start is then any of theirs, all alike."""


class FoldRandom(_Imposed):
    """Ranges drawn from the run's seed and the step."""

    settings_type = FoldRandomSettings

    def __init__(self, settings: FoldRandomSettings, count: Count) -> None:
        super().__init__(settings, count)
        self._settings = settings

    def _range(self, log: Log) -> tuple[int, int] | None:
        last, possible = len(log.steps) - 1, starts(log)
        draw = random.Random(f"fold-random {log.asked.seed} {last}")  # noqa: S311 - a null, not a secret
        if len(possible) > 1 and draw.random() < self._settings.deep:
            return draw.choice(possible[:-1]), last
        return possible[-1], last
