"""One decoder layer: pre-norm, a mixer by its letter, pre-norm, SwiGLU or experts."""

from __future__ import annotations

from torch import Tensor, nn

from fairtrial.nn.attention_layers import SoftmaxLayer
from fairtrial.nn.call import Call
from fairtrial.nn.config import LATENT, LINEAR, ModelConfig
from fairtrial.nn.kda_layer import KdaLayer
from fairtrial.nn.mla_layer import LatentLayer
from fairtrial.nn.moe import MoE
from fairtrial.nn.norm import RMSNorm, SwiGlu
from fairtrial.nn.state import LayerState


class Block(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    self_attn: KdaLayer | LatentLayer | SoftmaxLayer

    def __init__(self, config: ModelConfig, letter: str, layer: int) -> None:
        super().__init__()
        mixer = KdaLayer if letter in LINEAR else LatentLayer if letter in LATENT else SoftmaxLayer
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = mixer(config, letter)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = None if config.is_moe(layer) else SwiGlu(config.hidden, config.intermediate)
        self.block_sparse_moe = MoE(config) if config.is_moe(layer) else None

    def forward(self, x_BTD: Tensor, call: Call, layer: int, before: LayerState | None) -> tuple[Tensor, LayerState]:
        """The layer's output and what it remembers afterwards."""
        mixed, after = self.self_attn(self.input_layernorm(x_BTD), call, layer, before)
        x_BTD = x_BTD + mixed
        inner = self.post_attention_layernorm(x_BTD)
        if self.mlp is not None:
            return x_BTD + self.mlp(inner, call), after
        assert self.block_sparse_moe is not None
        return x_BTD + self.block_sparse_moe(inner, call, layer), after
