"""Arguments printed as source fragments, as ADP v1 keeps them for calls that came as code: '"149"', '500', 'True'.

Inside, arguments are values; the fragment stays under `extra["adp-v1"]["printed"]` so that it can be written again.
Whether a trajectory prints its arguments is not said anywhere. It does where each of its text arguments is quoted or
a bare literal, and at least one is quoted (true of every published file, and false of those that came as JSON calls).
"""

from __future__ import annotations

import ast
from typing import Any

import orjson

from fairtrial.formats.items import Item

_NAMESPACE = "adp-v1"
_LITERAL_STARTS = frozenset("0123456789-+.[({TFN")


def read_arguments(content: list[Item]) -> None:
    """Turn fragments into values in place, and keep the fragments."""
    calls = [item for item in content if item["class_"] == "api_action"]
    fragments = [value for item in calls for value in item.get("kwargs", {}).values() if isinstance(value, str)]
    if not _are_printed(fragments):
        return
    escaped = _are_escaped(fragments)
    for item in calls:
        printed = {name: value for name, value in item["kwargs"].items() if isinstance(value, str)}
        if printed:
            item["kwargs"] = {
                name: unprint(value, escaped) if isinstance(value, str) else value
                for name, value in item["kwargs"].items()
            }
            item.setdefault("extra", {}).setdefault(_NAMESPACE, {})["printed"] = printed


def print_arguments(content: list[Item]) -> dict[int, dict[str, Any]]:
    """Position -> arguments to write, for the calls whose arguments are not written as they are.

    Kept fragments are written again. Where there are some, or where the plain texts would be read as fragments, every
    other text is printed too.
    """
    calls = [(place, item) for place, item in enumerate(content) if item["class_"] == "api_action"]
    kept = {place: fragments for place, item in calls if (fragments := _kept(item))}
    plain = [value for _, item in calls for value in item["kwargs"].values() if isinstance(value, str)]
    if not kept and not _are_printed(plain):
        return {}
    escaped = _are_escaped([text for fragments in kept.values() for text in fragments.values()])
    return {
        place: {
            name: kept.get(place, {}).get(name) or (_print(value, escaped) if isinstance(value, str) else value)
            for name, value in item["kwargs"].items()
        }
        for place, item in calls
    }


def unprint(fragment: str, escaped: bool) -> Any:
    """The value of a fragment. Quotes mostly stand around a text as it is; `escaped`: around a JSON text."""
    if _is_quoted(fragment):
        if escaped and fragment[0] == '"' and "\\" in fragment:
            return orjson.loads(fragment)
        return fragment[1:-1]
    return _literal(fragment)


def _kept(item: Item) -> dict[str, str]:
    printed = item["extra"].get(_NAMESPACE, {}).get("printed", {}) if "extra" in item else {}
    return {name: text for name, text in printed.items() if name in item["kwargs"] and isinstance(text, str)}


def _print(value: str, escaped: bool) -> str:
    return orjson.dumps(value).decode() if escaped else f'"{value}"'


def _are_printed(fragments: list[str]) -> bool:
    quoted = False
    for fragment in fragments:
        if _is_quoted(fragment):
            quoted = True
        elif _literal(fragment) is None and fragment != "None":
            return False
    return quoted


def _are_escaped(fragments: list[str]) -> bool:
    """Whether every double-quoted fragment is a JSON string: one that is not was only put between quotes."""
    for fragment in fragments:
        if (
            fragment[:1] == '"'
            and _is_quoted(fragment)
            and ("\\" in fragment or '"' in fragment[1:-1] or "\n" in fragment)
        ):
            try:
                orjson.loads(fragment)
            except ValueError:
                return False
    return True


def _is_quoted(fragment: str) -> bool:
    return len(fragment) > 1 and fragment[0] == fragment[-1] and fragment[0] in "\"'"


def _literal(fragment: str) -> Any:
    """The value of a bare literal (number, True, list ...); None where it is none, and for `None`."""
    if fragment[:1] not in _LITERAL_STARTS or "\\" in fragment:
        return None
    try:
        value = ast.literal_eval(fragment)
        orjson.dumps(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return list(value) if isinstance(value, tuple) else value
