"""What is trained: a native model or a causal language model of transformers, whole or as a low-rank adapter.

A learner gives the logits of a packed row at the places that are learned, says which tensors a checkpoint holds, and
writes what was learned as a folder that its kind of model opens. Dropout is never on: a run is a function of its
settings and its data. Legend: T time, L learned places, V vocabulary.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from fairtrial.core.errors import UserError, did_you_mean, one_line
from fairtrial.models.hf.kind import HuggingFaceSettings
from fairtrial.models.hf.loading import load
from fairtrial.models.hf.model import HuggingFaceModel, context_of, ends_of
from fairtrial.models.hf.words import Words
from fairtrial.models.model import Model
from fairtrial.models.native.kind import NativeSettings
from fairtrial.models.native.model import NativeModel, digest
from fairtrial.nn import checkpoint, hub, lowrank
from fairtrial.nn import model as decoder
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.store import whole_folder
from fairtrial.training.precision import Precision, usable_device
from fairtrial.training.sft_data import Pack
from fairtrial.training.sft_settings import ModelSettings, SftConfig
from fairtrial.training.sft_speakers import HubSpeaker, NativeSpeaker, Speaker

TOKENIZER = "tokenizer.json"


class Learner(Protocol):
    """A model in training."""

    speaker: Speaker
    precision: Precision
    base: str
    """Digest of the weights that training starts from."""
    context: int | None
    """Tokens that the model takes."""

    def logits(self, pack: Pack) -> Tensor:
        """[L, V]: scores of the next token at the pack's learned places."""
        ...

    def kept(self) -> dict[str, Tensor]:
        """The tensors that training changes, by name; what is copied into them is the model's."""
        ...

    def publish(self, out: Path) -> Path:
        """Write what was learned under `out`; returns its folder."""
        ...

    def playing(self, threads: int) -> Model:
        """The model with its current weights, to be closed before training goes on."""
        ...


def open_learner(config: SftConfig, settings: ModelSettings, base: Path) -> Learner:
    """The model to be trained. Raises UserError in one line that names what is at fault."""
    if isinstance(settings, NativeSettings):
        return NativeLearner(config, settings, base)
    return HubLearner(config, settings, base)


class NativeLearner:
    """A model of the native family."""

    def __init__(self, config: SftConfig, settings: NativeSettings, base: Path) -> None:
        folder = base / Path(settings.path).expanduser()
        if not (folder / TOKENIZER).is_file():
            raise UserError(f"{folder / TOKENIZER}: no such file; put the model's tokenizer beside its weights")
        self._config, self._settings = config, settings
        self._tokenizer = Tokenizer.load(folder / TOKENIZER)
        self._name = settings.name or folder.resolve().name
        self.speaker: Speaker = NativeSpeaker(self._tokenizer, self._name)
        self.base = digest(folder)
        self.context: int | None = settings.context
        net = hub.load(folder)
        if self._tokenizer.vocab_size > net.config.vocab:
            raise UserError(f"{folder}: the tokenizer has {self._tokenizer.vocab_size} ids, the model "
                            f"{net.config.vocab}; they are not of one training")  # fmt: skip
        if config.method == "lora":
            lora = config.lora
            lowrank.attach(net, lora.rank, lora.alpha, lora.targets, config.seed)
        self.precision = Precision(net.to(usable_device(config.device)), config.precision)

    @property
    def _net(self) -> decoder.Model:
        return cast(decoder.Model, self.precision.master)

    def logits(self, pack: Pack) -> Tensor:
        """See `Learner.logits`."""
        device = self._config.device
        tokens_BT = torch.from_numpy(pack.inputs)[None].to(device)
        borders = torch.from_numpy(pack.borders).to(device)
        logits_BTV = self.precision.forward(tokens_BT, cu_seqlens=borders).logits
        return logits_BTV[0, torch.from_numpy(pack.places).to(device)]

    def kept(self) -> dict[str, Tensor]:
        """See `Learner.kept`."""
        if self._config.method == "lora":
            return lowrank.factors(self._net)
        return checkpoint.module_tensors(self._net)

    def publish(self, out: Path) -> Path:
        """`out`/model, or `out`/adapter."""
        adapter = self._config.method == "lora"
        folder = out / ("adapter" if adapter else "model")
        with whole_folder(folder) as partial:
            if adapter:
                lora = self._config.lora
                lowrank.save(
                    self._net, partial, lowrank.AdapterConfig(rank=lora.rank, alpha=lora.alpha, base=self.base)
                )
            else:
                hub.save(self._net, partial)
                self._tokenizer.save(partial / TOKENIZER)
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def playing(self, threads: int) -> Model:
        """A copy behind an engine."""
        settings = self._settings.model_copy(update={"threads": threads, "exact": False})
        net = lowrank.merged(self._net)
        return NativeModel(net, self._tokenizer, settings, name=self._name, weights_version=None)


class HubLearner:
    """A causal language model of transformers."""

    def __init__(self, config: SftConfig, settings: HuggingFaceSettings, base: Path) -> None:
        lora = config.method == "lora"
        dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[config.precision] if lora else "float32"
        usable_device(config.device)
        self._config = config
        self._settings = settings.model_copy(update={"dtype": dtype, "device": config.device})
        net, self._tokenizer, self._name = load(self._settings, base)
        ends = ends_of(net, self._tokenizer)
        self.speaker: Speaker = HubSpeaker(Words(self._tokenizer), ends, self._name)
        self.context = settings.context or context_of(net, self._tokenizer)
        folder = base / Path(settings.path).expanduser()
        self.base = digest(folder) if folder.is_dir() else f"{settings.path}@{net.config._commit_hash}"
        net.requires_grad_(not lora)
        if lora:
            net = _with_adapter(net, config)
        self.precision = Precision(net, config.precision, copied=not lora)
        self._chooses = "logits_to_keep" in inspect.signature(_inner(net).forward).parameters
        self.packs: bool | None = None
        """Whether a packed row gives what its pieces give apart; found out at the first row of several."""

    def logits(self, pack: Pack) -> Tensor:
        """See `Learner.logits`. Models that see across the borders of a packed row get its pieces one by one."""
        if len(pack.borders) > 2 and self.packs is None:
            self.packs = not self._leaks(pack)
        if len(pack.borders) == 2 or self.packs:
            return self._run(pack.inputs, pack.borders, pack.places)
        parts: list[Tensor] = []
        for first, last in pairwise(pack.borders.tolist()):
            mine = pack.places[(pack.places >= first) & (pack.places < last)] - first
            if len(mine):
                parts.append(self._run(pack.inputs[first:last], [0, last - first], mine))
        return torch.cat(parts)

    def kept(self) -> dict[str, Tensor]:
        """See `Learner.kept`."""
        if self._config.method == "lora":
            return {n: p.detach() for n, p in self.precision.master.named_parameters() if p.requires_grad}
        return checkpoint.module_tensors(self.precision.master)

    def publish(self, out: Path) -> Path:
        """`out`/model with its tokenizer, or `out`/adapter as PEFT writes it."""
        adapter = self._config.method == "lora"
        folder = out / ("adapter" if adapter else "model")
        net: Any = self.precision.master
        with whole_folder(folder) as partial:
            net.save_pretrained(str(partial))
            if not adapter:
                self._tokenizer.save_pretrained(str(partial))
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def playing(self, threads: int) -> Model:
        """The very weights that are trained, behind an engine."""
        settings = self._settings.model_copy(update={"threads": threads})
        return HuggingFaceModel(self.precision.master, self._tokenizer, settings, name=self._name)

    def _run(self, inputs: Any, borders: Any, places: Any) -> Tensor:
        device = self._config.device
        positions = torch.cat([torch.arange(last - first) for first, last in pairwise(list(map(int, borders)))])
        chosen = torch.as_tensor(places).to(device)
        more = {"logits_to_keep": chosen} if self._chooses else {}
        # Positions that start again at 0, and no attention mask: transformers keeps the pieces apart by them.
        found = self.precision.forward(
            input_ids=torch.as_tensor(inputs)[None].to(device),
            position_ids=positions[None].to(device),
            use_cache=False,
            **more,
        ).logits[0]
        return found if self._chooses else found[chosen]

    @torch.no_grad()
    def _leaks(self, pack: Pack) -> bool:
        """Whether other tokens in the first piece change anything, however little, in the second."""
        first, second, third = (int(border) for border in pack.borders[:3])
        borders, places = [0, second, third], list(range(second, third))
        before = self._run(pack.inputs[:third], borders, places)
        changed = pack.inputs[:third].copy()
        changed[first:second] = (changed[first:second] + 1) % min(self.speaker.vocab_size, before.shape[-1])
        return not torch.equal(before, self._run(changed, borders, places))


def _inner(net: Any) -> Any:
    return net.get_base_model() if hasattr(net, "get_base_model") else net


def _with_adapter(net: Any, config: SftConfig) -> nn.Module:
    """The model with a new adapter, whose initial values depend on the seed alone. Raises UserError."""
    try:
        import peft
    except ModuleNotFoundError:
        raise UserError('method = "lora" needs peft, which is not installed: pip install "fairtrial[hf]"') from None
    _check_targets(net, config.lora.targets)
    settings = peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=cast(Any, config.lora.alpha),
        target_modules=list(config.lora.targets) or "all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng():
            model: Any = peft.get_peft_model(net, settings)
    except ValueError as error:
        raise UserError(f"lora: this model takes no adapter: {one_line(error)[:200]}") from None
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            lowrank.start(parameter.data, name, config.seed)
    return model.eval()


def _check_targets(net: Any, targets: Sequence[str]) -> None:
    known = {name.rpartition(".")[2] for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    for target in targets:
        if target not in known:
            raise UserError(f'lora.targets: no linear map is called "{target}"{did_you_mean(target, known)}')
