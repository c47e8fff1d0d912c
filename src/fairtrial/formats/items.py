"""Items of a row as dicts: absent fields are left out, so that a row reads as `Trajectory` dumps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from fairtrial.core.trajectory import Source
from fairtrial.formats.format import Notes

Item = dict[str, Any]

_SAYS_NO = frozenset({"loss", "is_error"})
"""Fields whose False differs from their absence."""
ACTIONS = frozenset({"api_action", "code_action", "message_action"})


def api(function: str, kwargs: Mapping[str, Any], description: str | None = None, **rest: Any) -> Item:
    """A named tool call."""
    return _given({"class_": "api_action", "function": function, "kwargs": kwargs}, description=description, **rest)


def code(language: str, content: str, description: str | None = None, **rest: Any) -> Item:
    """Code that the agent had executed."""
    return _given({"class_": "code_action", "language": language, "content": content}, description=description, **rest)


def message(content: str, description: str | None = None, **rest: Any) -> Item:
    """Text that the agent addressed to its user."""
    return _given({"class_": "message_action", "content": content}, description=description, **rest)


def text(content: str, source: Source, name: str | None = None, **rest: Any) -> Item:
    """Text that the agent saw."""
    return _given({"class_": "text_observation", "content": content, "source": source}, name=name, **rest)


def image(content: str, source: Source, **rest: Any) -> Item:
    """An image by path, URL, data URL or blob digest."""
    return _given({"class_": "image_observation", "content": content, "source": source}, **rest)


def web(**fields: Any) -> Item:
    """A web page: html, axtree, url, image_observation, viewport_size."""
    return _given({"class_": "web_observation"}, **fields)


def _given(item: Item, **fields: Any) -> Item:
    for name, value in fields.items():
        if value is not None and value != {} and (value is not False or name in _SAYS_NO):
            item[name] = value
    return item


def arguments(source: Any, function: str, notes: Notes) -> dict[str, Any]:
    """`kwargs`, and `malformed` where they are no JSON object: the fields of an `api_action` for a call's arguments.

    `source` is JSON text (OpenAI) or the object itself (Anthropic). What cannot be parsed is kept as it came.
    """
    if isinstance(source, dict):
        return {"kwargs": source}
    if source is None or source == "":
        return {"kwargs": {}}
    if isinstance(source, str):
        try:
            value = orjson.loads(source)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return {"kwargs": value}
        raw = source
    else:
        raw = orjson.dumps(source).decode()
    notes.flaw("malformed arguments", f"the arguments of {function} are no JSON object: {raw[:80]!r}")
    return {"kwargs": {}, "malformed": raw}


def arguments_text(item: Item) -> str:
    """A call's arguments as JSON text; malformed ones as they came."""
    malformed = item.get("malformed")
    return malformed if malformed is not None else orjson.dumps(item["kwargs"]).decode()


def is_action(item: Item) -> bool:
    """Whether the agent did this (else it saw it)."""
    return item["class_"] in ACTIONS
