"""Drills: short exercises in looking up, with many questions for each fact; what an episode asks for once.

A small model learns the form of a turn within minutes and looking up a value much later, because few tokens of an
episode teach it. A drill is a conversation in the words of the world: facts are told, then asked for in another order.
Names are drawn as the wiki draws them, so a drill says nothing about any wiki.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.tasks.worlds.wiki_graph import KINDS, RELATIONS, SYLLABLES
from fairtrial.training.tiny.lessons import Lesson
from fairtrial.training.tiny.vocabulary import values


class Drills:
    """Makes drills for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, value_weight: float, seed: int) -> None:
        """`value_weight`: of a token of a name or a number, where others weigh 1."""
        self._tokenizer, self._rng = tokenizer, random.Random(f"drills {seed}")  # noqa: S311 - repeatable, no secret
        self._marks = [tokenizer.special(mark) for mark in ("<|user|>", "<|end|>", "<|agent|>")]
        self._weight = np.ones(tokenizer.vocab_size, np.float32)
        self._weight[sorted(values(tokenizer))] = value_weight

    def draw(self, count: int, most: int) -> Iterator[Lesson]:
        """So many drills, of 1 to `most` subjects each."""
        for _ in range(count):
            kind = self._rng.choice((self._pages, self._pages, self._questions, self._listed))
            yield self._lesson(*kind(self._rng.randint(1, most)))

    def _pages(self, subjects: int) -> tuple[str, str]:
        """Pages; then their facts in another order."""
        facts = [fact for _ in range(subjects) for fact in self._page()]
        asked = self._rng.sample(facts, min(len(facts), 8))
        return " ".join(facts), " ".join(asked)

    def _questions(self, subjects: int) -> tuple[str, str]:
        """Numbered questions; then the same in another order."""
        asked = [f"{at} {self._page()[0].rsplit(' ', 2)[0]} " for at in range(1, subjects + 2)]
        again = [f"I look up {text}?" for text in self._rng.sample(asked, len(asked))]
        return " ".join(f"{text}?" for text in asked), "\n".join(again)

    def _listed(self, subjects: int) -> tuple[str, str]:
        """Facts and numbered questions; then the facts in the order of the questions, and their values alone."""
        facts = [self._page()[0] for _ in range(subjects)]
        keys, gold = [fact.rsplit(" ", 2)[0] for fact in facts], [fact.split()[2] for fact in facts]
        asked = " ".join(f"{at} {key} ?" for at, key in enumerate(keys, 1))
        told = " ".join(f"{at} {fact}" for at, fact in enumerate(facts, 1))
        shuffled = " ".join(self._rng.sample(facts, len(facts)))
        return f"{shuffled}\n{asked}", f"{told}\n<answer>{' ; '.join(gold)}</answer>"

    def _page(self) -> list[str]:
        subject, kind = self._name(), self._rng.choice(KINDS)
        relations: Sequence[str] = [relation.name for relation in RELATIONS[kind] if relation.target]
        numbers: Sequence[str] = [relation.name for relation in RELATIONS[kind] if not relation.target]
        facts = [f"{subject} {relation} {self._name()} ." for relation in relations]
        facts += [f"{subject} {relation} {self._rng.randint(10, 99)} ." for relation in numbers]
        return self._rng.sample(facts, len(facts))

    def _name(self) -> str:
        return "".join(self._rng.choices(SYLLABLES, k=3)).capitalize()

    def _lesson(self, told: str, said: str) -> Lesson:
        user, end, agent = self._marks
        prompt = [user, *self._tokenizer.encode(told), end, agent]
        reply = [*self._tokenizer.encode(said), end]
        ids = np.asarray([*prompt, *reply], np.int32)
        weights = np.zeros(len(ids), np.float32)
        weights[len(prompt) :] = self._weight[ids[len(prompt) :]]
        return Lesson(ids, weights)
