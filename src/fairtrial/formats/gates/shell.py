"""Whether a shell command hands a program the code that it was printed from.

The published SWE-agent form prints Python as `python -c $'<code>'` without escaping (Agent Data Protocol, trap 2): the
shell then sees other words than the one meant. Commands are only read here, as bash reads them, and never run.
"""

from __future__ import annotations

import re
from typing import Literal

Verdict = Literal["same", "different", "syntax error"]

_SIMPLE = {
    "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
_OCTAL = re.compile(r"[0-7]{1,3}")
_HEX = {
    "x": re.compile(r"[0-9A-Fa-f]{1,2}"),
    "u": re.compile(r"[0-9A-Fa-f]{1,4}"),
    "U": re.compile(r"[0-9A-Fa-f]{1,8}"),
}


_REDIRECTIONS = frozenset({"&>>", "&>", "<<<", "<<-", "<<", "<&", "<>", "<", ">>", ">&", ">|", ">"})
_JOINS = frozenset({"&&", "||", "|&", "|"})
_OPERATORS = sorted((*_REDIRECTIONS, *_JOINS, ";;", ";&", ";", "&", "(", ")"), key=len, reverse=True)


class ShellSyntaxError(ValueError):
    """The shell would refuse the command."""


class NotOneCommand(ValueError):  # noqa: N818 - nothing is wrong with such a command
    """The command is more than words: a list, a redirection, an expansion."""


def verdict(command: str, code: str) -> Verdict:
    """What a command such as `python -c $'...'` does with `code`: run the same, run something else, or not start."""
    try:
        words = argv(command)
    except ShellSyntaxError:
        return "syntax error"
    except NotOneCommand:
        return "different"
    return "same" if len(words) == 3 and words[1] == "-c" and words[2] == code else "different"


def command_runs_same_code(command: str, code: str) -> bool:
    """Whether the shell hands the interpreter exactly this code."""
    return verdict(command, code) == "same"


def argv(command: str) -> list[str]:
    """The words of one simple command, as bash splits and unquotes them.

    Raises ShellSyntaxError where bash refuses the command, NotOneCommand where it is more than one command's words.
    """
    words: list[str] = []
    beyond = False
    for word, plain in _words(command):
        words.append(word)
        beyond = beyond or not plain
    if beyond:
        raise NotOneCommand("operators or expansions")
    return words


def _words(command: str) -> list[tuple[str, bool]]:
    """Words with whether they are plain text; an operator is a word that is not."""
    found: list[tuple[str, bool]] = []
    word: list[str] | None = None
    plain = True
    at, end = 0, len(command)
    last_operator = ""
    while at < end:
        character = command[at]
        if character in " \t":
            if word is not None:
                found.append(("".join(word), plain))
                word, plain, last_operator = None, True, ""
            at += 1
        elif character == "#" and word is None:
            newline = command.find("\n", at)
            at = end if newline < 0 else newline
        elif command.startswith("\\\n", at):
            at += 2  # a line that goes on
        elif character in "\n;&|<>()":
            if word is not None:
                found.append(("".join(word), plain))
                word, plain, last_operator = None, True, ""
            at, last_operator = _operator(command, at, last_operator, bool(found))
            found.append((last_operator, False))
        else:
            piece, at, kept = _piece(command, at)
            word = [*(word or ()), piece] if word is None else _add(word, piece)
            plain = plain and kept
    if word is not None:
        found.append(("".join(word), plain))
    elif last_operator in _REDIRECTIONS or last_operator in _JOINS:
        raise ShellSyntaxError(f"ends after {last_operator}")
    return found


def _add(word: list[str], piece: str) -> list[str]:
    word.append(piece)
    return word


def _operator(command: str, at: int, last: str, begun: bool) -> tuple[int, str]:
    """The operator at a place and where it ends. Raises ShellSyntaxError where bash expects none."""
    if command[at] == "\n":
        if last in _REDIRECTIONS:
            raise ShellSyntaxError("unexpected line break")
        return at + 1, last if last in _JOINS else "\n"
    operator = next(each for each in _OPERATORS if command.startswith(each, at))
    if operator in ("(", ")"):
        # a simple command goes on: neither a subshell nor a function may start or end here
        raise ShellSyntaxError(f"unexpected {operator}")
    after = last in _REDIRECTIONS or (operator not in _REDIRECTIONS and (last != "" or not begun))
    if after or operator in (";;", ";&"):
        raise ShellSyntaxError(f"unexpected {operator}")
    return at + len(operator), operator


def _piece(command: str, at: int) -> tuple[str, int, bool]:
    """A quoted part or a run of plain characters: its text, where it ends, whether it is plain text."""
    character = command[at]
    if character == "'":
        close = command.find("'", at + 1)
        if close < 0:
            raise ShellSyntaxError("an unclosed '")
        return command[at + 1 : close], close + 1, True
    if character == '"':
        return _double(command, at + 1)
    if character == "\\":
        if at + 1 >= len(command):
            return "\\", at + 1, True
        return command[at + 1], at + 2, True
    if character == "$" and command[at + 1 : at + 2] == "'":
        return _ansi_c(command, at + 2)
    if character == "$" and command[at + 1 : at + 2] == '"':
        return _double(command, at + 2)  # a text to be translated
    if character in "$`":
        return _expansion(command, at)
    stop = at + 1
    while stop < len(command) and command[stop] not in " \t\n;&|<>()'\"\\$`":
        stop += 1
    return command[at:stop], stop, True


def _double(command: str, at: int) -> tuple[str, int, bool]:
    parts: list[str] = []
    plain = True
    while at < len(command):
        character = command[at]
        if character == '"':
            return "".join(parts), at + 1, plain
        if character == "\\" and command[at + 1 : at + 2] in ("$", "`", '"', "\\", "\n"):
            parts.append("" if command[at + 1] == "\n" else command[at + 1])
            at += 2
        elif character == "`" or (character == "$" and command[at + 1 : at + 2] != '"'):
            text, at, kept = _expansion(command, at)
            parts.append(text)
            plain = plain and kept
        else:
            parts.append(character)
            at += 1
    raise ShellSyntaxError('an unclosed "')


def _expansion(command: str, at: int) -> tuple[str, int, bool]:
    """An expansion is text that is not plain; a `$` that expands nothing is itself."""
    if command[at] == "`":
        close = command.find("`", at + 1)
        if close < 0:
            raise ShellSyntaxError("an unclosed `")
        return command[at : close + 1], close + 1, False
    after = command[at + 1 : at + 2]
    closing = {"(": ")", "{": "}"}.get(after)
    if closing is not None:
        depth = 0
        for place in range(at + 1, len(command)):
            depth += (command[place] == after) - (command[place] == closing)
            if depth == 0:
                return command[at : place + 1], place + 1, False
        raise ShellSyntaxError(f"an unclosed ${after}")
    return "$", at + 1, not (after.isalnum() or after in ("_", "@", "*", "#", "?", "-", "$", "!"))


def _ansi_c(command: str, at: int) -> tuple[str, int, bool]:
    """The text of `$'...'` from after its opening."""
    parts: list[str] = []
    while at < len(command):
        character = command[at]
        if character == "'":
            # a NUL ends what the shell keeps
            return "".join(parts).partition("\0")[0], at + 1, True
        if character != "\\" or at + 1 >= len(command):
            parts.append(character)
            at += 1
            continue
        escape = command[at + 1]
        digits = _OCTAL.match(command, at + 1) or (_HEX[escape].match(command, at + 2) if escape in _HEX else None)
        if escape in _SIMPLE:
            parts.append(_SIMPLE[escape])
            at += 2
        elif digits:
            number = int(digits[0], 16 if escape in _HEX else 8)
            parts.append(chr(number if escape in "uU" else number & 0xFF) if number < 0x110000 else "\ufffd")
            at = digits.end()
        elif escape == "c" and at + 2 < len(command):
            parts.append(chr(ord(command[at + 2]) & 0x1F))
            at += 3
        else:
            parts.append("\\" + escape)
            at += 2
    raise ShellSyntaxError("an unclosed $'")
