"""Redaction of known secrets, at the one place where things are written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

_SECRET_NAME = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE_?KEY|ACCESS_?KEY)", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[0-9A-Za-z_-]{35})\b"
)
_MIN_LENGTH = 8


class Redactor:
    """Replaces the exact values of known secrets, and strings with the shape of a well-known key, by a mark.

    Secrets are the values of environment variables whose name says so, plus those given by name.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, extra: Iterable[str] = ()):
        environ = os.environ if environ is None else environ
        wanted = set(extra)
        values = {
            value: name
            for name, value in environ.items()
            if (name in wanted or _SECRET_NAME.search(name)) and len(value) >= _MIN_LENGTH and not value.startswith("/")
        }
        self._names = {**{_json_escaped(value): name for value, name in values.items()}, **values}
        ordered = sorted(self._names, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

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
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def _json_escaped(value: str) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)[1:-1]
