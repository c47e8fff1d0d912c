"""Plugins by role, found through entry points: a name that two packages claim raises, a broken plugin is reported."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError, did_you_mean, one_line

ROLES = {
    "trials": "kind of trial",
    "agents": "agent",
    "models": "kind of model",
    "engines": "engine",
    "sandboxes": "sandbox",
    "suites": "suite",
    "formats": "format",
    "policies": "context policy",
    "planners": "planner",
    "worlds": "world",
}


@cache
def _entries(role: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=f"fairtrial.{role}"):
        if (other := found.get(entry.name)) is not None and other.value != entry.value:
            raise UserError(
                f'{ROLES[role]} "{entry.name}" is registered twice ({_owner(other)} and {_owner(entry)}); '
                "uninstall one of the two packages"
            )
        found[entry.name] = entry
    return found


def _owner(entry: EntryPoint) -> str:
    return f"{entry.dist.name if entry.dist else 'unknown package'}: {entry.value}"


def names(role: str) -> list[str]:
    """The registered names of a role, sorted. Raises UserError where two packages claim one name."""
    return sorted(_entries(role))


def load(role: str, name: str, *, where: str = "") -> Any:
    """The object registered as `name`.

    Raises UserError, prefixed with `where`, for an unknown name and for a plugin that cannot be loaded.
    """
    entries = _entries(role)
    at = f"{where}: " if where else ""
    if name not in entries:
        raise UserError(f'{at}unknown {ROLES[role]} "{name}"{did_you_mean(name, entries)}')
    try:
        return entries[name].load()
    except (Exception, SystemExit) as error:
        raise UserError(
            f'{at}{ROLES[role]} "{name}" ({_owner(entries[name])}) cannot be loaded: {one_line(error)}'
        ) from error


def chosen(role: str, spec: str | Mapping[str, Any], advice: str, *, where: str) -> tuple[Any, Config]:
    """What a user names in a role, and its settings: a name alone, or a table with `id` and the settings.

    Raises UserError, prefixed with `where`; where nothing is named it says `advice`.
    """
    table: dict[str, Any] = {"id": spec} if isinstance(spec, str) else dict(spec)
    name = table.pop("id", None)
    if not isinstance(name, str):
        raise UserError(f"{where}: {advice}")
    kind = load(role, name, where=where)
    return kind, parse(kind.settings_type, table, where=where)


def broken() -> dict[str, str]:
    """`role/name` -> reason for every plugin that cannot be loaded; loads them all."""
    reasons: dict[str, str] = {}
    for role in ROLES:
        try:
            listed = names(role)
        except UserError as error:
            reasons[role] = str(error)
            continue
        for name in listed:
            try:
                load(role, name)
            except UserError as error:
                reasons[f"{role}/{name}"] = str(error)
    return reasons
