"""The base of what users write and what goes to disk: frozen, unknown keys refused, errors in one line."""

from __future__ import annotations

import tomllib
import types
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from fairtrial.core.errors import UserError, did_you_mean


class Config(BaseModel):
    """Frozen pydantic model that refuses unknown keys and non-finite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )


C = TypeVar("C", bound=BaseModel)


def parse(model: type[C], data: Any, *, where: str) -> C:
    """Validate `data` as `model`.

    `where` names the source in messages (a file, an arm). Raises UserError with one clause for each problem:
    path, value, what is allowed, and for an unknown key the nearest known name.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, model)}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises UserError when it is missing, not UTF-8 or not TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a TOML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems of a validation error on one line, each as `path: what is wrong`."""
    parts: list[str] = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, item["loc"][:-1])
            parts.append(f'unknown key "{path}"{did_you_mean(str(item["loc"][-1]), known)}')
        elif item["type"] == "missing":
            parts.append(f'"{path}" is required')
        else:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            shown = repr(item["input"])
            suffix = f" (got {shown[:80]}{'...' if len(shown) > 80 else ''})" if item["loc"] else ""
            parts.append(f'"{path}": {message[:1].lower()}{message[1:]}{suffix}' if item["loc"] else message)
    return "; ".join(dict.fromkeys(parts))


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Names of the keys that are known at a place inside `model`."""
    places: list[Any] = [model]
    for part in loc:
        places = [inner for place in places for inner in _inside(place, part)]
    models = [place for place in places if _is_model(place)]
    return {field.alias or name for candidate in models for name, field in candidate.model_fields.items()}


def _inside(place: Any, part: int | str) -> list[Any]:
    """What one step of an error's path leads to: a field, an element, or the branch of a union that it names."""
    if _is_model(place):
        for name, field in place.model_fields.items():
            if part in (name, field.alias):
                return _branches(field.annotation)
        return [place] if part == place.__name__ or _has_tag(place, part) else []
    arguments = get_args(place)
    return _branches(arguments[-1 if arguments[-1] is not Ellipsis else 0]) if arguments else []


def _branches(annotation: Any) -> list[Any]:
    """The alternatives of a union, else the annotation itself; `Annotated` is looked through."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [branch for arg in get_args(annotation) for branch in _branches(arg)]
    return [annotation]


def _is_model(place: Any) -> bool:
    return isinstance(place, type) and issubclass(place, BaseModel)


def _has_tag(model: type[BaseModel], tag: int | str) -> bool:
    """Whether a model is the branch of a discriminated union that `tag` names."""
    return any(
        get_origin(field.annotation) is Literal and tag in get_args(field.annotation)
        for field in model.model_fields.values()
    )
