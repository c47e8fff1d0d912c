"""From what a user writes to a context policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairtrial.agents.context.policy import ContextPolicy, Count
from fairtrial.core import registry
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError


def open_policy(spec: str | Mapping[str, Any], count: Count, *, where: str = "policy") -> ContextPolicy:
    """The policy that an arm names: `"fold"`, or a table with `id` and the policy's own settings. Raises UserError."""
    table: dict[str, Any] = {"id": spec} if isinstance(spec, str) else dict(spec)
    name = table.pop("id", None)
    if not isinstance(name, str):
        raise UserError(f'{where}: say which policy: policy = "fold" or policy = {{ id = "last-n", n = 5 }}')
    kind = registry.load("policies", name, where=where)
    return kind(parse(kind.settings_type, table, where=where), count)
