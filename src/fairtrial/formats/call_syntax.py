"""Calls that stand in a text: `<function=NAME>` blocks, fenced blocks, and calls written as Python.

Each reader says where in the text it found something, so that a caller can account for every character. What is not
well formed is not found: it stays text.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import orjson

Span = tuple[int, int]


class XmlCall(NamedTuple):
    """One `<function=NAME><parameter=P>v</parameter></function>` block."""

    before: str
    """The text between the block before (or the start) and this one, as it stands."""
    name: str
    parameters: dict[str, str]
    """Raw text by parameter; the line breaks that set a value apart from its tags are not part of it."""
    span: Span


class Fence(NamedTuple):
    """One block between lines of back-ticks."""

    before: str
    """The text between the block before (or the start) and this one, as it stands."""
    word: str
    """The first word after the opening back-ticks; empty where there is none."""
    body: str
    """The lines between, without the line break before the closing back-ticks."""
    span: Span


_FUNCTION = re.compile(r"<function=([^\s<>=]+)>\s*")
_PARAMETER = re.compile(r"<parameter=([^\s<>=]+)>")
_AFTER_VALUE = re.compile(r"</parameter>\s*(?=<parameter=|</function>)")
_OPENING = re.compile(r"^[ \t]*(`{3,})[ \t]*([^\s`]*)([^`\n]*)\n|(```)([A-Za-z0-9_+#.-]+)()\n", re.MULTILINE)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")


def parse_xml_calls(text: str) -> list[XmlCall]:
    """The well-formed call blocks of a text in order. The text after the last one is `text[calls[-1].span[1]:]`.

    A value ends at the first `</parameter>` after which the block goes on as a block, so that a value may quote the
    tag. A block cut off after a whole parameter at the text's end counts (servers stop at `</function`).
    """
    calls: list[XmlCall] = []
    if "<function=" not in text:
        return calls
    end = at = 0
    while (opening := _FUNCTION.search(text, at)) is not None:
        found = _parameters(text, opening.end())
        if found is None:
            at = opening.end()
            continue
        parameters, at = found
        calls.append(XmlCall(text[end : opening.start()], opening[1], parameters, (opening.start(), at)))
        end = at
    return calls


def _parameters(text: str, at: int) -> tuple[dict[str, str], int] | None:
    """The parameters from `at` to the block's end, and that end; None where the block is not well formed."""
    parameters: dict[str, str] = {}
    while (tag := _PARAMETER.match(text, at)) is not None:
        closing = _AFTER_VALUE.search(text, tag.end())
        if closing is not None:
            stop, at = closing.start(), closing.end()
        else:
            stop = text.rfind("</parameter>", tag.end())
            at = len(text)
            if stop < 0 or text[stop + 12 :].strip() not in ("", "</function"):
                return None
        if tag[1] in parameters:
            return None
        parameters[tag[1]] = _unwrapped(text[tag.end() : stop])
    if text.startswith("</function>", at):
        return parameters, at + len("</function>")
    return (parameters, at) if parameters and at == len(text) else None


def _unwrapped(value: str) -> str:
    if not value.startswith("\n"):
        return value
    return value[1:-1] if value.endswith("\n") and len(value) > 1 else value[1:]


def print_xml_call(name: str, parameters: Mapping[str, Any], *, inline: bool = False) -> str:
    """The block of a call. Strings stand as they are, other values as JSON.

    Each value stands on its own lines; with `inline` only those that contain a line break do.
    """
    lines = [f"<function={name}>"]
    for parameter, value in parameters.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        pad = "" if inline and "\n" not in shown else "\n"
        lines.append(f"<parameter={parameter}>{pad}{shown}{pad}</parameter>")
    lines.append("</function>")
    return "\n".join(lines)


def coerce(raw: str, schema: str | list[str] | Mapping[str, Any] | None) -> Any:
    """The value of a parameter's text by the type that the tool declares, never by the look of the text.

    Args:
        raw: The parameter's text.
        schema: A JSON schema type ("integer"), a list of them, or the parameter's whole schema. Where it allows a
            string, or says nothing, the text is the value.

    Returns:
        The value, or `raw` where it is none of the declared types.
    """
    types = _types(schema)
    if not types or "string" in types:
        return raw
    stripped = raw.strip()
    for type_ in types:
        known, value = _typed(stripped, type_)
        if known:
            return value
    return raw


def _types(schema: Any) -> list[str]:
    if isinstance(schema, str):
        return [schema]
    if isinstance(schema, Mapping):
        branches = schema.get("type") or schema.get("anyOf") or schema.get("oneOf")
        if branches is None and isinstance(schema.get("enum"), list):
            return ["string" if isinstance(value, str) else "number" for value in schema["enum"]]
        return _types(branches)
    return [name for part in schema for name in _types(part)] if isinstance(schema, list) else []


def _typed(text: str, type_: str) -> tuple[bool, Any]:
    if type_ == "integer":
        return (True, int(text)) if len(text) < 400 and _INTEGER.fullmatch(text) else (False, None)
    if type_ == "boolean":
        return text in ("true", "True", "false", "False"), text in ("true", "True")
    if type_ == "null":
        return text in ("null", "None"), None
    if type_ == "number" and _typed(text, "integer")[0]:
        return True, int(text)
    try:
        value = orjson.loads(text)
    except ValueError:
        value = _literal(text) if type_ in ("array", "object") else None
    if type_ == "number":
        return isinstance(value, float), value
    return isinstance(value, {"array": list, "object": dict}.get(type_, ())), value


def _literal(text: str) -> Any:
    """A list or dict written as Python (models do write `['a']`), or None."""
    try:
        return python_value(_tree(text, "eval").body)
    except ValueError:
        return None


def parse_python_call(source: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Function name, positional and keyword values of one call written as Python; nothing is evaluated.

    Raises ValueError where the source is anything but one call of a (dotted) name with plain values.
    """
    calls = parse_python_calls(source)
    if len(calls) != 1:
        raise ValueError(f"{len(calls)} calls where one is expected")
    return calls[0]


def parse_python_calls(source: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """The same for several calls, one after the other. Raises ValueError where a statement is no such call."""
    return [_call(statement) for statement in _tree(source.strip(), "exec").body]


def _tree(source: str, mode: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes in foreign text
            return ast.parse(source, mode=mode)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python: {type(error).__name__}") from None


def _call(statement: ast.stmt) -> tuple[str, list[Any], dict[str, Any]]:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        raise ValueError("a statement that is no call")
    call = statement.value
    positional = [python_value(argument) for argument in call.args]
    keywords: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError("** in a call")
        keywords[keyword.arg] = python_value(keyword.value)
    return _dotted(call.func), positional, keywords


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise ValueError("a call of something that is no name")
    return ".".join([node.id, *reversed(parts)])


def python_value(node: ast.AST) -> Any:
    """The JSON value of a literal: constants, signed numbers, lists, tuples (as lists), dicts with string keys.

    Raises ValueError for anything else.
    """
    match node:
        case ast.Constant(value=bool() | str() | int() | None as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
            if not isinstance(value, bool) and math.isfinite(value):
                return -value if isinstance(sign, ast.USub) else value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [python_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            names = [python_value(key) if key is not None else None for key in keys]
            if all(isinstance(name, str) for name in names):
                return dict(zip(names, map(python_value, values), strict=True))
        case _:
            pass
    raise ValueError(f"{type(node).__name__} is no plain value")


@cache
def _closing(ticks: int) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*`{{{ticks},}}[ \t\r]*$", re.MULTILINE)


def fences(text: str) -> list[Fence]:
    """The fenced blocks of a text in order. The text after the last one is `text[blocks[-1].span[1]:]`.

    A block opens at a line of three or more back-ticks, or at the end of a line with three and a language. It closes at
    the next line of as many back-ticks and nothing else, or, where there is none, at the next ones within a line. One
    that does not close is none.
    """
    blocks: list[Fence] = []
    if "```" not in text:
        return blocks
    end = at = 0
    while (opening := _OPENING.search(text, at)) is not None:
        ticks, word = opening[1] or opening[4], opening[2] or opening[5] or ""
        start = opening.start(1) if opening[1] else opening.start(4)
        body = opening.end()
        closing = _closing(len(ticks)).search(text, body)
        if closing is not None:
            stop, at = max(body, closing.start() - 1), closing.start() + len(closing[0].rstrip())
        else:
            stop = text.find(ticks, body)
            at = stop + len(ticks)
        if stop < 0:
            break
        blocks.append(Fence(text[end:start], word, text[body:stop], (start, at)))
        end = at
    return blocks
