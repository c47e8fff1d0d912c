"""How the harnesses' text forms print calls: Python literals, `f(k=v)`, XML-like calls, shell quoting, signatures.

Everything printed here reads back to the value that was printed, as the harness itself would read it; what cannot be
printed so raises RowError. The call syntax is the one that OpenHands v0.30 (`fn_call_converter`) and SWE-agent v1.1.0
(`XMLFunctionCallingParser`) parse: a parameter ends at the first `</parameter>`, a call at the first `</function>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from fairtrial.formats.format import RowError

CALL = "<function="
_ENDS = ("</parameter>", "</function>")


def literal(value: Any) -> str:
    """A JSON value as the Python source that evaluates to it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\x7f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def block_literal(text: str) -> str:
    """Text as a Python string literal; several lines stay several lines where Python reads them back unchanged."""
    if "\n" not in text or "\r" in text or "\x00" in text:
        return literal(text)
    stem = text.rstrip('"')
    body = stem.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') + '\\"' * (len(text) - len(stem))
    return f'"""{body}"""'


def expression(function: str, kwargs: Mapping[str, Any], printed: Mapping[str, str] | None = None) -> str:
    """`function(key=value, ...)`; `printed` has the source's own spelling of some values."""
    spelled = printed or {}
    return f"{function}({', '.join(f'{key}={spelled.get(key) or _argument(value)}' for key, value in kwargs.items())})"


def _argument(value: Any) -> str:
    return block_literal(value) if isinstance(value, str) else literal(value)


def xml_call(name: str, parameters: Mapping[str, Any]) -> str:
    """A call as these harnesses read it from text. Raises RowError where a value would end its parameter early."""
    parts = [f"{CALL}{name}>\n"]
    for key, value in parameters.items():
        text = _plain(value)
        for end in _ENDS:
            if end in text:
                raise RowError(f'the {key} of {name} contains "{end}", where the harness would stop reading it')
        parts.append(f"<parameter={key}>\n{text}\n</parameter>\n")
    return "".join(parts) + "</function>"


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def ansi_c(code: str) -> str:
    r"""Code as one bash word, `$'...'`: backslashes and quotes escaped, line breaks as they are. RowError on NUL."""
    if "\x00" in code:
        raise RowError("the code contains a NUL character, which no shell word can hold")
    return "$'" + code.replace("\\", "\\\\").replace("'", "\\'") + "'"


def documentation(tools: Iterable[Mapping[str, Any]], place: str, *, also: bool = False) -> str:
    """Signatures and descriptions of a data set's functions for the first user turn; "" where there are none."""
    entries = [_documented(tool["function"]) for tool in tools if "function" in tool]
    if not entries:
        return ""
    return f"These functions are {'also ' if also else ''}defined in {place}:\n\n" + "\n\n".join(entries) + "\n\n"


def _documented(function: Mapping[str, Any]) -> str:
    schema = function.get("parameters") or {}
    properties: Mapping[str, Any] = schema.get("properties") or {}
    lines = [f"{function['name']}({', '.join(_parameter(name, schema) for name in properties)})"]
    lines += [f"    {line}".rstrip() for line in (function.get("description") or "").splitlines()]
    lines += [
        f"    {name}: {field['description']}"
        for name, field in properties.items()
        if isinstance(field, Mapping) and field.get("description")
    ]
    return "\n".join(lines)


_PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}


def _parameter(name: str, schema: Mapping[str, Any]) -> str:
    field = schema["properties"][name]
    kind = field.get("type") if isinstance(field, Mapping) else None
    names = kind if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
    typed = f"{name}: {' | '.join(_PYTHON_TYPES.get(item, item) for item in names)}" if names else name
    if name in (schema.get("required") or ()):
        return typed
    return f"{typed} = {literal(field.get('default') if isinstance(field, Mapping) else None)}"


def json_text(value: Any) -> str:
    """Compact JSON text."""
    return orjson.dumps(value).decode()
