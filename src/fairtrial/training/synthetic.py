"""Synthetic sequence tasks with one right answer: associative recall, palindromes, stacks.

MQAR follows Arora et al., "Zoology" (arXiv:2312.04927), section 4; palindrome, MQAR and stack are the three tasks of
the Kimi Linear report (arXiv:2510.26692), section 5.1. All data is generated; nothing is read. Needs numpy only.

Axes: B sequences, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fairtrial.core.config import Config

Tokens = NDArray[np.int64]

IGNORED = -100
"""The target of positions that nothing is asked of; the value that cross-entropy losses skip by default."""

GAP_POWER = 0.01
"""Exponent a of the power law (density ~ gap ** (a - 1)) of the places of MQAR's queries, as in Zoology."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences and what must be predicted at each position."""

    tokens: Tokens
    """[B, T]."""
    targets: Tokens
    """[B, T]: the right next token at positions that ask, IGNORED elsewhere."""


class Setting(Config):
    """How long and how hard a sequence is; keys that a task has no use for are refused by `SyntheticTask`."""

    length: int = Field(ge=4, le=1_000_000)
    """Tokens that the model reads."""
    pairs: int | None = Field(default=None, ge=1)
    """mqar: keys that are stored and asked for."""


class SyntheticTask(Config):
    """One synthetic task: what is generated, and at which setting it is tested."""

    task: Literal["mqar", "palindrome", "stack"]
    vocab: int = Field(default=256, ge=4, le=1_000_000)
    """Size of the vocabulary, marks included."""
    length: int = Field(default=64, ge=4, le=1_000_000)
    """Tokens that the model reads when it is tested."""
    pairs: int | None = Field(default=None, ge=1)
    """mqar: keys that are stored and asked for."""
    rewrites: int = Field(default=0, ge=0)
    """mqar: keys that are written a second time with another value before the queries; the later value is right."""
    stacks: int | None = Field(default=None, ge=1)
    """stack: how many stacks there are; 64 unless given, as in the report."""
    train: tuple[Setting, ...] = ()
    """The settings that training draws from, one for each batch; empty: the test's own. Shorter ones help a model to
    start learning; only shorter ones test whether it extrapolates."""

    @model_validator(mode="after")
    def _fits(self) -> SyntheticTask:
        if self.task != "mqar" and (self.pairs is not None or self.rewrites or any(s.pairs for s in self.train)):
            raise ValueError(f'pairs and rewrites belong to task = "mqar", not to "{self.task}"')
        if self.task != "stack" and self.stacks is not None:
            raise ValueError(f'stacks belongs to task = "stack", not to "{self.task}"')
        for setting in (self.test_setting, *self.train):
            self._fits_setting(setting)
        return self

    def _fits_setting(self, setting: Setting) -> None:
        if self.task == "mqar":
            if (pairs := setting.pairs) is None:
                raise ValueError('"pairs" is required for task = "mqar", also in each setting of "train"')
            if pairs > self.vocab // 2:
                raise ValueError(f"pairs = {pairs} needs vocab >= {2 * pairs}: the lower half of it are the keys")
            if self.rewrites > pairs:
                raise ValueError(f"rewrites = {self.rewrites} is more than pairs = {pairs}")
            if (need := 4 * pairs + 2 * self.rewrites) > setting.length:
                raise ValueError(
                    f"pairs = {pairs} with rewrites = {self.rewrites} needs length >= {need} "
                    f"(each key with its value, then each query with one place behind it; got {setting.length})"
                )
        if self.task == "stack" and self.symbols < 2:
            raise ValueError(
                f"stack: vocab = {self.vocab} leaves {self.symbols} symbols beside {self.stack_count} stacks and two "
                "marks; raise vocab or lower stacks"
            )

    @property
    def test_setting(self) -> Setting:
        """The setting at which accuracy is reported."""
        return Setting(length=self.length, pairs=self.pairs)

    @property
    def stack_count(self) -> int:
        """Stacks of the task "stack"."""
        return self.stacks or 64

    @property
    def symbols(self) -> int:
        """Tokens that carry content in the task "stack": what stack names and the two marks leave."""
        return self.vocab - self.stack_count - 2

    def batch(self, rng: np.random.Generator, size: int, setting: Setting | None = None) -> Batch:
        """`size` fresh sequences at `setting` (None: the test's)."""
        chosen = setting or self.test_setting
        if self.task == "mqar":
            assert chosen.pairs is not None
            return mqar(rng, size, chosen.length, chosen.pairs, self.vocab, rewrites=self.rewrites)
        if self.task == "palindrome":
            return palindrome(rng, size, chosen.length, self.vocab)
        return stack(rng, size, chosen.length, self.stack_count, self.symbols)

    def training_batch(self, rng: np.random.Generator, size: int) -> Batch:
        """`size` fresh sequences at a setting drawn from `train`."""
        setting = self.train[int(rng.integers(len(self.train)))] if self.train else None
        return self.batch(rng, size, setting)


def mqar(
    rng: np.random.Generator,
    size: int,
    length: int,
    pairs: int,
    vocab: int,
    *,
    rewrites: int = 0,
    power: float = GAP_POWER,
) -> Batch:
    """Multi-query associative recall: key value key value ..., then each key once more among filler.

    Keys are of the lower half of the vocabulary, values of the upper; each key is stored once (the first `rewrites` of
    them a second time with a fresh value, which is then the right one) and asked for once. The target at a query is its
    value; the value itself is not shown there. A query's place follows a power law, so that most come early. Filler is
    any token that is no key of the sequence, so that no filler can be taken for another pair's key.
    Returns tokens and targets of [size, length]. Source: Zoology, section 4 and appendix (random filler, a = 0.01).
    """
    half, stored = vocab // 2, 2 * (pairs + rewrites)
    keys = np.argsort(rng.random((size, half)), axis=1)
    values = rng.integers(half, vocab, (size, pairs + rewrites))
    written = np.concatenate([keys[:, :pairs], keys[:, :rewrites]], axis=1)
    right = values[:, :pairs].copy()
    right[:, :rewrites] = values[:, pairs:]

    pick = rng.integers(0, vocab - pairs, (size, length))
    unused = np.take_along_axis(keys, np.minimum(pick + pairs, half - 1), axis=1)
    tokens = np.where(pick < half - pairs, unused, pick + pairs)
    tokens[:, 0:stored:2], tokens[:, 1:stored:2] = written, values

    places = (length - stored) // 2
    weight = (power - 1.0) * np.log(np.arange(1, places + 1))
    # The largest of log-weight + Gumbel noise are a weighted draw without replacement.
    noise = weight + rng.gumbel(size=(size, places))
    order = np.argsort(-noise, axis=1)[:, :pairs]
    at = stored + 2 * order
    targets = np.full((size, length), IGNORED, np.int64)
    np.put_along_axis(tokens, at, keys[:, :pairs], axis=1)
    np.put_along_axis(targets, at, right, axis=1)
    return Batch(tokens.astype(np.int64), targets)


def palindrome(rng: np.random.Generator, size: int, length: int, vocab: int) -> Batch:
    """`length // 2` symbols, a mark (the last token of the vocabulary), then the symbols backwards, teacher-forced.

    The targets start at the mark. Returns tokens and targets of [size, 2 * (length // 2)].
    Source: Kimi Linear report, section 5.1.
    """
    count = length // 2
    symbols = rng.integers(0, vocab - 1, (size, count))
    mark = np.full((size, 1), vocab - 1)
    tokens = np.concatenate([symbols, mark, symbols[:, :0:-1]], axis=1)
    targets = np.concatenate([np.full((size, count), IGNORED), symbols[:, ::-1]], axis=1)
    return Batch(tokens.astype(np.int64), targets.astype(np.int64))


def stack(rng: np.random.Generator, size: int, length: int, stacks: int, symbols: int) -> Batch:
    """Operations on last-in-first-out stacks, three tokens each: `push s x`, or `pop s x` with x to be predicted.

    Tokens: symbols first, then stack names, then push, then pop. A pop names a stack that is not empty; half of the
    operations are pops where one is possible. Returns tokens and targets of [size, 3 * (length // 3)].
    Source: Kimi Linear report, section 5.1 (64 stacks).
    """
    operations, rows = length // 3, np.arange(size)
    depth = np.zeros((size, stacks), np.int64)
    content = np.zeros((size, stacks, operations), np.int64)
    tokens = np.empty((size, operations, 3), np.int64)
    targets = np.full((size, operations, 3), IGNORED, np.int64)
    for step in range(operations):
        pop = (rng.random(size) < 0.5) & (depth.sum(axis=1) > 0)
        full = np.where(depth > 0, rng.random((size, stacks)), -1.0).argmax(axis=1)
        name = np.where(pop, full, rng.integers(0, stacks, size))
        depth[rows, name] -= pop
        top = depth[rows, name]
        symbol = np.where(pop, content[rows, name, top], rng.integers(0, symbols, size))
        content[rows, name, top] = symbol
        depth[rows, name] += ~pop
        tokens[:, step] = np.stack([symbols + stacks + pop, symbols + name, symbol], axis=1)
        targets[:, step, 1] = np.where(pop, symbol, IGNORED)
    return Batch(tokens.reshape(size, -1), targets.reshape(size, -1))
