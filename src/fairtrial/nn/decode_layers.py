"""One decode step of each kind of layer, on memory that is allocated once: few and fused operations, in place.

What a step computes is what the layer's forward pass computes for one token of each sequence (equal within rounding,
about 1e-6). Weights that meet the same input are joined into one product and a norm's weight is folded into the product
behind it, so these are copies: after a change of the model's weights a batch is built anew.

All sequences of a batch end at the same column of a cache (`Place`), wherever they began. One slice therefore holds
the new keys of all of them, and one slice the columns that a window sees; columns before a sequence's begin are masked.
Legend: N sequences, D model width, H heads, J key heads, G queries per key head, E head width, S columns, K key dim,
V value dim, C channels of a convolution or latent width, R latent row, I inner width.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.nn.attention_layers import SoftmaxLayer
from fairtrial.nn.block import Block
from fairtrial.nn.call import Call
from fairtrial.nn.decode_product import behind, product, scaled
from fairtrial.nn.kda_layer import TINY, KdaLayer
from fairtrial.nn.mla_layer import LatentLayer
from fairtrial.nn.norm import Conv, RMSNorm
from fairtrial.nn.ops import decode_c, kda_c
from fairtrial.nn.ops.mla import split_up_projection
from fairtrial.nn.ops.rotary import frequencies, rotate
from fairtrial.nn.state import LayerState, Rows


@dataclass(slots=True)
class Place:
    """Where a step happens."""

    rows: int
    """Sequences N."""
    first: int
    """First column that any sequence uses."""
    now: int
    """Column of the new token, of every sequence."""
    mask_N1S: Tensor | None
    """-inf for columns [first, now] before a sequence's begin; None where all began at one column."""
    positions_N: Tensor
    """Position of the new token of each sequence."""
    turns: tuple[Tensor, Tensor] | None = None
    """Cosine and signed sine of the softmax layers' rotary positions [S, E], for every position up to the last one."""


class Mixer(Protocol):
    """A layer's mixer in a batch."""

    def step(self, x_ND: Tensor, place: Place) -> None:
        """Add its output for the new tokens to x."""
        ...

    def load(self, row: int, state: LayerState, now: int) -> None:
        """Take over a sequence's memory, to end before column `now`."""
        ...

    def dump(self, row: int, length: int, now: int) -> LayerState:
        """A copy of a sequence's memory."""
        ...

    def move(self, source: int, to: int, first: int, now: int) -> None:
        """Copy the memory of row `source` to row `to`."""
        ...

    def shift(self, rows: int, first: int, now: int, to: int, columns: int) -> None:
        """Columns [first, now) of all rows to column `to` of a cache of `columns` columns."""
        ...


class History:
    """The last inputs of a layer's short convolution, as a ring of W entries [slots, C]."""

    def __init__(self, convs: Sequence[Conv], slots: int) -> None:
        self.taps = torch.cat([conv.weight.detach()[:, 0] for conv in convs]).t().contiguous()
        self.ring = self.taps.new_zeros(len(self.taps), slots, self.taps.shape[1])
        self.phase = 0

    def convolved(self, new_NC: Tensor, n: int) -> Tensor:
        """Behind the last inputs, summed tap by tap, oldest first."""
        taps = len(self.ring)
        self.ring[self.phase, :n].copy_(new_NC)
        self.phase = (self.phase + 1) % taps
        out = self.ring[self.phase, :n] * self.taps[0]
        for tap in range(1, taps):
            out.addcmul_(self.ring[(self.phase + tap) % taps, :n], self.taps[tap])
        return out

    def load(self, row: int, state: LayerState) -> None:
        """Take over a sequence's last inputs."""
        for age, inputs in enumerate(cast(Tensor, state["tail"])[0].flip(0)):
            self.ring[(self.phase - 1 - age) % len(self.ring), row].copy_(inputs)

    def dump(self, row: int) -> LayerState:
        """A copy of a sequence's last inputs."""
        taps = len(self.ring)
        order = [(self.phase - age) % taps for age in range(taps - 1, 0, -1)]
        return {"tail": self.ring[order, row][None]}

    def move(self, source: int, to: int) -> None:
        """Copy those of row `source` to row `to`."""
        self.ring[:, to].copy_(self.ring[:, source])


class KdaStep:
    """K, G, N, C: a state matrix and the last inputs of the convolution; there are no columns."""

    def __init__(self, layer: KdaLayer, norm: RMSNorm, slots: int) -> None:
        self.layer, self.slots = layer, slots
        heads, values = layer.heads, layer.value_heads
        keys, width = layer.key_dim, layer.value_dim
        inner: list[Tensor] = [layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]
        self.low = [name for name in "fg" if layer.low_rank[name]]
        for name in "fg":
            inner.append(layer.get_parameter(f"{name}_a_proj.weight" if name in self.low else f"{name}_proj.weight"))
        self.sizes = [sum(layer.sizes), len(inner[3]) + len(inner[4]), values]
        self.forget = len(inner[3])
        self.w_in = product(behind(norm, *inner, layer.b_proj.weight), slots, norm.eps)
        bias = layer.dt_bias.detach().float()
        seconds = [layer.get_parameter(f"{name}_b_proj.weight").detach() for name in self.low]
        self.w_gates = torch.block_diag(*seconds).t() if seconds else None
        self.gate_bias = torch.cat([bias, bias.new_zeros(values * width)])
        self.bias = bias
        self.rate = layer.A_log.detach().float().reshape(values, 1).exp()
        self.w_out = product(layer.o_proj.weight * layer.o_norm.weight.repeat(values), slots)
        new = layer.o_proj.weight.new_zeros
        self.history = None
        if layer.letter != "C":
            convs = (layer.q_conv1d, layer.k_conv1d, layer.v_conv1d)
            self.history = History(convs, slots)
        self.S = new(slots, values, keys, width)
        self.qk, self.v = new(2, slots, heads, keys), new(slots, values, width)
        self.g, self.beta, self.o = new(slots, values, keys), new(slots, values), new(slots, values, width)
        self.kernel = None if kda_c.available() else kda_c._load(os.environ.get(kda_c.SWITCH, ""))
        self.arguments = kda_c._Arguments(
            n=0, t=1, h=heads, hv=values, k=keys, v=width, threads=1, parts=1, scale=keys**-0.5,
            q=self.qk[0].data_ptr(), key=self.qk[1].data_ptr(), val=self.v.data_ptr(), g=self.g.data_ptr(),
            beta=self.beta.data_ptr(), s0=self.S.data_ptr(), s1=self.S.data_ptr(), o=self.o.data_ptr(),
        )  # fmt: skip

    def step(self, x_ND: Tensor, place: Place) -> None:
        """See `Mixer`."""
        layer, n = self.layer, place.rows
        mixed, gates, b = self.w_in.of(x_ND).split(self.sizes, -1)
        mixed = functional.silu(mixed if self.history is None else self.history.convolved(mixed, n))
        keys = 2 * layer.heads * layer.key_dim
        qk = mixed[:, :keys].view(n, 2, layer.heads, layer.key_dim).transpose(0, 1)
        norm = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).square_().add_(1e-6).rsqrt_()
        torch.mul(qk, norm, out=self.qk[:, :n])
        self.v[:n].copy_(mixed[:, keys:].view(n, layer.value_heads, -1))
        f, gate = self._gates(gates)
        f = f.view(n, layer.value_heads, -1)
        if layer.bounded:
            decay = torch.sigmoid(f * self.rate).mul_(layer.lower)
        else:
            decay = functional.softplus(f).mul_(-self.rate)
        self.g[:n].copy_(decay)
        torch.sigmoid(b, out=self.beta[:n])
        if layer.beta_max != 1:
            self.beta[:n].mul_(layer.beta_max)
        if layer.letter == "N":
            self.v[:n].mul_((self.beta[:n] / TINY).unsqueeze(-1))
            self.beta[:n].fill_(TINY)
        self._recur(n)
        o = self.o[:n]
        norm = torch.linalg.vector_norm(o, dim=-1, keepdim=True).square_().mul_(1 / layer.value_dim)
        o = (o * norm.add_(layer.o_norm.eps).rsqrt_()).mul_(torch.sigmoid(gate).view_as(o))
        self.w_out.add(o.view(n, -1), x_ND)

    def _gates(self, inner_NI: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the forget gate, its bias added, and of the output gate."""
        width = self.bias.numel()
        if self.w_gates is not None and len(self.low) == 2:  # both second factors as one block-diagonal matrix
            both = torch.addmm(self.gate_bias, inner_NI, self.w_gates)
            return both[:, :width], both[:, width:]
        f, gate = inner_NI[:, : self.forget], inner_NI[:, self.forget :]
        return f + self.bias, gate if self.w_gates is None else gate @ self.w_gates

    def _recur(self, n: int) -> None:
        """One step of the recurrence, on the state in place."""
        if self.kernel is not None:
            assert not isinstance(self.kernel, str)
            self.arguments.n = n
            if self.kernel["kda_forward"](ctypes.byref(self.arguments)):
                raise MemoryError("kda_forward: no memory for its working space")
            return
        q, k = (x[:n].repeat_interleave(self.layer.value_heads // self.layer.heads, 1) for x in self.qk)
        S = self.S[:n].mul_(self.g[:n].exp().unsqueeze(-1))
        error = (self.v[:n] - (k.unsqueeze(-2) @ S).squeeze(-2)).mul_(self.beta[:n].unsqueeze(-1))
        S.add_(k.unsqueeze(-1) * error.unsqueeze(-2))
        self.o[:n].copy_((q.unsqueeze(-2) @ S).squeeze(-2).mul_(self.layer.key_dim**-0.5))

    def load(self, row: int, state: LayerState, now: int) -> None:
        """See `Mixer`."""
        self.S[row].copy_(cast(Tensor, state["S"])[0])
        if self.history is not None:
            self.history.load(row, state)

    def dump(self, row: int, length: int, now: int) -> LayerState:
        """See `Mixer`."""
        out: LayerState = {"S": self.S[row : row + 1].clone()}
        return out if self.history is None else out | self.history.dump(row)

    def move(self, source: int, to: int, first: int, now: int) -> None:
        """See `Mixer`."""
        self.S[to].copy_(self.S[source])
        if self.history is not None:
            self.history.move(source, to)

    def shift(self, rows: int, first: int, now: int, to: int, columns: int) -> None:
        """See `Mixer`."""


class Columns:
    """A cache [slots, columns, width] whose sequences all end at one column."""

    def __init__(self, slots: int, width: int, like: Tensor) -> None:
        self.tensor = like.new_zeros(slots, 0, width)

    def move(self, source: int, to: int, first: int, now: int) -> None:
        """Copy columns [first, now) of one sequence to another."""
        self.tensor[to, first:now].copy_(self.tensor[source, first:now])

    def shift(self, rows: int, first: int, now: int, to: int, columns: int) -> None:
        """See `Mixer.shift`."""
        kept = self.tensor[:rows, first:now].clone()
        if columns != self.tensor.shape[1]:
            self.tensor = self.tensor.new_zeros(len(self.tensor), columns, self.tensor.shape[2])
        self.tensor[:rows, to : to + now - first] = kept


class SoftmaxStep:
    """F, P, W: keys and then values [N, S, 2 J E], as in the layer's state."""

    def __init__(self, layer: SoftmaxLayer, norm: RMSNorm, slots: int) -> None:
        self.layer = layer
        heads, width = layer.heads * layer.width, layer.width
        w_in = behind(norm, layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight)
        self.history = None
        if layer.taps > 1:
            self.history = History((layer.q_conv1d, layer.k_conv1d, layer.v_conv1d), slots)
        # The softmax scale goes into the queries' last linear map: rotation does not change lengths.
        scaled_HD = w_in[:heads] if self.history is None else self.history.taps[:, :heads]
        scaled_HD *= width**-0.5
        self.w_in = product(w_in, slots, norm.eps)
        self.w_out = product(layer.o_proj.weight, slots)
        self.cache = Columns(slots, 2 * layer.key_heads * width, w_in)
        self.kernel = None
        if decode_c.available() is None and width % decode_c.UNIT == 0:
            self.kernel = decode_c.Attention(layer.heads, layer.key_heads, width, layer.window)

    def step(self, x_ND: Tensor, place: Place) -> None:
        """See `Mixer`."""
        p = self.w_in.of(x_ND)
        if self.history is not None:
            p = self.history.convolved(p, place.rows)
        if self.kernel is None:
            out = self._attend(p, place)
        else:
            turns = place.turns if self.layer.rotary else None
            out = self.kernel.of(p, turns, self.cache.tensor, place.positions_N, place.now)
        self.w_out.add(out, x_ND)

    def _attend(self, p: Tensor, place: Place) -> Tensor:
        """Queries, keys and values [N, (H + 2 J) E] -> [N, H E]."""
        layer, n, now = self.layer, place.rows, place.now
        heads, key_heads, width = layer.heads, layer.key_heads, layer.width
        turning = (heads + key_heads) * width
        qk = p[:, :turning].view(n, heads + key_heads, width)
        if layer.rotary:
            assert place.turns is not None
            cos, sin = (table[place.positions_N][:, None] for table in place.turns)
            flipped = qk.unflatten(-1, (2, width // 2)).flip(2).view_as(qk)
            qk = torch.addcmul(qk * cos, flipped, sin)
        half = key_heads * width
        held = self.cache.tensor[:n]
        held[:, now, :half].view(n, key_heads, width).copy_(qk[:, heads:])
        held[:, now, half:].copy_(p[:, turning:])
        first = place.first if layer.window is None else max(place.first, now + 1 - layer.window)
        seen = held[:, first : now + 1].unflatten(-1, (2, key_heads, width))
        out: list[Tensor] = []
        for j, q in enumerate(qk[:, :heads].unflatten(1, (key_heads, -1)).unbind(1)):
            scores = torch.bmm(q, seen[:, :, 0, j].transpose(1, 2))
            if place.mask_N1S is not None:
                scores.add_(place.mask_N1S[..., first - place.first :])
            out.append(torch.bmm(torch.softmax(scores, -1), seen[:, :, 1, j]))
        return torch.cat(out, 1).view(n, heads * width)

    def load(self, row: int, state: LayerState, now: int) -> None:
        """See `Mixer`."""
        held_SI = cast(Rows, state["kv"]).sequence(0)
        self.cache.tensor[row, now - len(held_SI) : now] = held_SI
        if self.history is not None:
            self.history.load(row, state)

    def dump(self, row: int, length: int, now: int) -> LayerState:
        """See `Mixer`."""
        held = length if self.layer.window is None else min(length, self.layer.window)
        out: LayerState = {"kv": Rows.of([self.cache.tensor[row, now - held : now]], [length - held])}
        return out if self.history is None else out | self.history.dump(row)

    def move(self, source: int, to: int, first: int, now: int) -> None:
        """See `Mixer`."""
        self.cache.move(source, to, first, now)
        if self.history is not None:
            self.history.move(source, to)

    def shift(self, rows: int, first: int, now: int, to: int, columns: int) -> None:
        """See `Mixer`."""
        self.cache.shift(rows, first, now, to, columns)


class LatentStep:
    """M: latent rows [N, S, R], read by absorbed queries."""

    def __init__(self, layer: LatentLayer, norm: RMSNorm, slots: int) -> None:
        self.layer, config = layer, layer.config
        first = layer.q_proj.weight if config.q_rank is None else layer.q_a_proj.weight
        self.w_in = product(behind(norm, first, layer.kv_a_proj_with_mqa.weight), slots, norm.eps)
        self.sizes = [len(first), layer.latent, layer.shared]
        self.w_q = None
        if config.q_rank is not None:
            inner = layer.q_a_layernorm
            self.w_q = product(behind(inner, layer.q_b_proj.weight), slots, inner.eps)
        w_HNC, w_HVC = split_up_projection(layer.kv_b_proj.weight.detach(), layer.heads, layer.nope)
        self.w_k, self.w_v = (w_HNC * layer.scale).contiguous(), w_HVC.transpose(1, 2).contiguous()
        self.w_out = product(layer.o_proj.weight, slots)
        self.rows = Columns(slots, layer.latent + layer.shared, layer.o_proj.weight)
        self.frequency = None
        if config.mla_rope != "none":
            self.frequency = layer._frequencies(layer.shared, layer.o_proj.weight)

    def step(self, x_ND: Tensor, place: Place) -> None:
        """See `Mixer`."""
        layer, n, now = self.layer, place.rows, place.now
        q, latent, shared = self.w_in.of(x_ND).split(self.sizes, -1)
        if self.w_q is not None:
            q = self.w_q.of(q)
        q_nope, q_shared = q.unflatten(-1, (layer.heads, -1)).split([layer.nope, layer.shared], -1)
        held = self.rows.tensor[:n]
        norm = layer.kv_a_layernorm
        torch.mul(scaled(latent, norm.eps), norm.weight, out=held[:, now, : layer.latent])
        held[:, now, layer.latent :].copy_(self._turned(shared[:, None], place)[:, 0])
        absorbed = torch.bmm(q_nope.transpose(0, 1), self.w_k).transpose(0, 1)
        queries = torch.cat([absorbed, self._turned(q_shared, place) * layer.scale], -1)
        rows_NSR = held[:, place.first : now + 1]
        scores = torch.bmm(queries, rows_NSR.transpose(1, 2))
        if place.mask_N1S is not None:
            scores.add_(place.mask_N1S)
        context = torch.bmm(torch.softmax(scores, -1), rows_NSR[..., : layer.latent])
        out = torch.bmm(context.transpose(0, 1), self.w_v).transpose(0, 1)
        self.w_out.add(out.reshape(n, -1), x_ND)

    def _turned(self, x_NHP: Tensor, place: Place) -> Tensor:
        layout = self.layer.config.mla_rope
        if layout == "none":
            return x_NHP
        where = place.positions_N[:, None]
        return rotate(x_NHP[:, None], where, layout=layout, frequencies_R=self.frequency)[:, 0]

    def load(self, row: int, state: LayerState, now: int) -> None:
        """See `Mixer`."""
        held_SR = cast(Rows, state["latents"]).sequence(0)
        self.rows.tensor[row, now - len(held_SR) : now] = held_SR

    def dump(self, row: int, length: int, now: int) -> LayerState:
        """See `Mixer`."""
        return {"latents": Rows.of([self.rows.tensor[row, now - length : now]], [0])}

    def move(self, source: int, to: int, first: int, now: int) -> None:
        """See `Mixer`."""
        self.rows.move(source, to, first, now)

    def shift(self, rows: int, first: int, now: int, to: int, columns: int) -> None:
        """See `Mixer`."""
        self.rows.shift(rows, first, now, to, columns)


class MlpStep:
    """The SwiGLU, or the experts by their own forward pass."""

    def __init__(self, block: Block, slots: int) -> None:
        self.block, norm = block, block.post_attention_layernorm
        self.products, self.fused = None, False
        if block.mlp is not None:
            inner = behind(norm, block.mlp.gate_proj.weight, block.mlp.up_proj.weight)
            self.products = product(inner, slots, norm.eps), product(block.mlp.down_proj.weight, slots)
            self.fused = decode_c.available() is None and len(inner) % (2 * decode_c.UNIT) == 0

    def step(self, x_ND: Tensor) -> None:
        """Add its output to x."""
        if self.products is None:
            assert self.block.block_sparse_moe is not None
            n = len(x_ND)
            inner = self.block.post_attention_layernorm(x_ND)[:, None]
            x_ND += self.block.block_sparse_moe(inner, Call([1] * n, [0] * n, False), 0)[:, 0]
            return
        w_in, w_out = self.products
        both = w_in.of(x_ND)
        if self.fused:
            w_out.add(decode_c.gated(both), x_ND)
        else:
            gate, up = both.chunk(2, -1)
            w_out.add(functional.silu(gate).mul_(up), x_ND)


def turns(positions: int, frequency_E: Tensor, sign_E: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [positions, E] of a half-split rotation, both halves written out."""
    angle = torch.arange(positions).float()[:, None] * frequency_E
    return angle.cos(), angle.sin().mul_(sign_E)


def turning(width: int, base: float) -> tuple[Tensor, Tensor]:
    """Frequencies and signs [E] for `turns`."""
    frequency = frequencies(width, base)
    half = torch.ones(width // 2)
    return torch.cat([frequency, frequency]), torch.cat([-half, half])
