"""From what a user writes to a context policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairtrial.agents.context.policy import ContextPolicy, Count
from fairtrial.core import registry


def open_policy(spec: str | Mapping[str, Any], count: Count, *, where: str = "policy") -> ContextPolicy:
    """The policy that an arm names: `"fold"`, or a table with `id` and the policy's own settings. Raises UserError."""
    advice = 'say which policy: policy = "fold" or policy = { id = "last-n", n = 5 }'
    kind, settings = registry.chosen("policies", spec, advice, where=where)
    return kind(settings, count)
