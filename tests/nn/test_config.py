"""A model as data: what is refused, what the counts say of published models, names and shapes."""

import subprocess
import sys

import pytest

from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.presets import PRESETS, preset
from fairtrial.nn.shapes import tensor_shapes


def test_config_loads_without_torch():
    code = "import sys, fairtrial.nn.presets as p; p.preset('tiny').parameters(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_published_sizes():
    """Kimi-Linear-48B: 49.12 B by its shapes, 3.11 B active with the head; DeepSeek-V3.2 671 B and an MTP block."""
    kimi = preset("kimi-linear-48b")
    assert f"{kimi.parameters() / 1e9:.2f} {kimi.parameters(active=True) / 1e9:.2f}" == "49.12 3.11"
    assert kimi.letters.count("M") == 7
    assert [i + 1 for i, letter in enumerate(kimi.letters) if letter == "M"] == [4, 8, 12, 16, 20, 24, 27]
    deepseek = preset("deepseek-v3.2", mtp_steps=0)
    indexers = sum(
        shape[0] * (shape[1] if len(shape) > 1 else 1)
        for name, shape in tensor_shapes(deepseek).items()
        if ".indexer." in name
    )
    assert round((deepseek.parameters() - indexers) / 1e9) == 671
    assert round(preset("glm-5", mtp_steps=0).parameters() / 1e9) == 744


def test_published_names_and_shapes():
    shapes = tensor_shapes(preset("kimi-linear-48b"))
    assert shapes["model.layers.0.self_attn.q_conv1d.weight"] == (4096, 1, 4)
    assert shapes["model.layers.0.self_attn.A_log"] == (1, 1, 32, 1)
    assert shapes["model.layers.3.self_attn.kv_b_proj.weight"] == (8192, 512)
    assert shapes["model.layers.26.self_attn.kv_a_proj_with_mqa.weight"] == (576, 2304)
    assert shapes["model.layers.1.block_sparse_moe.experts.w1"] == (256, 1024, 2304)
    assert "model.layers.0.mlp.gate_proj.weight" in shapes
    assert not any(".rotary" in name or name.endswith("_proj.bias") for name in shapes)


def test_tiny_is_one_to_five_million():
    assert 1e6 < preset("tiny").parameters() < 5e6


def test_cache_saving_of_the_report():
    """Kimi Linear against all-MLA in bf16: 73.9 % less at 1 M tokens, 73.0 % at 128 k, 40 % at 4 k."""
    hybrid = preset("kimi-linear-48b")
    latent = preset("kimi-linear-48b", pattern="M")
    saved = [1 - hybrid.cache_bytes(n, 1, 2) / latent.cache_bytes(n, 1, 2) for n in (1_000_000, 131_072, 4096)]
    assert [round(share, 3) for share in saved] == pytest.approx([0.739, 0.730, 0.40], abs=0.012)
    assert latent.cache_bytes(1_000_000, 1, 2) == pytest.approx(27 * 1152e6, rel=0.06)


def test_pattern_is_tiled():
    assert preset("tiny", layers=10).letters == "KKKDKKKDKK"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pattern": "KKXM"}, '"pattern": unknown letter "X" at position 3; known: K G N C M D S F P W'),
        ({"pattern": ""}, '"pattern": needs at least one letter'),
        ({"pattern": "KKKKKM"}, "pattern has 6 letters for 4 layers"),
        ({"pattern": "SKKD"}, "S in layer 1 has no D before it"),
        ({"pattern": "F", "heads": 6, "kv_heads": 4}, "heads 6 is not a multiple of kv_heads 4"),
        ({"pattern": "F", "head_dim": 33}, "head_dim 33 must be even"),
        ({"kda_value_heads": 4}, "kda_value_heads 4 is not a multiple of kda_heads 3"),
        ({"mla_rope": "half", "rope_dim": 31}, "rope_dim 31 must be even where mla_rope is half"),
        ({"index_topk": 0}, '"index_topk": input should be greater than or equal to 1'),
        ({"index_rope_dim": 64}, "index_rope_dim exceeds index_dim 32"),
        ({"index_pool": 3}, "index_topk 64 is not a multiple of index_pool 3"),
        ({"index_pool": 16, "index_rope": "half"}, "index_rope must be none with index_pool 16"),
        ({"hidden": -1}, '"hidden"'),
        ({"experts": 4, "experts_per_token": 5}, "experts_per_token exceeds experts 4"),
        ({"experts": 6, "expert_groups": 4}, "experts 6 is not a multiple of 4 expert_groups"),
        ({"experts": 8, "expert_groups": 4, "experts_per_token": 3}, "experts_per_token exceeds the 2"),
        ({"kda_gate_lower": 1.0}, '"kda_gate_lower"'),
        ({"patern": "K"}, 'unknown key "patern"; did you mean "pattern"?'),
    ],
)
def test_bad_config_names_the_field(changes, expected):
    with pytest.raises(UserError) as error:
        preset("tiny", **changes)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_preset():
    with pytest.raises(UserError, match='did you mean "tiny"'):
        preset("tinny")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name):
    config = preset(name)
    assert parse(ModelConfig, config.model_dump(mode="json"), where="test") == config
