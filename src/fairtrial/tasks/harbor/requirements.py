"""Python requirements that Dockerfiles and test.sh scripts name: `pip install`, `uv pip install`, `uvx --with` ..."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from fairtrial.tasks.harbor.shell import Command, split

_PIP = re.compile(r"(?:.*/)?pip3?(?:\.\d+)?")
_PYTHON = re.compile(r"(?:.*/)?python(?:3(?:\.\d+)?)?")
_INDEX = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
}
_VALUED = frozenset({
    "--python", "-p", "--timeout", "--retries", "--root", "--prefix", "--cache-dir", "--only-binary", "--no-binary",
    "--progress-bar", "--upgrade-strategy", "--trusted-host", "--implementation", "--platform", "--log", "--proxy",
    "--root-user-action", "--index-", "strategy", "--python-version", "--default-timeout",
})  # fmt: skip
_TOOLCHAIN = frozenset({"pip", "setuptools", "wheel", "uv"})


@dataclass(frozen=True, slots=True)
class Install:
    """What one command asks for."""

    requirements: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Requirement files, as named in the command."""
    index: tuple[str, ...] = ()
    """Index options for pip, flattened."""
    refused: tuple[str, ...] = ()
    """Reasons why some of it cannot be had."""
    isolated: bool = False
    """By `uvx` or `uv run`: the packages are of that program alone, not of the environment."""


def pip_install(words: Sequence[str]) -> Install | None:
    """What a `pip install` in any of its spellings asks for; None for any other command."""
    rest = pip_arguments(words)
    if rest is None or not rest or rest[0] != "install":
        return None
    return _parse(list(rest[1:]))


def pip_arguments(words: Sequence[str]) -> Sequence[str] | None:
    """What follows `pip` in `pip ...`, `python3 -m pip ...`, `uv pip ...`; None for any other command."""
    if not words:
        return None
    if _PIP.fullmatch(words[0]):
        rest = words[1:]
    elif _PYTHON.fullmatch(words[0]) and list(words[1:3]) == ["-m", "pip"]:
        rest = words[3:]
    elif words[0].rsplit("/", 1)[-1] == "uv" and list(words[1:2]) == ["pip"]:
        rest = words[2:]
    else:
        return None
    while rest and rest[0].startswith("-"):
        rest = rest[2:] if rest[0] in _VALUED else rest[1:]
    return rest


def _parse(rest: list[str]) -> Install:
    requirements: list[str] = []
    files: list[str] = []
    index: list[str] = []
    refused: list[str] = []
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option in _INDEX or option in (
            "-r",
            "--requirement",
            "-c",
            "--constraint",
            "-e",
            "--editable",
            "-t",
            "--target",
        ):
            value = value if equals else (rest.pop(0) if rest else "")
            if option in _INDEX:
                index += [_INDEX[option], value]
            elif option in ("-r", "--requirement"):
                files.append(value)
            else:
                refused.append(f"pip's option {option} cannot be honoured")
        elif word.startswith("-r") and len(word) > 2:
            files.append(word[2:])
        elif word.startswith("-"):
            if option in _VALUED and not equals and rest:
                rest.pop(0)
        elif (reason := requirement_reason(word)) is not None:
            refused.append(reason)
        else:
            requirements.append(word)
    return Install(tuple(requirements), tuple(files), tuple(index), tuple(refused))


def requirement_reason(text: str) -> str | None:
    """Why a word is no requirement that can be had from an index; None when it is one."""
    if "$" in text or "`" in text:
        return f"the requirement {text} comes from a shell variable"
    if text.startswith((".", "/", "~")) or "/" in text or "://" in text or text.endswith((".whl", ".tar.gz", ".zip")):
        return f"the requirement {text} is a path or an address, not a package of an index"
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        return f"the requirement {text} cannot be read"
    return f"the requirement {text} is an address, not a package of an index" if parsed.url else None


def merged(requirements: Sequence[str]) -> tuple[str, ...]:
    """One requirement for each package: a later one replaces an earlier one, as installing them in turn would.

    An unpinned later one leaves an earlier one alone. pip itself and the build tools that nothing pins are left out.
    """
    found: dict[str, str] = {}
    for text in requirements:
        parsed = Requirement(text)
        name = canonicalize_name(parsed.name)
        if name in ("pip", "uv") or (name in _TOOLCHAIN and not parsed.specifier):
            continue
        if name in found and not parsed.specifier and not parsed.extras:
            continue
        found[name] = text
    return tuple(found[name] for name in sorted(found))


def requirement_lines(text: str) -> tuple[list[str], list[str]]:
    """Requirements of a requirements.txt, and the reasons against its lines that cannot be had."""
    found: list[str] = []
    refused: list[str] = []
    for raw in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        line = re.sub(r"\s+--hash=\S+", "", line)
        if not line:
            continue
        if line.startswith("-"):
            refused.append(f"the line {line!r} of a requirements file cannot be honoured")
        elif (reason := requirement_reason(line)) is not None:
            refused.append(reason)
        else:
            found.append(line)
    return found, refused


def script_installs(script: str) -> Iterator[Install]:
    """Everything in Python that a shell script asks for, command by command."""
    for command in split(script):
        found = pip_install(command.words) or _uv(command)
        if found is not None:
            yield found


def _uv(command: Command) -> Install | None:
    words = [word.rsplit("/", 1)[-1] if index == 0 else word for index, word in enumerate(command.words)]
    if words[:2] == ["uv", "add"]:
        return _parse(words[2:])
    if words[:1] == ["uvx"]:
        return _tool(words[1:], names_tool=True)
    if words[:3] == ["uv", "tool", "run"]:
        return _tool(words[3:], names_tool=True)
    if words[:2] == ["uv", "run"]:
        return _tool(words[2:], names_tool=False)
    return None


def _tool(rest: list[str], *, names_tool: bool) -> Install:
    requirements: list[str] = []
    refused: list[str] = []
    tool: str | None = None
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option in ("--with", "-w", "--from"):
            value = value if equals else (rest.pop(0) if rest else "")
            requirements += [item.strip() for item in value.split(",") if item.strip()]
            names_tool = names_tool and option != "--from"
        elif option in ("-p", "--python", "--project", "--directory", "--index-url", "--index", "--refresh-package"):
            _ = None if equals or not rest else rest.pop(0)
        elif not word.startswith("-"):
            tool = word
            break
    if names_tool and tool is not None and not _PYTHON.fullmatch(tool):
        requirements.append(tool.replace("@latest", "").replace("@", "=="))
    good: list[str] = []
    for item in requirements:
        reason = requirement_reason(item)
        (good if reason is None else refused).append(item if reason is None else reason)
    return Install(tuple(good), refused=tuple(refused), isolated=True)
