"""The tensors of a model folder, from the headers of its safetensors files alone, and the check against a map.

A safetensors file begins with 8 bytes (length, little-endian) and that many bytes of JSON: name -> dtype, shape and
place in the rest. Nothing in a folder is ever run or unpickled. Loads without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.hub_config import HubConfig, from_hub, model_type, read_config
from fairtrial.nn.hub_names import Layout, copies, is_mtp, layout_of, their_shapes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
_HEADER_LIMIT = 100_000_000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file, as its header says."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    """Name of the file that holds it."""


@dataclass(frozen=True, slots=True)
class DryLoad:
    """What a checkpoint holds against what its config needs: names and shapes, no weights."""

    config: ModelConfig
    layout: Layout
    tensors: int
    """Tensors that the config needs, as the layout counts them."""
    parameters: int
    """Numbers in them, correction biases left out (MTP included where it is loaded)."""
    active: int
    """Of those, the ones that a token's forward pass multiplies with."""
    missing: list[str] = field(default_factory=list[str])
    extra: list[str] = field(default_factory=list[str])
    misshapen: list[str] = field(default_factory=list[str])

    @property
    def ok(self) -> bool:
        """Whether every tensor is there, with its shape, and nothing else is."""
        return not (self.missing or self.extra or self.misshapen)

    def problem(self) -> str:
        """All differences on one line; empty where there are none."""
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (
                ("with the wrong shape", self.misshapen),
                ("missing", self.missing),
                ("not known to this layout", self.extra),
            )
            if names
        ]
        return f"tensors differ from config.json: {'; '.join(parts)}" if parts else ""


def dry_load(
    config: Path | Mapping[str, Any] | ModelConfig,
    headers: Path | Sequence[Path] | Mapping[str, tuple[int, ...]] | None = None,
    *,
    mtp: bool = True,
) -> DryLoad:
    """Compare a checkpoint with its config without its weights.

    Args:
        config: a model folder, a config.json, its parsed content, or a config of ours.
        headers: where the tensors are: a folder; safetensors files, of which only the header need be there (what a
            range request for the first bytes gives); or {name: shape}. None: the folder that `config` names.
        mtp: whether the multi-token-prediction layer is wanted; False lets it be there or not.

    Returns:
        The differences; `problem()` says them in one line.

    Raises:
        UserError: the config or a header cannot be used.
    """
    if headers is None:
        if not isinstance(config, Path) or not config.is_dir():
            raise UserError("dry load: name a model folder, or give the safetensors headers beside the config")
        headers = config
    hub = _hub_config(config)
    if isinstance(headers, Path) and headers.is_dir():
        held = folder_tensors(headers, whole=False)
    elif isinstance(headers, Mapping):
        held = {name: Stored("F32", tuple(shape), "headers") for name, shape in headers.items()}
    else:
        held = merge_headers([headers] if isinstance(headers, Path) else headers, whole=False)
    return compare(hub, held, mtp=mtp)


def compare(hub: HubConfig, held: Mapping[str, Stored], *, mtp: bool = True) -> DryLoad:
    """The differences between the tensors of a checkpoint and those that its config needs."""
    config = hub.model if mtp else hub.model.model_copy(update={"mtp_steps": 0})
    layout = layout_of(held, hub.family)
    wanted, spare = their_shapes(config, layout), copies(config, layout)
    sources = {**wanted, **{name: wanted[ours] for name, ours in spare.items()}}
    extra = [name for name in held if name not in sources and not (not mtp and is_mtp(name, config))]
    if hub.fp8_block:
        extra = [name for name in extra if name.removesuffix("_scale_inv") not in sources]
    misshapen = [
        f"{name} {list(held[name].shape)}, not {list(shape)}, in {held[name].file}"
        for name, shape in sources.items()
        if name in held and held[name].shape != shape
    ]
    return DryLoad(
        config,
        layout,
        len(wanted),
        config.parameters(),
        config.parameters(active=True),
        missing=[name for name in wanted if name not in held],
        extra=[f"{name} in {held[name].file}" for name in extra],
        misshapen=misshapen,
    )


def folder_tensors(folder: Path, *, whole: bool = True) -> dict[str, Stored]:
    """Every tensor of a model folder: its one file, or the shards that its index (or, without one, its names) list.

    `whole` also checks that each file is as long as its header says. Raises UserError in one line naming the file:
    none there, pickles only, an index that does not match, a damaged header.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return merge_headers([folder / SINGLE], whole=whole)
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UserError(_nothing(folder))
        return merge_headers(files, whole=whole)
    placed = _read_index(index)
    held = merge_headers([folder / name for name in sorted(set(placed.values()))], whole=whole)
    for name, file in placed.items():
        if name not in held or held[name].file != file:
            raise UserError(f"{index}: says that {name} is in {file}, whose header does not have it")
    for name, stored in held.items():
        if name not in placed:
            raise UserError(f"{folder / stored.file}: holds {name}, which {INDEX} does not list")
    return held


def merge_headers(files: Iterable[Path], *, whole: bool) -> dict[str, Stored]:
    """The tensors of several files; raises UserError where two hold the same name."""
    out: dict[str, Stored] = {}
    for path in files:
        for name, stored in read_header(path, whole=whole).items():
            if name in out:
                raise UserError(f"{path}: {name} is also in {out[name].file}; keep one set of files in the folder")
            out[name] = stored
    return out


def read_header(path: Path, *, whole: bool = True) -> dict[str, Stored]:
    """Name -> tensor of one safetensors file; `whole`: the data must be there too, to the byte.

    Raises CorruptError (a UserError) in one line when the file is truncated, too long or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > _HEADER_LIMIT:
                raise CorruptError(f"{path}: not a safetensors file (no header of a possible length)")
            raw = file.read(length)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; download the missing shard") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) < length:
        raise CorruptError(f"{path}: truncated inside its header ({len(raw)} of {length} bytes); download it again")
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise CorruptError(f"{path}: its header is not JSON; download it again") from None
    if not isinstance(header, dict):
        raise CorruptError(f"{path}: its header is not a JSON object; download it again")
    header.pop("__metadata__", None)
    out: dict[str, Stored] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        out[name], (start, stop) = _entry(path, name, entry)
        spans.append((start, stop, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise CorruptError(f"{path}: {name} does not start where the tensor before it ends; download it again")
        end = stop
    if whole and size != 8 + length + end:
        raise CorruptError(f"{path}: {size} bytes where its header needs {8 + length + end}; download it again")
    return out


def _entry(path: Path, name: str, entry: Any) -> tuple[Stored, tuple[int, int]]:
    """One entry of a header, checked: known dtype, and a place of exactly its size."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sizes = [*shape, start, stop]
    except (TypeError, KeyError, ValueError):
        raise CorruptError(f"{path}: the header's entry for {name} is damaged; download it again") from None
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise UserError(f"{path}: {name} has dtype {dtype}, which is not supported; take the checkpoint in bf16")
    if not all(type(n) is int and n >= 0 for n in sizes) or stop - start != prod(shape) * _BITS[dtype] // 8:
        raise CorruptError(f"{path}: {name} {shape} {dtype} does not fit its place in the file; download it again")
    return Stored(dtype, tuple(shape), path.name), (start, stop)


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, from a shard index. File names must be plain names in the same folder."""
    try:
        data = json.loads(path.read_text("utf-8"))
        placed = data["weight_map"]
        plain = all(isinstance(file, str) and Path(file).name == file for file in placed.values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise CorruptError(f"{path}: not a shard index (no weight_map); download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not plain or not all(file.endswith(".safetensors") for file in placed.values()):
        raise UserError(f"{path}: names a file that is not a safetensors file of the same folder; it is not followed")
    return placed


def _nothing(folder: Path) -> str:
    """Why a folder has no tensors to read, and what to do."""
    if not folder.is_dir():
        return f"{folder}: no such folder"
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        return (
            f"{folder}: {pickles[0]} is a pickle, which can run code when it is opened, so it is not read; "
            "convert it to safetensors where it came from (model.save_pretrained) or take a revision that has them"
        )
    return f"{folder}: holds no safetensors file"


def _hub_config(config: Path | Mapping[str, Any] | ModelConfig) -> HubConfig:
    if isinstance(config, Path):
        return read_config(config / "config.json" if config.is_dir() else config)
    return HubConfig(config, model_type(config)) if isinstance(config, ModelConfig) else from_hub(config)
