"""The kind `native`: a folder with a model of our own family and its tokenizer (`native:runs/model`). No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from fairtrial.core.config import Config
from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.models.native.model import NativeModel


def model_files(folder: Path) -> list[Path]:
    """Configuration and weights of a folder."""
    return sorted([folder / "config.json", *folder.glob("*.safetensors")])


class DecodingSettings(Config):
    """How models of our own family decode."""

    max_batch: int = Field(default=16, ge=1, le=1024)
    """Requests of one model that decode together; more of them wait."""
    threads: int = Field(default=1, ge=1, le=256)
    """Of torch, for one step."""
    exact: bool = False
    """Bitwise the same whatever else is in the batch and however a prompt was read; slower, one thread."""

    @model_validator(mode="after")
    def _exact_is_alone(self) -> Self:
        if self.exact and self.threads > 1:
            raise ValueError("exact needs threads = 1: with several, products round differently")
        return self


class NativeSettings(DecodingSettings):
    """How a native model is opened."""

    path: str = Field(min_length=1)
    """A folder with config.json, safetensors and tokenizer.json, as `fairtrial.nn.hub.save` writes it."""
    adapter: str | None = None
    """A folder with a low-rank adapter, as `fairtrial train sft` with method = "lora" writes it."""
    name: str | None = None
    """In records and in /v1/models; None: the folder's name, with the adapter's run behind a "+"."""
    context: int = Field(default=8192, ge=2)
    """Tokens that prompt and reply may have together."""
    max_waiting: int = Field(default=4096, ge=0)
    """Requests that wait at most; one more is refused."""
    prefix_mib: int = Field(default=256, ge=0)
    """Memory for states of prefixes that were read before, in MiB; 0: none are kept."""


class Native:
    """Opens native models."""

    settings_type: type[Config] = NativeSettings
    argument = "path"

    @staticmethod
    def check(settings: Any, base: Path) -> None:
        """Whether there is such a folder with a model in it."""
        folder = base / Path(settings.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; a native model is a folder with config.json and safetensors")
        if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
            raise UserError(f"{folder}: the folder of a training run; its model is native:{settings.path}/model")

    @staticmethod
    def files(settings: Any, base: Path) -> tuple[Path, ...]:
        """Configuration, weights, tokenizer and adapter."""
        folder = base / Path(settings.path).expanduser()
        adapter = () if settings.adapter is None else (base / Path(settings.adapter).expanduser(),)
        return (*model_files(folder), folder / "tokenizer.json", *adapter)

    @staticmethod
    def open(settings: Any, base: Path) -> NativeModel:
        """The model, loaded. Raises UserError in one line that names the file at fault, or the extra to install."""
        Native.check(settings, base)
        folder = base / Path(settings.path).expanduser()
        try:
            from fairtrial.models.native.model import NativeModel
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "fairtrial":
                raise
            raise UserError(
                f'native models need {error.name}, which is not installed: pip install "fairtrial[local]"'
            ) from None
        adapter = None if settings.adapter is None else base / Path(settings.adapter).expanduser()
        return NativeModel.load(folder, settings, adapter=adapter)
