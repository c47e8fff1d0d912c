"""The kind `hf`: a causal language model of transformers (`hf:models/qwen`). Loads neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fairtrial.core.config import Config
from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.models.hf.model import HuggingFaceModel


class HuggingFaceSettings(Config):
    """How a model is opened."""

    path: str = Field(min_length=1)
    """A folder with config.json, safetensors and a tokenizer; or a name on the hub (`owner/name`), where the network
    allows. Code from the folder is never run, pickled weights are refused."""
    adapter: str | None = None
    """A folder with a PEFT adapter (adapter_config.json and safetensors)."""
    name: str | None = None
    """In records and in /v1/models; None: the folder's name or the hub's, with the adapter's behind a "+"."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto: as they are stored."""
    device: str = "auto"
    """As torch names it ("cpu", "cuda:1"); auto: a GPU where there is one."""
    context: int | None = Field(default=None, ge=2)
    """Tokens that prompt and reply may have together; None: as the configuration says."""
    max_batch: int = Field(default=16, ge=1, le=1024)
    """Requests that are answered together; more of them wait."""
    max_waiting: int = Field(default=4096, ge=0)
    """Requests that wait at most; one more is refused."""
    threads: int | None = Field(default=None, ge=1, le=256)
    """Of torch; None: as torch chose."""
    exact: bool = True
    """Each request is computed on its own: a reply depends on its request alone, bitwise. False: those that run are
    one padded batch, which is faster, and rounding (1e-6 relative in fp32) depends on the company."""


def local(path: str, base: Path) -> Path | None:
    """The folder that a path names; None: it is a name on the hub. Raises UserError where it is neither."""
    folder = base / Path(path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    parts = path.split("/")
    if path[:1] in "./~" or len(parts) != 2 or not all(parts):
        raise UserError(f"path: {folder}: no such folder; name a folder with config.json, safetensors and a tokenizer")
    return None


class HuggingFace:
    """Opens models of transformers."""

    settings_type: type[Config] = HuggingFaceSettings
    argument = "path"

    @staticmethod
    def check(settings: Any, base: Path) -> None:
        """Whether there is such a folder; whether the hub has a model of a name shows only when it is opened."""
        local(settings.path, base)

    @staticmethod
    def files(settings: Any, base: Path) -> tuple[Path, ...]:
        """What lies in the folder and in the adapter's; a name on the hub says itself what is meant."""
        folder = local(settings.path, base)
        adapter = None if settings.adapter is None else base / Path(settings.adapter).expanduser()
        return tuple(path for each in (folder, adapter) if each is not None for path in sorted(each.glob("*.*")))

    @staticmethod
    def open(settings: Any, base: Path) -> HuggingFaceModel:
        """The model, loaded. Raises UserError in one line: what is missing or refused, or the extra to install."""
        try:
            from fairtrial.models.hf.model import HuggingFaceModel
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "fairtrial":
                raise
            raise UserError(
                f'models of kind hf need {error.name}, which is not installed: pip install "fairtrial[hf]"'
            ) from None
        return HuggingFaceModel.load(settings, base)
