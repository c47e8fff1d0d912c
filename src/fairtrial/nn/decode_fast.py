"""The lean decode step: a batch on memory that is allocated once, without one object or check per token and layer.

Logits are those of `Model.forward` within about 1e-6 of their size. With the C kernel of `ops.decode_c` a step of
softmax layers and dense MLPs gives the same bits in any batch; else, and for what was read before, they depend on the
other sequences in the last bits (a product's rounding depends on its shape). Where that matters,
`ForwardBatch(exact=True)` is the way.
Legend: N sequences, D model width, S columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairtrial.nn.attention_layers import SoftmaxLayer
from fairtrial.nn.block import Block
from fairtrial.nn.config import LINEAR, SOFTMAX
from fairtrial.nn.decode_layers import (
    KdaStep,
    LatentStep,
    Mixer,
    MlpStep,
    Place,
    SoftmaxStep,
    turning,
    turns,
)
from fairtrial.nn.decode_product import behind, product
from fairtrial.nn.kda_layer import KdaLayer
from fairtrial.nn.mla_layer import LatentLayer
from fairtrial.nn.model import Model
from fairtrial.nn.state import LayerState, State

LETTERS = frozenset(LINEAR + SOFTMAX + "M")
ROOM = 256
"""Columns that caches grow by."""


def supported(model: Model) -> bool:
    """Whether every layer has a lean step: fp32 on the CPU, no sparse attention."""
    weights = model.model.embed_tokens.weight
    return weights.dtype == torch.float32 and weights.device.type == "cpu" and set(model.config.letters) <= LETTERS


class FastBatch:
    """See `decode.DecodeBatch`. Holds copies of the weights as they were when it was built."""

    @torch.inference_mode()
    def __init__(self, model: Model, slots: int) -> None:
        """For at most `slots` sequences."""
        self._model, self._slots = model, slots
        self._layers = [(_mixer(block, slots), MlpStep(block, slots)) for block in model.blocks[: model.config.layers]]
        self._embedding = model.model.embed_tokens.weight.detach()
        head = model.model.embed_tokens if model.lm_head is None else model.lm_head
        self._head = product(behind(model.model.norm, head.weight), slots, model.model.norm.eps)
        self._lengths: list[int] = []
        self._columns, self._now = 0, 0
        self._mask = torch.zeros(slots, 0)
        self._positions = torch.zeros(slots, dtype=torch.long)
        rotary = set(model.config.letters) & set("FW")
        self._turning = turning(model.config.head_dim, model.config.rope_theta) if rotary else None
        self._turns: tuple[Tensor, Tensor] | None = None
        self._cached = bool(set(model.config.letters) - set(LINEAR))

    @property
    def rows(self) -> int:
        """Sequences in the batch."""
        return len(self._lengths)

    def join(self, state: State) -> None:
        """See `DecodeBatch`."""
        length, row = state.positions[0], self.rows
        if row == self._slots:
            raise RuntimeError(f"the batch has {row} sequences, which is all that it was built for")
        if not self._lengths:
            self._now = 0
        self._make_room(length)
        for (mixer, _), layer in zip(self._layers, state.layers, strict=True):
            mixer.load(row, layer, self._now)
        self._lengths.append(length)
        self._positions[row] = length
        self._mark(row)

    def leave(self, row: int) -> None:
        """See `DecodeBatch`."""
        last = self.rows - 1
        if row != last:
            first = self._now - self._lengths[last]
            for mixer, _ in self._layers:
                mixer.move(last, row, first, self._now)
            self._lengths[row] = self._lengths[last]
            self._positions[row] = self._positions[last]
            self._mark(row)
        self._lengths.pop()

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `DecodeBatch`."""
        n = self.rows
        if self._cached and self._now == self._columns:
            self._make_room(0)
        longest, positions_N = max(self._lengths), self._positions[:n]
        first, mask = self._now - longest, None
        if self._cached and longest != min(self._lengths):
            self._mask[:n, self._now] = 0
            mask = self._mask[:n, None, first : self._now + 1]
        place = Place(n, first, self._now, mask, positions_N, self._turns)
        x_ND = self._embedding.index_select(0, torch.tensor(tokens))
        for mixer, mlp in self._layers:
            mixer.step(x_ND, place)
            mlp.step(x_ND)
        logits_NV = self._head.of(x_ND)
        positions_N += 1
        self._now += 1
        self._lengths = [length + 1 for length in self._lengths]
        return logits_NV

    def state(self, row: int) -> State:
        """See `DecodeBatch`."""
        length = self._lengths[row]
        layers: list[LayerState] = [mixer.dump(row, length, self._now) for mixer, _ in self._layers]
        return State(layers, [length])

    def _make_room(self, length: int) -> None:
        """Let `length` columns lie before the end of all sequences, and one behind it."""
        if not self._cached or length <= self._now < self._columns:
            return
        longest = max(self._lengths, default=0)
        end, columns = max(longest, length), self._columns
        if end + ROOM // 4 > columns:
            columns = end + max(ROOM, end // 4)
            self._mask = torch.zeros(self._slots, columns)
            if self._turning is not None:  # no position is beyond the last column
                self._turns = turns(columns, *self._turning)
        for mixer, _ in self._layers:
            mixer.shift(self.rows, self._now - longest, self._now, end - longest, columns)
        self._now, self._columns = end, columns
        for row in range(self.rows):
            self._mark(row)

    def _mark(self, row: int) -> None:
        """Mask the columns before a sequence's begin."""
        begin = self._now - self._lengths[row]
        self._mask[row, :begin] = -torch.inf
        self._mask[row, begin:] = 0


def _mixer(block: Block, slots: int) -> Mixer:
    layer, norm = block.self_attn, block.input_layernorm
    if isinstance(layer, KdaLayer):
        return KdaStep(layer, norm, slots)
    if isinstance(layer, SoftmaxLayer):
        return SoftmaxStep(layer, norm, slots)
    assert isinstance(layer, LatentLayer)
    return LatentStep(layer, norm, slots)
