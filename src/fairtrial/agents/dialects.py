"""Which planner and which policy a prompt asks for, found out from its rules: what scripted players go by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from fairtrial.agents.accounting import Estimate
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.planners.planner import Planner
from fairtrial.core import registry
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.core.ids import canonical_json, digest


@dataclass(frozen=True, slots=True)
class Voice:
    """The dialects of a run, and what may be called in it."""

    planner: Planner
    policy: ContextPolicy
    tools: Mapping[str, Mapping[str, Any]]
    """name -> JSON schema of the arguments."""


class Voices:
    """The dialects of runs, remembered; `planner` and `policy` go before what the rules say."""

    def __init__(self, count: Estimate, planner: Planner | None = None, policy: ContextPolicy | None = None) -> None:
        self._count, self._planner, self._policy = count, planner, policy
        self._known: dict[str, Voice] = {}

    def of(self, system: str, tools: Sequence[dict[str, Any]]) -> Voice:
        """The dialects that the system message asks for. Raises UserError where none fits."""
        key = digest(canonical_json([system, list(tools)]))
        if key not in self._known:
            schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
            planner = self._planner or _named(_planners(), lambda each: each.rules(tools), system)
            policy = self._policy or _named(_policies(self._count), lambda each: each.rules, system)
            self._known[key] = Voice(planner, policy, schemas)
        return self._known[key]


def offered(system: str, given: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The tools: those of the request, or the lines of JSON in the system message."""
    if given:
        return given
    found: list[dict[str, Any]] = []
    for line in system.splitlines():
        if not line.startswith('{"name": '):
            continue
        try:
            found.append({"type": "function", "function": json.loads(line)})
        except ValueError:
            continue
    return found


def _named(candidates: Iterator[Any], rules: Callable[[Any], str], system: str) -> Any:
    """The candidate whose rules the system message holds, of several the one with the longest."""
    fitting = [each for each in candidates if rules(each).strip() in system]
    if not fitting:
        raise UserError(
            "scripted player: the planner's rules are not known to it; name planner and policy in its settings"
        )
    return max(fitting, key=lambda each: len(rules(each)))


def _planners() -> Iterator[Planner]:
    for name in registry.names("planners"):
        kind = registry.load("planners", name)
        yield from (kind(settings) for settings in _variants(kind.settings_type))


def _policies(count: Estimate) -> Iterator[ContextPolicy]:
    for name in registry.names("policies"):
        kind = registry.load("policies", name)
        yield from (kind(settings, count) for settings in _variants(kind.settings_type))


def _variants(kind: type[Config]) -> Iterator[Config]:
    """The settings' defaults, and with each other choice of a dialect."""
    try:
        yield kind()
    except ValidationError:
        return
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is Literal:
            yield from (kind(**{name: choice}) for choice in get_args(field.annotation) if choice != field.default)
