"""Checkpoints: whole or absent, checked byte by byte, and never a broken state over a good one."""

from __future__ import annotations

import errno
import resource
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from fairtrial.core.errors import CorruptError, UserError  # noqa: E402
from fairtrial.nn import checkpoint as ck  # noqa: E402


def net(seed: int = 0) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 4))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def write(folder: Path, step: int, model: torch.nn.Module, keep: int = 2, **more: object) -> Path:
    return ck.save(folder, ck.Checkpoint(step, {"model": ck.module_tensors(model)}, {"note": step}), keep=keep, **more)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, other = net(1), net(2)
    path = write(tmp_path, 7, model)
    back = ck.load(path)
    ck.load_module(other, back.groups["model"], str(path))
    assert back.step == 7 and back.meta == {"note": 7}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert any(name.endswith("running_mean") for name in back.groups["model"])


def test_a_tensor_under_two_names_is_stored_once_and_stays_shared(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    assert list(ck.load(write(tmp_path, 1, model)).groups["model"]) == ["0.weight"]
    ck.load_module(model, {"0.weight": torch.ones(5, 4)}, "x")
    assert model[1].weight is model[0].weight and bool((model[1].weight == 1).all())


def test_only_the_last_ones_and_the_pinned_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        write(tmp_path, step, net(), keep=2, pinned=(2,))
    with pytest.raises(UserError, match="never written over"):
        write(tmp_path, 5, net(1), keep=2)
    assert ck.steps(tmp_path) == [2, 4, 5]
    assert ck.latest(tmp_path) == tmp_path / "step-00000005"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-0000000{step}" for step in (2, 4, 5)]


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_a_broken_state_is_refused_by_name_before_anything_is_written(tmp_path: Path, value: float, word: str) -> None:
    model = net()
    write(tmp_path, 1, model, keep=1)
    before = (tmp_path / "step-00000001" / "model.safetensors").read_bytes()
    with torch.no_grad():
        model[2].weight[0, 0] = value
    for step in (1, 2):
        with pytest.raises(UserError, match=rf"step {step}: model 2\.weight has {word}"):
            write(tmp_path, step, model, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert (tmp_path / "step-00000001" / "model.safetensors").read_bytes() == before


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path) -> None:
    write(tmp_path, 1, net(), keep=1)
    large = torch.nn.Linear(300, 300)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(OSError) as caught:
            write(tmp_path, 2, large, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert ck.load(tmp_path / "step-00000001").step == 1


def test_damage_is_named_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, 1, net())
    path = write(tmp_path, 2, net())
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        CorruptError, match=r"model\.safetensors: damaged .*delete .*step-00000002 to continue from step 1"
    ):
        ck.load(path)
    file.unlink()
    with pytest.raises(CorruptError, match=r"model\.safetensors: missing"):
        ck.load(path)
    (path / "checkpoint.json").write_text("{")
    with pytest.raises(CorruptError, match=r"checkpoint\.json: damaged"):
        ck.load(path)
    with pytest.raises(UserError, match="not a checkpoint"):
        ck.load(tmp_path)


def test_a_cut_safetensors_file_is_one_line(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    for cut in (0, 4, 20, len(content) - 1):
        with pytest.raises(CorruptError) as caught:
            ck.read_safetensors(content[:cut], "x.safetensors")
        assert "x.safetensors: not a whole safetensors file" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_extra_and_misshapen_tensors_are_named_and_nothing_moves() -> None:
    model = net()
    tensors = {name: tensor.clone() + 1 for name, tensor in ck.module_tensors(model).items()}
    before = [parameter.clone() for parameter in model.parameters()]
    without = {name: tensor for name, tensor in tensors.items() if name != "2.bias"}
    with pytest.raises(UserError, match=r"x: tensor 2\.bias \[4\] is missing"):
        ck.load_module(model, without, "x")
    with pytest.raises(UserError, match=r'x: tensor 2\.bia is not part of the model; did you mean "2\.bias"'):
        ck.load_module(model, {**tensors, "2.bia": torch.zeros(1)}, "x")
    with pytest.raises(UserError, match=r"x: tensor 2\.bias has shape \[5\], the model needs \[4\]"):
        ck.load_module(model, {**tensors, "2.bias": torch.zeros(5)}, "x")
    with pytest.raises(UserError, match=r"x: tensor 2\.bias is torch\.float16, the model holds torch\.float32"):
        ck.load_module(model, {**tensors, "2.bias": torch.zeros(4, dtype=torch.float16)}, "x")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
