r"""Calls as text, `search("capital of {s1}", k=5)`: read and written in every dialect's way of naming other nodes.

Values are JSON, with Python's None, True, False and single quotes understood too. A reference that stands bare is the
other node's value (`Ref`), inside a string it is text (`Template`). References are looked for in a string's source, so
an escaped first character (`\{`, `\$`, `\#`, or `\u007b`) never begins one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fairtrial.agents.planners.plan import Ref, Template
from fairtrial.agents.planners.planner import RejectedTurn

_DEPTH = 64
"""Values may be nested so deep; a model's text must not use up the stack."""
_PATH = r"(?P<path>(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]{1,9}\]|\['[^'\"\\\]{}<]*'\])*)"
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]+)\]|\['([^']*)'\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
LINE = r"(?:^|(?<=>))[ \t]*"
"""Where a line of a plan may begin: at a line's beginning, or right behind a tag (`</think>1. search(...)`)."""
BEGINS = re.compile(rf"{_NAME.pattern}\(")
"""How every call begins."""
_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=(?!=)\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.])")
_WORD = re.compile(r"(?:true|false|null|True|False|None)(?![A-Za-z0-9_])")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_SPACE = re.compile(r"\s*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@dataclass(frozen=True)
class Style:
    """How a dialect names other nodes inside calls."""

    opener: str
    """The first character of every reference."""
    ids: str
    """Pattern of a node's id."""
    plain: bool
    """Whether a reference without a path needs no braces: `$1` beside `${1.title}`."""

    @cached_property
    def reference(self) -> re.Pattern[str]:
        """A reference, with the groups `id` or `plain`, and `path`."""
        if not self.plain:
            return re.compile(rf"\{{(?P<id>{self.ids}){_PATH}\}}")
        return re.compile(rf"{re.escape(self.opener)}(?:(?P<plain>{self.ids})|\{{(?P<id>{self.ids}){_PATH}\}})")

    @cached_property
    def id(self) -> re.Pattern[str]:
        """The pattern of a node's id."""
        return re.compile(self.ids)

    @cached_property
    def chunks(self) -> Mapping[str, re.Pattern[str]]:
        """By quote, what the inside of a string is made of."""
        return {
            quote: re.compile(
                rf"(?P<escape>\\(?:u[0-9a-fA-F]{{4}}|[^u]))|(?P<end>{quote})|(?P<reference>{self.reference.pattern})"
                rf"|(?P<text>[^\\{quote}{re.escape(self.opener)}]+|{re.escape(self.opener)})",
                re.DOTALL,
            )
            for quote in ('"', "'")
        }

    def ref(self, match: re.Match[str], *, text: bool = False) -> Ref:
        """The reference that was matched. Raises RejectedTurn where, in a text, it may be a number (`$1.50`)."""
        if self.plain and match["plain"] is not None:
            if text and re.match(r"[.,]?[0-9]", match.string[match.end() : match.end() + 2]):
                raise RejectedTurn(
                    "ambiguous-reference",
                    f"{match[0]} before a digit: write {self.opener}{{{match['plain']}}} for the node's value, "
                    f"\\{self.opener} for the character",
                )
            return Ref(match["plain"])
        steps = _STEP.findall(match["path"])
        return Ref(match["id"], tuple(int(index) if index else name or key for name, index, key in steps))

    def written(self, ref: Ref, *, before: str = "") -> str:
        """The reference as text; `before` is what follows it. Raises ValueError where the dialect cannot say it."""
        path = "".join(_step(step) for step in ref.path)
        short = self.plain and not path and not re.match(r"[0-9]|[.,][0-9]", before)
        text = f"{self.opener}{ref.node}" if short else f"{self.opener if self.plain else ''}{{{ref.node}{path}}}"
        match = self.reference.fullmatch(text)
        if match is None or self.ref(match) != ref:
            raise ValueError(f"this dialect cannot refer to {ref}")
        return text


BRACES = Style("{", "[A-Za-z_][A-Za-z0-9_-]*", plain=False)
"""GAP: {s1}, {s1.title}, {s1[0]['birth place']}."""
DOLLARS = Style("$", "[0-9]+", plain=True)
"""LLMCompiler: $1, ${1}, ${1.title}."""
HASHES = Style("#", "E[0-9]+", plain=True)
"""ReWOO: #E1, #{E1}, #{E1.title}."""


@dataclass(slots=True)
class Call:
    """A call as the model wrote it."""

    tool: str
    positional: list[Any] = field(default_factory=list[Any])
    named: dict[str, Any] = field(default_factory=dict[str, Any])


class Reader:
    """Reads calls and values out of a text."""

    def __init__(self, text: str, style: Style) -> None:
        self.text, self.style = text, style

    def call(self, at: int) -> tuple[Call, int]:
        """The call that begins at an index, and the index behind it. Raises RejectedTurn("malformed")."""
        name = _NAME.match(self.text, at)
        if name is None:
            raise self.malformed(at, "a call such as search(...)")
        at = self._space(name.end())
        if not self.text.startswith("(", at):
            raise self.malformed(at, f"( after {name[0]}")
        call, at = Call(name[0]), self._space(at + 1)
        while not self.text.startswith(")", at):
            if keyword := _KEYWORD.match(self.text, at):
                value, at = self.value(keyword.end())
                if keyword[1] in call.named:
                    raise RejectedTurn("malformed", f'"{call.tool}" is given the argument "{keyword[1]}" twice')
                call.named[keyword[1]] = value
            elif call.named:
                raise self.malformed(at, "name=value, since an argument before it has a name")
            else:
                value, at = self.value(at)
                call.positional.append(value)
            at = self._separator(at, ")")
        return call, at + 1

    def value(self, at: int, depth: int = 0) -> tuple[Any, int]:
        """The value that begins at an index, and the index behind it. Raises RejectedTurn("malformed")."""
        if depth > _DEPTH:
            raise self.malformed(at, f"values nested at most {_DEPTH} deep")
        head = self.text[at : at + 1]
        if head in ('"', "'") and head:
            return self._string(at)
        if reference := self.style.reference.match(self.text, at):
            return self.style.ref(reference), reference.end()
        if head == "[":
            return self._list(at, depth)
        if head == "{":
            return self._object(at, depth)
        if word := _WORD.match(self.text, at):
            return _WORDS[word[0]], word.end()
        if number := _NUMBER.match(self.text, at):
            return self._number(number), number.end()
        raise self.malformed(at, "a value: text in quotes, a number, a list, an object or a reference")

    def malformed(self, at: int, wanted: str) -> RejectedTurn:
        """What to raise where something else was expected."""
        found = " ".join(self.text[at : at + 40].split())
        where = f'"{found}"' if found else "the end"
        before = " ".join(self.text[max(0, at - 30) : at].split())
        return RejectedTurn("malformed", f'behind "{before}" there is {where}, expected {wanted}')

    def _space(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def _separator(self, at: int, close: str) -> int:
        """The index of the next item or of the closing character."""
        at = self._space(at)
        if self.text.startswith(",", at):
            return self._space(at + 1)
        if not self.text.startswith(close, at):
            raise self.malformed(at, f", or {close}")
        return at

    def _list(self, at: int, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self._space(at + 1)
        while not self.text.startswith("]", at):
            item, at = self.value(at, depth + 1)
            items.append(item)
            at = self._separator(at, "]")
        return items, at + 1

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        at = self._space(at + 1)
        while not self.text.startswith("}", at):
            if self.text[at : at + 1] not in ('"', "'") or at >= len(self.text):
                raise self.malformed(at, "a key in quotes")
            key, end = self._string(at)
            if not isinstance(key, str):
                raise self.malformed(at, "a key without references")
            at = self._space(end)
            if not self.text.startswith(":", at):
                raise self.malformed(at, ":")
            if key in members:
                raise RejectedTurn("malformed", f'the key "{key}" is given twice')
            members[key], at = self.value(self._space(at + 1), depth + 1)
            at = self._separator(at, "}")
        return members, at + 1

    def _number(self, number: re.Match[str]) -> int | float:
        try:
            value = json.loads(number[0])
        except ValueError:
            raise self.malformed(number.start(), "a number of at most 4,000 digits") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self.malformed(number.start(), "a number in the range of 64-bit floats")
        return value

    def _string(self, at: int) -> tuple[str | Template, int]:
        chunks, start = self.style.chunks[self.text[at]], at
        parts: list[str | Ref] = []
        text: list[str] = []
        at += 1
        while chunk := chunks.match(self.text, at):
            at = chunk.end()
            kind = chunk.lastgroup
            if chunk["end"]:
                if text or not parts:
                    parts.append(_joined(text))
                return (parts[0] if len(parts) == 1 and isinstance(parts[0], str) else Template(tuple(parts))), at
            if chunk["reference"]:
                if text:
                    parts.append(_joined(text))
                text = []
                parts.append(self.style.ref(chunk, text=True))
            elif kind == "escape":
                text.append(self._escaped(chunk))
            else:
                text.append(chunk[0])
        raise self.malformed(min(start, len(self.text)), "a text with its closing quote")

    def _escaped(self, chunk: re.Match[str]) -> str:
        code = chunk[0][1:]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code in _ESCAPES:
            return _ESCAPES[code]
        if code in "\"'\\/{}$#|\n":
            return code
        raise self.malformed(chunk.start(), f"\\\\{code} for a backslash")


def _joined(text: list[str]) -> str:
    """Pieces of text put together, and halves of a character too. Raises RejectedTurn for half a character alone."""
    joined = "".join(text)
    try:
        return joined.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise RejectedTurn("malformed", "a text has half a character (a lone \\u surrogate)") from None


def written_call(tool: str, args: Mapping[str, Any], style: Style) -> str:
    """`tool(name=value, ...)`. Raises ValueError for what the dialect cannot say."""
    if not _NAME.fullmatch(tool):
        raise ValueError(f'the tool "{tool}" cannot be written in this dialect')
    for name in args:
        if not _KEYWORD.fullmatch(f"{name}="):
            raise ValueError(f'an argument named "{name}" cannot be written in a call')
    return f"{tool}({', '.join(f'{name}={written(value, style)}' for name, value in args.items())})"


def written(value: Any, style: Style) -> str:
    """A value that `Reader.value` reads back. Raises ValueError for NaN and for what the dialect cannot refer to."""
    if isinstance(value, Ref):
        return style.written(value)
    if isinstance(value, Template):
        texts = [_quoted(part, style)[1:-1] if isinstance(part, str) else "" for part in value.parts]
        return f'"{"".join(_part(part, texts, index, style) for index, part in enumerate(value.parts))}"'
    if isinstance(value, str):
        return _quoted(value, style)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(key, style)}: {written(inner, style)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence):
        return f"[{', '.join(written(inner, style) for inner in value)}]"
    return json.dumps(value, allow_nan=False)


def _part(part: str | Ref, texts: list[str], index: int, style: Style) -> str:
    if isinstance(part, str):
        return texts[index]
    return style.written(part, before=texts[index + 1] if index + 1 < len(texts) else "")


def _quoted(text: str, style: Style) -> str:
    """A JSON string in which nothing looks like a reference or a tag."""
    source = untagged(json.dumps(text, ensure_ascii=False))
    return style.reference.sub(lambda match: f"\\u{ord(match[0][0]):04x}{match[0][1:]}", source)


def untagged(json_source: str) -> str:
    """JSON whose strings hold nothing that looks like a tag."""
    return re.sub(r"<(?=[/A-Za-z])", r"\\u003c", json_source)


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step) else f"['{step}']"
