"""The decode state of a model: what every layer remembers, as one object that can be kept, restored and branched.

A forward pass never changes a state, it returns the next one. Layers keep fixed tensors (KDA's matrix and the
convolution's last inputs) or growing rows (keys and values, latents, indexer keys; `Rows`).
Legend: N sequences, S rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairtrial.core.errors import UserError

ROOM = 64
"""Rows that a cache grows by at least; beyond, it grows by an eighth."""


class _Buffer:
    """Storage shared by the caches that continue one another; only the newest of them may write behind its end."""

    __slots__ = ("newest", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.newest: object = None


class Rows:
    """Rows [N, S, F] that grow, each sequence with its own length. Values do not change once made."""

    __slots__ = ("_buffer", "first", "lengths")

    def __init__(self, buffer: _Buffer, lengths: list[int], first: list[int]) -> None:
        self._buffer = buffer
        self.lengths = lengths
        """Rows held for each sequence."""
        self.first = first
        """Position of the first row held (above 0 where a window dropped older ones)."""
        buffer.newest = self

    @staticmethod
    def of(parts: list[Tensor], first: list[int]) -> Rows:
        """From one tensor [S_n, F] for each sequence."""
        if len({len(part) for part in parts}) == 1:
            tensor_NSF = torch.stack(parts)
        else:
            tensor_NSF = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return Rows(_Buffer(tensor_NSF), [len(part) for part in parts], first)

    def tensor(self) -> Tensor:
        """All rows [N, S, F], S the longest; rows behind a shorter sequence's end mean nothing."""
        return self._buffer.tensor[:, : max(self.lengths)]

    def sequence(self, index: int) -> Tensor:
        """The rows [S, F] of one sequence."""
        return self._buffer.tensor[index, : self.lengths[index]]

    def append(self, new: Tensor, lengths: list[int], packed: bool) -> Rows:
        """With new rows behind the old: [N, T, F], or packed [1, sum of lengths, F]."""
        total = [old + more for old, more in zip(self.lengths, lengths, strict=True)]
        if torch.is_grad_enabled() and (new.requires_grad or self._buffer.tensor.requires_grad):
            chunks = list(new[0].split(lengths)) if packed else list(new)
            parts = [torch.cat([self.sequence(i), chunk]) for i, chunk in enumerate(chunks)]
            return Rows.of(parts, self.first)
        tensor, longest = self._buffer.tensor, max(total)
        if self._buffer.newest is not self or longest > tensor.shape[1]:
            room = longest + (max(ROOM, longest // 8) if max(self.lengths) else 0)
            grown = tensor.new_zeros(tensor.shape[0], room, tensor.shape[2])
            grown[:, : max(self.lengths)] = self.tensor()
            tensor = grown
        buffer = self._buffer if tensor is self._buffer.tensor else _Buffer(tensor)
        if not packed and len(set(self.lengths)) == 1:
            tensor[:, self.lengths[0] : longest] = new
        else:
            chunks = new[0].split(lengths) if packed else new
            for index, chunk in enumerate(chunks):
                tensor[index, self.lengths[index] : total[index]] = chunk
        return Rows(buffer, total, self.first)

    def last(self, limit: int) -> Rows:
        """Only the last `limit` rows of each sequence."""
        if max(self.lengths) <= limit:
            return self
        parts = [self.sequence(i)[-limit:] for i in range(len(self.lengths))]
        ends = [first + length for first, length in zip(self.first, self.lengths, strict=True)]
        return Rows.of(parts, [end - len(part) for end, part in zip(ends, parts, strict=True)])

    def cut(self, position: int) -> Rows | None:
        """Without the rows from `position` on; None where a window already dropped rows that would be needed again."""
        if any(first > 0 and position < first + length for first, length in zip(self.first, self.lengths, strict=True)):
            return None
        lengths = [min(length, position) for length in self.lengths]
        return Rows.of([self.sequence(i)[:n].clone() for i, n in enumerate(lengths)], self.first)

    def pick(self, index_N: Tensor) -> Rows:
        """The sequences `index_N`, in that order, as rows of their own."""
        chosen = index_N.tolist()
        tensor = self.tensor()[index_N.to(self._buffer.tensor.device)].clone()
        return Rows(_Buffer(tensor), [self.lengths[i] for i in chosen], [self.first[i] for i in chosen])

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use, over all sequences."""
        return sum(self.lengths) * self._buffer.tensor.shape[2] * self._buffer.tensor.element_size()

    @property
    def allocated(self) -> int:
        """Bytes held, room for growth included."""
        return self._buffer.tensor.nbytes


LayerState = dict[str, "Tensor | Rows"]


def no_rows(batch: int, width: int, like: Tensor) -> Rows:
    """An empty cache for `batch` sequences of rows of `width` numbers, of `like`'s type and device."""
    return Rows(_Buffer(like.new_zeros(batch, 0, width)), [0] * batch, [0] * batch)


@dataclass(slots=True)
class State:
    """What a model remembers of N sequences. Made by `Model.init_state`, returned by every pass that was given one."""

    layers: list[LayerState]
    positions: list[int]
    """Tokens read so far, of each sequence."""
    kept: list[State] = field(default_factory=list["State"])
    """Earlier states that `keep` noted, oldest first."""

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return len(self.positions)

    @property
    def nbytes(self) -> int:
        """Bytes in use, measured on the tensors; what `keep` noted is not counted."""
        return 8 * self.batch + sum(value.nbytes for layer in self.layers for value in layer.values())

    @property
    def allocated(self) -> int:
        """Bytes held, the caches' room for growth included."""
        rows = (value for layer in self.layers for value in layer.values())
        return 8 * self.batch + sum(value.allocated if isinstance(value, Rows) else value.nbytes for value in rows)

    def clone(self) -> State:
        """A copy that shares no memory with this state."""
        return self._pick(torch.arange(self.batch))

    def branch(self, n: int) -> State:
        """Copy every sequence n times: copies of one beside each other, sequence [a, b] -> [a, a, b, b] for n = 2."""
        if n < 1:
            raise UserError(f"branch({n}): the number of copies must be at least 1")
        return self._pick(torch.arange(self.batch).repeat_interleave(n))

    def select(self, sequences: list[int]) -> State:
        """Only these sequences, in this order. Raises UserError for one that does not exist."""
        for index in sequences:
            if not 0 <= index < self.batch:
                raise UserError(f"select: sequence {index} does not exist; the state holds {self.batch} (from 0)")
        return self._pick(torch.tensor(sequences, dtype=torch.long))

    def _pick(self, index_N: Tensor) -> State:
        layers: list[LayerState] = []
        for layer in self.layers:
            layers.append(
                {
                    name: value.pick(index_N) if isinstance(value, Rows) else value[index_N.to(value.device)].clone()
                    for name, value in layer.items()
                }
            )
        kept = [state._pick(index_N) for state in self.kept]
        return State(layers, [self.positions[i] for i in index_N.tolist()], kept)

    def keep(self) -> State:
        """This state with itself noted as a place that `rollback` can return to (costs no memory by itself)."""
        return State(self.layers, self.positions, [*self.kept, State(self.layers, self.positions)])

    def rollback(self, position: int) -> State:
        """The state after the first `position` tokens of every sequence.

        Caches of keys are cut. A layer with a fixed-size state (KDA) cannot forget: there the latest state noted by
        `keep` at or before `position` is returned, and the caller feeds the tokens from its `positions` on again.
        Raises UserError where neither is possible.
        """
        if not 0 <= position <= min(self.positions):
            raise UserError(f"rollback({position}): the position must be between 0 and {min(self.positions)}")
        if set(self.positions) == {position}:
            return self
        cut = self._cut(position)
        if cut is not None:
            return cut
        for index in range(len(self.kept) - 1, -1, -1):
            if max(self.kept[index].positions) <= position:
                kept = self.kept[index]
                return State(kept.layers, kept.positions, self.kept[: index + 1])
        raise UserError(
            f"rollback({position}): a layer's state cannot be rolled back and no state at or before {position} was "
            "kept; call state = state.keep() at the places to return to, or restore a snapshot"
        )

    def _cut(self, position: int) -> State | None:
        layers: list[LayerState] = []
        for layer in self.layers:
            out: LayerState = {}
            for name, value in layer.items():
                shorter = value.cut(position) if isinstance(value, Rows) else None
                if shorter is None:
                    return None
                out[name] = shorter
            layers.append(out)
        kept = [state for state in self.kept if max(state.positions) <= position]
        return State(layers, [position] * self.batch, kept)

    def snapshot(self) -> dict[str, Tensor]:
        """Everything as plain tensors by name (safetensors can store them); shares no memory with this state.

        What `keep` noted is not part of it.
        """
        out = {"positions": torch.tensor(self.positions, dtype=torch.int64)}
        for index, layer in enumerate(self.layers):
            for name, value in layer.items():
                key = f"layers.{index}.{name}"
                if isinstance(value, Rows):
                    out[key] = value.tensor().clone().contiguous()
                    out[f"{key}.lengths"] = torch.tensor(value.lengths, dtype=torch.int64)
                    out[f"{key}.first"] = torch.tensor(value.first, dtype=torch.int64)
                else:
                    out[key] = value.clone().contiguous()
        return out

    def restore(self, tensors: Mapping[str, Tensor]) -> State:
        """The state that `snapshot` stored; `self` is any state of the same model (for example an empty one).

        Raises UserError for a missing, unknown or misshapen tensor, naming it.
        """
        expected = set(self.snapshot())
        for name in sorted(expected ^ set(tensors)):
            problem = "is missing" if name in expected else "belongs to no layer of this model"
            raise UserError(f'state snapshot: tensor "{name}" {problem}; it was taken from another model')
        positions = [int(x) for x in tensors["positions"].tolist()]
        layers: list[LayerState] = []
        for index, layer in enumerate(self.layers):
            out: LayerState = {}
            for name, value in layer.items():
                key = f"layers.{index}.{name}"
                like = value.tensor() if isinstance(value, Rows) else value
                given = tensors[key]
                fixed = slice(2, None) if isinstance(value, Rows) else slice(1, None)
                fits = given.ndim == like.ndim and given.shape[fixed] == like.shape[fixed]
                if not fits or given.shape[0] != len(positions) or given.dtype != like.dtype:
                    raise UserError(
                        f'state snapshot: tensor "{key}" is {given.dtype} {list(given.shape)}; this model needs '
                        f"{like.dtype} with {list(like.shape[fixed])} at the end, for {len(positions)} sequences"
                    )
                copy = given.to(like.device, copy=True)
                if isinstance(value, Rows):
                    lengths, first = (tensors[f"{key}.{part}"].tolist() for part in ("lengths", "first"))
                    out[name] = Rows(_Buffer(copy), lengths, first)
                else:
                    out[name] = copy
            layers.append(out)
        return State(layers, positions)
