"""Multi-token prediction: further tokens from the last hidden state, one set of weights applied again and again.

Source: DeepSeek-V3 report (2412.19437), section 2.2 (the block); GLM-5 (2602.15763), shared weights for all steps.
Legend: B batch, T time, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.nn.block import Block
from fairtrial.nn.call import Call
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.norm import Linear, RMSNorm
from fairtrial.nn.state import LayerState


class Mtp(nn.Module):
    """Step j joins h_t with the embedding of token t + 1 + j and predicts token t + 2 + j."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.steps, self.layer = config.mtp_steps, config.layers
        self.enorm = RMSNorm(config.hidden, config.norm_eps)
        self.hnorm = RMSNorm(config.hidden, config.norm_eps)
        self.eh_proj = Linear(2 * config.hidden, config.hidden)
        self.block = Block(config, config.letters[-1], config.layers)
        self.norm = RMSNorm(config.hidden, config.norm_eps)

    def forward(self, hidden_BTD: Tensor, embedded_BTD: Tensor, call: Call) -> list[Tensor]:
        """One normalised hidden state [B, T, D] for each step, ready for the output head.

        The last 1 + j tokens of a row have no token to read at step j (zeros there), and the last ones of a packed
        document read the next document's: what they predict is across the border and no target.
        """
        out: list[Tensor] = []
        for step in range(self.steps):
            ahead_BTD = functional.pad(embedded_BTD[:, 1 + step :], (0, 0, 0, 1 + step))[:, : embedded_BTD.shape[1]]
            hidden_BTD, _ = self.advance(hidden_BTD, ahead_BTD, call, None)
            out.append(self.norm(hidden_BTD))
        return out

    def advance(
        self, hidden_BTD: Tensor, ahead_BTD: Tensor, call: Call, before: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        """One step: what the step before made at each position and the embedding that it reads there, to [B, T, D].

        `before`: what this step remembers of earlier positions; returned anew. `norm` stands before the output head.
        """
        both = torch.cat([self.enorm(ahead_BTD), self.hnorm(hidden_BTD)], -1)
        return self.block(call.product(both, self.eh_proj.weight), call, self.layer, before)
