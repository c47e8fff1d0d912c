"""Tests of a `tiny`: whole episodes in worlds that it has never seen, played through the agents' own runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairtrial.agents.log import Rejected
from fairtrial.core.errors import UserError
from fairtrial.models.model import Model, Sampling
from fairtrial.training.tiny.playing import Habit, open_wiki, play
from fairtrial.training.tiny.recipe import TEST_SEEDS


@dataclass(frozen=True, slots=True)
class Cell:
    """One habit in worlds of one kind."""

    habit: str
    world: str
    episodes: int
    em: float
    """Share of episodes whose answer is right as a whole."""
    items: float
    """Share of answers that are right, where an episode has several; else as `f1`."""
    unanswered: float
    """Share of episodes that ended without an answer."""
    rejected: float
    """Turns that could not be read, for each episode."""
    turns: float
    """Model calls, for each episode."""


async def test(
    model: Model,
    habits: Sequence[Habit],
    worlds: Mapping[str, Mapping[str, Any]],
    *,
    episodes: int = 64,
    seed: int = TEST_SEEDS,
    sampling: Sampling | None = None,
) -> list[Cell]:
    """Play `episodes` episodes of each world in each habit.

    Args:
        model: Plays.
        habits: In what ways.
        worlds: Name -> settings of the world "wiki", without n and seed.
        episodes: Of each.
        seed: At least TEST_SEEDS: no recipe learns from such worlds.
        sampling: None: the most likely token, always.

    Raises:
        UserError: A seed of worlds that may have been learned from, or settings that do not fit.
    """
    if seed < TEST_SEEDS:
        raise UserError(f"seed: {seed} may be a world that was learned from; take {TEST_SEEDS} or more")
    cells: list[Cell] = []
    for name, settings in worlds.items():
        world = open_wiki({**settings, "n": episodes, "seed": seed})
        for habit in habits:
            played = await play(world, habit, model=model, seed=seed, sampling=sampling)
            logs = [one.log for one in played]
            cells.append(
                Cell(
                    habit.name,
                    name,
                    len(played),
                    sum(one.scores["em"] for one in played) / len(played),
                    sum(one.scores.get("items", one.scores["f1"]) for one in played) / len(played),
                    sum(log.answer is None for log in logs) / len(logs),
                    sum(isinstance(event, Rejected) for log in logs for event in log.events) / len(logs),
                    sum(1 for log in logs for _ in log.calls()) / len(logs),
                )
            )
    return cells


def table(cells: Sequence[Cell]) -> str:
    """For people."""
    lines = [f"{'world':<24} {'habit':<16} {'n':>4} {'em':>6} {'items':>6} {'none':>6} {'rejected':>8} {'turns':>6}"]
    lines += [
        f"{cell.world:<24} {cell.habit:<16} {cell.episodes:>4} {cell.em:>6.3f} {cell.items:>6.3f} "
        f"{cell.unanswered:>6.3f} {cell.rejected:>8.2f} {cell.turns:>6.1f}"
        for cell in cells
    ]
    return "\n".join(lines)
