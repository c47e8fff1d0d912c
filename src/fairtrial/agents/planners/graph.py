"""The planner `graph`: a graph of calls a turn (GAP, 2510.25320), in three dialects that are all read.

nodes: the paper's `<graph>` of `<node id="s2" depends="s1">search("population of {s1}")</node>`;
tasks: `T1: search("...")` with a line `- Dependencies: none | T1, T2` (the public code's plan, here with calls in it);
joined: the public code's action, `<search>query a|query b</search>`: independent calls of a tool of one text.
`<plan>` with tasks in prose may stand beside the other two, as in the public code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from fairtrial.agents.context.tags import Element, elements
from fairtrial.agents.planners.calls import BEGINS, BRACES, LINE, Reader, Style, written_call
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.planners.planner import Move, RejectedTurn
from fairtrial.agents.planners.reading import (
    ANSWER_RULE,
    Found,
    Tools,
    answer_text,
    answered,
    bound,
    checked_so_far,
    example,
    functions,
    graph_rules,
    named_for,
    open_tag,
    plan_start,
    references,
    settled,
    steps_prose,
    tool_list,
)
from fairtrial.core.config import Config
from fairtrial.core.errors import did_you_mean
from fairtrial.models.model import ToolCall

Dialect = Literal["nodes", "tasks", "joined"]

_GRAPH = re.compile(r"<graph\s*>")
_NODE = re.compile(r"\s*<node((?:\s+[A-Za-z_]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'))*)\s*>\s*")
_ATTRIBUTE = re.compile(r"([A-Za-z_]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_NODE_END = re.compile(r"\s*</node\s*>")
_GRAPH_END = re.compile(r"\s*</graph\s*>")
_TASK = re.compile(rf"{LINE}(?:-[ \t]+)?(T[0-9]{{1,9}}):[ \t]*", re.MULTILINE)
_FIRST_TASK = re.compile(rf"{_TASK.pattern}(?={BEGINS.pattern})", re.MULTILINE)
_NEEDS = re.compile(r"\s*(?:-[ \t]*)?Dependencies:[ \t]*([^\n]*)(\n|$)")
_ALONE = re.compile(r"[ \t]*(?:\n|</plan>|\Z)")
_SEPARATOR = re.compile(r"(?<!\\)\|")
_TASK_IDS = Style("{", "T[0-9]+", plain=False)
_PROSE = {
    "answer",
    "plan",
    "graph",
    "node",
    "reflection",
    "observation",
    "explanation",
    "motivation",
    "thought",
    "tool_call",
}
_FORMS = {
    "nodes": '<graph><node id="s1">TOOL(...)</node></graph>',
    "tasks": "T1: TOOL(...) and a line - Dependencies: none",
    "joined": "<TOOL>text</TOOL>",
}


class GraphSettings(Config):
    """Settings of `graph`."""

    dialect: Dialect = "nodes"
    """What the rules ask for; all are read."""
    undeclared: Literal["reject", "add"] = "reject"
    """A reference to a node that is not declared as a dependency: reject the turn, or add the dependency."""
    max_nodes: int = Field(default=256, ge=1)
    """Nodes of one plan."""


class Graph:
    """A graph of calls a turn."""

    settings_type = GraphSettings
    native = False

    def __init__(self, settings: GraphSettings) -> None:
        self._settings = settings

    def rules(self, tools: Sequence[dict[str, Any]]) -> str:
        """The tools, the form of a plan and that of the answer."""
        if self._settings.dialect == "joined" and tools:
            names = [name for name, function in functions(tools).items() if _one_text(function) is not None]
            form = "\n".join(f"<{name}>...|...</{name}>" for name in names)
            how = "Calls that do not need each other go into one turn: join their texts with | (a | in a text is \\|)."
            return f"{tool_list(tools)}\n\n{how}\n{form}\n\n{ANSWER_RULE}"
        form, _ = self.write(Move(plan=example(tools)))
        name = "T1" if self._settings.dialect == "tasks" else "s1"
        how = (
            "Plan all calls that you can foresee as one graph. Declare what each call needs; "
            f"{{{name}}} stands for the value of call {name}, bare or inside a text (a brace is \\{{). "
            "Calls that do not need each other run at the same time."
        )
        return graph_rules(tools, how, form)

    def read(self, text: str, tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> Move:
        """The plan or the answer. Raises RejectedTurn."""
        answer, rest = answered(text)
        found = self._found(rest, tools)
        if len(found) > 1:
            raise RejectedTurn("two-moves", "the turn has more than one plan: write one")
        if not found and answer is None:
            _no_tool(rest, tools)
        form = _FORMS[self._settings.dialect]
        return settled(text, found[0] if found else None, answer, tools, self._settings.max_nodes, form)

    def nodes_so_far(self, text: str, tools: Sequence[dict[str, Any]]) -> tuple[Node, ...]:
        """Nodes that are complete in an unfinished text: the first ones of what `read` will find, if it accepts it.

        `text` is the reply's own, thinking and the policy's parts included; where the prompt's template opens the
        thinking, from its end on. References may point at nodes that are still to come. As nothing else of the turn
        can be checked yet, start only what changes nothing.
        """
        if (start := plan_start(text, _GRAPH, final=False)) is not None:
            nodes = (node for node, _ in self._graph(text, start, tools))
        elif (start := plan_start(text, _FIRST_TASK, final=False)) is not None:
            nodes = (node for node, _ in self._tasks(text, start, tools, final=False))
        else:
            nodes = (node for node, _ in _joined(text, tools, final=False))
        return () if "<answer>" in text else checked_so_far(nodes, tools, self._settings.max_nodes, forward=True)

    def write(self, move: Move) -> tuple[str, tuple[ToolCall, ...]]:
        """The turn's text. Raises ValueError for what the dialect cannot say."""
        if move.plan is None:
            return answer_text(move), ()
        dialect = self._settings.dialect
        if dialect == "joined":
            return _written_joined(move.plan), ()
        if dialect == "tasks":
            plan = named_for(move.plan, _TASK_IDS, lambda index: f"T{index + 1}")
            lines = [
                f"{node.id}: {written_call(node.tool, node.args, BRACES)}\n"
                f"- Dependencies: {', '.join(node.deps) or 'none'}"
                for node in plan.nodes
            ]
            return "<plan>\n" + "\n".join(lines) + "\n</plan>", ()
        plan = named_for(move.plan, BRACES, lambda index: f"s{index + 1}")
        nodes = [
            f'<node id="{node.id}"{_depends(node)}>{written_call(node.tool, node.args, BRACES)}</node>'
            for node in plan.nodes
        ]
        return "<graph>\n" + "\n".join(nodes) + "\n</graph>", ()

    def _found(self, text: str, tools: Tools) -> list[Found]:
        found: list[Found] = []
        rest = text
        if (start := plan_start(text, _GRAPH, final=True)) is not None:
            nodes, end = [], text.index(">", start) + 1
            for node, behind in self._graph(text, start, tools):
                nodes.append(node)
                end = behind
            close = _GRAPH_END.match(text, end)
            if close is None:
                raise Reader(text, BRACES).malformed(end, "<node ...> or </graph>")
            found.append(Found(tuple(nodes), text[start : close.end()]))
            rest = text[:start] + text[close.end() :]
            if plan_start(rest, _GRAPH, final=True) is not None:
                raise RejectedTurn("two-moves", "the turn has two graphs: write one")
        if joined := list(_joined(rest, tools, final=True)):
            written = rest[joined[0][1].start : joined[-1][1].end]
            found.append(Found(tuple(node for node, _ in joined), written))
        if (start := plan_start(rest, _FIRST_TASK, final=True)) is not None:
            pairs = list(self._tasks(rest, start, tools, final=True))
            found.append(Found(tuple(node for node, _ in pairs), rest[start : pairs[-1][1]]))
        return found

    def _graph(self, text: str, at: int, tools: Tools) -> Iterator[tuple[Node, int]]:
        """The nodes of the graph that begins at an index, one by one, each with the index behind it."""
        reader, known = Reader(text, BRACES), functions(tools)
        at = text.index(">", at) + 1
        while head := _NODE.match(text, at):
            name, deps = _attributes(head[1])
            call, at = reader.call(head.end())
            end = _NODE_END.match(text, at)
            if end is None:
                raise reader.malformed(at, "</node>")
            at = end.end()
            args = bound(call, known)
            yield Node(name, call.tool, args, self._declared(deps, args)), at

    def _tasks(self, text: str, at: int, tools: Tools, *, final: bool) -> Iterator[tuple[Node, int]]:
        """The tasks from an index on, one by one, each with the index behind it."""
        reader, known = Reader(text, BRACES), functions(tools)
        if (prose := steps_prose(text, _TASK, at)) is not None:
            raise reader.malformed(prose, "a call such as search(...)")
        while head := _TASK.search(text, at):
            if not final and open_tag(text[at : head.start()], ()) is not None:
                return
            call, at = reader.call(head.end())
            needs = _NEEDS.match(text, at)
            if not final and (needs is None or not needs[2]):
                return
            args = bound(call, known)
            deps: tuple[str, ...] = ()
            if needs is not None:
                deps, at = _names(needs[1]), needs.end()
            elif not _ALONE.match(text, at):
                raise reader.malformed(at, "a line - Dependencies: ...")
            yield Node(head[1], call.tool, args, self._declared(deps, args)), at

    def _declared(self, deps: tuple[str, ...], args: dict[str, Any]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*deps, *references(args)))) if self._settings.undeclared == "add" else deps


def _attributes(text: str) -> tuple[str, tuple[str, ...]]:
    """The id and the dependencies of a `<node>`. Raises RejectedTurn."""
    found: dict[str, str] = {}
    for name, double, single in _ATTRIBUTE.findall(text):
        if name not in ("id", "depends"):
            raise RejectedTurn("malformed", f'<node> has no attribute "{name}"{did_you_mean(name, ("id", "depends"))}')
        found[name] = double or single
    if not BRACES.id.fullmatch(found.get("id", "")):
        raise RejectedTurn("malformed", 'each <node> needs an id of letters and digits, such as id="s1"')
    return found["id"], _names(found.get("depends", ""))


def _names(text: str) -> tuple[str, ...]:
    names = [name for name in re.split(r"[,\s]+", text.strip().rstrip(".")) if name]
    return () if [name.lower() for name in names] == ["none"] else tuple(dict.fromkeys(names))


def _depends(node: Node) -> str:
    return f' depends="{",".join(node.deps)}"' if node.deps else ""


def _joined(text: str, tools: Tools, *, final: bool) -> Iterator[tuple[Node, Element]]:
    """The calls of `<tool>a|b</tool>` elements one by one, each with its element. Raises RejectedTurn."""
    known, number = functions(tools), 0
    parts = elements(text)
    end = None if final else open_tag(text, parts)
    for element in parts:
        if element.tag not in known or (end is not None and element.end > end):
            continue
        name = _one_text(known[element.tag])
        if name is None:
            raise RejectedTurn("schema", f'"{element.tag}" does not take one text: <{element.tag}> cannot call it')
        for part in _SEPARATOR.split(element.inner):
            query = part.strip().replace("\\|", "|")
            if not query:
                raise RejectedTurn("malformed", f"<{element.tag}> has an empty part: write text between the |")
            number += 1
            yield Node(f"T{number}", element.tag, {name: query}), element


def _one_text(function: Mapping[str, Any]) -> str | None:
    """The argument that a tool's text is: the only one that it needs, or its first where it needs none."""
    parameters = function.get("parameters") or {}
    required = list(parameters.get("required", ()))
    names = required or list(parameters.get("properties", {}))[:1]
    return names[0] if len(names) == 1 else None


def _written_joined(plan: Plan) -> str:
    parts: list[str] = []
    last = None
    for node in plan.nodes:
        values = list(node.args.values())
        text = values[0] if len(values) == 1 else None
        if not isinstance(text, str) or node.deps or text != text.strip() or not text or "\\" in text or "<" in text:
            raise ValueError("joined calls are independent, with one text each, without \\ and <")
        escaped = text.replace("|", "\\|")
        if node.tool == last:
            parts[-1] += f"|{escaped}"
        else:
            parts.append(f"<{node.tool}>{escaped}")
        last = node.tool
    tools = [
        node.tool for index, node in enumerate(plan.nodes) if index == 0 or plan.nodes[index - 1].tool != node.tool
    ]
    return "\n".join(f"{part}</{tool}>" for part, tool in zip(parts, tools, strict=True))


def _no_tool(text: str, tools: Tools) -> None:
    """Refuse a tag that stands where a tool's belongs but is none."""
    for element in elements(text):
        if element.tag not in _PROSE:
            raise RejectedTurn(
                "unknown-tool", f'there is no tool "{element.tag}"{did_you_mean(element.tag, functions(tools))}'
            )
