"""Shell scripts cut into simple commands, well enough to see what a RUN line or a test.sh installs.

This is a scanner, not a shell: nothing is expanded. Quotes, command substitutions, groups and here-documents are
kept whole.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from fairtrial.tasks.harbor.dockerfile import heredoc_marks

KEYWORDS = frozenset({
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "!", "{", "}", "(",
    ")", "time", "function",
})  # fmt: skip
_PREFIXES = frozenset({"sudo", "exec", "command", "env", "nohup", "builtin"})
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=.*", re.DOTALL)
_REDIRECT = re.compile(r"(\d*|&)(>>?|<|>&|>\|)(&?\d*|.*)")


@dataclass(frozen=True, slots=True)
class Command:
    """A simple command as it stands in a script."""

    text: str
    after: str
    """The operator that follows ("&&", "||", ";", "|", "&", a line end), or "" at the end."""
    words: tuple[str, ...]
    """Without quotes, leading keywords, assignments, `sudo` and redirections; empty where it could not be read."""
    nested: bool
    """Stands inside if, for, while or a group."""


def split(script: str) -> list[Command]:
    """The commands of a script in order."""
    found: list[Command] = []
    depth = 0
    for text, after in _pieces(script):
        items = _words(text)
        opened = depth > 0 or bool(items and items[0] in KEYWORDS)
        for item in items:
            if item not in KEYWORDS:
                break
            depth += item in ("if", "for", "while", "until", "case", "{", "(")
            depth -= item in ("fi", "done", "esac", "}", ")")
        found.append(Command(text, after, tuple(_program(items)), opened or text.lstrip().startswith(("(", "{"))))
    return found


def joined(commands: list[tuple[str, str]]) -> str:
    """A script again from (text, operator) pairs."""
    return "".join(text + after for text, after in commands)


def _pieces(script: str) -> list[tuple[str, str]]:
    pieces: list[tuple[str, str]] = []
    start = index = 0
    pending: list[tuple[bool, str, bool]] = []
    while index < len(script):
        end, operator = _operator(script, index)
        if not operator:
            index = end
            continue
        text = script[start:index]
        pending += heredoc_marks(text)
        if operator == "\n" and pending:
            end = _skip_bodies(script, end, pending)
            pending = []
            pieces.append((text, script[index:end]))
        else:
            pieces.append((text, operator))
        start = index = end
    if script[start:].strip():
        pieces.append((script[start:], ""))
    return pieces


def _operator(script: str, index: int) -> tuple[int, str]:
    """Where scanning goes on, and the operator that stands at `index`, if one does."""
    char = script[index]
    if char == "\\":
        return index + 2, ""
    if char in "\"'`":
        return _closing(script, index, char), ""
    if script.startswith("$(", index) or script.startswith("${", index):
        return _group(script, index + 1), ""
    if char == "(":
        return _group(script, index), ""
    if char == "#" and (index == 0 or script[index - 1] in " \t\n;"):
        end = script.find("\n", index)
        return (len(script) if end < 0 else end), ""
    for operator in ("&&", "||", ";;", ";", "\n", "|&", "|"):
        if script.startswith(operator, index):
            return index + len(operator), operator
    if char == "&" and script[index - 1 : index] not in (">", "<") and script[index + 1 : index + 2] != ">":
        return index + 1, "&"
    return index + 1, ""


def _closing(script: str, index: int, quote: str) -> int:
    index += 1
    while index < len(script):
        if script[index] == "\\" and quote != "'":
            index += 1
        elif script[index] == quote:
            return index + 1
        index += 1
    return len(script)


def _group(script: str, index: int) -> int:
    """The index after the bracket that closes the one at `index`."""
    stack = [")" if script[index] == "(" else "}"]
    index += 1
    while index < len(script) and stack:
        char = script[index]
        if char == "\\":
            index += 1
        elif char in "\"'`":
            index = _closing(script, index, char) - 1
        elif char in "({" and (char == "(" or script[index - 1] == "$"):
            stack.append(")" if char == "(" else "}")
        elif char == stack[-1]:
            stack.pop()
        index += 1
    return min(index, len(script))


def _skip_bodies(script: str, index: int, pending: list[tuple[bool, str, bool]]) -> int:
    for dash, name, _ in pending:
        while index < len(script):
            end = script.find("\n", index)
            end = len(script) if end < 0 else end
            line = script[index:end]
            index = min(end + 1, len(script))
            if (line.lstrip("\t") if dash else line) == name:
                break
    return index


def _words(text: str) -> list[str]:
    text = text.replace("\\\n", " ")
    found: list[str] = []
    start = index = 0
    while index <= len(text):
        if index == len(text) or text[index] in " \t\n":
            if index > start:
                found.append(_bare(text[start:index]))
            index += 1
            start = index
        elif text[index] == "#" and index == start:
            end = text.find("\n", index)
            index = start = len(text) if end < 0 else end
        else:
            index = max(_operator(text, index)[0], index + 1)
            index = min(index, len(text))
    return [word for word in found if word]


def _bare(word: str) -> str:
    if "$(" in word or "`" in word:
        return word
    try:
        return "".join(shlex.split(word, comments=False, posix=True)) or word
    except ValueError:
        return word


def _program(items: list[str]) -> list[str]:
    rest = list(items)
    if any(word in ("for", "case", "select") for word in items[:2]) or (rest and rest[0].endswith("()")):
        return []
    while rest and rest[0].endswith(")") and "(" not in rest[0] and rest[0] != ")":
        rest.pop(0)  # the pattern of a case
    while rest and (rest[0] in KEYWORDS or rest[0] in _PREFIXES or _ASSIGNMENT.fullmatch(rest[0])):
        rest.pop(0)
    kept: list[str] = []
    skip = False
    for word in rest:
        if skip:
            skip = False
            continue
        match = _REDIRECT.fullmatch(word)
        if match:
            skip = not match[3]
            continue
        kept.append(word)
    return kept
