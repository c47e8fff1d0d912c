"""Code-Feedback: conversations about code with execution results (m-a-p/Code-Feedback, arXiv 2402.14658).

Rows: `{id: int, messages: [{role, content}]}`.
"""

from __future__ import annotations

from typing import Any

from fairtrial.formats.datasets.fenced import fenced
from fairtrial.formats.datasets.recipe import Chat, Prefix, Recipe

_RESULT = "Execution result: \n"


def _likes(value: Any) -> int:
    if value.keys() != {"id", "messages"} or not isinstance(value["id"], int):
        return 0
    if any(entry["role"] == "user" and entry["content"].startswith(_RESULT) for entry in value["messages"]):
        return 90
    # without an execution result such a row is any conversation about code
    plain = all(entry.keys() == {"role", "content"} for entry in value["messages"])
    return 62 if plain and any("\n```" in entry["content"] for entry in value["messages"]) else 0


CODE_FEEDBACK = Recipe(
    name="code-feedback",
    title="Code-Feedback (arXiv 2402.14658)",
    likes=_likes,
    build=Chat(fenced, field="messages", prefixes=(Prefix(_RESULT),), later="user"),
    used=frozenset({"id", "messages"}),
).format()
