"""A published config.json as a ModelConfig, and back: Kimi Linear, DeepSeek-V3.2, GLM-5 and our own models.

Keys as published with Kimi-Linear-48B, DeepSeek-V3.2 and GLM-5, and as transformers 5.23.0 writes them. Whatever the
file leaves open and families answer differently is refused rather than guessed. Loads without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairtrial.core.config import parse
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.nn.config import ModelConfig

OWN = "fairtrial"
"""`model_type`, and the key that holds every field of ours, in a config.json that we write."""

ModelType = Literal["kimi_linear", "deepseek_v32", "glm_moe_dsa", "fairtrial"]
_TYPES: dict[str, ModelType] = {
    "kimi_linear": "kimi_linear",
    "deepseek_v32": "deepseek_v32",
    "glm_moe_dsa": "glm_moe_dsa",
    OWN: OWN,
}
_CLASSES = {
    "kimi_linear": "KimiLinearForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
}
_LIMIT = 16 << 20
_MOST_LAYERS = 10_000
_LAYER_TYPES = {"linear_attention": "K", "full_attention": "M"}
_INDEXERS = {"full": "D", "shared": "S", "F": "D", "S": "S"}


@dataclass(frozen=True, slots=True)
class HubConfig:
    """A config.json, understood."""

    model: ModelConfig
    type: ModelType
    fp8_block: tuple[int, int] | None = None
    """Rows and columns that share one scale, where the weights are stored as FP8."""

    @property
    def family(self) -> Literal["kimi", "deepseek"]:
        """Whose tensor names the checkpoint has. Our own models use Kimi Linear's."""
        return "deepseek" if self.type in ("deepseek_v32", "glm_moe_dsa") else "kimi"


def read_config(path: Path) -> HubConfig:
    """Read a config.json. Raises UserError in one line that names the file and the key."""
    try:
        if path.stat().st_size > _LIMIT:
            raise UserError(f"{path}: larger than {_LIMIT >> 20} MiB, which no config.json is")
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a model folder needs its config.json") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not valid JSON") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return from_hub(data, where=str(path))


def from_hub(data: Any, *, where: str = "config.json") -> HubConfig:
    """A parsed config.json as our config. Raises UserError naming the key that is missing, unknown or unsupported."""
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: not a JSON object")
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in _TYPES:
        hint = did_you_mean(str(kind), _TYPES)
        raise UserError(f"{where}: model_type {kind!r} is not a family that can be loaded{hint}")
    keys = _Keys(data, where)
    if OWN in data:
        return _own(keys, _TYPES[kind])
    if kind == OWN:
        raise UserError(f'{where}: model_type is {OWN} but the key "{OWN}" with the model\'s fields is missing')
    fields = _shared(keys) | (_kimi(keys) if kind == "kimi_linear" else _dsa(keys, kind))
    model = parse(ModelConfig, fields, where=where)
    return HubConfig(model, _TYPES[kind], _fp8(keys))


def to_hub(config: ModelConfig) -> dict[str, Any]:
    """A config.json for this model: of a published family where the model is of one, else of our own type.

    Every field of ours is also kept under the key `fairtrial`, so reading it back gives an equal config.
    """
    kind = model_type(config)
    out: dict[str, Any] = {"model_type": kind, OWN: config.model_dump(mode="json")}
    if kind == OWN:
        return out
    out["architectures"] = [_CLASSES[kind]]
    out |= {
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "q_lora_rank": config.q_rank,
        "kv_lora_rank": config.kv_rank,
        "qk_nope_head_dim": config.nope_dim,
        "qk_rope_head_dim": config.rope_dim,
        "v_head_dim": config.mla_value_dim,
        "moe_intermediate_size": config.expert_intermediate,
        "routed_scaling_factor": config.route_scale,
        "first_k_dense_replace": config.dense_layers,
        "topk_group": config.expert_topk_groups,
        "num_nextn_predict_layers": config.mtp_steps,
        # Left open, transformers would fill in the published tokenizer's ids, which a small vocabulary does not have.
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return out | (_kimi_keys(config) if kind == "kimi_linear" else _dsa_keys(config))


def model_type(config: ModelConfig) -> ModelType:
    """The published family that a config belongs to, down to every detail that its config.json cannot say."""
    letters = set(config.letters)
    # A published config.json can only describe experts beside exactly the shared width that it names.
    whole = bool(config.experts) and config.shared_experts > 0 and not config.tied
    if not whole or config.mtp_steps > 1:
        return OWN
    if letters <= {"K", "M"} and config.mla_rope == "none" and not config.mtp_steps:
        square = (
            config.value_heads == config.kda_heads
            and config.value_dim == config.kda_key_dim
            and config.kda_gate_rank == config.kda_key_dim
            and config.kda_gate == "softplus"
            and not config.kda_negative_eigenvalues
        )
        return "kimi_linear" if square and letters else OWN
    turned = config.mla_rope == "interleaved" and config.index_rope_dim == config.rope_dim
    if letters <= {"D", "S"} and turned and config.q_rank is not None:
        if config.index_rope == "interleaved":
            return "glm_moe_dsa" if config.yarn_factor == 1 else OWN
        return "deepseek_v32" if config.index_rope == "half" and letters == {"D"} else OWN
    return OWN


class _Keys:
    """Typed look-ups in one JSON object with messages that name file and key."""

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.data = data
        self.where = where
        self.prefix = prefix

    def fail(self, message: str) -> UserError:
        return UserError(f"{self.where}: {message}")

    def get(self, *names: str, default: Any = None) -> Any:
        """The value under the first of several names that is there and not null."""
        return next((self.data[name] for name in names if self.data.get(name) is not None), default)

    def need(self, *names: str) -> Any:
        value = self.get(*names)
        if value is None:
            raise self.fail(f'"{self.prefix}{names[0]}" is required')
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse a key whose value this package does not implement; a missing key means the first one."""
        value = self.get(name, default=allowed[0])
        if value not in allowed:
            shown = " or ".join(json.dumps(item) for item in allowed)
            raise self.fail(f'"{self.prefix}{name}" is {value!r}; only {shown} is supported')

    def sub(self, name: str) -> _Keys:
        value = self.get(name, default={})
        if not isinstance(value, Mapping):
            raise self.fail(f'"{name}" is not an object')
        return _Keys(value, self.where, f"{name}.")

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default=default)
        if not isinstance(value, bool):
            raise self.fail(f'"{self.prefix}{name}" is {value!r}, not true or false')
        return value

    def words(self, value: Any, name: str, letters: Mapping[str, str], count: int) -> str:
        """A list of words, one per layer, as a string of letters."""
        if not isinstance(value, (list, str)) or len(value) != count or not all(isinstance(w, str) for w in value):
            raise self.fail(f'"{name}" must have {count} entries, each {" or ".join(letters)}')
        if wrong := [word for word in value if word not in letters]:
            raise self.fail(f'"{name}" has {wrong[0]!r}; it must have {count} entries, each {" or ".join(letters)}')
        return "".join(letters[word] for word in value)

    def count(self, *names: str, default: int | None = None) -> int:
        value = self.need(*names) if default is None else self.get(*names, default=default)
        if type(value) is not int or value < 0:
            raise self.fail(f'"{self.prefix}{names[0]}" is {value!r}, not a whole number')
        return value


def _own(keys: _Keys, kind: ModelType) -> HubConfig:
    model = parse(ModelConfig, keys.data[OWN], where=f"{keys.where}: {OWN}")
    expected = to_hub(model)
    if expected["model_type"] != kind:
        raise keys.fail(f'"model_type" is {kind} but the fields under "{OWN}" describe {expected["model_type"]}')
    for name, value in expected.items():
        if name in keys.data and keys.data[name] != value and name not in (OWN, "architectures"):
            raise keys.fail(f'"{name}" is {keys.data[name]!r} but "{OWN}" says {value!r}; delete one of the two')
    return HubConfig(model, kind, _fp8(keys))


def _shared(keys: _Keys) -> dict[str, Any]:
    """Fields that all families spell alike (or with one of two names)."""
    keys.only("hidden_act", "silu")
    for name in ("attention_bias", "mlp_bias"):
        keys.only(name, False)
    keys.only("scoring_func", "sigmoid")
    keys.only("moe_router_activation_func", "sigmoid")
    keys.only("topk_method", "noaux_tc")
    keys.only("moe_layer_freq", 1)
    layers = keys.count("num_hidden_layers")
    if layers > _MOST_LAYERS:
        raise keys.fail(f'"num_hidden_layers" is {layers}; at most {_MOST_LAYERS} are supported')
    return {
        "vocab": keys.need("vocab_size"),
        "hidden": keys.need("hidden_size"),
        "layers": layers,
        "intermediate": keys.need("intermediate_size"),
        "tied": keys.get("tie_word_embeddings", default=False),
        "norm_eps": keys.need("rms_norm_eps"),
        "init_std": keys.get("initializer_range", default=0.02),
        "heads": keys.need("num_attention_heads"),
        "q_rank": keys.get("q_lora_rank"),
        "kv_rank": keys.need("kv_lora_rank"),
        "nope_dim": keys.need("qk_nope_head_dim"),
        "rope_dim": keys.need("qk_rope_head_dim"),
        "mla_value_dim": keys.need("v_head_dim"),
        "experts": keys.need("num_experts", "n_routed_experts", "num_local_experts"),
        "experts_per_token": keys.need("num_experts_per_token", "num_experts_per_tok"),
        "shared_experts": keys.get("num_shared_experts", "n_shared_experts", default=0),
        "expert_intermediate": keys.need("moe_intermediate_size"),
        "expert_groups": keys.get("num_expert_group", "n_group", default=1),
        "expert_topk_groups": keys.get("topk_group", default=1),
        "route_scale": keys.get("routed_scaling_factor", default=1.0),
        "route_renormalise": keys.get("moe_renormalize", "norm_topk_prob", default=True),
        "dense_layers": _dense_layers(keys, layers),
        "mtp_steps": keys.get("num_nextn_predict_layers", default=0),
    }


def _dense_layers(keys: _Keys, layers: int) -> int:
    """How many first layers have the dense MLP."""
    types = keys.get("mlp_layer_types")
    if types is None:
        return keys.count("first_k_dense_replace")
    dense = sum(kind == "dense" for kind in types) if isinstance(types, list) else -1
    if types != ["dense"] * dense + ["sparse"] * (layers - dense):
        raise keys.fail('"mlp_layer_types" must be "dense" for the first layers, then "sparse", one entry per layer')
    if keys.get("first_k_dense_replace", default=dense) != dense:
        raise keys.fail(f'"mlp_layer_types" has {dense} dense layers but "first_k_dense_replace" says otherwise')
    return dense


def _kimi(keys: _Keys) -> dict[str, Any]:
    """Kimi Linear: KDA, and MLA without rotation."""
    keys.only("mla_use_nope", True)
    linear = keys.sub("linear_attn_config")
    head = linear.get("head_dim", default=keys.get("linear_head_dim"))
    if head is None:
        raise keys.fail('"linear_attn_config.head_dim" is required')
    lower = linear.get("gate_lower_bound")
    return {
        "pattern": _kimi_pattern(keys, linear),
        "kda_heads": linear.get("num_heads", default=keys.get("linear_num_heads", default=0)),
        "kda_key_dim": head,
        "kda_gate_rank": None if linear.flag("use_full_rank_gate", False) else head,
        "conv_width": linear.get("short_conv_kernel_size", default=keys.get("linear_conv_kernel_dim", default=4)),
        "mla_rope": "none",
        **({} if lower is None else {"kda_gate": "bounded", "kda_gate_lower": lower}),
    }


def _kimi_pattern(keys: _Keys, linear: _Keys) -> str:
    """One letter per layer, from the 1-indexed lists of the checkpoint or from transformers' list of types."""
    layers = keys.count("num_hidden_layers")
    types = keys.get("layer_types")
    listed = None
    if linear.get("full_attn_layers") is not None or linear.get("kda_layers") is not None:
        full, kda = linear.get("full_attn_layers", default=[]), linear.get("kda_layers", default=[])
        if not all(isinstance(side, list) and all(type(n) is int for n in side) for side in (full, kda)):
            raise keys.fail('"linear_attn_config.full_attn_layers" and "kda_layers" must be lists of layer numbers')
        if sorted([*full, *kda]) != list(range(1, layers + 1)):
            raise keys.fail(
                '"linear_attn_config.full_attn_layers" and "kda_layers" must name each layer once, '
                f"counted from 1 to {layers}"
            )
        listed = "".join("M" if n in set(full) else "K" for n in range(1, layers + 1))
    if types is None:
        if listed is None:
            raise keys.fail(
                '"linear_attn_config.full_attn_layers" (1-indexed) or "layer_types" is required; there is no safe '
                "default (transformers' own puts full attention one layer later than the published models)"
            )
        return listed
    named = keys.words(types, "layer_types", _LAYER_TYPES, layers)
    if listed not in (None, named):
        raise keys.fail('"layer_types" and "linear_attn_config" put full attention in different layers')
    return named


def _dsa(keys: _Keys, kind: str) -> dict[str, Any]:
    """DeepSeek-V3.2 and GLM-5: MLA with interleaved rotation and a lightning indexer."""
    half = kind == "deepseek_v32"
    interleaved = keys.flag("indexer_rope_interleave", not half)
    return {
        "pattern": "D" * keys.count("num_hidden_layers") if half else _sharing(keys),
        "q_rank": keys.need("q_lora_rank"),
        "mla_rope": "interleaved",
        "index_heads": keys.need("index_n_heads"),
        "index_dim": keys.need("index_head_dim"),
        "index_topk": keys.need("index_topk"),
        "index_rope_dim": keys.need("qk_rope_head_dim"),
        "index_rope": "interleaved" if interleaved else "half",
        **_rope(keys),
    }


def _sharing(keys: _Keys) -> str:
    """D for a layer with its own indexer, S for one that shares the selection of the last D (IndexShare)."""
    layers = keys.count("num_hidden_layers")
    types = keys.get("indexer_types", "index_topk_pattern")
    if types is None:
        every, offset = (
            max(keys.count("index_topk_freq", default=1), 1),
            keys.count("index_skip_topk_offset", default=2),
        )
        return "".join("S" if max(n - offset + 1, 0) % every else "D" for n in range(layers))
    return keys.words(types, "indexer_types", _INDEXERS, layers)


def _rope(keys: _Keys) -> dict[str, Any]:
    """Rotary base and YaRN, from `rope_theta` and `rope_scaling` or from transformers' `rope_parameters`."""
    new = keys.sub("rope_parameters")
    scaling = new if new.data else keys.sub("rope_scaling")
    theta = new.get("rope_theta", default=keys.get("rope_theta"))
    if theta is None:
        raise keys.fail('"rope_theta" is required')
    kind = scaling.get("rope_type", "type", default="default")
    if kind == "default":
        return {"rope_theta": theta}
    if kind != "yarn":
        raise keys.fail(f'"{scaling.prefix}type" is {kind!r}; only yarn or none is supported')
    for name, value in (("beta_fast", 32), ("beta_slow", 1), ("mscale", 1), ("mscale_all_dim", 1)):
        if scaling.get(name, default=value if name.startswith("beta") else None) != value:
            raise keys.fail(f'"{scaling.prefix}{name}" must be {value} (as in DeepSeek-V3.2)')
    return {
        "rope_theta": theta,
        "yarn_factor": scaling.need("factor"),
        "yarn_original": scaling.need("original_max_position_embeddings"),
    }


def _fp8(keys: _Keys) -> tuple[int, int] | None:
    """The block of a published FP8 checkpoint."""
    if keys.get("quantization_config") is None:
        return None
    how = keys.sub("quantization_config")
    block = how.get("weight_block_size")
    if how.get("quant_method") != "fp8" or not isinstance(block, list) or len(block) != 2:
        raise keys.fail('"quantization_config" is not FP8 in blocks; take the checkpoint in bf16')
    if not all(type(size) is int and size > 0 for size in block):
        raise keys.fail('"quantization_config.weight_block_size" must be two whole numbers')
    return block[0], block[1]


def _kimi_keys(config: ModelConfig) -> dict[str, Any]:
    letters = list(enumerate(config.letters, start=1))
    return {
        "linear_attn_config": {
            "full_attn_layers": [n for n, letter in letters if letter == "M"],
            "kda_layers": [n for n, letter in letters if letter == "K"],
            "head_dim": config.kda_key_dim,
            "num_heads": config.kda_heads,
            "short_conv_kernel_size": config.conv_width,
        },
        "mla_use_nope": True,
        "num_experts": config.experts,
        "num_experts_per_token": config.experts_per_token,
        "num_shared_experts": config.shared_experts,
        "num_expert_group": config.expert_groups,
        "moe_renormalize": config.route_renormalise,
        "moe_router_activation_func": "sigmoid",
    }


def _dsa_keys(config: ModelConfig) -> dict[str, Any]:
    out: dict[str, Any] = {
        "n_routed_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "n_shared_experts": config.shared_experts,
        "n_group": config.expert_groups,
        "norm_topk_prob": config.route_renormalise,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "index_n_heads": config.index_heads,
        "index_head_dim": config.index_dim,
        "index_topk": config.index_topk,
        "rope_theta": config.rope_theta,
    }
    if config.index_rope == "interleaved":
        out["indexer_rope_interleave"] = True
        out["indexer_types"] = ["full" if letter == "D" else "shared" for letter in config.letters]
    if config.yarn_factor > 1:
        out["rope_scaling"] = {
            "type": "yarn",
            "factor": config.yarn_factor,
            "original_max_position_embeddings": config.yarn_original,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }
    return out
