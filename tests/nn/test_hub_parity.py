"""Our logits are transformers' logits on tiny random checkpoints, and checkpoints go both ways.

The comparison itself (which rows a tie at the top-k border can reach, and the replay of transformers' selection) is
the one of benchmarks/hub_parity.py.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
transformers = pytest.importorskip("transformers", minversion="5.23.0", reason="transformers >= 5.23.0 is the oracle")
if importlib.util.find_spec("fla") is not None:
    pytest.skip("transformers calls fla's GPU kernels where fla is installed: no oracle here", allow_module_level=True)

from safetensors.torch import load_file, save_file  # noqa: E402

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.nn.hub import from_tensors, load, save  # noqa: E402
from fairtrial.nn.hub_config import read_config  # noqa: E402
from fairtrial.nn.hub_files import dry_load  # noqa: E402


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "hub_parity.py"
    spec = importlib.util.spec_from_file_location("hub_parity", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["hub_parity"] = module
    spec.loader.exec_module(module)
    return module


parity = _benchmark()


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oracle")
    parity.write_oracle(folder)
    return folder


@pytest.fixture(scope="module")
def rows(oracle: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in parity.compare(oracle):
        found.setdefault(row.model, []).append(row)
    return found


@pytest.mark.parametrize("name", list(parity.MODELS))
def test_logits_equal_transformers(rows: dict[str, list[Any]], name: str) -> None:
    """Prompts below and above top-k, padded or not, at once and token by token; ties explained, none unexplained."""
    assert {row.case for row in rows[name]} == set(parity.CASES)
    for row in rows[name]:
        assert row.ok, row
        assert row.rows > row.excluded, row


def test_the_comparison_sees_a_wrong_layout(oracle: Path, tmp_path: Path) -> None:
    """DeepSeek's weights under GLM's indexer rotation: equal while every key is chosen, wrong beyond."""
    name = "deepseek-v3.2"
    shutil.copytree(oracle / name, tmp_path / name)
    config = json.loads((tmp_path / name / "config.json").read_text())
    (tmp_path / name / "config.json").write_text(json.dumps({**config, "indexer_rope_interleave": True}))
    rows = {row.case: row for row in parity.compare(tmp_path)}
    assert rows["T=15"].ok
    assert rows["T=70"].untied > 0 and not rows["T=70"].ok


def _hf(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", list(parity.MODELS))
def test_what_we_save_transformers_loads(oracle: Path, tmp_path: Path, name: str) -> None:
    """Bit for bit: every weight that transformers reads from our folder is the one that it wrote."""
    source = oracle / name.replace(" ", "_")
    save(load(source), tmp_path / "out")
    before, after = _hf(source).state_dict(), _hf(tmp_path / "out").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", list(parity.MODELS))
def test_three_ways_to_the_same_weights(oracle: Path, tmp_path: Path, name: str) -> None:
    """From a saved folder, from the state_dict in memory, and from what we wrote, sharded: equal bit for bit."""
    source = oracle / name.replace(" ", "_")
    model = load(source)
    save(model, tmp_path / "out", shard_bytes=50_000)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    kind = "kimi" if name.startswith("kimi") else "deepseek"
    in_memory = from_tensors(read_config(source / "config.json").model, _hf(source).state_dict(), family=kind)
    for other in (load(tmp_path / "out"), in_memory):
        assert other.config == model.config
        assert all(
            torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True)
        )


def test_transformers_save_puts_the_dense_mlp_elsewhere_and_ours_does_not(oracle: Path, tmp_path: Path) -> None:
    """transformers 5.23.0 writes layer 0's MLP as block_sparse_moe, which no published file does; both are read."""
    source = oracle / "kimi_KKKM"
    assert "model.layers.0.block_sparse_moe.up_proj.weight" in load_file(source / "model.safetensors")
    save(load(source), tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert "model.layers.0.mlp.up_proj.weight" in ours
    assert not any("block_sparse_moe" in key for key in ours if key.startswith("model.layers.0."))
    assert dry_load(source).layout == "kimi-saved"
    assert dry_load(tmp_path / "out").layout == "kimi"


def test_layers_are_where_the_file_says_not_where_transformers_defaults_put_them(oracle: Path) -> None:
    assert load(oracle / "kimi_default_layers").config.letters == "KKKKM"  # transformers' default, written out
    assert load(oracle / "kimi_KKKM").config.letters == "KKKM"


def test_decay_survives_where_transformers_underflows() -> None:
    """transformers writes softplus as log(1 + exp(z)): zero below -17 in fp32, where the true value is exp(z)."""
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearForgetGate

    from fairtrial.nn.ops.kda import gate_softplus

    gate = KimiLinearForgetGate(transformers.KimiLinearConfig(hidden_size=8, linear_head_dim=4, linear_num_heads=1))
    with torch.no_grad():
        gate.f_b_proj.weight.zero_()
        gate.dt_bias.fill_(-20.0)
        gate.A_log.fill_(0.0)
        theirs = gate(torch.ones(1, 1, 8))
    ours = gate_softplus(torch.zeros(1, 1, 1, 4), torch.zeros(1), torch.full((4,), -20.0))
    assert torch.all(theirs == 0)
    assert torch.allclose(ours, -torch.exp(torch.tensor(-20.0)).expand(4), rtol=1e-5)


def _damaged(oracle: Path, folder: Path, change: Any) -> Path:
    shutil.copytree(oracle / "kimi_KKKM", folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("model.norm.weight"), "1 missing (model.norm.weight)"),
        (lambda t: t.update(extra=torch.ones(2)), "1 not known to this layout (extra in model.safetensors)"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), "model.norm.weight [3], not [64], in model.safe"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(oracle: Path, tmp_path: Path, change: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        load(_damaged(oracle, tmp_path / "m", change))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_file_is_one_line(oracle: Path, tmp_path: Path) -> None:
    shutil.copytree(oracle / "kimi_KKKM", tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="download it again") as caught:
        load(tmp_path / "m")
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_code_in_the_folder_is_never_run(oracle: Path, tmp_path: Path) -> None:
    shutil.copytree(oracle / "kimi_KKKM", tmp_path / "m")
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')"
    for name in ("modeling_kimi.py", "configuration_kimi.py", "__init__.py"):
        (tmp_path / "m" / name).write_text(evil)
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"cbuiltins\nexec\n(V" + evil.encode() + b"\ntR.")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_kimi.Model"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    load(tmp_path / "m")
    assert not (tmp_path / "ran").exists()


def test_types(oracle: Path, tmp_path: Path) -> None:
    """bf16 keeps decay and router bias in fp32, runs, and comes back from disk as it was."""
    model = load(oracle / "kimi_KKKM", dtype=torch.bfloat16)
    kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert kinds["lm_head.weight"] == torch.bfloat16
    assert kinds["model.layers.0.self_attn.A_log"] == torch.float32
    assert kinds["model.layers.1.block_sparse_moe.gate.e_score_correction_bias"] == torch.float32
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    save(model, tmp_path / "out")
    again = load(tmp_path / "out", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert again.keys() == kinds.keys()
    with pytest.raises(UserError, match="cannot hold a model"):
        load(oracle / "kimi_KKKM", dtype=torch.int32)
    with pytest.raises(UserError, match="is there already"):
        save(model, tmp_path / "out")


def test_fp8_blocks_are_expanded(oracle: Path, tmp_path: Path) -> None:
    """A published FP8 tensor is its bytes times the scale of its block (last blocks may be cut)."""
    shutil.copytree(oracle / "deepseek-v3.2", tmp_path / "m")
    path, name = tmp_path / "m" / "model.safetensors", "model.layers.0.self_attn.o_proj.weight"
    tensors = load_file(path)
    packed = (tensors[name] * 50).to(torch.float8_e4m3fn)
    scale = torch.arange(1, 5).view(2, 2) / 50
    block = (40, 32)  # of [64, 48]
    save_file({**tensors, name: packed, f"{name}_scale_inv": scale}, path)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(block)}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    got = load(tmp_path / "m").state_dict()[name]
    for i, rows in enumerate((slice(0, 40), slice(40, 64))):
        for j, columns in enumerate((slice(0, 32), slice(32, 48))):
            assert torch.allclose(got[rows, columns], packed.float()[rows, columns] * scale[i, j])
    save_file({**tensors, name: packed}, path)
    with pytest.raises(UserError, match="FP8 without"):
        load(tmp_path / "m")


def test_mtp_layer_travels_in_the_published_place(oracle: Path, tmp_path: Path) -> None:
    """With its copies of embedding and head, which must be copies; and it can be left out."""
    from fairtrial.nn.model import Model

    base = load(oracle / "glm-5.2_shared").config
    model = Model(base.model_copy(update={"mtp_steps": 1, "pattern": "DDSD"}), 3)
    save(model, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    assert tensors["model.layers.4.eh_proj.weight"].shape == (64, 128)
    assert "model.layers.4.shared_head.norm.weight" in tensors
    tensors["model.layers.4.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.4.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, path)
    again = load(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert not any("mtp" in key for key in load(tmp_path / "m", mtp=False).state_dict())
    tensors["model.layers.4.embed_tokens.weight"][0, 0] += 1
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"model\.layers\.4\.embed_tokens\.weight differs"):
        load(tmp_path / "m")


@pytest.mark.parametrize("pattern", ["KKKD", "GNCF", "PWMK"])
def test_our_own_models_come_back_whole(tmp_path: Path, pattern: str) -> None:
    from fairtrial.nn.config import ModelConfig
    from fairtrial.nn.model import Model

    config = ModelConfig(vocab=50, hidden=24, layers=4, pattern=pattern, intermediate=32, experts=4, tied=True)
    model = Model(config, 1)
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.config == config
    tokens = torch.arange(20).view(1, 20)
    assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)
