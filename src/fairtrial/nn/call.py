# ruff: noqa: N803, N806 - tensor names carry their axes
"""What the layers of one forward pass share: where each sequence starts, what is recorded, and how exact products are.

`Call.exact` makes every product and every transcendental function independent of how many tokens are computed
together: a matrix product's rounding depends on its shape, so exact products run in tiles of a fixed number of rows,
and functions that a vectorised loop finishes with scalar code are padded to whole vectors.
Legend: B batch, T time, D width, N sequences (B, or the number of packed documents), R rows, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.core.errors import UserError

TILE = 16
"""Rows of an exact product; a whole number of cache lines for any width."""
VECTOR = 64
"""A multiple of the numbers that one step of torch's vectorised loops takes."""

SparseStage = Literal["sparse", "dense", "warmup", "joint"]
"""DSA: attend to the selection; to everything; to everything with the indexer's KL; to the selection with its KL."""


@dataclass(slots=True)
class Aux:
    """What a forward pass computes beside logits."""

    expert_load: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """Layer -> tokens that chose each expert [E]; what the router's bias is updated from."""
    indexer_kl: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """Layer -> KL(attention || indexer), mean over tokens, in nats (stages warmup and joint)."""
    mtp_logits: list[Tensor] = field(default_factory=list[Tensor])
    """Step j -> logits [B, T, vocab] at t for the token t + 2 + j (next-token logits are for t + 1)."""


@dataclass(slots=True)
class Span:
    """One run of consecutive tokens: rows `batch` and tokens `time` of the input, the first at position `start`."""

    batch: slice
    time: slice
    start: int


@dataclass(slots=True)
class Call:
    """One forward pass."""

    lengths: list[int]
    """Tokens of each of the N sequences in this pass."""
    starts: list[int]
    """Position of each sequence's first token in this pass: what came before it."""
    packed: bool
    """Whether all sequences lie one after the other in one row."""
    cu_seqlens: Tensor | None = None
    exact: bool = False
    backend: str = "auto"
    stage: SparseStage = "sparse"
    record: dict[int, Tensor] | None = None
    replay: dict[int, Tensor] | None = None
    selection: Tensor | None = None
    """Indices [B, T, k] of the last D layer, for S layers."""
    aux: Aux = field(default_factory=Aux)

    @property
    def uniform(self) -> bool:
        """Whether all sequences can be computed as one batch: not packed, and all start at one position."""
        return not self.packed and len(set(self.starts)) == 1

    def spans(self) -> Iterator[Span]:
        """The runs to attend within: the whole batch at once where possible, else sequence by sequence."""
        if self.uniform:
            yield Span(slice(None), slice(None), self.starts[0])
            return
        first = 0
        for index, (length, start) in enumerate(zip(self.lengths, self.starts, strict=True)):
            if self.packed:
                yield Span(slice(None), slice(first, first + length), start)
                first += length
            else:
                yield Span(slice(index, index + 1), slice(None), start)

    def join(self, parts: list[Tensor]) -> Tensor:
        """Outputs of the spans, put together as the input was."""
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1 if self.packed else 0)

    def positions(self, device: torch.device) -> Tensor:
        """Position of every token [B, T]; [1, T] for packed documents, each from its own start."""
        rows = [
            torch.arange(start, start + length, device=device)
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]
        return torch.cat(rows)[None] if self.packed else torch.stack(rows)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [..., D] times weight [F, D] transposed -> [..., F]."""
        if not self.exact:
            return functional.linear(x, weight)
        rows_RD = x.reshape(-1, x.shape[-1])
        total = rows_RD.shape[0]
        padded_RD = functional.pad(rows_RD, (0, 0, 0, -total % TILE))
        tiles = [padded_RD[i : i + TILE] @ weight.T for i in range(0, padded_RD.shape[0], TILE)]
        return torch.cat(tiles)[:total].view(*x.shape[:-1], weight.shape[0])

    def smooth(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """An elementwise function of x, whose last axis is padded to whole vectors in an exact pass."""
        if not self.exact or x.shape[-1] % VECTOR == 0:
            return function(x.contiguous())
        return function(functional.pad(x, (0, -x.shape[-1] % VECTOR)))[..., : x.shape[-1]].contiguous()


def make_call(shape: torch.Size, cu_seqlens: Tensor | None, starts: list[int] | None) -> Call:
    """The call for tokens of `shape` [B, T].

    `starts`: positions of a given state, one for each sequence; None: all 0. Raises UserError where the borders or
    the number of sequences do not fit.
    """
    batch, time = shape
    if cu_seqlens is None:
        lengths = [time] * batch
    else:
        borders = [int(x) for x in cu_seqlens.tolist()]
        lengths = [b - a for a, b in zip(borders, borders[1:], strict=False)]
        if batch != 1 or len(borders) < 2 or borders[0] != 0 or borders[-1] != time or min(lengths) < 1:
            raise UserError(
                f"cu_seqlens must rise from 0 to {time} (tokens of the one packed row), got {borders} for tokens "
                f"[{batch}, {time}]"
            )
    if starts is not None and len(starts) != len(lengths):
        raise UserError(
            f"state holds {len(starts)} sequences and tokens hold {len(lengths)}; branch or split the state"
        )
    return Call(lengths, starts or [0] * len(lengths), cu_seqlens is not None, cu_seqlens)
