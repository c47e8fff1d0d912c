"""The planner `react`: one call a turn (ReAct, 2210.03629), as `<tool_call>` JSON or as `Action:` / `Action Input:`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from fairtrial.agents.context.tags import elements
from fairtrial.agents.planners.plan import Node
from fairtrial.agents.planners.planner import Move, RejectedTurn
from fairtrial.agents.planners.reading import (
    ANSWER_RULE,
    Found,
    answer_text,
    answered,
    example,
    json_object,
    json_text,
    settled,
    tool_list,
)
from fairtrial.core.config import Config
from fairtrial.models.model import ToolCall

_ACTION = re.compile(r"^[ \t]*Action:([^\n]*)", re.MULTILINE)
_INPUT = re.compile(r"\s*Action Input:\s*")
_FORMS = {
    "tool_call": '<tool_call>{"name": "TOOL", "arguments": {...}}</tool_call>',
    "action": "a line Action: TOOL and a line Action Input: {...}",
}


class ReactSettings(Config):
    """Settings of `react`."""

    dialect: Literal["tool_call", "action"] = "tool_call"
    """What the rules ask for; both are read."""


class React:
    """One call a turn."""

    settings_type = ReactSettings
    native = False

    def __init__(self, settings: ReactSettings) -> None:
        self._dialect = settings.dialect

    def rules(self, tools: Sequence[dict[str, Any]]) -> str:
        """The tools, the form of a call and that of the answer."""
        if not tools:
            return ANSWER_RULE
        call, _ = self.write(Move(plan=example(tools, references=False)))
        return f"{tool_list(tools)}\n\nCall one tool at a time and wait for its result:\n{call}\n\n{ANSWER_RULE}"

    def read(self, text: str, tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> Move:
        """The call or the answer. Raises RejectedTurn."""
        answer, rest = answered(text)
        found = [*_tagged(rest), *_lines(rest)]
        if len(found) > 1:
            raise RejectedTurn("two-moves", f"the turn makes {len(found)} calls: make one and wait for its result")
        return settled(text, found[0] if found else None, answer, tools, 1, _FORMS[self._dialect])

    def write(self, move: Move) -> tuple[str, tuple[ToolCall, ...]]:
        """The turn's text. Raises ValueError for a plan of several calls."""
        if move.plan is None:
            return answer_text(move), ()
        if len(move.plan.nodes) != 1 or move.plan.nodes[0].deps:
            raise ValueError("react makes one call a turn")
        node = move.plan.nodes[0]
        if self._dialect == "action":
            return f"Action: {node.tool}\nAction Input: {json_text(node.args)}", ()
        call = json_text({"name": node.tool, "arguments": node.args})
        return f"<tool_call>{call}</tool_call>", ()


def _tagged(text: str) -> list[Found]:
    found: list[Found] = []
    for element in elements(text):
        if element.tag != "tool_call":
            continue
        call = json_object(element.inner)
        if call is None or not isinstance(call.get("name"), str) or set(call) - {"name", "arguments"}:
            raise RejectedTurn(
                "malformed", 'inside <tool_call> there is no JSON of the form {"name": "TOOL", "arguments": {...}}'
            )
        arguments = call.get("arguments", {})
        good = isinstance(arguments, dict)
        node = Node("1", call["name"], arguments if good else {}, malformed=None if good else json.dumps(arguments))
        found.append(Found((node,), text[element.start : element.end]))
    if not found and "<tool_call>" in text:
        raise RejectedTurn("malformed", "<tool_call> is not closed: end it with </tool_call>")
    return found


def _lines(text: str) -> list[Found]:
    found: list[Found] = []
    for action in _ACTION.finditer(text):
        begin = _INPUT.match(text, action.end())
        if begin is None:
            raise RejectedTurn(
                "malformed", f'behind "Action: {action[1].strip()}" there is no line Action Input: {{...}}'
            )
        try:
            _, end = json.JSONDecoder(strict=False).raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            end = len(text)
        arguments = json_object(text[begin.end() : end])
        if re.match(r"\s*Observation:", text[end:]):
            raise RejectedTurn("observation", "results come from the tools: end the turn behind Action Input")
        malformed = None if arguments is not None else text[begin.end() : end]
        found.append(
            Found((Node("1", action[1].strip(), arguments or {}, malformed=malformed),), text[action.start() : end])
        )
    return found
