"""Published checkpoints: configs, names, headers, loading, saving, and everything that can be wrong with a folder."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.hub_config import from_hub, model_type, to_hub
from fairtrial.nn.hub_files import dry_load, read_header
from fairtrial.nn.hub_names import Layout, layout_of, pieces, their_shapes
from fairtrial.nn.presets import preset
from fairtrial.nn.shapes import tensor_shapes

KIMI: dict[str, Any] = {
    "architectures": ["KimiLinearForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_kimi.KimiLinearForCausalLM"},
    "first_k_dense_replace": 1,
    "head_dim": 72,
    "hidden_act": "silu",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "kv_lora_rank": 512,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "kda_layers": [n for n in range(1, 28) if n not in (4, 8, 12, 16, 20, 24, 27)],
        "head_dim": 128,
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
    "mla_use_nope": True,
    "model_max_length": 1048576,
    "model_type": "kimi_linear",
    "moe_intermediate_size": 1024,
    "moe_layer_freq": 1,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_attention_heads": 32,
    "num_expert_group": 1,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_hidden_layers": 27,
    "num_key_value_heads": 32,
    "num_nextn_predict_layers": 0,
    "num_shared_experts": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.446,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_grouped_topk": True,
    "v_head_dim": 128,
    "vocab_size": 163840,
}

DEEPSEEK: dict[str, Any] = {
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 2048,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "model_type": "deepseek_v32",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}

GLM: dict[str, Any] = {
    **DEEPSEEK,
    "model_type": "glm_moe_dsa",
    "hidden_size": 6144,
    "index_n_heads": 32,
    "indexer_rope_interleave": True,
    "intermediate_size": 12288,
    "n_group": 1,
    "topk_group": 1,
    "num_attention_heads": 64,
    "num_hidden_layers": 78,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "vocab_size": 154880,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
}
del GLM["quantization_config"], GLM["rope_scaling"], GLM["rope_theta"]

TINY: dict[str, Any] = {
    **KIMI,
    "hidden_size": 16,
    "intermediate_size": 24,
    "kv_lora_rank": 8,
    "linear_attn_config": {
        "full_attn_layers": [4],
        "kda_layers": [1, 2, 3],
        "head_dim": 4,
        "num_heads": 3,
        "short_conv_kernel_size": 4,
    },
    "moe_intermediate_size": 6,
    "num_attention_heads": 2,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_hidden_layers": 4,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "vocab_size": 32,
}

TINY_DSA: dict[str, Any] = {
    **GLM,
    **{key: TINY[key] for key in ("hidden_size", "intermediate_size", "kv_lora_rank", "moe_intermediate_size")},
    **{key: TINY[key] for key in ("num_attention_heads", "num_hidden_layers", "vocab_size", "v_head_dim")},
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "q_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 5,
    "first_k_dense_replace": 1,
}


def write_header(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    """The header of a safetensors file, and no data."""
    entries, place = {}, 0
    for name, shape in shapes.items():
        size = prod(shape) * (2 if dtype == "BF16" else 4)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize(
    ("data", "name", "total", "active"),
    [
        (KIMI, "kimi-linear-48b", 49_122_675_072, 3_106_965_888),
        (DEEPSEEK, "deepseek-v3.2", 671_877_929_216, 37_477_128_448),
        (GLM, "glm-5", 743_911_199_232, 40_833_126_912),
    ],
)
def test_full_size_headers_load_dry(tmp_path: Path, data: dict[str, Any], name: str, total: int, active: int) -> None:
    """49.12 B is the published count of Kimi-Linear-48B; without MTP the others are the 671 B + indexers, and 744 B."""
    hub = from_hub(data)
    assert {**hub.model.model_dump(), "pattern": ""} == {**preset(name).model_dump(), "pattern": ""}
    assert hub.model.letters == preset(name).letters
    shapes = their_shapes(hub.model, hub.family)
    half = len(shapes) // 2
    for number, part in enumerate((list(shapes.items())[:half], list(shapes.items())[half:])):
        write_header(tmp_path / f"model-{number}.safetensors", dict(part))
    (tmp_path / "config.json").write_text(json.dumps(data))
    report = dry_load(tmp_path)
    assert report.ok and report.problem() == "" and report.tensors == len(shapes)
    without = dry_load(tmp_path, mtp=False)
    assert (without.ok, without.parameters, without.active) == (True, total, active)


def test_kimi_names_and_shapes_are_the_published_ones() -> None:
    shapes = their_shapes(from_hub(KIMI).model, "kimi")
    layer = "model.layers."
    assert shapes[layer + "0.self_attn.q_conv1d.weight"] == (4096, 1, 4)
    assert shapes[layer + "0.self_attn.A_log"] == (1, 1, 32, 1)
    assert shapes[layer + "0.self_attn.f_a_proj.weight"] == (128, 2304)
    assert shapes[layer + "0.mlp.gate_proj.weight"] == (9216, 2304)
    assert shapes[layer + "26.self_attn.kv_b_proj.weight"] == (8192, 512)
    assert shapes[layer + "26.block_sparse_moe.experts.255.w2.weight"] == (2304, 1024)
    assert shapes[layer + "1.block_sparse_moe.gate.e_score_correction_bias"] == (256,)
    assert layer + "3.self_attn.kv_a_proj_with_mqa.weight" in shapes  # layer 4, counted from 1
    assert layer + "4.self_attn.A_log" in shapes


def test_glm_sharing_schedule_of_5_2() -> None:
    model = from_hub({**GLM, "index_topk_freq": 4, "index_skip_topk_offset": 3}).model
    assert model.letters.count("D") == 21
    assert model.letters.startswith("DDDSSSDSSSD")
    listed = ["full" if letter == "D" else "shared" for letter in model.letters]
    assert from_hub({**GLM, "indexer_types": listed}).model == model
    assert not any(".3.self_attn.indexer" in name for name in their_shapes(model, "deepseek"))


@pytest.mark.parametrize(
    ("data", "layout"),
    [
        (TINY, "kimi"),
        (TINY, "kimi-saved"),
        (TINY, "kimi-memory"),
        (TINY_DSA, "deepseek"),
        ({**TINY_DSA, "num_nextn_predict_layers": 0}, "deepseek-memory"),
    ],
)
def test_every_number_of_ours_has_one_place_in_every_layout(data: dict[str, Any], layout: Layout) -> None:
    model = from_hub(data).model
    theirs = their_shapes(model, layout)
    assert sum(map(prod, theirs.values())) == sum(map(prod, tensor_shapes(model).values()))
    assert {piece.ours for piece in pieces(model, layout)} == set(tensor_shapes(model))
    assert layout_of(theirs, from_hub(data).family) == layout


def test_indexer_layout_differs_between_families() -> None:
    assert from_hub(DEEPSEEK).model.index_rope == "half"
    assert from_hub(GLM).model.index_rope == "interleaved"
    assert from_hub({**GLM, "indexer_rope_interleave": False}).model.index_rope == "half"


def test_bounded_gate_and_full_rank() -> None:
    linear = {**TINY["linear_attn_config"], "gate_lower_bound": -5.0, "use_full_rank_gate": True}
    model = from_hub({**TINY, "linear_attn_config": linear}).model
    assert (model.kda_gate, model.kda_gate_lower, model.kda_gate_rank) == ("bounded", -5.0, None)


@pytest.mark.parametrize("data", [KIMI, DEEPSEEK, GLM, TINY, TINY_DSA])
def test_configs_come_back_from_what_is_written(data: dict[str, Any]) -> None:
    model = from_hub(data).model
    written = to_hub(model)
    assert written["model_type"] == data["model_type"]
    assert from_hub(json.loads(json.dumps(written))).model == model
    del written["fairtrial"]
    again = from_hub(written).model
    assert {**again.model_dump(), "pattern": ""} == {**model.model_dump(), "pattern": ""}
    assert again.letters == model.letters


@pytest.mark.parametrize("pattern", ["KKKD", "FPWG", "NCKM", "DSSS"])
def test_models_of_no_published_family_have_a_type_of_their_own(pattern: str) -> None:
    model = ModelConfig(vocab=32, hidden=16, layers=4, pattern=pattern, intermediate=24)
    assert model_type(model) == "fairtrial"
    assert from_hub(to_hub(model)).model == model


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    out = {**base, **changes}
    return {key: value for key, value in out.items() if value != "gone"}


def linear(**changes: Any) -> dict[str, Any]:
    return {**TINY, "linear_attn_config": changed(TINY["linear_attn_config"], **changes)}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"model_type": "llama"}, "model_type 'llama' is not a family"),
        ({"model_type": "kimi_linaer"}, 'did you mean "kimi_linear"?'),
        ([], "not a JSON object"),
        (changed(TINY, kv_lora_rank="gone"), '"kv_lora_rank" is required'),
        (changed(TINY, hidden_act="gelu"), '"hidden_act" is \'gelu\'; only "silu"'),
        (changed(TINY, mla_use_nope=False), '"mla_use_nope"'),
        (changed(TINY, moe_router_activation_func="softmax"), '"moe_router_activation_func"'),
        (changed(TINY, hidden_size=-1), "hidden"),
        (changed(TINY, num_hidden_layers="4"), '"num_hidden_layers"'),
        (linear(full_attn_layers=[3], kda_layers=[0, 1, 2]), "counted from 1 to 4"),
        (linear(full_attn_layers=[4], kda_layers=[1, 2]), "name each layer once"),
        (linear(full_attn_layers="4"), "lists of layer numbers"),
        (linear(full_attn_layers="gone", kda_layers="gone"), "no safe default"),
        (changed(TINY, layer_types=["full_attention"] + ["linear_attention"] * 3), "in different layers"),
        (changed(TINY, layer_types=["sliding"] * 4), "\"layer_types\" has 'sliding'"),
        (changed(TINY, mlp_layer_types=["sparse", "dense", "sparse", "sparse"]), '"mlp_layer_types" must be'),
        (changed(TINY_DSA, q_lora_rank=None), '"q_lora_rank" is required'),
        (changed(TINY_DSA, rope_parameters="gone"), '"rope_theta" is required'),
        (changed(DEEPSEEK, rope_scaling={**DEEPSEEK["rope_scaling"], "mscale": 0.7}), "rope_scaling.mscale"),
        (changed(DEEPSEEK, rope_scaling={"type": "linear", "factor": 2}), "only yarn"),
        (changed(TINY_DSA, indexer_types=["full"]), '"indexer_types" must have 4 entries'),
        (changed(TINY_DSA, indexer_types=["shared", "full", "full", "full"]), "no D before it"),
        (changed(TINY_DSA, indexer_types=7), '"indexer_types" must have 4 entries'),
        (changed(TINY_DSA, indexer_types=[[]] * 4), '"indexer_types" must have 4 entries'),
        (changed(TINY_DSA, index_topk_freq="4"), '"index_topk_freq"'),
        (changed(TINY_DSA, indexer_rope_interleave="no"), "not true or false"),
        (changed(TINY_DSA, num_hidden_layers=10**30), "at most"),
        (changed(TINY, quantization_config={"quant_method": "awq"}), "take the checkpoint in bf16"),
        ({**to_hub(from_hub(TINY).model), "hidden_size": 17}, '"hidden_size" is 17 but "fairtrial" says 16'),
        ({"model_type": "fairtrial"}, 'the key "fairtrial"'),
    ],
)
def test_a_config_that_cannot_be_honoured_is_one_line(data: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        from_hub(data, where="x/config.json")
    assert says in str(caught.value) and str(caught.value).startswith("x/config.json: ")
    assert "\n" not in str(caught.value)


def test_dry_load_names_what_differs(tmp_path: Path) -> None:
    shapes = dict(their_shapes(from_hub(TINY).model, "kimi"))
    del shapes["model.layers.1.self_attn.dt_bias"]
    shapes["model.layers.0.self_attn.q_proj.weight"] = (16, 12)
    shapes["model.layers.0.rotary.inv_freq"] = (2,)
    write_header(tmp_path / "shard.safetensors", shapes)
    report = dry_load(TINY, [tmp_path / "shard.safetensors"])
    assert report.missing == ["model.layers.1.self_attn.dt_bias"]
    assert report.misshapen == ["model.layers.0.self_attn.q_proj.weight [16, 12], not [12, 16], in shard.safetensors"]
    assert report.extra == ["model.layers.0.rotary.inv_freq in shard.safetensors"]
    assert "\n" not in report.problem() and "dt_bias" in report.problem()
    assert dry_load(TINY, shapes).missing == report.missing
    with pytest.raises(UserError, match="name a model folder"):
        dry_load(TINY)


def test_fp8_scales_belong_to_their_tensors() -> None:
    data = {**DEEPSEEK, **{k: v for k, v in TINY_DSA.items() if k not in ("model_type", "rope_parameters")}}
    shapes = dict(their_shapes(from_hub(data).model, "deepseek"))
    scaled = {**shapes, "model.layers.0.self_attn.o_proj.weight_scale_inv": (1, 1)}
    assert dry_load(data, scaled).ok
    assert dry_load(data, {**shapes, "model.layers.0.self_attn.z_proj.weight_scale_inv": (1, 1)}).extra
    assert not dry_load(TINY_DSA, scaled).ok


def damage(path: Path, how: str) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    if how == "cut":
        path.write_bytes(raw[:-1])
    elif how == "cut-header":
        path.write_bytes(raw[: 8 + length // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "longer":
        path.write_bytes(raw + b"x")
    elif how == "huge-length":
        path.write_bytes(b"\xff" * 8 + raw[8:])
    elif how == "not-json":
        path.write_bytes(raw[:8] + b"[" * length + raw[8 + length :])
    else:
        entry = header[first]
        entry.update(
            {
                "shape": {"shape": [*entry["shape"], 2]},
                "dtype": {"dtype": "F4"},
                "dtype-list": {"dtype": ["F32"]},
                "negative": {"shape": [-1, -1]},
                "overlap": {"data_offsets": [4, entry["data_offsets"][1] + 4]},
                "fields": {"data_offsets": 3},
            }[how]
        )
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        "cut-header",
        "empty",
        "longer",
        "huge-length",
        "not-json",
        "shape",
        "dtype",
        "dtype-list",
        "negative",
        "overlap",
        "fields",
    ],
)
def test_a_damaged_file_is_one_line_with_its_name(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.safetensors"
    write_header(path, {"a": (2, 3), "b": (4,)}, "F32")
    path.write_bytes(path.read_bytes() + bytes(40))
    assert list(read_header(path)) == ["a", "b"]
    damage(path, how)
    with pytest.raises(UserError, match=r"model\.safetensors") as caught:
        read_header(path)
    assert "\n" not in str(caught.value)
    assert how.startswith("dtype") or isinstance(caught.value, CorruptError)


def test_a_folder_of_pickles_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match="convert it to safetensors"):
        dry_load(tmp_path)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    index = {"weight_map": {"lm_head.weight": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not followed"):
        dry_load(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_one_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json"):
        dry_load(tmp_path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    write_header(tmp_path / "one.safetensors", {"a": (2,)})
    index = tmp_path / "model.safetensors.index.json"
    for placed, says in (
        ({"a": "one.safetensors", "b": "one.safetensors"}, "says that b is in one.safetensors"),
        ({"a": "two.safetensors"}, "download the missing shard"),
    ):
        index.write_text(json.dumps({"weight_map": placed}))
        with pytest.raises(UserError, match=says):
            dry_load(tmp_path)
    write_header(tmp_path / "one.safetensors", {"a": (2,), "c": (2,)})
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(UserError, match=r"holds c, which model\.safetensors\.index\.json does not list"):
        dry_load(tmp_path)
