"""Packed batches from a mixture of sources: exact shares, no leakage across documents, a position of few integers.

Every (token -> next token) pair of a document is predicted exactly once in an epoch. A batch is one row of pieces of
documents with their borders (`cu_seqlens`); a piece never continues another in the same batch's memory, so nothing is
seen across a border. Everything is a function of the seed and the position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairtrial.core.errors import UserError
from fairtrial.training.corpus import Corpus


@dataclass(frozen=True, slots=True)
class Batch:
    """One row of N tokens in pieces. Piece p is `inputs[borders[p]:borders[p + 1]]`."""

    inputs: np.ndarray
    """int64 [N]."""
    targets: np.ndarray
    """int64 [N]: the token that follows each input in its document; every position counts."""
    borders: np.ndarray
    """int64 [pieces + 1], from 0 to N."""


class Mixture:
    """Draws pieces from sources so that each has its share of the tokens, whatever the documents' lengths.

    The next piece comes from the source that is furthest behind its share (the first one where several are), so the
    shares are exact to one piece; the documents of a source come in an order that `seed` and the epoch decide.
    """

    def __init__(self, corpora: Sequence[Corpus], context: int, seed: int) -> None:
        self._corpora = {corpus.name: corpus for corpus in corpora}
        self._context, self._seed = context, seed
        self._shares: dict[str, float] = {}
        self._taken: dict[str, int] = {}
        self._cursor = {corpus.name: (0, 0, 0) for corpus in corpora}
        """Source to (epoch, place in the epoch's order, offset in the document)."""
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def begin(self, shares: Mapping[str, float]) -> None:
        """Start a stage: from here on the shares are these; the sources go on where they were."""
        self._shares = dict(shares)
        self._taken = dict.fromkeys(shares, 0)

    def epochs(self) -> dict[str, float]:
        """How often each source has been gone through, by documents."""
        return {
            name: epoch + place / (len(self._corpora[name].borders) - 1)
            for name, (epoch, place, _) in self._cursor.items()
        }

    @property
    def taken(self) -> dict[str, int]:
        """Tokens drawn from each source in this stage."""
        return dict(self._taken)

    def state(self) -> dict[str, Any]:
        """The position, as few integers."""
        return {"cursor": {name: list(at) for name, at in self._cursor.items()}, "taken": dict(self._taken)}

    def restore(self, state: Mapping[str, Any], shares: Mapping[str, float]) -> None:
        """Go to a position that `state` gave, in a stage with `shares`. Raises UserError for a source that is gone."""
        for name in state["cursor"]:
            if name not in self._corpora:
                raise UserError(f'the checkpoint stands in source "{name}", which the configuration no longer has')
        self._cursor |= {name: (at[0], at[1], at[2]) for name, at in state["cursor"].items()}
        self._shares = dict(shares)
        self._taken = dict.fromkeys(shares, 0) | {k: v for k, v in state["taken"].items() if k in shares}

    def draw(self, tokens: int) -> Batch:
        """The next batch of exactly `tokens` tokens."""
        pieces: list[np.ndarray] = []
        room = tokens
        while room:
            name = min(self._shares, key=lambda source: self._taken[source] / self._shares[source])
            piece = self._piece(name, min(room, self._context))
            self._taken[name] += len(piece) - 1
            room -= len(piece) - 1
            pieces.append(piece)
        return join(pieces)

    def _piece(self, name: str, most: int) -> np.ndarray:
        epoch, place, offset = self._cursor[name]
        corpus = self._corpora[name]
        if self._orders.get(name, (-1,))[0] != epoch:
            self._orders[name] = (epoch, order(len(corpus.borders) - 1, self._seed, name, epoch))
        document = int(self._orders[name][1][place])
        first, last = int(corpus.borders[document]), int(corpus.borders[document + 1])
        length = min(most, last - 1 - first - offset)
        piece = corpus.tokens[first + offset : first + offset + length + 1]
        offset += length
        if first + offset == last - 1:
            place, offset = place + 1, 0
            if place == len(corpus.borders) - 1:
                epoch, place = epoch + 1, 0
        self._cursor[name] = (epoch, place, offset)
        return piece


def join(pieces: Sequence[np.ndarray]) -> Batch:
    """Pieces of n + 1 tokens each as a batch: the first n are inputs, the last n their targets."""
    lengths = [len(piece) - 1 for piece in pieces]
    return Batch(
        np.concatenate([piece[:-1] for piece in pieces]).astype(np.int64),
        np.concatenate([piece[1:] for piece in pieces]).astype(np.int64),
        np.cumsum([0, *lengths], dtype=np.int64),
    )


def order(count: int, seed: int, name: str, epoch: int) -> np.ndarray:
    """A permutation of range(count) that depends on nothing but the arguments, on any machine and version."""
    mark = hashlib.sha256(f"{seed}\0{name}\0{epoch}".encode()).digest()
    keys = np.arange(count, dtype=np.uint64) + np.uint64(int.from_bytes(mark[:8], "big"))
    # splitmix64: neighbouring numbers in, unrelated numbers out; wrapping around is part of it.
    keys *= np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(keys ^ (keys >> np.uint64(31)), kind="stable")


def held_batches(corpus: Corpus, context: int, batch_tokens: int, most: int) -> Iterator[Batch]:
    """The first `most` held-out tokens in order, in pieces of at most `context`."""
    pieces: list[np.ndarray] = []
    filled = seen = 0
    for first, last in zip(corpus.borders[:-1].tolist(), corpus.borders[1:].tolist(), strict=True):
        for at in range(first, last - 1, context):
            length = min(context, last - 1 - at, most - seen)
            if pieces and filled + length > batch_tokens:
                yield join(pieces)
                pieces, filled = [], 0
            if length <= 0:
                break
            pieces.append(corpus.tokens[at : at + length + 1])
            filled, seen = filled + length, seen + length
        if seen >= most:
            break
    if pieces:
        yield join(pieces)
