"""Runs as token sequences with a weight for each token: what the player said is learned, all else is context."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fairtrial.agents.log import Called
from fairtrial.models.native.chat import Chat
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.tasks.worlds.names import SYLLABLES, split_of
from fairtrial.training.tiny.reading import Text
from fairtrial.training.tiny.vocabulary import relation_forms, syllable_pairs, values

_FEW = 8
"""Syllables that names begin with, or go on with, where these are few."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One sequence. Where the turns of a run are told in one context, they are one lesson."""

    ids: np.ndarray
    """int32 [N]."""
    weights: np.ndarray
    """float32 [N]: of predicting each id; 0 for context."""


class Writer:
    """Makes lessons for one tokenizer."""

    def __init__(
        self, tokenizer: Tokenizer, value_weight: float, again_weight: float = 0.0, told_weight: float = 1.0
    ) -> None:
        """Weights of tokens, where others that are said weigh 1 and others that are read 0.

        Args:
            tokenizer: Of the model that is to learn.
            value_weight: Of a name or a number that is said.
            again_weight: Of a name that is read again, which teaches copying before anything else does.
            told_weight: Of the passages of a text.
        """
        self._chat = Chat(tokenizer)
        self._again_weight, self._told_weight = again_weight, told_weight
        self._names = _Names(tokenizer)
        self._start = tokenizer.special("<|doc|>")
        self._weight = np.ones(tokenizer.vocab_size, np.float32)
        self._weight[sorted(values(tokenizer))] = value_weight

    def lessons(self, calls: Iterable[Called]) -> Iterator[Lesson]:
        """The lessons of a run's calls: one whose prompt continues the call before it goes on with the same lesson."""
        ids: list[int] = []
        learned: list[tuple[int, int]] = []
        for called in calls:
            assert called.request.messages is not None
            prompt = self._chat.prompt(called.request.messages, called.request.tools)
            if ids and prompt[: len(ids)] != ids:
                yield self._lesson(ids, learned)
                learned = []
            ids = [*prompt, *self._chat.reply(called.reply.message)]
            learned = [*learned, (len(prompt), len(ids))]
        if ids:
            yield self._lesson(ids, learned)

    def read(self, text: Text) -> Lesson:
        """A text of which all is learned; a value that it gives, as what is said."""
        pieces = [(text.told, False)]
        for question, value, _ in text.asked:
            pieces += [(question, False), (f"{value}\n", True)]
        ids, weights = [self._start], [0.0]
        for piece, said in pieces:
            part = self._chat.tokenizer.encode(piece)
            ids += part
            weights += [float(self._weight[index]) if said else self._told_weight for index in part]
        return Lesson(np.asarray(ids, np.int32), np.asarray(weights, np.float32))

    def _lesson(self, ids: Sequence[int], learned: Iterable[tuple[int, int]]) -> Lesson:
        whole = np.asarray(ids, np.int32)
        weights = np.zeros(len(ids), np.float32)
        if self._again_weight:
            weights[self._again(whole)] = self._again_weight
        for start, end in learned:
            weights[start:end] = self._weight[whole[start:end]]
        return Lesson(whole, weights)

    def _again(self, ids: np.ndarray) -> list[int]:
        """Places of the names that stand earlier in the lesson too."""
        seen: set[tuple[int, ...]] = set()
        found: list[int] = []
        for at in self._names.begins(ids):
            name = tuple(ids[at : at + 3])
            found += range(at, at + 3) if name in seen else ()
            seen.add(name)
        return found


class _Names:
    """Where names stand in ids: three syllables of which the first may be a capital one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.syllables = np.asarray(syllable_pairs(tokenizer))
        """[syllables, 2]: id at the begin of a name with a capital, id elsewhere."""
        every = np.arange(tokenizer.vocab_size)
        self._first, self._inner = (np.isin(every, self.syllables[:, at]) for at in (0, 1))
        self.numbers = np.full(tokenizer.vocab_size, -1)
        """Of each id that spells a syllable, which one; -1 for others."""
        self.numbers[self.syllables] = np.arange(len(self.syllables))[:, None]

    def begins(self, ids: np.ndarray) -> np.ndarray:
        """Places of first syllables. The same ids also spell parts of other words, which are no names."""
        syllable = self._first[ids] | self._inner[ids]
        behind_one = np.concatenate([[False], syllable[:-1]])
        begins = self._first[ids] | (self._inner[ids] & ~behind_one)
        return np.nonzero(begins[:-2] & self._inner[ids[1:-1]] & self._inner[ids[2:]])[0]


class Renamer:
    """Gives a lesson other names and other relations: the same lesson about another world.

    The first syllables of its names come from few in half of the lessons, and so do the second ones. Then many names of
    a lesson begin alike, and which one is meant shows from what stands before it alone; in worlds most names begin like
    no other, so that going by the beginning is mostly right. No name that it gives is one of the evaluation split.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._vocab, self._names = tokenizer.vocab_size, _Names(tokenizer)
        self._relations = np.asarray(relation_forms(tokenizer))

    def renamed(self, ids: np.ndarray, rng: random.Random) -> np.ndarray:
        """The ids with names and a permutation of relations drawn from `rng`; a name is the same wherever it stands."""
        found = self._table(self._relations, rng)[ids]
        places = self._names.begins(ids)[:, None] + np.arange(3)
        old, which = np.unique(self._names.numbers[ids[places]], axis=0, return_inverse=True)
        if len(old):
            new = np.asarray(_drawn(len(old), rng))[which.reshape(-1)]
            capital = self._names.syllables[self._names.numbers[ids[places[:, 0]]], 0] == ids[places[:, 0]]
            found[places] = self._names.syllables[new, 1]
            found[places[capital, 0]] = self._names.syllables[new[capital, 0], 0]
        return found

    def _table(self, forms: np.ndarray, rng: random.Random) -> np.ndarray:
        table = np.arange(self._vocab, dtype=np.int32)
        order = list(range(len(forms)))
        rng.shuffle(order)
        table[forms] = forms[order]
        return table


def _drawn(count: int, rng: random.Random) -> list[tuple[int, int, int]]:
    """So many names that differ, as numbers of syllables."""
    every = range(len(SYLLABLES))
    first, second = (rng.sample(every, rng.choice((_FEW, len(SYLLABLES)))) for _ in range(2))
    names: dict[tuple[int, int, int], None] = {}
    while len(names) < count:
        if not _reserved(name := (rng.choice(first), rng.choice(second), rng.choice(every))):
            names[name] = None
    return list(names)


@cache
def _reserved(name: tuple[int, ...]) -> bool:
    return split_of("".join(SYLLABLES[syllable] for syllable in name)) == "evaluation"
