"""Plain texts of the wiki to learn from and to be scored on: pages, and behind them questions that they answer.

    PAGE
    PAGE
    Question: What is the mayor of Bisuvo?
    Answer: Mupozu Bisomu

Scored as multiple choice is: which of two continuations of "Answer:" is more likely, the right value or one that the
same pages give for something else of the same kind. Names are new in every text, so nothing but the pages says which.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtrial.agents.episode import open_world
from fairtrial.core.errors import UserError
from fairtrial.models.model import Model, Pair
from fairtrial.tasks.worlds.wiki import Wiki
from fairtrial.tasks.worlds.wiki_graph import BY_NAME

ANSWER = "Answer:"


@dataclass(frozen=True, slots=True)
class Text:
    """Pages and questions about them."""

    pages: str
    asked: tuple[tuple[str, str, str], ...]
    """(question up to "Answer:", value, another value of these pages), values with the space before them."""

    @property
    def whole(self) -> str:
        """With the right answers."""
        return self.pages + "".join(f"{question}{value}\n" for question, value, _ in self.asked)


@dataclass(frozen=True, slots=True)
class Heard:
    """How a model scores texts."""

    questions: int
    right: float
    """Share of questions whose right value is the more likely one; chance is .5."""
    bits: float
    """Per byte of the pages."""


def texts(settings: dict[str, Any]) -> list[Text]:
    """A text for each episode of a wiki. Raises UserError for another world."""
    world = open_world({"id": "wiki", **settings}, Path())
    if not isinstance(world, Wiki):
        raise UserError('habits: what reads learns from worlds of the kind "wiki"')
    return [_text(world, index) for index in range(len(world.episodes()))]


def _text(world: Wiki, index: int) -> Text:
    episode = world.episodes()[index]
    rng = random.Random(f"text {episode.info.digest}")  # noqa: S311 - a repeatable order, no secret
    facts = [fact for step in episode.facts["evidence"].values() for fact in step]
    subjects = list(dict.fromkeys(fact["subject"] for fact in facts))
    rng.shuffle(subjects)
    pages = world.pages(episode)
    asked: list[tuple[str, str, str]] = []
    for fact in rng.sample(facts, len(facts)):
        like = {each["value"] for each in facts if _kind(each) == _kind(fact)} - {fact["value"]}
        if like:
            question = f"Question: What is the {fact['relation']} of {fact['subject']}?\n{ANSWER}"
            asked.append((question, f" {fact['value']}", f" {rng.choice(sorted(like))}"))
    return Text("".join(f"{pages[subject]}\n" for subject in subjects), tuple(asked))


def _kind(fact: Mapping[str, str]) -> str | None:
    """Of what it is: a value of another kind would be known by its form."""
    return BY_NAME[fact["relation"]].target


async def hear(model: Model, found: Sequence[Text]) -> Heard:
    """Score the pages, and both values of each question."""
    asked = [(text.pages + question, values) for text in found for question, *values in text.asked]
    scored = await model.score([Pair(context, value) for context, values in asked for value in values])
    right = sum(scored[at].logprob > scored[at + 1].logprob for at in range(0, len(scored), 2))
    pages = await model.score([Pair("", text.pages) for text in found])
    size = sum(len(text.pages.encode()) for text in found)
    return Heard(len(asked), right / len(asked), -sum(one.logprob for one in pages) / math.log(2) / size)
