"""task.md, the single-file form of a task: YAML front matter with the tables of task.toml, then the instruction."""

from __future__ import annotations

import re
from typing import Any

from fairtrial.core.errors import UserError, one_line
from fairtrial.tasks.skill import load_strings, split_front_matter

_TEXT = {
    "schema_version", "version", "name", "email", "description", "command", "url", "docker_image", "image", "source",
    "memory", "storage", "user", "skills_dir", "workdir", "destination", "service", "keywords", "metadata", "env",
    "authors", "allowed_hosts", "artifacts", "args",
}  # fmt: skip
"""Keys below which scalars stay text; elsewhere numbers and booleans are read as TOML would."""

_INT = re.compile(r"[+-]?\d{1,18}")
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d{1,3})?")


def task_md_tables(text: str, *, where: str) -> tuple[dict[str, Any], str]:
    """The tables and the instruction of a task.md. Raises UserError."""
    try:
        front, body = split_front_matter(text)
        tables = load_strings(front)
    except UserError as error:
        raise UserError(f"{where}: {one_line(error).replace('SKILL.md', 'task.md')}") from None
    if not body.strip():
        raise UserError(f"{where}: has no instruction after the front matter")
    return _typed(tables), body


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key in _TEXT else _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if value in ("true", "false"):
        return value == "true"
    if _INT.fullmatch(value):
        return int(value)
    return float(value) if _FLOAT.fullmatch(value) else value
