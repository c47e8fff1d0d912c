"""The kind `tiny`: `tiny` is the folder that ships with the package, `tiny:FOLDER` one of your own. No torch here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fairtrial.core.config import Config
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.models.embedded import index
from fairtrial.models.native.kind import DecodingSettings, model_files

if TYPE_CHECKING:
    from fairtrial.models.embedded.model import EmbeddedModel

WEIGHTS = Path(__file__).parent / "weights"
"""The folder that ships with the package."""
_NEEDED = ("torch", "tokenizers", "safetensors", "llguidance")


class TinySettings(DecodingSettings):
    """How the embedded model is opened."""

    path: str | None = Field(default=None, min_length=1)
    """A folder of habits (see `index`), such as a retraining wrote; None: the one that ships."""
    habit: str | None = Field(default=None, min_length=1)
    """Answers every request; None: each request is answered by the habit whose rules are most like its own."""


class Tiny:
    """Opens the embedded model."""

    settings_type: type[Config] = TinySettings
    argument = "path"

    @staticmethod
    def check(settings: Any, base: Path) -> None:
        """Whether torch is there, the folder is whole, and it has the habit."""
        _found(settings, base)

    @staticmethod
    def files(settings: Any, base: Path) -> tuple[Path, ...]:
        """The index, the tokenizer, and the habits that can be asked: all of them where none is named."""
        folder, found = _found(settings, base)
        habits = [settings.habit] if settings.habit is not None else sorted(found.habits)
        models = [path for habit in habits for path in model_files(folder / found.habits[habit].folder)]
        return (folder / index.FILE, folder / found.tokenizer, *models)

    @staticmethod
    def open(settings: Any, base: Path) -> EmbeddedModel:
        """The model; its weights are read when a habit is first asked. Raises UserError in one line."""
        folder, found = _found(settings, base)
        from fairtrial.models.embedded.model import EmbeddedModel

        return EmbeddedModel(folder, found, settings)


def _found(settings: TinySettings, base: Path) -> tuple[Path, index.Index]:
    """The folder and its index. Raises UserError."""
    if missing := next((name for name in _NEEDED if importlib.util.find_spec(name) is None), None):
        raise UserError(f'tiny needs {missing}, which is not installed: pip install "fairtrial[local]"')
    if settings.path is None and not (WEIGHTS / index.FILE).is_file():
        raise UserError("this installation ships no weights of tiny; name a folder of your own (tiny:FOLDER)")
    folder = WEIGHTS if settings.path is None else base / Path(settings.path).expanduser()
    if settings.path is not None and not folder.is_dir():
        raise UserError(f'{folder}: no such folder; a habit is given as habit = "NAME"')
    found = index.load(folder)
    if settings.habit is not None and settings.habit not in found.habits:
        raise UserError(f'tiny has no habit "{settings.habit}"{did_you_mean(settings.habit, found.habits)}')
    return folder, found
