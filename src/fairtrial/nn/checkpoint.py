"""Checkpoints: tensors in safetensors and one JSON, in a folder that gets its name only when it is whole and durable.

    FOLDER/step-00000120/checkpoint.json       what it is, and a sha256 for each other file
                         model.safetensors     parameters and buffers
                         optimiser.safetensors state of the optimisers

Nothing is ever written into a finished checkpoint, and a broken state (NaN, infinity) is refused before anything is
written: the last good one stays. File-system errors come out as OSError; the caller names the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from fairtrial.core.errors import CorruptError, UserError, did_you_mean

_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".tmp-"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds: named groups of named tensors ("model", "optimiser", ...) and a JSON object."""

    step: int
    groups: Mapping[str, Mapping[str, Tensor]]
    meta: Mapping[str, Any]


def first_broken(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity, or None."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def refuse_broken(tensors: Mapping[str, Tensor], step: int, what: str) -> None:
    """Raises UserError that names the step and the tensor where one is not finite."""
    name = first_broken(tensors)
    if name is not None:
        kind = "NaN" if bool(torch.isnan(tensors[name]).any()) else "infinite values"
        raise UserError(
            f"step {step}: {what} {name} has {kind}; training stopped and nothing was written over the last "
            "good checkpoint (lower the learning rate, clip harder, or use fp32)"
        )


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 2, pinned: Iterable[int] = ()) -> Path:
    """Write a checkpoint durably and return its folder; afterwards only the last `keep` and the `pinned` steps stay.

    Raises UserError for a tensor that is not finite or a step that is there already (before anything is written),
    OSError where the disk refuses; in all cases what was there before is untouched.
    """
    for group, tensors in checkpoint.groups.items():
        refuse_broken(tensors, checkpoint.step, group)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    target = folder / f"step-{checkpoint.step:08d}"
    if target.exists():
        raise UserError(f"{target}: exists already, and a finished checkpoint is never written over")
    temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        temporary.mkdir()
        digests: dict[str, str] = {}
        for group, tensors in checkpoint.groups.items():
            content = bytes_of({name: _storable(tensor) for name, tensor in tensors.items()})
            digests[f"{group}.safetensors"] = hashlib.sha256(content).hexdigest()
            _write(temporary / f"{group}.safetensors", content)
        about = {"format": FORMAT, "step": checkpoint.step, "files": digests, "meta": dict(checkpoint.meta)}
        _write(temporary / "checkpoint.json", json.dumps(about, indent=1, sort_keys=True, allow_nan=False).encode())
        _sync_folder(temporary)
        temporary.rename(target)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _drop_old(folder, keep, set(pinned) | {checkpoint.step})
    return target


def steps(folder: Path) -> list[int]:
    """The steps of the finished checkpoints in `folder`, ascending."""
    if not folder.is_dir():
        return []
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    found = steps(folder)
    return folder / f"step-{found[-1]:08d}" if found else None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, every byte checked. Raises CorruptError naming the file, UserError where there is none."""
    try:
        about = json.loads((path / "checkpoint.json").read_bytes())
        step, files, meta = int(about["step"]), dict(about["files"]), dict(about["meta"])
    except FileNotFoundError:
        raise UserError(f"{path}: not a checkpoint (it has no checkpoint.json)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path}/checkpoint.json: damaged ({error}); {_way_out(path)}") from None
    if about.get("format") != FORMAT:
        raise UserError(f"{path}: a checkpoint of format {about.get('format')}, this fairtrial reads format {FORMAT}")
    groups: dict[str, Mapping[str, Tensor]] = {}
    for name, digest in files.items():
        try:
            content = (path / name).read_bytes()
        except FileNotFoundError:
            raise CorruptError(f"{path}/{name}: missing; {_way_out(path)}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorruptError(f"{path}/{name}: damaged (its checksum does not match); {_way_out(path)}")
        groups[name.removesuffix(".safetensors")] = read_safetensors(content, f"{path}/{name}")
    return Checkpoint(step, groups, meta)


def read_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file. Raises CorruptError naming `where`."""
    try:
        return tensors_of(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptError(f"{where}: not a whole safetensors file ({' '.join(str(error).split())})") from None


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; what is shared under two names appears once, under the first."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `module`; see `load_tensors`."""
    load_tensors(module_tensors(module), tensors, where)


@torch.no_grad()
def load_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `own`, name by name.

    Raises UserError naming a tensor that is missing, extra or of another shape or dtype; then nothing has changed.
    """
    for name, tensor in own.items():
        if name not in tensors:
            raise UserError(f"{where}: tensor {name} {list(tensor.shape)} is missing{_more(own.keys() - tensors)}")
        if tensors[name].shape != tensor.shape:
            raise UserError(
                f"{where}: tensor {name} has shape {list(tensors[name].shape)}, the model needs {list(tensor.shape)}"
            )
        if tensors[name].dtype != tensor.dtype:
            raise UserError(f"{where}: tensor {name} is {tensors[name].dtype}, the model holds {tensor.dtype}")
    extra = sorted(tensors.keys() - own)
    if extra:
        raise UserError(f"{where}: tensor {extra[0]} is not part of the model{did_you_mean(extra[0], own)}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _more(missing: Iterable[str]) -> str:
    others = len(list(missing)) - 1
    return f" (and {others} more)" if others else ""


def _storable(tensor: Tensor) -> Tensor:
    # A view of a larger storage, or two tensors on one storage, would be refused.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _way_out(path: Path) -> str:
    earlier = [step for step in steps(path.parent) if f"step-{step:08d}" < path.name]
    if earlier:
        return f"delete {path} to continue from step {earlier[-1]}"
    return "there is no earlier checkpoint; start again in a new folder"


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sweep(folder: Path) -> None:
    """Remove what an interrupted write left."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _drop_old(folder: Path, keep: int, pinned: set[int]) -> None:
    found = steps(folder)
    for step in found[: max(0, len(found) - max(1, keep))]:
        if step not in pinned:
            path = folder / f"step-{step:08d}"
            doomed = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
            with contextlib.suppress(OSError):
                # Renamed first: a folder with a step's name is whole at any moment.
                path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    _sweep(folder)
