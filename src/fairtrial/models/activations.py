"""Read and change activations of a model while it runs, by hooks: the weights and the model's class stay as they are.

Works on the native family (`nn.Model`) and on causal language models of transformers, with an adapter or without, in
training, scoring and cached decoding alike:

    with activations(model, reads=[Site(3)], edits=[Edit(Site(2, "attention", head=1), [7], value)]) as taken:
        model(tokens)
    taken[Site(3)]       # x_BTD: what layer 3 handed on

Sites of layer i, where x is the stream [B, T, D] that the layers add to:
- "residual": x behind layer i (after its attention and its MLP were added);
- "attention": what the attention (or other mixer) of layer i gives, [B, T, D];
- "mlp": what the MLP (or the experts) of layer i gives, [B, T, D];
- "attention" with `head`: that head's output before the output projection, [B, T, V].
In the native family, and in most others, "attention" and "mlp" are what is added to x; some normalise it first
(Gemma 2), some add x inside the module (BLOOM).

At one site edits come first, in their order, then the read: a read sees what the model goes on with. Positions count
the tokens of each sequence from 0, also in cached decoding and behind padding, which itself has none (-1).
A native model that answers goes through its modules, and keeps no prefixes, as long as it is hooked (`tapped`).
An edit at position p changes no bit before p, except where experts round by how many tokens they get (there: a native
pass with `exact=True`).
Legend: B batch, T time, D model width, H heads, V width of a head, W width at a site (D or V), P given positions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairtrial.core.errors import UserError
from fairtrial.nn.call import Call
from fairtrial.nn.kda_layer import KdaLayer
from fairtrial.nn.model import Model

Place = Literal["residual", "attention", "mlp"]

_ATTENTION = ("self_attn", "attention", "attn", "self_attention")
_MIXERS = (*_ATTENTION, "linear_attn", "mixer", "conv", "temporal_block")
_MLP = ("mlp", "block_sparse_moe", "feed_forward", "ffn")
_OUTPUT = ("o_proj", "out_proj", "c_proj", "dense", "wo")


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a model."""

    layer: int
    """From 0."""
    place: Place = "residual"
    head: int | None = None
    """Of place "attention"; from 0, query heads (KDA: value heads)."""


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """A change of the activations at a site."""

    site: Site
    positions: Sequence[int] | None
    """Of the tokens that change, in each sequence; None: all."""
    value: Tensor | Callable[[Tensor], Tensor]
    """[W], or [P, W] with one row for each position; or a function from what is there [n, W] to [n, W]."""
    op: Literal["add", "replace"] = "add"
    """x + scale value, or scale value in x's place."""
    scale: float = 1.0
    rows: Sequence[int] | None = None
    """Rows of the batch (of packed documents: their numbers); None: all."""


@dataclass(slots=True)
class _Where:
    """The tokens of one pass."""

    positions_BT: Tensor
    rows_BT: Tensor


@dataclass(slots=True)
class Taken:
    """What was read, pass by pass."""

    _values: dict[Site, list[Tensor]]
    _where: dict[Site, list[Tensor]]

    def __getitem__(self, site: Site) -> Tensor:
        """All passes behind each other in time, [B, T, W]. Raises UserError where their batches differ."""
        return _joined(self.passes(site), site)

    def passes(self, site: Site) -> list[Tensor]:
        """One tensor [B, T, W] for each forward pass. Raises UserError for a site that is not read."""
        if site not in self._values:
            raise UserError(f"{_shown(site)} is not among the reads; name it in reads=[...]")
        return self._values[site]

    def positions(self, site: Site) -> Tensor:
        """Positions [B, T] of the tokens of `taken[site]`; -1: padding."""
        self.passes(site)
        return _joined(self._where[site], site)


def _joined(parts: list[Tensor], site: Site) -> Tensor:
    if not parts:
        raise UserError(f"{_shown(site)}: no forward pass has run yet")
    if len({len(part) for part in parts}) > 1:
        raise UserError(f"{_shown(site)}: the passes differ in their batches; take them one by one with passes(site)")
    return torch.cat(parts, 1)


def _shown(site: Site) -> str:
    head = "" if site.head is None else f" head {site.head}"
    return f"site layer {site.layer} {site.place}{head}"


@contextmanager
def activations(
    model: nn.Module, reads: Sequence[Site] = (), edits: Sequence[Edit] = (), *, graph: bool = False
) -> Generator[Taken]:
    """While inside, every forward pass of `model` is read and edited; afterwards it is as before, bitwise.

    Contexts may be nested (the inner one's edits come after the outer one's). One thread at a time may run the model.

    Args:
        model: an `nn.Model`, or a causal language model of transformers (a PEFT model too).
        reads: sites to keep, see `Taken`. Their tensors share memory with the model's own; do not write into them.
        edits: changes, in order.
        graph: keep the autograd graph of what is read (gradients also flow through edits, to their values).

    Raises:
        UserError: a layer, head, width or position that does not fit, before anything runs. A position that no
            sequence reaches changes nothing.
    """
    tap = _tap(model)
    tap.check([*reads, *(edit.site for edit in edits)])
    for number, edit in enumerate(edits):
        _check_edit(edit, tap.width(edit.site), f"edits[{number}]")
    tap.reads, tap.edits, tap.graph = list(reads), list(edits), graph
    for site in reads:
        tap.values[site], tap.where[site] = [], []
    handles = tap.attach()
    try:
        yield Taken(tap.values, tap.where)
    finally:
        for handle in handles:
            handle.remove()


def layer_count(model: nn.Module) -> int:
    """Layers that `Site.layer` can name. Raises UserError for a model whose layers are not found."""
    return len(_tap(model).layers)


def tapped(modules: Iterable[nn.Module]) -> bool:
    """Whether anything hooks these modules (`model.modules()`) now.

    Then nobody may go around them or reuse what they gave before.
    """
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def site_width(model: nn.Module, site: Site) -> int:
    """Width W of the activations at a site. Raises UserError for a site that the model does not have."""
    tap = _tap(model)
    tap.check([site])
    return tap.width(site)


def _tap(model: nn.Module) -> _Native | _Causal:
    return _Native(model) if isinstance(model, Model) else _Causal(model)


def _check_edit(edit: Edit, width: int, where: str) -> None:
    if edit.op not in ("add", "replace"):
        raise UserError(f'{where}.op: "{edit.op}" is not known; use "add" or "replace"')
    for name, given in (("positions", edit.positions), ("rows", edit.rows)):
        if given is not None and (low := min(given, default=0)) < 0:
            raise UserError(f"{where}.{name}: {low} is negative; count from 0 from the start of each sequence")
    if not isinstance(edit.value, Tensor):
        return
    places = None if edit.positions is None else len(edit.positions)
    if list(edit.value.shape) not in ([width], [places, width]):
        wanted = f"[{width}]" if places is None else f"[{width}] or [{places}, {width}]"
        raise UserError(f"{where}.value has shape {list(edit.value.shape)}; {_shown(edit.site)} needs {wanted}")
    if edit.positions is not None and edit.value.ndim == 2 and len(set(edit.positions)) != places:
        raise UserError(f"{where}.positions: one position is named twice; give one row of values for each")


def _apply(edit: Edit, x_BTW: Tensor, where: _Where) -> Tensor:
    """The edited activations; untouched tokens keep their bits."""
    known_BT = where.positions_BT >= 0
    if edit.positions is None:
        touched_BT, index_BT = known_BT, torch.zeros_like(where.positions_BT)
    else:
        same_BTP = where.positions_BT[..., None] == torch.tensor(list(edit.positions), device=x_BTW.device)
        touched_BT, index_BT = same_BTP.any(-1) & known_BT, same_BTP.long().cumsum(-1).eq(0).sum(-1)
    if edit.rows is not None:
        touched_BT = touched_BT & torch.isin(where.rows_BT, torch.tensor(list(edit.rows), device=x_BTW.device))
    if not bool(touched_BT.any()):
        return x_BTW
    old_NW = x_BTW[touched_BT]
    if isinstance(edit.value, Tensor):
        given = edit.value.to(device=x_BTW.device, dtype=x_BTW.dtype)
        value_NW = given[index_BT[touched_BT]] if given.ndim == 2 else given.expand_as(old_NW)
    else:
        value_NW = edit.value(old_NW).to(x_BTW.dtype)
        if value_NW.shape != old_NW.shape:
            raise UserError(f"the function at {_shown(edit.site)} turned {list(old_NW.shape)} into "
                            f"{list(value_NW.shape)}; it must keep the shape")  # fmt: skip
    if edit.scale != 1.0:
        value_NW = value_NW * edit.scale
    return x_BTW.index_put((touched_BT,), old_NW + value_NW if edit.op == "add" else value_NW)


class _Tap:
    """Hooks on a model's layers."""

    layers: list[nn.Module]
    hidden: int

    def __init__(self) -> None:
        self.reads: list[Site] = []
        self.edits: list[Edit] = []
        self.graph = False
        self.values: dict[Site, list[Tensor]] = {}
        self.where: dict[Site, list[Tensor]] = {}

    def heads(self, layer: int) -> tuple[int, int]:
        """Heads of a layer and the width of one."""
        raise NotImplementedError

    def check(self, sites: Sequence[Site]) -> None:
        """Raise UserError for a site that the model does not have."""
        for site in sites:
            if not 0 <= site.layer < len(self.layers):
                raise UserError(f"{_shown(site)}: the model has layers 0 to {len(self.layers) - 1}")
            if site.place not in ("residual", "attention", "mlp"):
                raise UserError(f'{_shown(site)}: use "residual", "attention" or "mlp"')
            if site.head is not None and site.place != "attention":
                raise UserError(f'{_shown(site)}: only place "attention" has heads')
            if site.head is not None and not 0 <= site.head < (heads := self.heads(site.layer)[0]):
                raise UserError(f"{_shown(site)}: the layer has heads 0 to {heads - 1}")

    def width(self, site: Site) -> int:
        """Width W at a site."""
        return self.hidden if site.head is None else self.heads(site.layer)[1]

    def touched(self) -> set[tuple[int, Place, bool]]:
        """Places that need a hook: layer, place, whether before the output projection."""
        sites = [*self.reads, *(edit.site for edit in self.edits)]
        return {(site.layer, site.place, site.head is not None) for site in sites}

    def at(self, layer: int, place: Place, x: Tensor, where: _Where, *, by_head: bool = False) -> Tensor:
        """Edit and read x [B, T, ...] at one place."""
        if x.ndim != 3 or where.positions_BT.shape != x.shape[:2]:
            raise UserError(
                f"layer {layer} {place}: activations are {list(x.shape)} for tokens "
                f"{list(where.positions_BT.shape)}; this model's layers cannot be hooked"
            )
        width = self.heads(layer)[1] if by_head else 0
        for edit in self.edits:
            if (edit.site.layer, edit.site.place, edit.site.head is not None) == (layer, place, by_head):
                if edit.site.head is None:
                    x = _apply(edit, x, where)
                    continue
                low, high = edit.site.head * width, (edit.site.head + 1) * width
                x = torch.cat([x[..., :low], _apply(edit, x[..., low:high], where), x[..., high:]], -1)
        for site in self.reads:
            if (site.layer, site.place, site.head is not None) == (layer, place, by_head):
                part = x if site.head is None else x[..., site.head * width : (site.head + 1) * width]
                self.values[site].append(part if self.graph else part.detach())
                self.where[site].append(where.positions_BT)
        return x


@dataclass(slots=True)
class _TappedCall(Call):
    """A pass that shows one layer's heads before they are projected."""

    original: Call | None = None
    weight: Tensor | None = field(default=None, repr=False)
    tap: Callable[[Tensor], Tensor] | None = None

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """As `Call.product`; the input of the output projection goes through `tap`."""
        if weight is self.weight and self.tap is not None:
            x = self.tap(x)
        return Call.product(self, x, weight)


class _Native(_Tap):
    """The native family: layers are told the pass's positions in their `Call`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.layers = [*model.model.layers]
        self.hidden = model.config.hidden

    def heads(self, layer: int) -> tuple[int, int]:
        mixer: Any = self.layers[layer].get_submodule("self_attn")
        count = mixer.value_heads if isinstance(mixer, KdaLayer) else mixer.heads
        return count, mixer.o_proj.weight.shape[1] // count

    def attach(self) -> list[Any]:
        """Put the hooks in place; returns their handles."""
        handles: list[Any] = []
        for index, place, by_head in self.touched():
            block: Any = self.layers[index]
            if by_head:
                handles.append(block.self_attn.register_forward_pre_hook(self._enter(index)))
                handles.append(block.self_attn.register_forward_hook(_leave))
            elif place == "mlp":
                inner = block.mlp if block.mlp is not None else block.block_sparse_moe
                handles.append(inner.register_forward_hook(self._behind(index, place)))
            else:
                module = block if place == "residual" else block.self_attn
                handles.append(module.register_forward_hook(self._behind(index, place)))
        return handles

    def _behind(self, layer: int, place: Place) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor):
                return self.at(layer, place, output, _native_where(args[1], output.device))
            x_BTD, *rest = output
            return (self.at(layer, place, x_BTD, _native_where(args[1], x_BTD.device)), *rest)

        return hook

    def _enter(self, layer: int) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...]) -> Any:
            x_BTD, call, *rest = args
            where = _native_where(call, x_BTD.device)
            held = {entry.name: getattr(call, entry.name) for entry in fields(call)}
            if isinstance(call, _TappedCall):  # a context around this one: its tap first
                first = held.pop("tap")
                held |= {"original": call}
            else:
                first = None
                held |= {"original": call, "weight": module.o_proj.weight}

            def tap(x: Tensor) -> Tensor:
                x = x if first is None else first(x)
                return self.at(layer, "attention", x, where, by_head=True)

            return (x_BTD, _TappedCall(**held, tap=tap), *rest)

        return hook


def _leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """What the layer noted in its own view of the pass goes back to the pass."""
    tapped = args[1]
    while isinstance(tapped, _TappedCall) and tapped.original is not None:
        for entry in fields(Call):
            setattr(tapped.original, entry.name, getattr(tapped, entry.name))
        tapped = tapped.original


def _native_where(call: Call, device: torch.device) -> _Where:
    positions_BT = call.positions(device)
    numbers_N = torch.arange(len(call.lengths), device=device)
    if call.packed:
        rows_BT = numbers_N.repeat_interleave(torch.tensor(call.lengths, device=device))[None]
    else:
        rows_BT = numbers_N[:, None].expand_as(positions_BT)
    return _Where(positions_BT, rows_BT)


class _Causal(_Tap):
    """A causal language model of transformers: positions come from what its decoder is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config: Any = getattr(model, "config", None)
        config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        depth = getattr(config, "num_hidden_layers", None)
        found = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == depth
        ]
        if not found:
            raise UserError(
                f"{type(model).__name__}: no list of decoder layers was found; activations need an nn.Model or a "
                "causal language model of transformers"
            )
        name, stack = found[0]
        self.decoder = model.get_submodule(name.rpartition(".")[0])
        self.layers = list(stack)
        self.hidden, self.count = int(config.hidden_size), int(getattr(config, "num_attention_heads", 0))
        self.now: _Where | None = None

    def heads(self, layer: int) -> tuple[int, int]:
        out: Any = self._inner(self._inner(self.layers[layer], _ATTENTION, layer), _OUTPUT, layer)
        inputs = getattr(out, "in_features", None) or out.weight.shape[0]  # GPT-2's Conv1D: [in, out]
        if self.count < 1 or inputs % self.count:
            raise UserError(f"layer {layer}: {inputs} features do not divide into {self.count} heads")
        return self.count, int(inputs) // self.count

    def attach(self) -> list[Any]:
        """Put the hooks in place; returns their handles."""
        handles: list[Any] = [self.decoder.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for index, place, by_head in self.touched():
            module = self.layers[index]
            if place != "residual":
                mixer = _ATTENTION if by_head else _MIXERS
                module = self._inner(module, mixer if place == "attention" else _MLP, index)
            if by_head:
                out = self._inner(module, _OUTPUT, index)
                handles.append(out.register_forward_pre_hook(self._before(index)))
            else:
                handles.append(module.register_forward_hook(self._behind(index, place)))
        return handles

    def _inner(self, module: nn.Module, names: tuple[str, ...], layer: int) -> nn.Module:
        for name in names:
            inner = getattr(module, name, None)
            if isinstance(inner, nn.Module):
                if names is not _MLP and names is not _OUTPUT and not any(hasattr(inner, out) for out in _OUTPUT):
                    inner = next((sub for sub in inner.children() if any(hasattr(sub, out) for out in _OUTPUT)), inner)
                return inner
        raise UserError(f"layer {layer}: {type(module).__name__} has none of {', '.join(names)}; it cannot be hooked")

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"][..., 0]
        cache, mask, given = (kwargs.get(key) for key in ("past_key_values", "attention_mask", "position_ids"))
        past = 0 if cache is None else int(cache.get_seq_length())
        self.now = _causal_where(tokens, past, mask, given)

    def _behind(self, layer: int, place: Place) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            assert self.now is not None
            if isinstance(output, Tensor):
                return self.at(layer, place, output, self.now)
            x_BTD, *rest = output
            return (self.at(layer, place, x_BTD, self.now), *rest)

        return hook

    def _before(self, layer: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
            assert self.now is not None
            return (self.at(layer, "attention", args[0], self.now, by_head=True), *args[1:])

        return hook


def _causal_where(tokens_BT: Tensor, past: int, mask: Tensor | None, given: Tensor | None) -> _Where:
    """Positions: as given, else counted by the mask over tokens, else behind the cache; padding has none."""
    (batch, time), device = tokens_BT.shape[:2], tokens_BT.device
    flat = mask if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= past + time else None
    if isinstance(given, Tensor) and given.ndim == 2:
        positions_BT = given.to(device).expand(batch, time)
    elif flat is not None:
        positions_BT = (flat.long().cumsum(-1) - 1)[:, past : past + time]
    else:
        positions_BT = (past + torch.arange(time, device=device)).expand(batch, time)
    if flat is not None:
        positions_BT = positions_BT.masked_fill(flat[:, past : past + time] == 0, -1)
    return _Where(positions_BT, torch.arange(batch, device=device)[:, None].expand(batch, time))
