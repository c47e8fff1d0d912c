"""Plain texts of the wiki to learn from and to be scored on: passages, and behind them questions that they answer.

    PASSAGE
    PASSAGE
    Question: What is the mayor of Bisuvo?
    Answer: Mupozu Bisomu

A passage is a page of which some sentences are left out: in some texts nearly all that nobody asks for, in others
hardly any, so that finding a fact can be learned where there are few.

Scored as multiple choice is: which of two continuations of "Answer:" is more likely, the right value or one that the
same passages give for something else of the same kind. Names are new in every text, so nothing else says which.
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
from fairtrial.tasks.worlds.wiki_pages import SENTENCE

ANSWER = "Answer:"


@dataclass(frozen=True, slots=True)
class Text:
    """Passages and questions about them."""

    told: str
    asked: tuple[tuple[str, str, str | None], ...]
    """(question up to "Answer:", value, another value that is told if there is one), values with the space before."""

    @property
    def whole(self) -> str:
        """With the right answers."""
        return self.told + "".join(f"{question}{value}\n" for question, value, _ in self.asked)


@dataclass(frozen=True, slots=True)
class Heard:
    """How a model scores texts."""

    questions: int
    right: float
    """Share of questions whose right value is the more likely one; chance is .5."""
    bits: float
    """Per byte of what is told."""


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
    pages, share = world.pages(episode), rng.random() ** 3
    wanted = {(fact["subject"], fact["relation"]) for fact in facts}
    told = [
        " ".join(
            sentence
            for sentence in SENTENCE.split(pages[subject])
            if any(f" {relation} of {of} " in sentence for of, relation in wanted) or rng.random() < share
        )
        for subject in subjects
    ]
    asked: list[tuple[str, str, str | None]] = []
    for fact in rng.sample(facts, len(facts)):
        like = {each["value"] for each in facts if _kind(each) == _kind(fact)} - {fact["value"]}
        question = f"Question: What is the {fact['relation']} of {fact['subject']}?\n{ANSWER}"
        asked.append((question, f" {fact['value']}", f" {rng.choice(sorted(like))}" if like else None))
    return Text("".join(f"{passage}\n" for passage in told), tuple(asked))


def _kind(fact: Mapping[str, str]) -> str | None:
    """Of what it is: a value of another kind would be known by its form."""
    return BY_NAME[fact["relation"]].target


async def hear(model: Model, found: Sequence[Text]) -> Heard:
    """Score what is told, and both values of each question."""
    asked = [(text.told + asks, (value, other)) for text in found for asks, value, other in text.asked if other]
    scored = await model.score([Pair(context, value) for context, values in asked for value in values])
    right = sum(scored[at].logprob > scored[at + 1].logprob for at in range(0, len(scored), 2))
    told = await model.score([Pair("", text.told) for text in found])
    size = sum(len(text.told.encode()) for text in found)
    return Heard(len(asked), right / len(asked), -sum(one.logprob for one in told) / math.log(2) / size)
