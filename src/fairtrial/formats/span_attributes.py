"""What span attributes say, once they are a flat dict: nested keys, JSON text, times, model calls."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_INDEX = 100_000


def parsed(value: Any) -> Any:
    """The value of JSON text (attributes often hold objects as text); anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except ValueError:
            try:
                return json.loads(value, strict=False, parse_constant=str)
            except (ValueError, RecursionError):
                return value
    return value


def nested(attributes: dict[str, Any], prefix: str) -> Any:
    """The tree under `prefix.`, taken out of `attributes`: `a.0.b` -> `[{"b": ...}]`. None where there is nothing.

    A list or dict that stands at the prefix itself is taken as it is.
    """
    whole = attributes.pop(prefix, None)
    if whole is not None:
        whole = parsed(whole)
        if isinstance(whole, list | dict):
            return whole
        attributes[prefix] = whole
    dotted = f"{prefix}."
    tree: dict[str, Any] = {}
    taken: list[str] = []
    for key, value in attributes.items():
        if key.startswith(dotted):
            _put(tree, key[len(dotted) :].split("."), value)
            taken.append(key)
    for key in taken:
        del attributes[key]
    return _listed(tree) if taken else None


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for step in path[:-1]:
        inner = tree.get(step)
        if not isinstance(inner, dict):
            inner = tree[step] = {} if inner is None else {"": inner}
        tree = inner
    held = tree.get(path[-1])
    if isinstance(held, dict):
        held[""] = value
    else:
        tree[path[-1]] = value


def _listed(tree: Any) -> Any:
    """Dicts whose keys are all numbers as lists, in their order."""
    if not isinstance(tree, dict):
        return tree
    if (
        tree
        and all(key.isdecimal() and int(key) < _MAX_INDEX for key in tree if len(key) < 7)
        and all(len(key) < 7 and key.isdecimal() for key in tree)
    ):
        return [_listed(tree[key]) for key in sorted(tree, key=int)]
    return {key: _listed(value) for key, value in tree.items()}


def iso_time(value: Any) -> str | None:
    """A time as ISO 8601: nanoseconds since 1970 (OTLP), or text as it came."""
    if isinstance(value, str) and not value.isdecimal():
        return value or None
    try:
        nanoseconds = int(value)
        return (_EPOCH + timedelta(microseconds=nanoseconds // 1000)).isoformat()
    except (TypeError, ValueError, OverflowError):
        return None


def comparable(value: Any) -> Any:
    """A time that compares with others of its source: a number where it is one, else text."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def count(value: Any) -> int:
    """A number of tokens; 0 where the source has none or nonsense."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
        return 0
    return int(value) if value < 1e15 else 0


def model_call(
    model: Any,
    *,
    sent: Any = None,
    given: Any = None,
    cached: Any = None,
    cost: Any = None,
    sampling: dict[str, Any] | None = None,
    finish: Any = None,
) -> dict[str, Any]:
    """A model call as core dumps it; `sent` counts all prompt tokens, cached ones among them."""
    usage: dict[str, Any] = {"calls": 1}
    for name, tokens in (("input_tokens", sent), ("output_tokens", given), ("cached_tokens", cached)):
        if number := count(tokens):
            usage[name] = number
    if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 < cost < 1e15:
        usage["cost_usd"] = float(cost)
    call: dict[str, Any] = {"model": str(model) if model else "unknown", "usage": usage}
    if sampling:
        call["sampling"] = sampling
    if finish:
        call["finish_reason"] = str(finish)
    return call
