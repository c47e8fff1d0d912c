"""Studies whose truth is known, to test the statistics and to plan real studies.

Task difficulties follow a Beta law and the effect varies between tasks; both arms are 0/1 trials of the same tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.stats.scores import Array, Rng


@dataclass(frozen=True, slots=True)
class Planted:
    """A population of tasks. The defaults resemble a published agent benchmark: hard, and mostly all or nothing."""

    difficulty: float = 0.34
    """Mean success probability of the control."""
    concentration: float = 0.7
    """Of the Beta law: small values put most tasks near 0 and 1."""
    effect: float = 0.0
    """Mean shift of a task's success probability in the arm, before it is cut to 0 .. 1."""
    effect_sd: float = 0.1
    """How much the shift varies between tasks."""

    def __post_init__(self) -> None:
        """Refuse what is no population."""
        if not 0 < self.difficulty < 1 or self.concentration <= 0 or self.effect_sd < 0:
            raise UserError("a planted study needs difficulty in 0 .. 1, concentration > 0 and effect_sd >= 0")

    def probabilities(self, n_tasks: int, rng: Rng) -> tuple[Array, Array]:
        """Success probabilities (control [N], arm [N]) of tasks drawn from the population."""
        generator = np.random.default_rng(rng)
        shape = self.difficulty * self.concentration, (1 - self.difficulty) * self.concentration
        control = generator.beta(*shape, size=n_tasks)
        arm = np.clip(control + generator.normal(self.effect, self.effect_sd, n_tasks), 0, 1)
        return control, arm if self.effect or self.effect_sd else control

    def draw(self, n_tasks: int, repeats: int, rng: Rng) -> tuple[Array, Array]:
        """One study: 0/1 scores (control [N, K], arm [N, K])."""
        generator = np.random.default_rng(rng)
        control, arm = self.probabilities(n_tasks, generator)
        shape = n_tasks, repeats
        return (
            (generator.random(shape) < control[:, None]).astype(np.float64),
            (generator.random(shape) < arm[:, None]).astype(np.float64),
        )


@cache
def truth(population: Planted) -> tuple[float, float]:
    """The population's true (control mean, effect), by averaging over a million tasks with a fixed seed."""
    control, arm = population.probabilities(1_000_000, 20261121)
    return population.difficulty, float((arm - control).mean())


def as_scores(table: Array) -> dict[str, list[float]]:
    """A table [N, K] as scores by task."""
    return {f"task-{i:05d}": row for i, row in enumerate(table.tolist())}
