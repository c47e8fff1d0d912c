"""The planner `compiler`: numbered calls with $1 references, as LLMCompiler (2312.04511) writes its plans.

`1. search("a")`, `2. search(query="population of $1")`; other lines ("Thought: ...") are prose, `3. join()` ends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from fairtrial.agents.planners.calls import BEGINS, DOLLARS, LINE, Reader, written_call
from fairtrial.agents.planners.plan import Node
from fairtrial.agents.planners.planner import Move
from fairtrial.agents.planners.reading import (
    Tools,
    answer_text,
    answered,
    bound,
    checked_so_far,
    example,
    functions,
    graph_rules,
    named_for,
    numbered,
    open_tag,
    plan_start,
    references,
    settled,
    steps_prose,
)
from fairtrial.core.config import Config
from fairtrial.models.model import ToolCall

_LINE = re.compile(rf"{LINE}([0-9]{{1,9}})\.[ \t]+", re.MULTILINE)
_FIRST = re.compile(rf"{_LINE.pattern}(?={BEGINS.pattern})", re.MULTILINE)
_TAIL = re.compile(r"[ \t]*(?:#[^\n]*)?(?:<END_OF_PLAN>[ \t]*)?(?=\n|\Z)")


class CompilerSettings(Config):
    """Settings of `compiler`."""

    max_nodes: int = Field(default=256, ge=1)
    """Calls of one plan."""


class Compiler:
    """Numbered calls; what a call refers to is what it depends on."""

    settings_type = CompilerSettings
    native = False

    def __init__(self, settings: CompilerSettings) -> None:
        self._limit = settings.max_nodes

    def rules(self, tools: Sequence[dict[str, Any]]) -> str:
        """The tools, the form of a plan and that of the answer."""
        form, _ = self.write(Move(plan=example(tools)))
        how = (
            "Plan all calls that you can foresee, one on each line, numbered from 1. $1 stands for the value of call "
            "1, bare or inside a text (a dollar sign before a digit is \\$). Calls that do not refer to each other run "
            "at the same time."
        )
        return graph_rules(tools, how, form)

    def read(self, text: str, tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> Move:
        """The plan or the answer. Raises RejectedTurn."""
        answer, rest = answered(text)
        found = numbered(_nodes(rest, tools, final=True), rest)
        return settled(text, found, answer, tools, self._limit, "a line 1. TOOL(...)")

    def nodes_so_far(self, text: str, tools: Sequence[dict[str, Any]]) -> tuple[Node, ...]:
        """Nodes that are complete in an unfinished text: the first ones of what `read` will find, if it accepts it.

        `text` is the reply's own, thinking and the policy's parts included; where the prompt's template opens the
        thinking, from its end on. As nothing else of the turn can be checked yet, start only what changes nothing.
        """
        nodes = (node for node, _, _ in _nodes(text, tools, final=False))
        return () if "<answer>" in text else checked_so_far(nodes, tools, self._limit, forward=False)

    def write(self, move: Move) -> tuple[str, tuple[ToolCall, ...]]:
        """The turn's text. Raises ValueError for what the dialect cannot say."""
        if move.plan is None:
            return answer_text(move), ()
        plan = named_for(move.plan, DOLLARS, lambda index: str(index + 1))
        lines: list[str] = []
        for node in plan.nodes:
            if node.deps != references(node.args):
                raise ValueError(f'node "{node.id}" needs what it does not refer to; this dialect has no word for that')
            lines.append(f"{node.id}. {written_call(node.tool, node.args, DOLLARS)}")
        return "\n".join(lines), ()


def _nodes(text: str, tools: Tools, *, final: bool) -> Iterator[tuple[Node, int, int]]:
    """The nodes one by one, each with where its line begins and ends. Raises RejectedTurn."""
    reader, known = Reader(text, DOLLARS), functions(tools)
    at = plan_start(text, _FIRST, final=final)
    if at is None:
        return
    if (prose := steps_prose(text, _LINE, at)) is not None:
        raise reader.malformed(prose, "a call such as search(...)")
    while line := _LINE.search(text, at):
        if not final and open_tag(text[at : line.start()], ()) is not None:
            return
        call, at = reader.call(line.end())
        tail = _TAIL.match(text, at)
        if tail is None:
            raise reader.malformed(at, "the end of the line")
        at = tail.end()
        if call.tool == "join" and "join" not in known:
            continue
        args = bound(call, known)
        yield Node(line[1], call.tool, args, references(args)), line.start(), at
