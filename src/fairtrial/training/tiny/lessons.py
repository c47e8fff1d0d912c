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
    """Exchanges the syllables of all names of a lesson, and its relations: the same lesson about another world.

    No name that it gives is one of the evaluation split, whatever names a lesson has.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._vocab, self._names = tokenizer.vocab_size, _Names(tokenizer)
        self._relations = np.asarray(relation_forms(tokenizer))

    def renamed(self, ids: np.ndarray, rng: random.Random) -> np.ndarray:
        """The ids with permutations of syllables and relations drawn from `rng`."""
        begins = self._names.begins(ids)
        names = (begins[:, None] + np.arange(3)).ravel()
        found = self._table(self._relations, rng)[ids]
        found[names] = self._table(self._names.syllables, rng)[ids[names]]
        self._keep_out(found, begins)
        return found

    def _keep_out(self, ids: np.ndarray, begins: np.ndarray) -> None:
        """Give names of the evaluation split another last syllable, the same one wherever they stand."""
        numbers = self._names.numbers[ids[begins[:, None] + np.arange(3)]]
        taken = {tuple(name) for name in numbers.tolist()}
        instead: dict[tuple[int, ...], int] = {}
        for name in sorted(taken):
            if _reserved(name):
                free = ((*name[:2], (name[2] + step) % len(SYLLABLES)) for step in range(1, len(SYLLABLES)))
                other = next(one for one in free if one not in taken and not _reserved(one))
                instead[name] = other[2]
                taken.add(other)
        for at, name in zip(begins.tolist(), map(tuple, numbers.tolist()), strict=True):
            if name in instead:
                ids[at + 2] = self._names.syllables[instead[name], 1]

    def _table(self, forms: np.ndarray, rng: random.Random) -> np.ndarray:
        table = np.arange(self._vocab, dtype=np.int32)
        order = list(range(len(forms)))
        rng.shuffle(order)
        table[forms] = forms[order]
        return table


@cache
def _reserved(name: tuple[int, ...]) -> bool:
    return split_of("".join(SYLLABLES[syllable] for syllable in name)) == "evaluation"
