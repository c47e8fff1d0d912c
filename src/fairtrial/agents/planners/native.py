"""The planner `native`: the provider's tool calls, independent of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from fairtrial.agents.context.tags import Element
from fairtrial.agents.planners.plan import Node
from fairtrial.agents.planners.planner import Move
from fairtrial.agents.planners.reading import ANSWER_RULE, Found, answer_text, answered, json_object, json_text, settled
from fairtrial.core.config import Config
from fairtrial.models.model import ToolCall


class NativeSettings(Config):
    """Settings of `native`."""

    answer: Literal["tag", "text"] = "tag"
    """tag: the answer stands between `<answer>` tags; text: a turn without calls is the answer as a whole."""
    max_nodes: int = Field(default=64, ge=1)
    """Calls of one turn."""


class Native:
    """Tools go to the provider as schemas, calls come back apart from the text."""

    settings_type = NativeSettings
    native = True

    def __init__(self, settings: NativeSettings) -> None:
        self._settings = settings

    def rules(self, tools: Sequence[dict[str, Any]]) -> str:
        """How to answer; the tools and how to call them are the provider's to tell."""
        if self._settings.answer == "text":
            return "Call tools until you know the answer. Then reply with the answer alone, without calling a tool."
        return (
            f"Call tools until you know the answer; calls that do not need each other go into one turn. {ANSWER_RULE}"
        )

    def read(self, text: str, tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> Move:
        """The calls or the answer. Raises RejectedTurn."""
        answer, _ = answered(text)
        if answer is None and not tool_calls and self._settings.answer == "text" and text.strip():
            answer = Element("answer", 0, len(text), text)
        found = Found(_nodes(tool_calls), "") if tool_calls else None
        return settled(text, found, answer, tools, self._settings.max_nodes, "use the provider's tool calls")

    def write(self, move: Move) -> tuple[str, tuple[ToolCall, ...]]:
        """The calls, or the answer's text. Raises ValueError for a plan whose nodes need each other."""
        if move.plan is None:
            return answer_text(move), ()
        if any(node.deps for node in move.plan.nodes):
            raise ValueError("native calls cannot need each other")
        calls = [
            ToolCall(id=node.id, name=node.tool, arguments=node.malformed or json_text(node.args))
            for node in move.plan.nodes
        ]
        return "", tuple(calls)


def _nodes(calls: Sequence[ToolCall]) -> tuple[Node, ...]:
    """One node of each call, in order. Servers that give ids twice or none at all get numbers."""
    ids = [call.id for call in calls]
    if len(set(ids)) < len(ids) or not all(ids):
        ids = [str(number) for number in range(1, len(calls) + 1)]
    nodes: list[Node] = []
    for name, call in zip(ids, calls, strict=True):
        args = json_object(call.arguments or "{}")
        nodes.append(Node(name, call.name, args or {}, malformed=call.arguments if args is None else None))
    return tuple(nodes)
