"""Redaction of known secrets, at the one place where things are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

_SECRET_NAME = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE_?KEY|ACCESS_?KEY)", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[0-9A-Za-z_-]{35})\b"
)
# How keys of the well-known shapes begin: one pattern each, because a literal start makes a search fast.
_STARTS = tuple(
    re.compile(start + "[A-Za-z0-9_-]{16}") for start in ("sk-", "gh[pousr]_", "hf_", "AKIA", "xox[abprs]-", "AIza")
)
_MIN_LENGTH = 8


class Redactor:
    """Replaces the exact values of known secrets, and strings with the shape of a well-known key, by a mark.

    Secrets are the values of environment variables whose name says so, plus those given by name.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, extra: Iterable[str] = ()) -> None:
        environ = os.environ if environ is None else environ
        wanted = set(extra)
        values = {
            value: name
            for name, value in environ.items()
            if len(value) >= _MIN_LENGTH and (name in wanted or (_SECRET_NAME.search(name) and not _is_path(value)))
        }
        self._names = {form: name for value, name in values.items() for form in _json_escaped(value)} | values
        ordered = sorted(self._names, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def suspects(self, json_text: str) -> bool:
        """Whether a JSON document may hold a secret; False is certain, so that `value` need not walk the document."""
        return any(start.search(json_text) for start in _STARTS) or any(name in json_text for name in self._names)

    def text(self, text: str) -> str:
        """`text` with every secret replaced by `[redacted NAME]`."""
        if self._known is not None:
            text = self._known.sub(lambda match: f"[redacted {self._names[match.group()]}]", text)
        return _SHAPES.sub("[redacted key]", text)

    def content(self, content: bytes) -> bytes:
        """The same for bytes; what is not UTF-8 is searched as it is and otherwise left alone."""
        text = content.decode("utf-8", "surrogateescape")
        return self.text(text).encode("utf-8", "surrogateescape")

    def value(self, value: Any) -> Any:
        """The same for every string in a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return self._mapping(cast("Mapping[Any, Any]", value))
        if isinstance(value, list | tuple):
            return [self.value(item) for item in cast("Sequence[Any]", value)]
        return value

    def trace(self, value: Any) -> Any:
        """The same for a whole run: where a secret was replaced, token ids and what goes with them are None.

        Ids can be decoded, so a text without a secret beside its ids would still tell it.
        """
        clean = self.value(value)
        return clean if clean == _as_lists(value) else _without_ids(clean)

    def _mapping(self, mapping: Mapping[Any, Any]) -> dict[str, Any]:
        """Redacted keys that became equal are numbered: no entry is lost."""
        clean: dict[str, Any] = {}
        for key, item in mapping.items():
            name = base = self.text(str(key))
            count = 1
            while name in clean:
                count += 1
                name = f"{base} ({count})"
            clean[name] = self.value(item)
        return clean


_IDS = frozenset({"prompt_ids", "completion_ids", "token_ids", "logprobs"})


def _without_ids(value: Any) -> Any:
    """A JSON value whose token ids are None; `prompt` too where it is a delta of ids."""
    if isinstance(value, Mapping):
        found = cast("Mapping[str, Any]", value)
        return {name: None if _is_ids(name, item) else _without_ids(item) for name, item in found.items()}
    if isinstance(value, list):
        return [_without_ids(item) for item in cast("list[Any]", value)]
    return value


def _is_ids(name: str, item: Any) -> bool:
    if name == "prompt":
        return isinstance(item, Mapping) and "append" in item and item.keys() <= {"base", "keep", "append"}
    if name not in _IDS or not isinstance(item, list):
        return False
    return all(isinstance(each, int | float) for each in cast("list[Any]", item))


def _as_lists(value: Any) -> Any:
    """A JSON value with lists for tuples, as `Redactor.value` gives it."""
    if isinstance(value, Mapping):
        return {str(name): _as_lists(item) for name, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_as_lists(item) for item in cast("Sequence[Any]", value)]
    return value


def _json_escaped(value: str) -> tuple[str, str]:
    """The value as it stands inside JSON text, both with and without Unicode escapes."""
    return json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]


def _is_path(value: str) -> bool:
    """Whether a value names a file (`..._TOKEN_FILE` and the like): only what exists, since keys may start with /."""
    try:
        return value.startswith("/") and Path(value).exists()
    except (OSError, ValueError):
        return False
