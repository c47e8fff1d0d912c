"""Decoding many sequences together: they join a batch between steps and leave it when they are done.

`ForwardBatch` runs the model's own forward pass, for every letter and with `exact=True` bitwise independent of what
else is in the batch. `decode_batch` takes the leaner step of `decode_fast` where it can.
Legend: N sequences in the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from fairtrial.nn.call import make_call
from fairtrial.nn.model import Model
from fairtrial.nn.state import LayerState, Rows, State


class DecodeBatch(Protocol):
    """Sequences 0..rows-1 that decode together. One thread."""

    @property
    def rows(self) -> int:
        """Sequences in the batch."""
        ...

    def join(self, state: State) -> None:
        """Add one sequence behind the others, from its state (which is not changed)."""
        ...

    def leave(self, row: int) -> None:
        """Take one sequence out; the last one takes its place."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed one token to each sequence; logits [N, V], fp32, valid until the next call and free to be changed."""
        ...

    def state(self, row: int) -> State:
        """A copy of one sequence's state."""
        ...


class ForwardBatch:
    """A batch on `Model.forward`."""

    def __init__(self, model: Model, *, exact: bool = False) -> None:
        """`exact`: as in `Model.forward`."""
        self._model, self._exact = model, exact
        self._state: State | None = None

    @property
    def rows(self) -> int:
        """Sequences in the batch."""
        return 0 if self._state is None else self._state.batch

    def join(self, state: State) -> None:
        """See `DecodeBatch`."""
        self._state = joined([state.clone()] if self._state is None else [self._state, state])

    def leave(self, row: int) -> None:
        """See `DecodeBatch`."""
        assert self._state is not None
        order = list(range(self.rows))
        order[row] = order[-1]
        self._state = self._state.select(order[:-1]) if self.rows > 1 else None

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `DecodeBatch`."""
        assert self._state is not None
        out = self._model(torch.tensor(tokens)[:, None], self._state, exact=self._exact)
        self._state = out.state
        return out.logits[:, 0].float()

    def state(self, row: int) -> State:
        """See `DecodeBatch`."""
        assert self._state is not None
        return self._state.select([row])


def decode_batch(model: Model, slots: int, *, exact: bool = False) -> DecodeBatch:
    """The leanest batch that this model can have, for at most `slots` sequences."""
    from fairtrial.nn.decode_fast import FastBatch, supported

    return FastBatch(model, slots) if supported(model) and not exact else ForwardBatch(model, exact=exact)


def read(model: Model, pieces: Sequence[tuple[Sequence[int], State]], *, exact: bool = False) -> list[State]:
    """Read tokens behind states of one sequence each, all in one pass and without logits: the next states.

    Give at least one token for each.
    """
    lengths = [len(ids) for ids, _ in pieces]
    before = joined([state for _, state in pieces])
    if len(set(lengths)) == 1:
        tokens_BT, borders = torch.tensor([list(ids) for ids, _ in pieces]), None
    else:
        tokens_BT = torch.tensor([[index for ids, _ in pieces for index in ids]])
        borders = torch.tensor([0, *accumulate(lengths)])
    call = make_call(tokens_BT.shape, borders, before.positions)
    call.exact = exact
    _, state = model.stream(model.model.embed_tokens.weight[tokens_BT], call, before)
    assert state is not None
    return [state] if len(pieces) == 1 else [state.select([row]) for row in range(len(pieces))]


def joined(states: Sequence[State]) -> State:
    """One state of all sequences, in order; what `keep` noted is left behind."""
    if len(states) == 1:
        return State(states[0].layers, states[0].positions)
    layers: list[LayerState] = []
    for parts in zip(*(state.layers for state in states), strict=True):
        layer: LayerState = {}
        for name in parts[0]:
            values = [part[name] for part in parts]
            rows = [value for value in values if isinstance(value, Rows)]
            if rows:
                pieces = [one.sequence(index) for one in rows for index in range(len(one.lengths))]
                layer[name] = Rows.of(pieces, [first for one in rows for first in one.first])
            else:
                layer[name] = torch.cat([value for value in values if isinstance(value, Tensor)])
        layers.append(layer)
    return State(layers, [position for state in states for position in state.positions])
