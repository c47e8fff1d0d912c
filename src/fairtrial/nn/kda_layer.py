"""The KDA layer and its ablations (letters K, G, N, C).

Source: Kimi Linear technical report, section 4 (neural parameterisation); initial values as in the released code.
Letters: K as published; G one decay per head (gated DeltaNet); N the gate without the delta rule (gated linear
attention); C without short convolution. Names follow the published checkpoint.
Legend: B batch, T time, D model width, H key heads, HV value heads, K key dim, V value dim, N sequences, W taps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.nn.call import VECTOR, Call, wide
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.norm import Conv, Linear, RMSNorm, empty
from fairtrial.nn.ops.kda import gate_bounded, gate_softplus, kda, l2norm
from fairtrial.nn.optim import mark
from fairtrial.nn.short_conv import causal_conv
from fairtrial.nn.state import LayerState

TINY = 2.0**-40
"""A beta so small that the delta rule's erase term is below fp32 rounding: N runs on the same kernels."""


class KdaLayer(nn.Module):
    """x [B, T, D] -> [B, T, D]; remembers S [N, HV, K, V] in fp32 and the last W - 1 inputs of the convolution."""

    def __init__(self, config: ModelConfig, letter: str) -> None:
        super().__init__()
        self.letter = letter
        self.heads, self.value_heads = config.kda_heads, config.value_heads
        self.key_dim, self.value_dim = config.kda_key_dim, config.value_dim
        self.bounded = config.kda_gate == "bounded"
        self.lower = config.kda_gate_lower
        self.beta_max = 2.0 if config.kda_negative_eigenvalues else 1.0
        self.taps = config.conv_width
        keys, values = self.heads * self.key_dim, self.value_heads * self.value_dim
        self.sizes = [keys, keys, values]
        self.q_proj, self.k_proj = (Linear(config.hidden, keys, rows=(self.key_dim,)) for _ in range(2))
        self.v_proj = Linear(config.hidden, values, rows=(self.value_dim,))
        if letter != "C":
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (Conv(size, self.taps) for size in self.sizes)
        gates = self.value_heads * (1 if letter == "G" else self.key_dim)
        self.A_log = mark(empty(1, 1, self.value_heads, 1), no_decay=True)
        self.dt_bias = mark(empty(gates), no_decay=True)
        rank = config.kda_gate_rank
        self.low_rank = {"f": rank is not None and letter != "G", "g": rank is not None}
        for name, width in (("f", gates), ("g", values)):
            if rank is not None and self.low_rank[name]:
                self.add_module(f"{name}_a_proj", Linear(config.hidden, rank))
                self.add_module(f"{name}_b_proj", Linear(rank, width))
            else:
                self.add_module(f"{name}_proj", Linear(config.hidden, width))
        self.b_proj = Linear(config.hidden, self.value_heads)
        self.o_norm = RMSNorm(self.value_dim, config.norm_eps)
        self.o_proj = Linear(values, config.hidden)

    def init_state(self, batch: int) -> LayerState:
        """An empty memory for `batch` sequences."""
        weight = self.q_proj.weight
        kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
        shape = (batch, self.value_heads, self.key_dim, self.value_dim)
        state: LayerState = {"S": weight.new_zeros(shape, dtype=kind)}
        if self.letter != "C":
            state["tail"] = weight.new_zeros(batch, self.taps - 1, sum(self.sizes))
        return state

    def forward(self, x_BTD: Tensor, call: Call, layer: int, before: LayerState | None) -> tuple[Tensor, LayerState]:
        """The layer's output and what it remembers afterwards."""
        old = self.init_state(len(call.lengths)) if before is None else before
        new: LayerState = {}
        mixed = torch.cat([call.product(x_BTD, p.weight) for p in (self.q_proj, self.k_proj, self.v_proj)], -1)
        if self.letter != "C":
            weight_CW = torch.cat([c.weight for c in (self.q_conv1d, self.k_conv1d, self.v_conv1d)])[:, 0]
            mixed, new["tail"] = causal_conv(mixed, weight_CW, _tensor(old["tail"]), call)
        q, k, v = call.smooth(functional.silu, mixed).split(self.sizes, -1)
        batch, time = x_BTD.shape[:2]
        q = l2norm(q.reshape(batch, time, self.heads, self.key_dim))
        k = l2norm(k.reshape(batch, time, self.heads, self.key_dim))
        v = v.reshape(batch, time, self.value_heads, self.value_dim)
        beta = self.beta_max * call.smooth(torch.sigmoid, wide(call.product(x_BTD, self.b_proj.weight)))
        if self.letter == "N":
            v, beta = wide(v) * (beta.unsqueeze(-1) / TINY), torch.full_like(beta, TINY)
        o, new["S"] = kda(
            q, k, v, self._decay(x_BTD, call), beta,
            initial_state=_tensor(old["S"]), cu_seqlens=call.cu_seqlens, backend=call.backend,
        )  # fmt: skip
        gate = call.smooth(torch.sigmoid, self._low_rank(x_BTD, call, "g")).view_as(o)
        o = self.o_norm(o.to(gate.dtype)) * gate
        return call.product(o.reshape(batch, time, -1), self.o_proj.weight), new

    def _low_rank(self, x_BTD: Tensor, call: Call, name: str) -> Tensor:
        if not self.low_rank[name]:
            return call.product(x_BTD, self.get_parameter(f"{name}_proj.weight"))
        inner = call.product(x_BTD, self.get_parameter(f"{name}_a_proj.weight"))
        return call.product(inner, self.get_parameter(f"{name}_b_proj.weight"))

    def _decay(self, x_BTD: Tensor, call: Call) -> Tensor:
        """Log decay g [B, T, HV, K] in fp32."""
        z = self._low_rank(x_BTD, call, "f").unflatten(-1, (self.value_heads, -1))
        width = z.shape[-1]
        bias = self.dt_bias.view(self.value_heads, width)
        if call.exact and width % VECTOR:
            z, bias = functional.pad(z, (0, -width % VECTOR)), functional.pad(bias, (0, -width % VECTOR))
        g = gate_bounded(z, self.A_log, bias, self.lower) if self.bounded else gate_softplus(z, self.A_log, bias)
        return g[..., :width].expand(*g.shape[:-1], self.key_dim).contiguous()


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
