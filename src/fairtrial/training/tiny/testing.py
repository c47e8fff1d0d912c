"""Tests of a `tiny`: whole episodes in worlds that it has never seen, played through the agents' own runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fairtrial.agents.log import Rejected
from fairtrial.core.errors import UserError
from fairtrial.models.model import Model, Sampling
from fairtrial.training.tiny.playing import open_plain, play
from fairtrial.training.tiny.reading import Heard, hear
from fairtrial.training.tiny.reading import texts as read
from fairtrial.training.tiny.recipe import TEST_SEEDS, Recipe


@dataclass(frozen=True, slots=True)
class Cell:
    """One habit in worlds of one kind, played in one way."""

    test: str
    habit: str
    policy: str
    planner: str
    episodes: int
    em: float
    """Share of episodes whose answer is right as a whole."""
    items: float
    """Share of the parts of an answer that are right, where it has several; else as `f1`."""
    unanswered: float
    """Share of episodes that ended without an answer."""
    rejected: float
    """Turns that could not be read, for each episode."""
    turns: float
    """Model calls, for each episode."""


async def test(
    recipe: Recipe,
    models: Callable[[str], Model],
    *,
    episodes: int = 64,
    seed: int = TEST_SEEDS,
    sampling: Sampling | None = None,
) -> list[Cell]:
    """Play `episodes` episodes of each test in each of its habits' ways.

    Args:
        recipe: Its tests and habits.
        models: The player of a habit.
        episodes: Of each.
        seed: At least TEST_SEEDS: no recipe learns from such worlds.
        sampling: None: the most likely token, always.

    Raises:
        UserError: A seed of worlds that may have been learned from, or settings that do not fit.
    """
    _check(seed)
    cells: list[Cell] = []
    for name, wanted in recipe.tests.items():
        world = open_plain({**wanted.world, "n": episodes, "seed": seed, "split": "evaluation"})
        for habit in (recipe.habit(each) for each in wanted.habits):
            for how in habit.plays:
                played = await play(world, how, model=models(habit.name), seed=seed, sampling=sampling)
                logs = [one.log for one in played]
                cells.append(
                    Cell(
                        name,
                        habit.name,
                        how.policy if isinstance(how.policy, str) else how.policy["id"],
                        (how.planner if isinstance(how.planner, str) else how.planner["id"])
                        + (f" {how.skills}" if how.skills != "none" else ""),
                        len(played),
                        sum(one.scores["em"] for one in played) / len(played),
                        sum(one.scores.get("items", one.scores.get("f1", 0.0)) for one in played) / len(played),
                        sum(log.answer is None for log in logs) / len(logs),
                        sum(isinstance(event, Rejected) for log in logs for event in log.events) / len(logs),
                        sum(1 for log in logs for _ in log.calls()) / len(logs),
                    )
                )
    return cells


async def hear_tests(
    recipe: Recipe, models: Callable[[str], Model], *, texts: int = 64, seed: int = TEST_SEEDS
) -> dict[str, Heard]:
    """How habits that do not play score unseen texts, by test. Raises as `test`."""
    _check(seed)
    return {
        name: await hear(models(habit), read({**wanted.world, "n": texts, "seed": seed, "split": "evaluation"}))
        for name, wanted in recipe.tests.items()
        for habit in wanted.habits
        if not recipe.habit(habit).plays
    }


def _check(seed: int) -> None:
    if seed < TEST_SEEDS:
        raise UserError(f"seed: {seed} may be a world that was learned from; take {TEST_SEEDS} or more")


def table(cells: Sequence[Cell], heard: Mapping[str, Heard]) -> str:
    """For people."""
    head = f"{'test':<14} {'habit':<14} {'policy':<14} {'planner':<18} {'n':>4} {'em':>6} {'items':>6}"
    lines = [f"{head} {'none':>6} {'rejected':>8} {'turns':>6}"]
    lines += [
        f"{cell.test:<14} {cell.habit:<14} {cell.policy:<14} {cell.planner:<18} {cell.episodes:>4} {cell.em:>6.3f} "
        f"{cell.items:>6.3f} {cell.unanswered:>6.3f} {cell.rejected:>8.2f} {cell.turns:>6.1f}"
        for cell in cells
    ]
    lines += [
        f"{name}: the right one of two values in {one.right:.3f} of {one.questions} questions, "
        f"{one.bits:.2f} bits per byte"
        for name, one in heard.items()
    ]
    return "\n".join(lines)
