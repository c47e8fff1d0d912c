"""The planner `rewoo`: `#E1 = tool[...]` lines that are all planned before anything runs (ReWOO, 2305.18323).

Inside the brackets stands the tool's one text as it is, or JSON of all arguments. `LLM[question #E1]` is a reader: the
references at its end are the document, the rest is the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from fairtrial.agents.planners.calls import HASHES, LINE, Call, Reader, written
from fairtrial.agents.planners.plan import Node, Ref, Template
from fairtrial.agents.planners.planner import Move, RejectedTurn
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
)
from fairtrial.core.config import Config
from fairtrial.models.model import ToolCall

_LINE = re.compile(rf"{LINE}#(E[0-9]+)[ \t]*=[ \t]*", re.MULTILINE)
_TOOL = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*\[")
_REST = re.compile(r"([^\n]*)\][ \t]*(\n|\Z)")
_OBJECT = re.compile(r"\s*\{")
_OBJECT_END = re.compile(r"\s*\][ \t]*(?=\n|\Z)")
_GIVEN = ("given context", "given", "context")


class RewooSettings(Config):
    """Settings of `rewoo`."""

    reader: str = "read"
    """The tool that LLM[...] stands for, with the arguments `question` and `document`."""
    max_nodes: int = Field(default=256, ge=1)
    """Calls of one plan."""


class Rewoo:
    """Plan, evidence, answer."""

    settings_type = RewooSettings
    native = False

    def __init__(self, settings: RewooSettings) -> None:
        self._settings = settings

    def rules(self, tools: Sequence[dict[str, Any]]) -> str:
        """The tools, the form of a plan and that of the answer."""
        form, _ = self.write(Move(plan=example(tools)))
        how = (
            "Plan all calls before you see any result, one on each line, numbered #E1, #E2 ..., with their arguments "
            'as JSON; a line Plan: ... before each says what it is for. "#E1" inside a text stands for the result of '
            "call #E1 (a # before E1 is \\#)."
        )
        return graph_rules(tools, how, form)

    def read(self, text: str, tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> Move:
        """The plan or the answer. Raises RejectedTurn."""
        answer, rest = answered(text)
        found = numbered(self._nodes(rest, tools, final=True), rest)
        return settled(text, found, answer, tools, self._settings.max_nodes, "a line #E1 = TOOL[...]")

    def nodes_so_far(self, text: str, tools: Sequence[dict[str, Any]]) -> tuple[Node, ...]:
        """Nodes that are complete in an unfinished text, as `Graph.nodes_so_far`."""
        nodes = (node for node, _, _ in self._nodes(text, tools, final=False))
        return () if "<answer>" in text else checked_so_far(nodes, tools, self._settings.max_nodes, forward=False)

    def write(self, move: Move) -> tuple[str, tuple[ToolCall, ...]]:
        """The turn's text. Raises ValueError for what the dialect cannot say."""
        if move.plan is None:
            return answer_text(move), ()
        plan = named_for(move.plan, HASHES, lambda index: f"E{index + 1}")
        lines: list[str] = []
        for node in plan.nodes:
            if node.deps != references(node.args):
                raise ValueError(f'node "{node.id}" needs what it does not refer to; this dialect has no word for that')
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", node.tool):
                raise ValueError(f'the tool "{node.tool}" cannot be written in this dialect')
            lines.append(f"#{node.id} = {node.tool}[{written(node.args, HASHES)}]")
        return "\n".join(lines), ()

    def _nodes(self, text: str, tools: Tools, *, final: bool) -> Iterator[tuple[Node, int, int]]:
        """The nodes one by one, each with where its line begins and ends. Raises RejectedTurn."""
        known, at = functions(tools), plan_start(text, _LINE, final=final)
        reader = Reader(text, HASHES)
        while at is not None and (line := _LINE.search(text, at)):
            if not final and open_tag(text[at : line.start()], ()) is not None:
                return
            tool = _TOOL.match(text, line.end())
            if tool is None:
                raise reader.malformed(line.end(), "a call such as search[...]")
            name = tool[1]
            if name == "LLM" and "LLM" not in known:
                name = self._settings.reader
            if _OBJECT.match(text, tool.end()):
                at = tool.end()
                value, at = reader.value(text.index("{", at))
                end = _OBJECT_END.match(text, at)
                if end is None:
                    raise reader.malformed(at, "] and the end of the line")
                at = end.end()
                args = bound(Call(name, named=value), known)
            else:
                rest = _REST.match(text, tool.end())
                if rest is None or (not final and not rest[2]):
                    raise reader.malformed(tool.end(), "the call's closing ]")
                at = rest.end(1) + 1
                plain = _plain(rest[1])
                args = _evidence(rest[1]) if tool[1] != name else bound(Call(name, [plain]), known)
                if tool[1] != name:
                    bound(Call(name, named=args), known)
            yield Node(line[1], name, args, references(args)), line.start(), at


def _plain(text: str) -> str | Template:
    """Text as it stands between brackets, its references found; quotes around all of it are not part of it."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]:
        text = text[1:-1]
    parts: list[str | Ref] = []
    at, held = 0, ""
    for match in HASHES.reference.finditer(text):
        if match.start() > 0 and text[match.start() - 1] == "\\":
            held += text[at : match.start() - 1] + match[0]
        else:
            held += text[at : match.start()]
            parts += [held, HASHES.ref(match)] if held else [HASHES.ref(match)]
            held = ""
        at = match.end()
    held += text[at:]
    if not parts:
        return held
    return Template(tuple([*parts, held] if held else parts))


def _evidence(text: str) -> dict[str, Any]:
    """The arguments of a reader: references at the end are its document. Raises RejectedTurn where there are none."""
    text = text.strip()
    end, found = len(text), list[Ref]()
    for match in reversed(list(HASHES.reference.finditer(text))):
        if text[match.end() : end].strip(" \t,;.") not in ("", "and"):
            break
        end = match.start()
        found.insert(0, HASHES.ref(match))
    if not found:
        raise RejectedTurn("malformed", "LLM[...] needs what to read: end it with the evidence, LLM[question #E1]")
    question = text[:end].rstrip(" \t,;:")
    given = next((words for words in _GIVEN if question.lower().endswith(words)), "")
    document: list[str | Ref] = [found[0]]
    for ref in found[1:]:
        document += ["\n\n", ref]
    asked = _plain(question[: len(question) - len(given)].rstrip(" \t,;"))
    return {"question": asked, "document": Template(tuple(document))}
