"""Low-rank adapters of the native family: small deltas on linear maps, apart from the weights or merged into them.

LoRA (Hu et al. 2021, 2106.09685, section 4.1): W + alpha / rank * B A, A random, B zero at first. A folder holds
adapter.safetensors (NAME.A [rank, in], NAME.B [out, rank]) and adapter_config.json, which names the weights that the
adapter belongs to.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.nn.checkpoint import read_safetensors
from fairtrial.nn.model import Model
from fairtrial.nn.norm import Linear

CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"
_GATES = tuple(f"{letter}{part}_proj" for letter in "fg" for part in ("", "_a", "_b"))
"""Of KDA: read as parameters, so nothing can stand before them."""


class AdapterConfig(Config):
    """adapter_config.json."""

    kind: str = "fairtrial"
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    base: str
    """Digest of the folder that it was trained on."""


class Delta(nn.Module):
    """Adds scale * B A to a weight."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.A = nn.Parameter(weight.new_zeros(rank, columns))
        self.B = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its delta."""
        return weight + self.scale * (self.B @ self.A)


def linears(model: Model, targets: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The linear maps of the layers that can have a delta, by name; of `targets` alone where there are any.

    Left out: routed experts, the indexers, KDA's gates, embedding and head. Raises UserError for an unknown target.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Linear)
        and name.startswith("model.layers.")
        and "indexer" not in name
        and name.rpartition(".")[2] not in _GATES
    }
    known = {name.rpartition(".")[2] for name in found}
    for target in targets:
        if target not in known:
            raise UserError(f'lora.targets: no linear map is called "{target}"{did_you_mean(target, known)}')
    return {name: module for name, module in found.items() if not targets or name.rpartition(".")[2] in targets}


def attach(model: Model, rank: int, alpha: float, targets: Sequence[str] = (), seed: int = 0) -> list[str]:
    """Put a new delta on each linear map and freeze everything else; returns the names of the maps.

    Each A depends on the seed and its name alone.
    """
    model.requires_grad_(False)
    found = linears(model, targets)
    for name, module in found.items():
        delta = Delta(module.get_parameter("weight"), rank, alpha / rank)
        start(delta.A, name, seed)
        parametrize.register_parametrization(module, "weight", delta)
    return list(found)


@torch.no_grad()
def start(factor: Tensor, name: str, seed: int) -> None:
    """Fill the factor [rank, in] that stands first: U(-1, 1) / sqrt(in), from the seed and the name."""
    mark = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(mark, "big") >> 1)
    bound = factor.shape[1] ** -0.5
    factor.copy_(torch.empty(factor.shape).uniform_(-bound, bound, generator=generator))


def factors(model: nn.Module) -> dict[str, Tensor]:
    """What is trained: NAME.A and NAME.B."""
    return {
        f"{name.removesuffix('.parametrizations.weight.0')}.{factor}": getattr(module, factor).detach()
        for name, module in model.named_modules()
        if isinstance(module, Delta)
        for factor in ("A", "B")
    }


def merged(model: Model) -> Model:
    """A copy on the CPU whose weights have their deltas in them."""
    plain = copy.deepcopy(model).to("cpu")
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return plain.requires_grad_(True)


def save(model: Model, folder: Path, config: AdapterConfig) -> None:
    """Write the adapter into a folder that exists."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in factors(model).items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config.model_dump(), indent=1) + "\n", "utf-8")


def digest(folder: Path) -> str:
    """Of an adapter: the first 16 hex digits of a sha256."""
    return hashlib.sha256((folder / CONFIG).read_bytes() + (folder / WEIGHTS).read_bytes()).hexdigest()[:16]


def merge(model: Model, folder: Path, base: str) -> None:
    """Add an adapter to the weights of `model`, in place.

    Args:
        model: Without deltas.
        folder: That `save` wrote.
        base: Digest of the folder that the model was loaded from.

    Raises:
        UserError: It is no adapter, or one of other weights.
    """
    try:
        data = json.loads((folder / CONFIG).read_bytes())
        tensors = read_safetensors((folder / WEIGHTS).read_bytes(), str(folder / WEIGHTS))
    except (OSError, ValueError) as error:
        raise UserError(
            f"adapter: {folder}: no adapter of a native model ({error}); it has {CONFIG} and {WEIGHTS}"
        ) from None
    config = parse(AdapterConfig, data, where=str(folder / CONFIG))
    if config.base != base:
        raise UserError(f"adapter: {folder} was trained on other weights ({config.base}, not {base}); open those")
    _add(model, tensors, config.alpha / config.rank, folder)


@torch.no_grad()
def _add(model: Model, tensors: Mapping[str, Tensor], scale: float, folder: Path) -> None:
    maps = linears(model)
    for name in {name[:-2] for name in tensors}:
        a, b = tensors.get(f"{name}.A"), tensors.get(f"{name}.B")
        weight = maps[name].get_parameter("weight") if name in maps else None
        if a is None or b is None or weight is None or weight.shape != (b.shape[0], a.shape[1]):
            raise UserError(f"adapter: {folder}: {name} does not fit the model; it belongs to another one")
        weight += scale * (b.to(weight.dtype) @ a.to(weight.dtype))
