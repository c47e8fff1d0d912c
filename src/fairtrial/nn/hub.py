"""Published checkpoints as a `Model`, and a `Model` as a folder that others can load.

Reads safetensors only, single or sharded, in the layouts of hub_names; a tensor that is missing, extra or of another
shape ends the load in one line that names it. Nothing else in the folder is opened, so no code from it can run.
Axes: E experts; everything else keeps the checkpoint's own order of axes (rows = outputs).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.hub_config import HubConfig, model_type, read_config, to_hub
from fairtrial.nn.hub_files import INDEX, SINGLE, Stored, compare, folder_tensors
from fairtrial.nn.hub_names import Piece, copies, pieces
from fairtrial.nn.model import Model

Read = Callable[[str], Tensor]

FULL = ("A_log", "dt_bias", "e_score_correction_bias")
"""Tensors that stay fp32 in a half-precision model: the decay and the router's selection hang on small differences."""


def load(folder: Path, *, dtype: torch.dtype = torch.float32, mtp: bool = True) -> Model:
    """The model in a folder with config.json and safetensors.

    Args:
        folder: a published checkpoint (Kimi Linear, DeepSeek-V3.2, GLM-5; FP8 in blocks is expanded), one that
            transformers saved, or one that `save` wrote.
        dtype: type of the parameters; decay and router biases stay fp32 where it is narrower.
        mtp: False leaves out the multi-token-prediction layer, in the file or not.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        UserError: one line naming the key, tensor or file at fault.
    """
    hub = read_config(folder / "config.json")
    held = folder_tensors(folder)
    with _Files(folder, held) as files:
        return _filled(hub, held, files.read, dtype=dtype, mtp=mtp, where=str(folder))


def from_tensors(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    family: Literal["kimi", "deepseek"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Model:
    """A model from tensors in memory, for example `state_dict()` of a transformers model of one of the families.

    `family`: whose names they have; None: the family that the config is of. Raises UserError like `load`.
    """
    kind = model_type(config)
    hub = HubConfig(config, kind)
    if family is not None and hub.family != family:
        hub = HubConfig(config, "deepseek_v32" if family == "deepseek" else "kimi_linear")
    held = {name: Stored("F32", tuple(tensor.shape), "the given tensors") for name, tensor in tensors.items()}
    return _filled(hub, held, lambda name: tensors[name], dtype=dtype, mtp=True, where="tensors")


def save(model: Model, folder: Path, *, shard_bytes: int = 5_000_000_000) -> None:
    """Write config.json and safetensors in the hub's names to a new folder; `load` gives an equal model back.

    A model of a published family gets that family's config.json, which transformers loads too (it leaves MTP out);
    any other model gets `model_type` fairtrial. Weights keep their type. More than `shard_bytes` go to several files
    with an index. The folder appears whole or not at all.

    Raises:
        UserError: the folder is there and not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; name a new folder")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write(model, partial, shard_bytes)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(model: Model, folder: Path, shard_bytes: int) -> None:
    kind = model_type(model.config)
    tensors = model.state_dict()
    data = to_hub(model.config)
    data["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for piece in pieces(model.config, "kimi" if HubConfig(model.config, kind).family == "kimi" else "deepseek"):
        tensor = _part(tensors[piece.ours], piece).detach().cpu().contiguous()
        bytes_ = tensor.numel() * tensor.element_size()
        if shards[-1] and size + bytes_ > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][piece.theirs] = tensor
        size, total = size + bytes_, total + bytes_
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE, {"format": "pt"})
        return
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        placed |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _filled(
    hub: HubConfig, held: Mapping[str, Stored], read: Read, *, dtype: torch.dtype, mtp: bool, where: str
) -> Model:
    """A model whose every tensor is one of theirs. Raises UserError where names or shapes differ."""
    found = compare(hub, held, mtp=mtp)
    if not found.ok:
        raise UserError(f"{where}: {found.problem()}")
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise UserError(f"dtype {dtype} cannot hold a model; choose float32, bfloat16, float16 or float64")
    model = Model(found.config, 0)
    model.to(dtype)
    if dtype.itemsize < 4:
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(FULL):
                tensor.data = tensor.data.float()
    tensors = model.state_dict()
    weight = _expanding(read, held, hub.fp8_block)
    with torch.no_grad():
        for source, group in _by_source(pieces(found.config, found.layout)):
            whole = weight(source)
            for piece in group:
                target = tensors[piece.ours]
                part = whole if piece.cut is None else whole.narrow(piece.cut[0], piece.cut[1], _length(piece))
                (target if piece.index is None else target[piece.index]).copy_(part)
        for name, ours in copies(found.config, found.layout).items():
            if name in held and not torch.equal(weight(name).to(tensors[ours].dtype), tensors[ours]):
                raise UserError(f"{where}: {name} differs from {ours}, which this model shares; they cannot both hold")
    return model.eval()


def _by_source(all_pieces: list[Piece]) -> Iterator[tuple[str, list[Piece]]]:
    """Pieces of one tensor of theirs together, so that it is read once."""
    groups: dict[str, list[Piece]] = {}
    for piece in all_pieces:
        groups.setdefault(piece.theirs, []).append(piece)
    yield from groups.items()


def _length(piece: Piece) -> int:
    assert piece.cut is not None
    return piece.cut[2] - piece.cut[1]


def _part(tensor: Tensor, piece: Piece) -> Tensor:
    return tensor if piece.index is None else tensor[piece.index]


def _expanding(read: Read, held: Mapping[str, Stored], block: tuple[int, int] | None) -> Read:
    """`read`, with FP8 blocks multiplied by their scales (DeepSeek-V3's `weight_scale_inv`)."""

    def expanded(name: str) -> Tensor:
        tensor = read(name)
        if not tensor.is_floating_point():
            kind = held[name].dtype
            raise UserError(
                f"{held[name].file}: {name} holds {kind}, no floating-point weights; take a bf16 checkpoint"
            )
        if not held[name].dtype.startswith("F8_"):
            return tensor
        scale_name = f"{name}_scale_inv"
        rows, columns = block or (0, 0)
        wanted = (-(-tensor.shape[0] // rows), -(-tensor.shape[1] // columns)) if rows and tensor.ndim == 2 else None
        if scale_name not in held or held[scale_name].shape != wanted:
            raise UserError(f"{held[name].file}: {name} is FP8 without {scale_name} {wanted}; take a bf16 checkpoint")
        scale = read(scale_name).float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return tensor.float() * scale[: tensor.shape[0], : tensor.shape[1]]

    return expanded


class _Files:
    """The open safetensors files of a folder."""

    def __init__(self, folder: Path, held: Mapping[str, Stored]) -> None:
        self._folder = folder
        self._held = held
        self._open: dict[str, Any] = {}

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()

    def read(self, name: str) -> Tensor:
        """One tensor. Raises CorruptError where the library does not accept its file."""
        path = self._folder / self._held[name].file
        try:
            if path.name not in self._open:
                self._open[path.name] = safe_open(path, framework="pt")
            return self._open[path.name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CorruptError(f"{path}: {name}: {' '.join(str(error).split())}; download it again") from None
