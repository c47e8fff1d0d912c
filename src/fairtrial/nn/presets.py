"""Named configs: the embedded tiny model and three published ones (those for names and shapes, never to be run here).

Loads without torch. Published sizes: Kimi-Linear-48B-A3B, DeepSeek-V3.2 and GLM-5, each from its config.json.
"""

from __future__ import annotations

from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.nn.config import ModelConfig


def preset(name: str, **changes: object) -> ModelConfig:
    """The config registered as `name`, with fields replaced by `changes`.

    Raises UserError for an unknown name and for fields that do not fit.
    """
    from fairtrial.core.config import parse

    if name not in PRESETS:
        raise UserError(f'unknown model preset "{name}"{did_you_mean(name, PRESETS)}')
    return parse(ModelConfig, PRESETS[name] | changes, where=f'model preset "{name}"')


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "vocab": 4096, "hidden": 192, "layers": 4, "pattern": "KKKD", "intermediate": 512, "tied": True,
        "heads": 3, "head_dim": 64, "kda_heads": 3, "kda_key_dim": 64, "kda_gate_rank": 32,
        "kv_rank": 96, "nope_dim": 64, "rope_dim": 32, "mla_value_dim": 64,
        "index_heads": 4, "index_dim": 32, "index_topk": 64,
    },
    "kimi-linear-48b": {
        "vocab": 163840, "hidden": 2304, "layers": 27, "pattern": "KKKM" * 6 + "KKM", "intermediate": 9216,
        "heads": 32, "kda_heads": 32, "kda_key_dim": 128, "kda_gate_rank": 128,
        "kv_rank": 512, "nope_dim": 128, "rope_dim": 64, "mla_value_dim": 128, "mla_rope": "none",
        "experts": 256, "experts_per_token": 8, "shared_experts": 1, "expert_intermediate": 1024,
        "dense_layers": 1, "route_scale": 2.446,
    },
    "deepseek-v3.2": {
        "vocab": 129280, "hidden": 7168, "layers": 61, "pattern": "D", "intermediate": 18432, "norm_eps": 1e-6,
        "heads": 128, "q_rank": 1536, "kv_rank": 512, "nope_dim": 128, "rope_dim": 64, "mla_value_dim": 128,
        "mla_rope": "interleaved", "rope_theta": 10000.0, "yarn_factor": 40.0, "yarn_original": 4096,
        "index_heads": 64, "index_dim": 128, "index_topk": 2048, "index_rope_dim": 64, "index_rope": "half",
        "experts": 256, "experts_per_token": 8, "shared_experts": 1, "expert_intermediate": 2048,
        "dense_layers": 3, "expert_groups": 8, "expert_topk_groups": 4, "route_scale": 2.5, "mtp_steps": 1,
    },
    "glm-5": {
        "vocab": 154880, "hidden": 6144, "layers": 78, "pattern": "D", "intermediate": 12288,
        "heads": 64, "q_rank": 2048, "kv_rank": 512, "nope_dim": 192, "rope_dim": 64, "mla_value_dim": 256,
        "mla_rope": "interleaved", "rope_theta": 1000000.0,
        "index_heads": 32, "index_dim": 128, "index_topk": 2048, "index_rope_dim": 64, "index_rope": "interleaved",
        "experts": 256, "experts_per_token": 8, "shared_experts": 1, "expert_intermediate": 2048,
        "dense_layers": 3, "route_scale": 2.5, "mtp_steps": 1,
    },
}  # fmt: skip
