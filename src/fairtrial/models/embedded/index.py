"""A folder of small models that share a tokenizer, one model for each habit. Loads without torch.

    index.json           what the folder holds: `Index` as JSON
    tokenizer.json       of all habits
    FOLDER/config.json, FOLDER/model.safetensors    of each habit, as `fairtrial.nn.hub.save` writes them

    {"version": 1, "tokenizer": "tokenizer.json", "habits": {
      "append": {"folder": "append", "rules": ["Call one tool at a time ...", ...], "default": true, "context": null},
      "fold": {"folder": "fold", "rules": [...], "default": false, "context": 2048}}}

Other files (a card, the recipe) may lie beside them. Who makes such a folder writes the index last (`write_index`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError
from fairtrial.nn.hub_config import read_config
from fairtrial.nn.hub_files import compare, folder_tensors

FILE = "index.json"
TEXT = "text"
"""The habit that scores texts, where there is one of this name."""
_LIMIT = 16 << 20

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Habit(Config):
    """One way of working, and the model that was trained for it."""

    folder: Name
    """Of the model, inside of the index's own folder."""
    rules: tuple[str, ...] = ()
    """Lines of the system messages that it was trained with, as `routing.rule_lines` gives them."""
    default: bool = False
    """Whether it answers what is like no habit's rules; exactly one does."""
    context: int | None = Field(default=None, ge=2)
    """Tokens that prompt and reply may have together; None: what a native model takes."""


class Index(Config):
    """What a folder holds."""

    version: Literal[1] = 1
    tokenizer: Name = "tokenizer.json"
    habits: dict[Name, Habit] = Field(min_length=1)
    """By name."""

    @model_validator(mode="after")
    def _one_default(self) -> Index:
        defaults = [name for name, habit in self.habits.items() if habit.default]
        if len(defaults) != 1:
            raise ValueError(f"habits: exactly one has default = true, here {', '.join(defaults) or 'none'}")
        return self

    @property
    def default(self) -> str:
        """The name of the default habit."""
        return next(name for name, habit in self.habits.items() if habit.default)

    @property
    def scoring(self) -> str:
        """The name of the habit that scores texts."""
        return TEXT if TEXT in self.habits else self.default


def load(folder: Path) -> Index:
    """The index of a folder, whose files are looked at but not read through.

    Raises UserError in one line: no such folder, no index, a file that is missing or cut short, tensors that do not
    fit their config.
    """
    path = folder / FILE
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that training wrote")
    if not path.is_file():
        native = " (it is a native model: native:FOLDER)" if (folder / "config.json").is_file() else ""
        raise UserError(f"{path}: no such file, so this is no folder of habits{native}")
    try:
        if path.stat().st_size > _LIMIT:
            raise UserError(f"{path}: larger than {_LIMIT >> 20} MiB, which no index is")
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not valid JSON") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    index = parse(Index, data, where=str(path))
    _check_files(folder, index)
    return index


def write_index(folder: Path, habits: Mapping[str, Habit], *, tokenizer: str = "tokenizer.json") -> Index:
    """Write the index of a folder that already holds the habits' models and the tokenizer; a reader sees it whole.

    Raises:
        UserError: no habit or not exactly one default, a file that is not there, or one that cannot be written.
    """
    index = parse(Index, {"tokenizer": tokenizer, "habits": dict(habits)}, where=str(folder / FILE))
    _check_files(folder, index)
    partial = folder / f".{FILE}.{os.getpid()}"
    try:
        partial.write_text(index.model_dump_json(indent=1) + "\n", "utf-8")
        partial.replace(folder / FILE)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{folder / FILE}: cannot be written: {error.strerror}") from None
    return index


def _check_files(folder: Path, index: Index) -> None:
    if not (folder / index.tokenizer).is_file():
        raise UserError(f"{folder / index.tokenizer}: no such file; it belongs to all habits of {folder / FILE}")
    for name, habit in index.habits.items():
        inside = folder / habit.folder
        if not inside.is_dir():
            raise UserError(f'{inside}: no such folder; {folder / FILE} names it for the habit "{name}"')
        found = compare(read_config(inside / "config.json"), folder_tensors(inside), mtp=False)
        if not found.ok:
            raise UserError(f"{inside}: {found.problem()}")
