"""From trajectories to packed rows: what is learned, what is held out, and which samples each step sees.

A pack is one row of whole samples with their borders; nothing is seen across a border and nothing is ever cut. The
order of an epoch depends on the seed and the epoch alone, so a position is two integers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from fairtrial.agents.samples.sample import Sample
from fairtrial.agents.samples.writing import Options, no_targets, read_samples, write_samples
from fairtrial.core.errors import UserError
from fairtrial.training.data import order
from fairtrial.training.sft_rows import Row, rows_of
from fairtrial.training.sft_settings import SftConfig, data_paths
from fairtrial.training.sft_speakers import Speaker


@dataclass(frozen=True, slots=True)
class Pack:
    """One row of T tokens in pieces. Piece p is `inputs[borders[p]:borders[p + 1]]`."""

    inputs: np.ndarray
    """int64 [T]."""
    borders: np.ndarray
    """int64 [pieces + 1], from 0 to T."""
    places: np.ndarray
    """int64 [L]: the positions whose next token is learned."""
    targets: np.ndarray
    """int64 [L]: those tokens."""
    weights: np.ndarray
    """float32 [L], above 0."""


@dataclass(slots=True)
class Rows:
    """What a run is trained on."""

    train: list[Row]
    held: list[Row]
    digest: str
    """Of everything that training can see of them, in order."""
    left_out: Counter[str] = field(default_factory=Counter[str])
    """By reason: runs, turns and samples of which nothing is learned."""

    def about(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "rows": len(self.train),
            "held_out": len(self.held),
            "tokens": sum(len(row) for row in self.train),
            "learned": int(sum((row.weights > 0).sum() for row in self.train)),
            "longest": max(len(row) for row in self.train),
            "left_out": dict(self.left_out.most_common()),
        }


def load_rows(config: SftConfig, base: Path, out: Path, speaker: Speaker, context: int | None) -> Rows:
    """Everything that `config.data` names, as rows; samples made of trajectories are kept in `out`/samples.

    Args:
        config: What to take, and how it weighs.
        base: Where relative paths start from.
        out: The run's folder.
        speaker: Of the model.
        context: Most tokens that the model takes; None: no limit.

    Raises:
        UserError: A source cannot be read, nothing can be learned from any, or a sample does not fit the model.
    """
    left_out: Counter[str] = Counter()
    found: list[Row] = []
    for number, path in enumerate(data_paths(config, base)):
        kept = out / "samples" / f"{number}.jsonl"
        for sample in _samples(path, kept, config, left_out):
            found += _fitting(rows_of(sample, speaker, left_out), context, config, speaker, left_out)
    found = [row for row in found if (row.weights > 0).any()]
    if not found:
        raise UserError(no_targets(", ".join(config.data), left_out))
    mark = hashlib.sha256()
    for row in found:
        mark.update(row.ids.tobytes() + row.weights.tobytes() + b"\0")
    train, held = _split(found, config)
    return Rows(train, held, mark.hexdigest(), left_out)


def is_samples(path: Path) -> bool:
    """Whether a file holds samples, not trajectories."""
    if not path.is_file() or path.suffix != ".jsonl":
        return False
    with path.open("rb") as file:
        try:
            row = orjson.loads(file.readline())
        except ValueError:
            return False
    return isinstance(row, dict) and {"segments", "turns", "messages"} <= row.keys()


def _samples(path: Path, kept: Path, config: SftConfig, left_out: Counter[str]) -> Iterator[Sample]:
    if is_samples(path):
        yield from read_samples(path)
        return
    options = Options(config.arm, config.policy, config.filters, config.weights, "reader" in config.purposes)
    kept.parent.mkdir(parents=True, exist_ok=True)
    summary = write_samples(path, kept, options)
    for reasons in (summary.dropped_runs, summary.dropped_turns, summary.dropped_samples):
        left_out.update(reasons)
    for sample in read_samples(kept):
        if sample.purpose in config.purposes:
            yield sample


def _fitting(
    rows: Sequence[Row], context: int | None, config: SftConfig, speaker: Speaker, left_out: Counter[str]
) -> list[Row]:
    """The rows that fit. Raises UserError for one that does not, unless such are to be dropped."""
    if context is None:
        return list(rows)
    kept: list[Row] = []
    for row in rows:
        if len(row) <= context:
            kept.append(row)
        elif config.too_long == "drop":
            left_out[f"longer than {context} tokens"] += 1
        else:
            raise UserError(
                f'sample {row.sample} has {len(row)} tokens, "{speaker.name}" takes {context}: choose a model with '
                "more context, or leave longer samples out with --set too_long=drop"
            )
    return kept


def _split(rows: Sequence[Row], config: SftConfig) -> tuple[list[Row], list[Row]]:
    """Whole runs apart, chosen by the seed and their names; never all of them."""
    runs = sorted({row.run for row in rows})
    count = min(round(len(runs) * config.held_out), len(runs) - 1)
    chosen = {runs[index] for index in order(len(runs), config.seed, "held out", 0)[:count].tolist()}
    return [row for row in rows if row.run not in chosen], [row for row in rows if row.run in chosen]


class Packer:
    """Draws packs of whole rows, epoch after epoch."""

    def __init__(self, rows: Sequence[Row], tokens: int, seed: int) -> None:
        """`tokens`: of a pack at most; a longer row is a pack of its own."""
        self._rows, self._tokens, self._seed = rows, tokens, seed
        self._lengths = [len(row) - 1 for row in rows]
        self._epoch = self._place = 0
        self._order = self._ordered(0)

    @property
    def epochs(self) -> float:
        """How often the rows have been gone through."""
        return self._epoch + self._place / len(self._rows)

    def state(self) -> dict[str, int]:
        """The position."""
        return {"epoch": self._epoch, "place": self._place}

    def restore(self, state: dict[str, int]) -> None:
        """Go to a position that `state` gave."""
        self._epoch, self._place = int(state["epoch"]), int(state["place"])
        self._order = self._ordered(self._epoch)

    def draw(self) -> Pack:
        """The next pack; it ends with its epoch."""
        return pack([self._rows[index] for index in self._next()])

    def _next(self) -> list[int]:
        end = _end(self._lengths, self._order, self._place, self._tokens)
        chosen = self._order[self._place : end]
        self._place = end
        if end == len(self._rows):
            self._epoch, self._place = self._epoch + 1, 0
            self._order = self._ordered(self._epoch)
        return chosen

    def _ordered(self, epoch: int) -> list[int]:
        return order(len(self._rows), self._seed, "samples", epoch).tolist()


def packs_in(rows: Sequence[Row], tokens: int, seed: int, epochs: float) -> int:
    """How many packs so many epochs are, at least 1."""
    packer, count = Packer(rows, tokens, seed), 0
    while packer.epochs < epochs - 1e-9:
        packer._next()
        count += 1
    return max(1, count)


def _end(lengths: Sequence[int], places: Sequence[int], start: int, most: int) -> int:
    """Where the pack that begins at `start` of an epoch ends."""
    total, end = lengths[places[start]], start + 1
    while end < len(places) and total + lengths[places[end]] <= most:
        total += lengths[places[end]]
        end += 1
    return end


def pack(rows: Sequence[Row]) -> Pack:
    """Rows as one pack."""
    borders = np.cumsum([0, *(len(row) - 1 for row in rows)], dtype=np.int64)
    weights = np.concatenate([row.weights[1:] for row in rows])
    places = np.flatnonzero(weights > 0)
    targets = np.concatenate([row.ids[1:] for row in rows])
    inputs = np.concatenate([row.ids[:-1] for row in rows])
    return Pack(inputs, borders, places, targets[places], weights[places])


def held_packs(rows: Sequence[Row], tokens: int, most: int) -> Iterator[Pack]:
    """Held-out rows in order, as packs of at most `tokens`, until `most` tokens have come."""
    lengths = [len(row) - 1 for row in rows]
    start = seen = 0
    while start < len(rows) and seen < most:
        end = _end(lengths, range(len(rows)), start, tokens)
        yield pack(rows[start:end])
        seen += sum(lengths[start:end])
        start = end
