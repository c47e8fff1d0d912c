"""Models of transformers from disk or hub: safetensors only, no code of the model's own, every problem in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from fairtrial.core.errors import UserError, one_line
from fairtrial.models.hf.kind import HuggingFaceSettings, local

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")


def load(settings: HuggingFaceSettings, base: Path) -> tuple[Any, Any, str]:
    """Model (evaluation mode, no gradients), tokenizer and name. Raises UserError."""
    source, name = _source(settings.path, base)
    device = _device(settings.device)
    tokenizer = _tokenizer(source)
    model = _model(source, settings.dtype)
    if settings.adapter is not None:
        folder = (base / Path(settings.adapter).expanduser()).resolve()
        model = _adapted(model, folder)
        name = f"{name}+{folder.name}"
    rows = model.get_input_embeddings().weight.shape[0]
    count = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if count > rows:
        raise UserError(f"{source}: the tokenizer has {count} ids and the model {rows}; they do not belong "
                        "together")  # fmt: skip
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device: the model does not go to "{settings.device}": {one_line(error)}') from None
    return model.eval().requires_grad_(False), tokenizer, settings.name or name


def open_tokenizer(settings: HuggingFaceSettings, base: Path) -> tuple[Any, str]:
    """The tokenizer alone, and the model's name. Raises UserError."""
    source, name = _source(settings.path, base)
    return _tokenizer(source), settings.name or name


def _source(path: str, base: Path) -> tuple[str, str]:
    """What transformers is to load, and its name."""
    folder = local(path, base)
    if folder is None:
        return path, path
    _check(folder)
    return str(folder), folder.name


def _check(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder / 'config.json'}: no such file; a model's folder has config.json, safetensors and a "
                        "tokenizer (for an adapter, name the model as path and the folder as adapter)")  # fmt: skip
    if not any(folder.glob("*.safetensors")):
        _refuse_pickles(folder, "model")
        raise UserError(f"{folder}: no *.safetensors; the weights are missing")


def _refuse_pickles(folder: Path, what: str) -> None:
    pickled = next((found for pattern in _PICKLES for found in sorted(folder.glob(pattern))), None)
    if pickled is not None:
        raise UserError(
            f"{pickled}: the {what}'s weights are pickled, and loading them can run any code: refused; "
            "convert them to safetensors (save_pretrained of a machine that trusts them)"
        )


def _device(text: str) -> torch.device:
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(text)
    except RuntimeError:
        raise UserError(f'device: "{text}" is no device of torch; use "auto", "cpu", "cuda" or "cuda:1"') from None


def _tokenizer(source: str) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - the libraries raise anything for files that they cannot use
        if not Path(source).is_dir():
            raise UserError(f'path: "{source}" is no folder here, and not from the hub: {_short(error)}') from None
        raise UserError(f"{source}: no usable tokenizer: {_short(error)}") from None


def _model(source: str, dtype: str) -> Any:
    try:
        found: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 - the libraries raise anything for files that they cannot use
        raise UserError(f"{source}: no causal language model that can be loaded: {_short(error)}") from None
    model, report = found
    missing = sorted(report.get("missing_keys", ()))
    if missing:  # transformers would go on with random numbers there
        raise UserError(f"{source}: {len(missing)} tensors are missing from the weights ({missing[0]}, ...)")
    return model


def _adapted(model: Any, folder: Path) -> Any:
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"adapter: {folder}: no adapter_config.json; name a folder that PEFT wrote")
    if not (folder / "adapter_model.safetensors").is_file():
        _refuse_pickles(folder, "adapter")
        raise UserError(f"adapter: {folder}: no adapter_model.safetensors; the weights are missing")
    try:
        import peft

        return peft.PeftModel.from_pretrained(model, str(folder))
    except ModuleNotFoundError:
        raise UserError('adapter: peft is not installed: pip install "fairtrial[hf]"') from None
    except Exception as error:  # noqa: BLE001 - the library raises anything for an adapter that does not fit
        raise UserError(f"adapter: {folder}: does not fit the model: {_short(error)}") from None


def _short(error: Exception) -> str:
    text = one_line(error)
    return text if len(text) <= 300 else f"{text[:297]}..."
