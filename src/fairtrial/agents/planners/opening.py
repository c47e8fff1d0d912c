"""From what a user writes to a planner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairtrial.agents.planners.planner import Planner
from fairtrial.core import registry


def open_planner(spec: str | Mapping[str, Any], *, where: str = "planner") -> Planner:
    """The planner that an arm names: `"graph"`, or a table with `id` and the planner's settings. Raises UserError."""
    advice = 'say which planner: planner = "graph" or planner = { id = "graph", dialect = "tasks" }'
    kind, settings = registry.chosen("planners", spec, advice, where=where)
    return kind(settings)
