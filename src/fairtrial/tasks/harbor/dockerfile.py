"""Dockerfile text cut into instructions: continuation lines, comments, parser directives, here-documents, flags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fairtrial.core.errors import UserError

_DIRECTIVE = re.compile(r"#\s*([A-Za-z]+)\s*=\s*(.*?)\s*")
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)")
_HEREDOC = re.compile(r"<<(-?)(?:\"([A-Za-z_]\w*)\"|'([A-Za-z_]\w*)'|([A-Za-z_]\w*))")
_VARIABLE = re.compile(r"\\(.)|\$(?:\{([A-Za-z_]\w*)(?::?([-+])([^}]*))?\}|([A-Za-z_]\w*))", re.DOTALL)
_WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document."""

    name: str
    body: str
    literal: bool
    """The name was quoted: variables in the body are not replaced."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction."""

    keyword: str
    """Upper case."""
    text: str
    """What follows keyword and flags, continuation lines joined."""
    line: int
    """Line number of its start, from 1."""
    flags: tuple[tuple[str, str], ...] = ()
    heredocs: tuple[Heredoc, ...] = ()

    def json_form(self) -> list[str] | None:
        """The words of the JSON form (`["a", "b"]`), or None for the plain form."""
        if not self.text.lstrip().startswith("["):
            return None
        try:
            words = json.loads(self.text)
        except (ValueError, RecursionError):
            return None
        return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def parse_dockerfile(text: str, *, where: str) -> list[Instruction]:
    """The instructions of a Dockerfile. Raises UserError with the line of what cannot be read."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    escape = _escape(lines)
    found: list[Instruction] = []
    index = 0
    while index < len(lines):
        if not lines[index].strip() or lines[index].lstrip().startswith("#"):
            index += 1
            continue
        start = index
        parts, index = _joined(lines, index, escape)
        keyword, _, _ = parts[0].strip().partition(" ")
        keyword = keyword.split("\t")[0]
        if not re.fullmatch(r"[A-Za-z]+", keyword):
            raise UserError(f"{where}, line {start + 1}: no Dockerfile instruction: {parts[0].strip()[:60]!r}")
        rest = "".join([parts[0].lstrip()[len(keyword) :], *parts[1:]]).strip()
        flags: list[tuple[str, str]] = []
        while match := _FLAG.match(rest):
            flags.append((match[1], match[2] or ""))
            rest = rest[match.end() :].lstrip()
        heredocs: list[Heredoc] = []
        if keyword.upper() in ("RUN", "COPY", "ADD"):
            for dash, name, literal in heredoc_marks(rest):
                body, index = _body(lines, index, name, dash, where, start)
                heredocs.append(Heredoc(name, body, literal))
        found.append(Instruction(keyword.upper(), rest, start + 1, tuple(flags), tuple(heredocs)))
    return found


def _escape(lines: list[str]) -> str:
    for line in lines:
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None:
            break
        if match[1].lower() == "escape" and match[2] in ("\\", "`"):
            return match[2]
    return "\\"


def _joined(lines: list[str], index: int, escape: str) -> tuple[list[str], int]:
    parts: list[str] = []
    while index < len(lines):
        line = lines[index]
        index += 1
        if parts and (not line.strip() or line.lstrip().startswith("#")):
            continue
        stripped = line.rstrip()
        if not stripped.endswith(escape):
            parts.append(line)
            break
        parts.append(stripped[: -len(escape)])
    return parts or [""], index


def heredoc_marks(text: str) -> list[tuple[bool, str, bool]]:
    """(strip tabs, name, literal) for each here-document that a line of shell opens, outside of quotes."""
    found: list[tuple[bool, str, bool]] = []
    quote = ""
    index = 0
    while index < len(text):
        char = text[index]
        if quote:
            if char == "\\" and quote == '"':
                index += 1
            elif char == quote:
                quote = ""
        elif char == "\\":
            index += 1
        elif char in "\"'":
            quote = char
        elif text.startswith("<<<", index):
            index += 2
        elif (match := _HEREDOC.match(text, index)) and (index == 0 or text[index - 1] in " \t\n;&|()0123456789"):
            found.append((bool(match[1]), match[2] or match[3] or match[4], match[4] is None))
            index = match.end() - 1
        index += 1
    return found


def _body(lines: list[str], index: int, name: str, dash: bool, where: str, start: int) -> tuple[str, int]:
    body: list[str] = []
    while index < len(lines):
        line = lines[index].lstrip("\t") if dash else lines[index]
        index += 1
        if line == name:
            return "".join(f"{item}\n" for item in body), index
        body.append(line)
    raise UserError(f"{where}, line {start + 1}: the here-document {name} is not closed")


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """`text` with $NAME, ${NAME}, ${NAME:-default} and ${NAME:+other} replaced; what is not set is empty."""

    def value(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1] if match[1] == "$" else match[0]
        name = match[2] or match[5]
        known = variables.get(name, "")
        if match[3] == "-":
            return known or match[4]
        if match[3] == "+":
            return match[4] if known else ""
        return known

    return _VARIABLE.sub(value, text)


def words(text: str, variables: Mapping[str, str]) -> list[str]:
    """The words of an instruction: variables replaced (not in single quotes), quotes and escapes removed."""
    return [_unquoted(match[0], variables) for match in _WORD.finditer(text)]


def _unquoted(word: str, variables: Mapping[str, str]) -> str:
    parts: list[str] = []
    for match in re.finditer(r"""'([^']*)'|"((?:\\.|[^"\\])*)"|((?:\\.|[^"'\\])+)""", word, re.DOTALL):
        if match[1] is not None:
            parts.append(match[1])
        else:
            text = substitute(match[2] if match[2] is not None else match[3], variables)
            parts.append(re.sub(r"\\(.)", r"\1" if match[3] is not None else r"\\\1", text, flags=re.DOTALL))
    text = "".join(parts)
    return re.sub(r'\\(["\\$])', r"\1", text)


def assignments(text: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The NAME=value pairs of ENV, ARG or LABEL; also the old form `ENV NAME value`. ARG without value maps to ""."""
    items = words(text, variables)
    if items and "=" not in items[0] and len(items) > 1:
        name, _, rest = text.strip().partition(" ")
        return {name: " ".join(words(rest, variables))}
    return {name: value for name, _, value in (item.partition("=") for item in items)}
