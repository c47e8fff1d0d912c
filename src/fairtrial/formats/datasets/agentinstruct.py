"""What the six splits of AgentInstruct share (THUDM/AgentInstruct, arXiv 2310.12823).

Rows: `{id, conversations: [{from, value}]}`, or with `{role, content}` as the published extraction leaves them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fairtrial.formats.datasets.recipe import Chat, Recipe, opens_with, turn
from fairtrial.formats.datasets.signatures import Tool

USED = frozenset({"id", "conversations"})


def unsound(value: Any) -> str | None:
    """Why the published extraction leaves a row out, or None."""
    roles = [turn(entry)[0] for entry in value["conversations"]]
    if "user" not in roles or "assistant" not in roles:
        return "no user or no assistant turn"
    if roles[0] == "assistant":
        return "starts with the assistant"
    if any(left == right == "assistant" for left, right in pairwise(roles)):
        return "two assistant turns in a row"
    return None


def split(name: str, about: str, chat: Chat, marks: tuple[str, ...], tools: tuple[Tool, ...] = ()) -> Recipe:
    """The recipe of one split; `marks` are the ways in which its first user turn starts."""
    return Recipe(
        name=f"agentinstruct-{name}",
        title=f"AgentInstruct, split {name}: {about} (arXiv 2310.12823)",
        likes=opens_with(*marks),
        build=chat,
        skip=unsound,
        used=USED,
        tools=tools,
    )
