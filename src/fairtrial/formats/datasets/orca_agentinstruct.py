"""Orca AgentInstruct: generated conversations (microsoft/orca-agentinstruct-1M-v1, arXiv 2407.03502).

Rows: `{messages}` with the turns as JSON text, one split a category; the published extraction has `{id, conversations}`
with ids `orca_<category><n>`. A row without an id gets one from its content.
"""

from __future__ import annotations

from typing import Any

from fairtrial.core.ids import digest
from fairtrial.formats.datasets.fenced import fenced
from fairtrial.formats.datasets.recipe import Chat, Draft, Recipe
from fairtrial.formats.format import Notes


def _likes(value: Any) -> int:
    if value.keys() == {"messages"}:
        return 88 if isinstance(value["messages"], str) and value["messages"].lstrip().startswith("[{") else 0
    return 92 if str(value["id"]).startswith("orca_") and isinstance(value["conversations"], list) else 0


def _id(value: Any, notes: Notes) -> str:
    return str(value["id"]) if "id" in value else f"orca_{digest(value)[:16]}"


def _build(value: Any, draft: Draft) -> None:
    field = "conversations" if "conversations" in value else "messages"
    Chat(fenced, field=field, later="user")(value, draft)


ORCA_AGENTINSTRUCT = Recipe(
    name="orca-agentinstruct",
    title="Orca AgentInstruct (arXiv 2407.03502)",
    likes=_likes,
    build=_build,
    id=_id,
    used=frozenset({"id", "messages", "conversations"}),
).format()
