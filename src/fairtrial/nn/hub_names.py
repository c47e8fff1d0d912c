"""Which tensor of a published checkpoint is which tensor of ours, for every layout that such a checkpoint comes in.

A layout is where a family puts its tensors: the hub's files (Kimi-Linear-48B; DeepSeek-V3.2 and GLM-5), what
transformers 5.23.0 holds in memory (forget gate in a module of its own, short convolutions concatenated, experts
merged), and what it saves for Kimi Linear (the hub's names, but the dense MLP of the first layers under
`block_sparse_moe`). Names and shapes only, so a checkpoint can be checked from its headers; loads without torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fairtrial.nn.config import ModelConfig
from fairtrial.nn.shapes import Shapes, tensor_shapes

Layout = Literal["kimi", "kimi-saved", "kimi-memory", "deepseek", "deepseek-memory"]
"""kimi and deepseek: the hub's files; -memory: a transformers state_dict; kimi-saved: written by transformers."""

_EXPERT = re.compile(r"(.*block_sparse_moe\.experts)\.(w[123])$")
_CONV = re.compile(r"(.*self_attn)\.([qkv])_conv1d\.weight$")
_FORGET = re.compile(r"(.*self_attn)\.(A_log|dt_bias|f_a_proj\.weight|f_b_proj\.weight|f_proj\.weight)$")
_DEEPSEEK_EXPERT = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of theirs, or a slice of it, that is one tensor of ours, or one index of it."""

    theirs: str
    """Name in the checkpoint."""
    shape: tuple[int, ...]
    """Shape of the whole tensor in the checkpoint."""
    ours: str
    """Name in our state_dict."""
    index: int | None = None
    """Index into our tensor's first axis (an expert); None: the whole tensor."""
    cut: tuple[int, int, int] | None = None
    """(axis, start, stop) of their tensor; None: the whole tensor."""


def pieces(config: ModelConfig, layout: Layout) -> list[Piece]:
    """Every piece of a checkpoint of this config in a layout; together they cover every tensor of ours once."""
    ours = tensor_shapes(config)
    out: list[Piece] = []
    for name, shape in ours.items():
        out += _pieces_of(name, shape, config, ours, layout)
    return out


def their_shapes(config: ModelConfig, layout: Layout) -> Shapes:
    """Name -> shape of every tensor that a checkpoint of this config must hold in a layout."""
    return {piece.theirs: piece.shape for piece in pieces(config, layout)}


def copies(config: ModelConfig, layout: Layout) -> dict[str, str]:
    """Tensors of theirs that may be there as a second copy of one of ours (theirs -> ours).

    The published MTP layer repeats embedding and head; a tied model may store its head.
    """
    head = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    out = {"lm_head.weight": head} if config.tied else {}
    if config.mtp_steps and not layout.endswith("memory"):
        prefix = f"model.layers.{config.layers}."
        out[prefix + "embed_tokens.weight"] = "model.embed_tokens.weight"
        out[prefix + "shared_head.head.weight"] = head
    return out


def layout_of(names: Iterable[str], family: Literal["kimi", "deepseek"]) -> Layout:
    """The layout that a set of tensor names is in, told by the names that only one layout has."""
    names = list(names)
    if any(".forget_gate." in name or name.endswith("experts.gate_up_proj") for name in names):
        return "kimi-memory" if family == "kimi" else "deepseek-memory"
    if family == "deepseek":
        return "deepseek"
    saved = any(name.endswith("block_sparse_moe.gate_proj.weight") for name in names)
    return "kimi-saved" if saved else "kimi"


def is_mtp(name: str, config: ModelConfig) -> bool:
    """Whether a tensor of theirs belongs to a layer behind the last decoder layer (multi-token prediction)."""
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return match is not None and int(match.group(1)) >= config.layers


def _pieces_of(name: str, shape: tuple[int, ...], config: ModelConfig, ours: Shapes, layout: Layout) -> list[Piece]:
    """The pieces of one tensor of ours."""
    placed = _placed(name, config)
    if match := _EXPERT.match(placed):
        return _experts(match.group(1), match.group(2), name, shape, layout)
    if layout == "kimi-memory" and (match := _CONV.match(placed)):
        return [_conv(match.group(1), match.group(2), name, ours)]
    if layout == "kimi-memory" and (match := _FORGET.match(placed)):
        return [Piece(f"{match.group(1)}.forget_gate.{match.group(2)}", shape, name)]
    return [Piece(_mlp(placed, layout), shape, name)]


def _placed(name: str, config: ModelConfig) -> str:
    """Our name with the MTP block where the hub has it: as one more decoder layer."""
    prefix = f"model.layers.{config.layers}."
    if name.startswith("model.mtp.block."):
        return prefix + name.removeprefix("model.mtp.block.")
    if name == "model.mtp.norm.weight":
        return prefix + "shared_head.norm.weight"
    return prefix + name.removeprefix("model.mtp.") if name.startswith("model.mtp.") else name


def _mlp(name: str, layout: Layout) -> str:
    """A name with the MLP or MoE module as the layout calls it."""
    if layout == "kimi-saved":
        return name.replace(".mlp.", ".block_sparse_moe.")
    return name if layout == "kimi" else name.replace(".block_sparse_moe.", ".mlp.")


def _experts(prefix: str, weight: str, name: str, shape: tuple[int, ...], layout: Layout) -> list[Piece]:
    """One stacked weight of ours [E, rows, columns]: a tensor per expert, or merged (gate and up in one)."""
    count, rows, columns = shape
    module = _mlp(prefix, layout)
    if not layout.endswith("memory"):
        suffix = _DEEPSEEK_EXPERT[weight] if layout == "deepseek" else weight
        return [Piece(f"{module}.{e}.{suffix}.weight", (rows, columns), name, index=e) for e in range(count)]
    if weight == "w2":
        return [Piece(f"{module}.down_proj", shape, name)]
    start = 0 if weight == "w1" else rows
    return [Piece(f"{module}.gate_up_proj", (count, 2 * rows, columns), name, cut=(1, start, start + rows))]


def _conv(prefix: str, which: str, name: str, ours: Shapes) -> Piece:
    """One of the three short convolutions in transformers' concatenated one."""
    before = re.sub(r"[qkv]_conv1d\.weight$", "", name)
    widths = {letter: ours[f"{before}{letter}_conv1d.weight"][0] for letter in "qkv"}
    start = sum(widths[letter] for letter in "qkv"[: "qkv".index(which)])
    shape = (sum(widths.values()), *ours[name][1:])
    return Piece(f"{prefix}.conv1d.weight", shape, name, cut=(0, start, start + widths[which]))
