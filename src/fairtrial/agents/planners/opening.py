"""From what a user writes to a planner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairtrial.agents.planners.planner import Planner
from fairtrial.core import registry
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError


def open_planner(spec: str | Mapping[str, Any], *, where: str = "planner") -> Planner:
    """The planner that an arm names: `"graph"`, or a table with `id` and the planner's settings. Raises UserError."""
    table: dict[str, Any] = {"id": spec} if isinstance(spec, str) else dict(spec)
    name = table.pop("id", None)
    if not isinstance(name, str):
        raise UserError(
            f'{where}: say which planner: planner = "graph" or planner = {{ id = "graph", dialect = "tasks" }}'
        )
    kind = registry.load("planners", name, where=where)
    return kind(parse(kind.settings_type, table, where=where))
