"""Spans of any tracing system as nodes of one tree, and from there to a row.

Each source says of its spans what they are (model call, tool, agent, anything else) and what they hold. Which agent a
call belongs to, which spans only repeat others, and what is kept of each span is decided here, once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from fairtrial.formats.format import Notes, Row
from fairtrial.formats.span_rows import AgentSpan, LlmCall, Message, ToolSpan, Trace, row_of

Kind = Literal["llm", "tool", "agent", "other"]
_SCOPES = ("agent", "tool")


@dataclass(slots=True)
class Node:
    """One span. `whole` is what the source says of it, `left` is that less what this node's fields say."""

    id: str
    parent: str | None
    kind: Kind
    name: str | None
    whole: dict[str, Any]
    left: dict[str, Any]
    began: Any = None
    ended: Any = None
    timestamp: str | None = None
    failed: bool = False
    prompt: list[Message] = field(default_factory=list[Message])
    output: list[Message] = field(default_factory=list[Message])
    model_call: dict[str, Any] | None = None
    offered: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    call_id: str | None = None
    arguments: Any = None
    result: Any = None


def row_of_nodes(id: str, space: str, nodes: Iterable[Node], notes: Notes) -> Row:
    """The trajectory of one trace; every span is kept, with what the items do not say, in `extra[space]["spans"]`.

    Raises RowError where no span says anything.
    """
    tree = _Tree(_unique(nodes, notes))
    trace = Trace(id, space, agents=tree.agents())
    used = tree.llm_nodes()
    if not used:
        used = tree.spoken()
    for node in used:
        trace.calls.append(_llm_call(node, tree.scope(node)))
    spans = [node for node in tree.nodes.values() if node.kind == "tool"]
    for node in spans:
        trace.tools.append(_tool_span(node, tree.scope(node)))
    row = row_of(trace, notes)
    told = {node.id for node in used} | {tool.id for tool in trace.tools if tool.told}
    row.setdefault("extra", {}).setdefault(space, {})["spans"] = [
        _kept(node, node.id in told) for node in tree.nodes.values()
    ]
    return row


def _unique(nodes: Iterable[Node], notes: Notes) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for node in nodes:
        if node.id in found:
            if found[node.id].whole == node.whole:
                notes.drop("a span that the file has twice", orjson.dumps(node.whole).decode())
                continue
            notes.flaw("repeated span id", f"two different spans have the id {node.id[:60]!r}")
            number = 2
            while f"{node.id}#{number}" in found:
                number += 1
            node.id = f"{node.id}#{number}"
        found[node.id] = node
    return found


def _kept(node: Node, told: bool) -> dict[str, Any]:
    kept: dict[str, Any] = {"id": node.id, "kind": node.kind}
    if node.parent is not None:
        kept["parent"] = node.parent
    kept.update(node.left if told else node.whole)
    return kept


def _llm_call(node: Node, scope: str | None) -> LlmCall:
    return LlmCall(
        node.id,
        node.prompt,
        node.output,
        node.model_call,
        node.began,
        node.ended,
        node.timestamp,
        scope,
        node.offered,
    )


def _tool_span(node: Node, scope: str | None) -> ToolSpan:
    return ToolSpan(
        node.id,
        node.name,
        node.call_id,
        node.arguments,
        node.result,
        node.failed,
        node.began,
        node.timestamp,
        scope,
    )


class _Tree:
    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self._above: dict[str, list[Node]] = {}

    def above(self, node: Node) -> list[Node]:
        """The spans around this one, the nearest first. A circle of parents ends where it closes."""
        found = self._above.get(node.id)
        if found is None:
            found, met, parent = [], {node.id}, node.parent
            while parent is not None and parent not in met and (outer := self.nodes.get(parent)) is not None:
                known = self._above.get(outer.id)
                found.append(outer)
                met.add(outer.id)
                if known is not None:
                    found += [node for node in known if node.id not in met]
                    break
                parent = outer.parent
            self._above[node.id] = found
        return found

    def scope(self, node: Node) -> str | None:
        """The innermost agent or tool span around this one; an agent's own words belong inside it.

        Model calls that a tool makes are a run of their own, whether or not the source calls the tool an agent.
        """
        if node.kind == "agent":
            return node.id
        return next((outer.id for outer in self.above(node) if outer.kind in _SCOPES), None)

    def agents(self) -> dict[str, AgentSpan]:
        """All agent and tool spans with their place."""
        found: dict[str, AgentSpan] = {}
        for node in self.nodes.values():
            if node.kind not in _SCOPES:
                continue
            outer = [span for span in self.above(node) if span.kind in _SCOPES]
            tool = node if node.kind == "tool" else outer[0] if outer and outer[0].kind == "tool" else None
            found[node.id] = AgentSpan(
                node.id,
                node.name,
                {None, *(span.id for span in outer)},
                outer[0].id if outer else None,
                None if tool is None else tool.id,
            )
        return found

    def llm_nodes(self) -> list[Node]:
        """Model calls that say something; of a call that two layers recorded the outer one."""
        said = [node for node in self.nodes.values() if node.kind == "llm" and (node.prompt or node.output)]
        ids = {node.id for node in said}
        calls = [node for node in said if not any(outer.id in ids for outer in self.above(node))]
        if not calls:
            return []
        inside = {outer.id for node in calls for outer in self.above(node)}
        for node in self.nodes.values():
            # an agent that shows no model call, only what went in and came out
            if node.kind == "agent" and node.id not in inside and (node.prompt or node.output):
                calls.append(node)
        return calls

    def spoken(self) -> list[Node]:
        """Where no model call says anything: the outermost spans that say what went in and came out."""
        said = [node for node in self.nodes.values() if node.kind != "tool" and (node.prompt or node.output)]
        ids = {node.id for node in said}
        return [node for node in said if not any(outer.id in ids for outer in self.above(node))]
