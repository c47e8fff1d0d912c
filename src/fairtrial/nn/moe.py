"""Mixture of experts: sigmoid router, a bias instead of an auxiliary loss, a shared expert.

Source: DeepSeek-V3 report (2412.19437), section 2.1.2 (bias, groups); Kimi Linear report, section 4. Selection looks at
score + bias, the weights are the chosen scores alone; the trainer moves the bias with `update_bias` after a step.
Legend: R tokens, D model width, E experts, k experts per token, I expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.nn.call import Call, wide
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.norm import SwiGlu, empty


class Router(nn.Module):
    """x [R, D] -> (experts [R, k], weights [R, k]); scores are computed in fp32."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts, self.chosen = config.experts, config.experts_per_token
        self.groups, self.open_groups = config.expert_groups, config.expert_topk_groups
        self.scale, self.renormalise = config.route_scale, config.route_renormalise
        self.weight = empty(config.experts, config.hidden)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.experts))

    def forward(self, x_RD: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Chosen experts, best first (equal scores: the lower number first), and their weights."""
        scores_RE = call.smooth(torch.sigmoid, call.product(wide(x_RD), wide(self.weight)))
        order_RE = scores_RE.detach() + wide(self.e_score_correction_bias)
        if self.groups > 1:
            order_RE = self._open(order_RE)
        chosen_Rk = torch.sort(order_RE, dim=-1, descending=True, stable=True).indices[:, : self.chosen]
        weights_Rk = scores_RE.gather(1, chosen_Rk)
        if self.renormalise:
            weights_Rk = weights_Rk / (weights_Rk.sum(-1, keepdim=True) + 1e-20)
        return chosen_Rk, weights_Rk * self.scale

    def _open(self, order_RE: Tensor) -> Tensor:
        """-inf for experts outside the best groups; a group counts by the sum of its two best."""
        by_group = order_RE.unflatten(-1, (self.groups, -1))
        value_RG = by_group.topk(2, dim=-1).values.sum(-1)
        best = torch.sort(value_RG, dim=-1, descending=True, stable=True).indices[:, : self.open_groups]
        closed_RG = torch.ones_like(value_RG, dtype=torch.bool).scatter(1, best, False)
        return by_group.masked_fill(closed_RG.unsqueeze(-1), -torch.inf).flatten(-2)


class Experts(nn.Module):
    """The routed experts' weights, stacked: w1 (gate) and w3 (up) [E, I, D], w2 (down) [E, D, I]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, hidden = config.experts, config.expert_intermediate, config.hidden
        self.w1, self.w3 = empty(experts, width, hidden), empty(experts, width, hidden)
        self.w2 = empty(experts, hidden, width)

    def forward(self, x_RD: Tensor, chosen_Rk: Tensor, weights_Rk: Tensor, call: Call) -> Tensor:
        """Weighted sum of the chosen experts' outputs [R, D]; an expert that nobody chose costs nothing."""
        out_RD = torch.zeros_like(x_RD)
        for expert in torch.unique(chosen_Rk).tolist():
            rows, slot = torch.nonzero(chosen_Rk == expert, as_tuple=True)
            x = x_RD[rows]
            gate = call.smooth(functional.silu, call.product(x, self.w1[expert]))
            y = call.product(gate * call.product(x, self.w3[expert]), self.w2[expert])
            out_RD = out_RD.index_add(0, rows, (y * weights_Rk[rows, slot].unsqueeze(-1)).to(out_RD.dtype))
        return out_RD


class MoE(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        shared = config.shared_experts * config.expert_intermediate
        self.shared_experts = SwiGlu(config.hidden, shared) if shared else None

    def forward(self, x_BTD: Tensor, call: Call, layer: int) -> Tensor:
        """Notes each expert's number of tokens in `call.aux.expert_load[layer]`."""
        x_RD = x_BTD.flatten(0, 1)
        chosen_Rk, weights_Rk = self.gate(x_RD, call)
        load_E = torch.bincount(chosen_Rk.flatten(), minlength=self.gate.experts)
        seen = call.aux.expert_load.get(layer)
        call.aux.expert_load[layer] = load_E if seen is None else seen + load_E
        out = self.experts(x_RD, chosen_Rk, weights_Rk, call)
        if self.shared_experts is not None:
            out = out + self.shared_experts(x_RD, call)
        return out.view_as(x_BTD)

    @torch.no_grad()
    def update_bias(self, load_E: Tensor, rate: float) -> None:
        """Raise the selection bias of experts with less than the mean load by `rate`, lower that of the others."""
        load = load_E.float()
        self.gate.e_score_correction_bias += rate * torch.sign(load.mean() - load)
