"""From what a user writes to a model: `KIND:TEXT` on a command line, a table with `kind` in a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fairtrial.core import registry
from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError
from fairtrial.core.ids import digest, file_digest
from fairtrial.models.model import Model, ModelKind


def model_settings(spec: str | Mapping[str, Any], *, where: str = "model") -> tuple[ModelKind, Config]:
    """The kind and its settings. Raises UserError, prefixed with `where`, for an unknown kind or setting.

    A text is KIND:TEXT (`scripted:replies.toml`, `native:runs/model`, `openai:gpt-x`), TEXT being the kind's main
    setting, or KIND alone where that setting may be left out (`tiny`); a table has `kind` and the kind's settings.
    """
    if isinstance(spec, str):
        kind_name, colon, text = spec.partition(":")
        table: dict[str, Any] = {}
        if not text and (colon or not _stands_alone(kind_name, where)):
            kinds = ", ".join(f"{name}:..." for name in registry.names("models"))
            raise UserError(f'{where}: "{spec}" is not KIND:TEXT; known kinds: {kinds}')
    else:
        table = dict(spec)
        kind_name, text = str(table.pop("kind", "")), None
        if not kind_name:
            raise UserError(f'{where}: "kind" is required; known: {", ".join(registry.names("models"))}')
    kind: ModelKind = registry.load("models", kind_name, where=where)
    if text:
        table[kind.argument] = text
    return kind, parse(kind.settings_type, table, where=where)


def _stands_alone(name: str, where: str) -> bool:
    """Whether a kind of this name needs no main setting. Raises UserError for one that cannot be loaded."""
    if name not in registry.names("models"):
        return False
    kind: ModelKind = registry.load("models", name, where=where)
    return not kind.settings_type.model_fields[kind.argument].is_required()


def check_model(spec: str | Mapping[str, Any], base: Path, *, where: str = "model") -> None:
    """Refuse (UserError, prefixed with `where`) a model that could not be opened, as far as that costs nothing."""
    kind, settings = model_settings(spec, where=where)
    try:
        kind.check(settings, base)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def files_digest(spec: str | Mapping[str, Any], base: Path, *, where: str = "model") -> str | None:
    """Of the local files that a model's replies follow from: 16 hex digits; None where there are none.

    Raises UserError for a model that cannot be opened, as far as `check_model` sees it.
    """
    kind, settings = model_settings(spec, where=where)
    found = [inner for path in kind.files(settings, base) for inner in _inside(path)]
    return digest([(path.name, _content(path, *_state(path))) for path in found])[:16] if found else None


def _inside(path: Path) -> list[Path]:
    return sorted(inner for inner in (path.rglob("*") if path.is_dir() else (path,)) if inner.is_file())


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@cache
def _content(path: Path, size: int, changed_ns: int) -> str:
    """The digest of a file, which several arms may share."""
    del size, changed_ns
    return file_digest(path)


def open_model(spec: str | Mapping[str, Any], base: Path, *, where: str = "model") -> Model:
    """The model that `spec` names (see `model_settings`), ready to answer. Raises UserError."""
    kind, settings = model_settings(spec, where=where)
    return kind.open(settings, base)
