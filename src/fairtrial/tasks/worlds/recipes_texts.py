"""Recipes as skills: names that nobody knows, and texts of four lengths that say the same steps.

compact: the steps; standard: when and how to use them; detailed: a worked example too; comprehensive: much beside that
is of no use, as in skills that tell everything about their subject. All from a closed vocabulary.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fairtrial.tasks.worlds.recipes_steps import Domain, State, Step, read_step
from fairtrial.tasks.worlds.world import SkillText

Length = Literal["compact", "standard", "detailed", "comprehensive"]
STEPS_FILE = "references/steps.md"

_ASIDES = (
    "This recipe is an old one and many people like it.",
    "It was written down by hand and then copied many times.",
    "Some people do it in the morning and some people do it in the evening.",
    "There are other recipes with other names and they are told in other places.",
    "The name has no meaning and it was chosen for its sound.",
    "A list can be long or short and the recipe is the same for both.",
    "Good work is calm work so there is no need to hurry.",
    "People who know the recipe well do it without the text.",
    "The text was checked by two readers and both of them were content.",
    "Nobody knows who was the one to try it before all others.",
    "It is told that the recipe was used at sea and in the hills.",
    "In some places the recipe has a song but the song is lost.",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A procedure with an invented name."""

    name: str
    domain: Domain
    steps: tuple[Step, ...]

    @property
    def lines(self) -> list[str]:
        """The numbered steps."""
        return [f"{number}. {step.line}" for number, step in enumerate(self.steps, 1)]


def described(name: str, domain: Domain) -> str:
    """The description: which recipe it is, never what it does."""
    return f"How to do {name} with a list of {'items' if domain == 'codes' else domain}."


def write_skill(
    recipe: Recipe, length: Length, example: tuple[State, Sequence[State]], rng: random.Random, *, in_file: bool
) -> SkillText:
    """The skill that teaches a recipe; `example` is an input and the list after each step."""
    steps = "\n".join([f"Steps of {recipe.name}:", *recipe.lines])
    body = [f"Read {STEPS_FILE} for the steps of {recipe.name}." if in_file else steps]
    if length != "compact":
        body.append(
            f"Use this for {recipe.name} and for nothing else. Begin with the list of the question. Each step works on "
            "the list that the step before it left. The answer is the list after the last step."
        )
        if any(step.asks for step in recipe.steps):
            body.append("To look up an item call the tool lookup with it and put what the item is in its place.")
    if length in ("detailed", "comprehensive"):
        begin, states = example
        trace = [f"{number}. {' '.join(state)}" for number, state in enumerate(states, 1)]
        body.append("\n".join([f"An example of {recipe.name} with {' '.join(begin)} is", *trace]))
    if length == "comprehensive":
        asides = [rng.sample(_ASIDES, 6) for _ in range(6)]
        paragraphs = [" ".join(sentences) for sentences in asides]
        body = [*paragraphs[:3], *body, *paragraphs[3:]]
    files = {STEPS_FILE: steps} if in_file else {}
    return SkillText(recipe.name, described(recipe.name, recipe.domain), "\n\n".join(body), files)


def read_recipe(text: str, name: str) -> tuple[Step, ...] | None:
    """The steps that a text gives for a name, the last time that it gives any; None where it gives none."""
    found: tuple[Step, ...] | None = None
    for match in re.finditer(rf"Steps of {re.escape(name)}:((?:\n\d+\. [^\n]*)+)", text):
        lines = [line.partition(". ")[2] for line in match[1].strip().splitlines()]
        steps = [read_step(line) for line in lines]
        if all(step is not None for step in steps):
            found = tuple(step for step in steps if step is not None)
    return found
