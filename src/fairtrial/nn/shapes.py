"""Name and shape of every tensor of a model, from its config alone: the parameter count and the hub's dry load.

Names follow the published checkpoints (Kimi-Linear-48B's, `model.layers.{i}.self_attn...`). Two differences, so that
a layer is a few tensors: a layer's routed experts are stacked (`block_sparse_moe.experts.w1` [E, I, D]), and the
MTP block is `model.mtp.*` instead of a further layer. Loads without torch.
"""

from __future__ import annotations

from math import prod

from fairtrial.nn.config import LATENT, LINEAR, ModelConfig

Shapes = dict[str, tuple[int, ...]]

BIAS = "block_sparse_moe.gate.e_score_correction_bias"
"""The one tensor that is stored but not trained by gradient."""


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Name -> shape of every tensor in a checkpoint of this config (in-memory names)."""
    out: Shapes = {"model.embed_tokens.weight": (config.vocab, config.hidden)}
    for index, letter in enumerate(config.letters):
        out |= _under(f"model.layers.{index}.", _block(config, letter, index))
    out["model.norm.weight"] = (config.hidden,)
    if config.mtp_steps:
        out |= _under("model.mtp.", _mtp(config))
    if not config.tied:
        out["lm_head.weight"] = (config.vocab, config.hidden)
    return out


def count(config: ModelConfig, *, active: bool) -> int:
    """See `ModelConfig.parameters`."""
    total = 0
    for name, shape in tensor_shapes(config).items():
        size = prod(shape)
        if name.endswith(BIAS):
            continue
        if active:
            if ".experts.w" in name:
                size = size // config.experts * config.experts_per_token
            if name.startswith("model.mtp.") or (name == "model.embed_tokens.weight" and not config.tied):
                continue
        total += size
    return total


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def _block(config: ModelConfig, letter: str, index: int) -> Shapes:
    hidden = config.hidden
    out: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    mixer = _linear if letter in LINEAR else _latent if letter in LATENT else _softmax
    out |= _under("self_attn.", mixer(config, letter))
    if config.is_moe(index):
        return out | _under("block_sparse_moe.", _moe(config))
    return out | _under("mlp.", _swiglu(hidden, config.intermediate))


def _swiglu(hidden: int, width: int) -> Shapes:
    return {
        "gate_proj.weight": (width, hidden),
        "up_proj.weight": (width, hidden),
        "down_proj.weight": (hidden, width),
    }


def _moe(config: ModelConfig) -> Shapes:
    experts, width, hidden = config.experts, config.expert_intermediate, config.hidden
    out: Shapes = {
        "gate.weight": (experts, hidden),
        "gate.e_score_correction_bias": (experts,),
        "experts.w1": (experts, width, hidden),
        "experts.w2": (experts, hidden, width),
        "experts.w3": (experts, width, hidden),
    }
    if config.shared_experts:
        out |= _under("shared_experts.", _swiglu(hidden, width * config.shared_experts))
    return out


def _linear(config: ModelConfig, letter: str) -> Shapes:
    hidden, keys = config.hidden, config.kda_heads * config.kda_key_dim
    values, heads = config.value_heads * config.value_dim, config.value_heads
    gates = heads if letter == "G" else heads * config.kda_key_dim
    out: Shapes = {
        "q_proj.weight": (keys, hidden),
        "k_proj.weight": (keys, hidden),
        "v_proj.weight": (values, hidden),
        "A_log": (1, 1, heads, 1),
        "dt_bias": (gates,),
        "b_proj.weight": (heads, hidden),
        "o_norm.weight": (config.value_dim,),
        "o_proj.weight": (hidden, values),
    }
    if letter != "C":
        for name, width in (("q", keys), ("k", keys), ("v", values)):
            out[f"{name}_conv1d.weight"] = (width, 1, config.conv_width)
    rank = config.kda_gate_rank
    for name, width in (("f", gates), ("g", values)):
        if rank is None or (name == "f" and letter == "G"):
            out[f"{name}_proj.weight"] = (width, hidden)
        else:
            out[f"{name}_a_proj.weight"] = (rank, hidden)
            out[f"{name}_b_proj.weight"] = (width, rank)
    return out


def _latent(config: ModelConfig, letter: str) -> Shapes:
    hidden, heads = config.hidden, config.heads
    queries = heads * (config.nope_dim + config.rope_dim)
    out: Shapes = {
        "kv_a_proj_with_mqa.weight": (config.latent_dim, hidden),
        "kv_a_layernorm.weight": (config.kv_rank,),
        "kv_b_proj.weight": (heads * (config.nope_dim + config.mla_value_dim), config.kv_rank),
        "o_proj.weight": (hidden, heads * config.mla_value_dim),
    }
    if config.q_rank is None:
        out["q_proj.weight"] = (queries, hidden)
    else:
        out["q_a_proj.weight"] = (config.q_rank, hidden)
        out["q_a_layernorm.weight"] = (config.q_rank,)
        out["q_b_proj.weight"] = (queries, config.q_rank)
    if letter == "D":
        out["indexer.wq_b.weight"] = (config.index_heads * config.index_dim, config.q_rank or hidden)
        out["indexer.wk.weight"] = (config.index_dim, hidden)
        out["indexer.k_norm.weight"] = (config.index_dim,)
        out["indexer.k_norm.bias"] = (config.index_dim,)
        out["indexer.weights_proj.weight"] = (config.index_heads, hidden)
        if config.index_pool > 1:
            out["indexer.pool.weight"] = (config.index_dim, hidden)
            out["indexer.pool.bias"] = (config.index_pool, config.index_dim)
    return out


def _softmax(config: ModelConfig, letter: str) -> Shapes:
    hidden, width, keys = config.hidden, config.heads * config.head_dim, config.key_heads * config.head_dim
    out: Shapes = {
        "q_proj.weight": (width, hidden),
        "k_proj.weight": (keys, hidden),
        "v_proj.weight": (keys, hidden),
        "o_proj.weight": (hidden, width),
    }
    if config.softmax_conv:
        out |= {
            f"{name}_conv1d.weight": (size, 1, config.conv_width)
            for name, size in zip("qkv", (width, keys, keys), strict=True)
        }
    return out


def _mtp(config: ModelConfig) -> Shapes:
    hidden = config.hidden
    return {
        "enorm.weight": (hidden,),
        "hnorm.weight": (hidden,),
        "eh_proj.weight": (hidden, 2 * hidden),
        "norm.weight": (hidden,),
        **_under("block.", _block(config, config.letters[-1], config.layers)),
    }
