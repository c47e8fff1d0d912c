"""Plain softmax attention: F full and rotary, P full without positions, W a sliding window and rotary.

Grouped queries; each packed document attends to itself alone. Rotary in the half-split layout (RoFormer, 2104.09864).
With `softmax_conv` a short convolution goes over queries, keys and values before they are turned, as in KDA.
Legend: B batch, T time, S keys, D model width, H heads, J key/value heads, E head width, N sequences, W taps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.nn.call import Call
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.norm import Conv, Linear
from fairtrial.nn.ops.rotary import rotate
from fairtrial.nn.short_conv import causal_conv
from fairtrial.nn.state import LayerState, Rows, no_rows


class SoftmaxLayer(nn.Module):
    """x [B, T, D] -> [B, T, D]; remembers keys and values, [N, S, 2 J E] (W: the last `window` of them).

    With a short convolution also its last W - 1 inputs, [N, W - 1, (H + 2 J) E].
    """

    def __init__(self, config: ModelConfig, letter: str) -> None:
        super().__init__()
        self.heads, self.key_heads, self.width = config.heads, config.key_heads, config.head_dim
        self.window = config.window if letter == "W" else None
        self.rotary = letter != "P"
        self.theta = config.rope_theta
        keys = self.key_heads * self.width
        self.sizes = [self.heads * self.width, keys, keys]
        self.taps = config.conv_width if config.softmax_conv else 1
        self.q_proj = Linear(config.hidden, self.heads * self.width, rows=(self.width,))
        self.k_proj, self.v_proj = (Linear(config.hidden, keys, rows=(self.width,)) for _ in range(2))
        if self.taps > 1:
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (Conv(size, self.taps) for size in self.sizes)
        self.o_proj = Linear(self.heads * self.width, config.hidden)

    def init_state(self, batch: int) -> LayerState:
        """An empty memory for `batch` sequences."""
        weight = self.q_proj.weight
        state: LayerState = {"kv": no_rows(batch, 2 * self.key_heads * self.width, weight)}
        if self.taps > 1:
            state["tail"] = weight.new_zeros(batch, self.taps - 1, sum(self.sizes))
        return state

    def forward(self, x_BTD: Tensor, call: Call, layer: int, before: LayerState | None) -> tuple[Tensor, LayerState]:
        """The layer's output and what it remembers afterwards."""
        after: LayerState = {}
        parts_BTI = [call.product(x_BTD, p.weight) for p in (self.q_proj, self.k_proj, self.v_proj)]
        if self.taps > 1:
            old = self.init_state(len(call.lengths)) if before is None else before
            weight_CW = torch.cat([c.weight for c in (self.q_conv1d, self.k_conv1d, self.v_conv1d)])[:, 0]
            mixed, after["tail"] = causal_conv(torch.cat(parts_BTI, -1), weight_CW, _tensor(old["tail"]), call)
            parts_BTI = mixed.split(self.sizes, -1)
        q_BTHE = parts_BTI[0].unflatten(-1, (self.heads, self.width))
        k_BTJE = parts_BTI[1].unflatten(-1, (self.key_heads, self.width))
        v_BTI = parts_BTI[2]
        if self.rotary:
            where = call.positions(x_BTD.device)
            q_BTHE, k_BTJE = (call.each(self._turn, x, where) for x in (q_BTHE, k_BTJE))
        new_BTI = torch.cat([k_BTJE.flatten(-2), v_BTI], -1)
        rows = None if before is None else _rows(before["kv"]).append(new_BTI, call.lengths, call.packed)
        parts: list[Tensor] = []
        alone = call.pieces(new_BTI) if rows is None and not call.exact else None
        for at, (q, span) in enumerate(zip(call.pieces(q_BTHE), call.spans(), strict=True)):
            first = 0 if rows is None else rows.first[span.sequence or 0]
            kv_BSI = span.see(new_BTI, rows) if alone is None else alone[at]
            parts.append(self._attend(q, kv_BSI, span.start - first))
        if rows is not None:
            after["kv"] = rows if self.window is None else rows.last(self.window)
        return call.product(call.join(parts).flatten(-2), self.o_proj.weight), after

    def _turn(self, x: Tensor, where_BT: Tensor) -> Tensor:
        return rotate(x, where_BT, layout="half", base=self.theta)

    def _attend(self, q_BTHE: Tensor, kv_BSI: Tensor, start: int) -> Tensor:
        """Causal attention of queries whose first one is at row `start` of the keys -> [B, T, H, E]."""
        k_BSJE, v_BSJE = kv_BSI.unflatten(-1, (2, self.key_heads, self.width)).unbind(2)
        time, keys = q_BTHE.shape[1], k_BSJE.shape[1]
        if time == 1:
            return self._step(q_BTHE, k_BSJE, v_BSJE, start)
        q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BSJE, v_BSJE))
        grouped = self.key_heads != self.heads
        if start == 0 and time == keys and (self.window is None or keys <= self.window):
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:
            query = torch.arange(start, start + time, device=q.device)[:, None]
            key = torch.arange(keys, device=q.device)[None]
            seen_TS = key <= query
            if self.window is not None:
                seen_TS &= key > query - self.window
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen_TS, enable_gqa=grouped)
        return out.transpose(1, 2)

    def _step(self, q_B1HE: Tensor, k_BSJE: Tensor, v_BSJE: Tensor, start: int) -> Tensor:
        """One query for each sequence, as plain products for each key head (faster than SDPA with one query)."""
        first = 0 if self.window is None else max(0, start + 1 - self.window)
        k_BSJE, v_BSJE = k_BSJE[:, first : start + 1], v_BSJE[:, first : start + 1]
        q_BJGE = q_B1HE[:, 0].unflatten(1, (self.key_heads, -1)) * self.width**-0.5
        weight_BJGS = torch.softmax(q_BJGE @ k_BSJE.permute(0, 2, 3, 1), -1)
        return (weight_BJGS @ v_BSJE.transpose(1, 2)).flatten(1, 2)[:, None]


def _rows(value: object) -> Rows:
    assert isinstance(value, Rows)
    return value


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
