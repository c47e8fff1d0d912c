"""SKILL.md folders: reader and validator of the Agent Skills specification (verdicts as skills-ref 0.1.1 gives them).

The front matter is split line by line, so that `---` inside a description cuts nothing, and every scalar is a string,
so that a name `no` or `2024-01-01` stays what was written.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fairtrial.core.errors import UserError, did_you_mean, one_line
from fairtrial.tasks.task import Skill

MAX_NAME = 64
MAX_DESCRIPTION = 1024
MAX_COMPATIBILITY = 500
FIELDS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")

_MAX_FRONT_MATTER = 64 << 10
_MAX_FILE = 1 << 20
_MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that the specification has against a skill."""

    kind: str
    """"file", "front matter", "yaml", "missing", "name", "directory", "description", "compatibility", "metadata",
    "allowed-tools", "license" or "unknown field"."""
    message: str
    rejects: bool = True
    """False for what the specification's text forbids but its reference validator lets pass."""


class _Strings(yaml.BaseLoader):
    """Safe loader that makes nothing but strings, lists and dicts."""


def skill_file(folder: Path) -> Path | None:
    """The folder's SKILL.md (or skill.md), if it has one."""
    for name in ("SKILL.md", "skill.md"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_skill(folder: Path, *, lenient: bool = False) -> Skill:
    """The skill in `folder`.

    Raises UserError with everything that the reference validator rejects; with `lenient`, an invalid skill is
    returned as well as it can be read and its `problems` say what is wrong, because agents read such skills too.
    """
    path = skill_file(folder)
    if path is None:
        raise UserError(f"{folder}: has no SKILL.md")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    text, problems = _decode(raw)
    fields, body, found = parse_skill(text)
    problems += found
    if not any(p.kind in ("yaml", "front matter") for p in problems):
        problems += list(check_fields(fields, folder.resolve().name))
    if not lenient and (rejected := [p.message for p in problems if p.rejects]):
        raise UserError(f"{path}: " + "; ".join(rejected))
    name, description = fields.get("name"), fields.get("description")
    return Skill(
        name=_normal(name) if isinstance(name, str) and name.strip() else folder.resolve().name,
        description=description.strip() if isinstance(description, str) else "",
        path=folder,
        body=body,
        problems=tuple(p.message for p in problems),
    )


def _decode(raw: bytes) -> tuple[str, list[Problem]]:
    problems: list[Problem] = []
    if len(raw) > _MAX_FILE:
        problems.append(Problem("file", f"SKILL.md is larger than {_MAX_FILE >> 10} kB; what follows was not read"))
        raw = raw[:_MAX_FILE]
    try:
        return raw.decode("utf-8-sig"), problems
    except UnicodeDecodeError as error:
        if not problems:
            problems.append(Problem("file", f"SKILL.md is not UTF-8 text (byte {error.start})"))
        return raw.decode("utf-8-sig", "replace"), problems


def parse_skill(text: str) -> tuple[dict[str, Any], str, list[Problem]]:
    """Front matter, body, and what kept the front matter from being read (the specification's fields unchecked).

    Where YAML cannot be read, the fields are what single lines `key: text` give.
    """
    try:
        front, body = split_front_matter(text)
    except UserError as error:
        return {}, text, [Problem("front matter", one_line(error))]
    try:
        return load_strings(front), body, []
    except UserError as error:
        return _by_line(front), body, [Problem("yaml", one_line(error))]


def split_front_matter(text: str) -> tuple[str, str]:
    """The YAML between the first line `---` and the next line `---`, and what follows. Raises UserError."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        raise UserError("SKILL.md must start with YAML front matter (a line ---)")
    for index in range(1, len(lines)):
        if lines[index].rstrip() == "---":
            return "".join(lines[1:index]), "".join(lines[index + 1 :]).strip()
    raise UserError("the front matter is not closed: a second line --- is missing")


def load_strings(text: str) -> dict[str, Any]:
    """A YAML mapping whose scalars are all strings.

    Raises UserError for invalid YAML, anything but a mapping, duplicate keys, aliases, tags, and what is too large
    or too deep.
    """
    if len(text) > _MAX_FRONT_MATTER:
        raise UserError(f"the front matter is larger than {_MAX_FRONT_MATTER >> 10} kB")
    try:
        node = _compose(text)
        value = _plain(node) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise UserError(
            f"invalid YAML in the front matter: {getattr(error, 'problem', None) or error}{place}"
        ) from None
    if not isinstance(value, dict):
        raise UserError("the front matter must be a YAML mapping")
    return value


def _compose(text: str) -> yaml.Node | None:
    depth = 0
    for event in yaml.parse(text, Loader=_Strings):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UserError("anchors and aliases are not allowed in the front matter")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise UserError(f"the front matter is nested deeper than {_MAX_DEPTH} levels")
        if getattr(event, "tag", None):
            raise UserError("tags (!...) are not allowed in the front matter")
    return yaml.compose(text, Loader=_Strings)


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name is None:
            raise UserError("the front matter has a key that is not text")
        if name in found:
            raise UserError(f'the front matter has the key "{name}" twice')
        found[name] = _plain(value)
    return found


def _by_line(front: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in front.splitlines():
        key, colon, value = line.partition(":")
        if colon and key in FIELDS and value.strip():
            found.setdefault(key, value.strip().strip("\"'"))
    return found


def _normal(name: str) -> str:
    return unicodedata.normalize("NFKC", name.strip())


def check_fields(fields: dict[str, Any], folder: str) -> Iterator[Problem]:
    """What the specification has against a front matter, given the name of the skill's folder."""
    if unknown := [key for key in fields if key not in FIELDS]:
        hint = did_you_mean(unknown[0], FIELDS) if len(unknown) == 1 else f"; known: {', '.join(FIELDS)}"
        yield Problem("unknown field", f"unknown field {', '.join(unknown)}{hint}")
    yield from _check_name(fields, folder)
    description = fields.get("description")
    if description is None:
        yield Problem("missing", 'the field "description" is required')
    elif not isinstance(description, str) or not description.strip():
        yield Problem("description", "the description must be a text that is not empty")
    elif len(description) > MAX_DESCRIPTION:
        yield Problem(
            "description", f"the description has {len(description)} characters; {MAX_DESCRIPTION} are allowed"
        )
    yield from _check_optional(fields)


def _check_name(fields: dict[str, Any], folder: str) -> Iterator[Problem]:
    value = fields.get("name")
    if value is None:
        yield Problem("missing", 'the field "name" is required')
        return
    if not isinstance(value, str) or not value.strip():
        yield Problem("name", "the name must be a text that is not empty")
        return
    name = _normal(value)
    if len(name) > MAX_NAME:
        yield Problem("name", f"the name has {len(name)} characters; {MAX_NAME} are allowed")
    if name != name.lower():
        yield Problem("name", f'the name "{name}" must be lower case')
    if name.startswith("-") or name.endswith("-"):
        yield Problem("name", f'the name "{name}" must not start or end with a hyphen')
    if "--" in name:
        yield Problem("name", f'the name "{name}" must not have two hyphens in a row')
    if not all(char.isalnum() or char == "-" for char in name):
        yield Problem("name", f'the name "{name}" may have letters, digits and hyphens only')
    if name != _normal(folder):
        yield Problem("directory", f'the name "{name}" must equal the name of the folder, "{folder}"')


def _check_optional(fields: dict[str, Any]) -> Iterator[Problem]:
    compatibility = fields.get("compatibility")
    if compatibility is not None and not isinstance(compatibility, str):
        yield Problem("compatibility", "compatibility must be a text")
    elif compatibility is not None and len(compatibility) > MAX_COMPATIBILITY:
        yield Problem(
            "compatibility", f"compatibility has {len(compatibility)} characters; {MAX_COMPATIBILITY} are allowed"
        )
    for key in ("license", "allowed-tools"):
        if key in fields and not isinstance(fields[key], str):
            yield Problem(key, f"{key} must be a text", rejects=False)
    metadata = fields.get("metadata")
    if metadata is not None and (
        not isinstance(metadata, dict) or not all(isinstance(item, str) for item in metadata.values())
    ):
        yield Problem("metadata", "metadata must be a mapping of texts to texts", rejects=False)
