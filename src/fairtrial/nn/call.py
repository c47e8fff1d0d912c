"""What the layers of one forward pass share: where each sequence starts, what is recorded, and how exact products are.

`Call.exact` makes the rounding of a token independent of what is computed beside it: the rounding of a product depends
on its shape, so exact products run in tiles of a fixed number of rows; functions that a vectorised loop finishes with
scalar code are padded to whole vectors; attention takes token by token, in prefill as in decoding.
Legend: B batch, T time, D width, N sequences (B, or the number of packed documents), R rows, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.core.errors import UserError
from fairtrial.nn.state import Rows

TILE = 16
"""Rows of an exact product, and what its widths are padded to: whole cache lines."""
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
    """A run of consecutive tokens that attend together."""

    batch: slice
    """Its rows of the input."""
    time: slice
    """Its tokens in those rows."""
    keys: slice
    """Tokens in those rows that came with this pass and that it may see (up to its own last one)."""
    start: int
    """Position of its first token."""
    sequence: int | None
    """Its sequence; None: all of them, as one batch."""

    @property
    def end(self) -> int:
        """Position behind its last token: the number of tokens that this one sees."""
        return self.start + self.time.stop - self.time.start

    def see(self, new_BTF: Tensor, cache: Rows | None) -> Tensor:
        """What its tokens may see [B, S, F]: rows of the cache, or of the pass where there is no state."""
        if cache is None:
            return new_BTF[self.batch, self.keys]
        end = self.end - cache.first[self.sequence or 0]
        held = cache.tensor() if self.sequence is None else cache.sequence(self.sequence)[None]
        return held[:, :end]


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
    selections: list[Tensor | None] = field(default_factory=list["Tensor | None"])
    """What the last D layer chose in each span, [B, T, k]; None: everything. For S layers."""
    aux: Aux = field(default_factory=Aux)

    @property
    def uniform(self) -> bool:
        """Whether all sequences can be computed as one batch: not packed, and all start at one position."""
        return not self.packed and len(set(self.starts)) == 1

    def spans(self) -> Iterator[Span]:
        """The runs to attend within: the whole batch where possible, else a sequence, in an exact pass one token."""
        if self.uniform and not self.exact:
            whole = slice(0, self.lengths[0])
            yield Span(slice(None), whole, whole, self.starts[0], None)
            return
        first = 0
        for index, (length, start) in enumerate(zip(self.lengths, self.starts, strict=True)):
            batch = slice(None) if self.packed else slice(index, index + 1)
            size = 1 if self.exact else length
            for low in range(0, length, size):
                begin = first + low
                yield Span(batch, slice(begin, begin + size), slice(first, begin + size), start + low, index)
            first += length if self.packed else 0

    def pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """The spans' tokens of x [B, T, ...]. Documents are split: gradients of slices would each fill a whole x."""
        if self.packed and not self.exact:
            return x.split(self.lengths, 1)
        return tuple(x[span.batch, span.time] for span in self.spans())

    def join(self, parts: list[Tensor]) -> Tensor:
        """Outputs [B, T, ...] of the spans, put together as the input was."""
        if len(parts) == 1:
            return parts[0]
        if self.packed or not self.exact:
            return torch.cat(parts, 1 if self.packed else 0)
        return torch.cat(parts, 1).view(len(self.lengths), -1, *parts[0].shape[2:])

    def each(self, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, where_BT: Tensor) -> Tensor:
        """A function of x [B, T, ...] and positions; in an exact pass token by token."""
        if not self.exact:
            return function(x, where_BT)
        rows = [
            [function(x[b : b + 1, t : t + 1], where_BT[b : b + 1, t : t + 1]) for t in range(x.shape[1])]
            for b in range(x.shape[0])
        ]
        return torch.cat([torch.cat(row, 1) for row in rows])

    def positions(self, device: torch.device) -> Tensor:
        """Position of every token [B, T]; [1, T] for packed documents, each from its own start."""
        rows = [
            torch.arange(start, start + length, device=device)
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]
        return torch.cat(rows)[None] if self.packed else torch.stack(rows)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x [..., D] by weight [F, D] transposed: [..., F]."""
        if not self.exact:
            return functional.linear(x, weight)
        rows_RD = x.reshape(-1, x.shape[-1])
        (total, width), outputs = rows_RD.shape, weight.shape[0]
        more = -width % TILE
        padded_RD = functional.pad(rows_RD, (0, more, 0, -total % TILE))
        if more or outputs % TILE:  # odd widths end in code whose rounding depends on a row's place in its tile
            weight = functional.pad(weight, (0, more, 0, -outputs % TILE))
        tiles = [padded_RD[i : i + TILE] @ weight.T for i in range(0, padded_RD.shape[0], TILE)]
        return torch.cat(tiles)[:total, :outputs].reshape(*x.shape[:-1], outputs)

    def smooth(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """An elementwise function of x, whose last axis is padded to whole vectors in an exact pass."""
        if not self.exact or x.shape[-1] % VECTOR == 0:
            return function(x.contiguous())
        return function(functional.pad(x, (0, -x.shape[-1] % VECTOR)))[..., : x.shape[-1]].contiguous()


def wide(x: Tensor) -> Tensor:
    """The tensor in at least fp32."""
    return x if x.dtype == torch.float64 else x.float()


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
        lengths = [b - a for a, b in pairwise(borders)]
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
