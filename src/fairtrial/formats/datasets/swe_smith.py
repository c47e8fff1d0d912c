"""SWE-smith trajectories: issues solved by SWE-agent (SWE-bench/SWE-smith-trajectories, arXiv 2504.21798).

Rows of the splits tool, xml and ticks: `{messages, instance_id, resolved, model, traj_id, patch}`; `messages` is a list
or JSON text. Calls are OpenAI tool calls, `<function=NAME>` blocks, or the last fenced block of a turn.
"""

from __future__ import annotations

from typing import Any

import orjson

from fairtrial.formats.call_syntax import fences
from fairtrial.formats.datasets.recipe import Chat, Draft, Prefix, Recipe, Unfit, numbered, turn
from fairtrial.formats.datasets.signatures import by_name, signatures
from fairtrial.formats.datasets.swe_gym import tool_calls
from fairtrial.formats.datasets.xml_calls import XmlTurn
from fairtrial.formats.format import Notes
from fairtrial.formats.items import is_action

TOOLS = signatures(
    "str_replace_editor(command: str, path: str, file_text: str = None, old_str: str = None, new_str: str = None,"
    " insert_line: int = None, view_range: list[int] = None)",
    "submit()",
)
_SUFFIX = numbered("traj_id")


def by_shape(text: str) -> Any:
    """The value that the published form makes of a text: lists, whole numbers, true and false by their look."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return orjson.loads(text)
        except ValueError:
            return text
    if text.isdigit():
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text)


_XML = XmlTurn(by_name(TOOLS), by_shape)


def _turn(text: str, draft: Draft) -> None:
    blocks = () if draft.faithful or "<function=" in text else fences(text)
    if not blocks or blocks[-1].word not in ("", "bash", "sh"):
        _XML(text, draft)
        return
    start, stop = blocks[-1].span
    command, thought, rest = blocks[-1].body, text[:start], text[stop:].strip()
    if command.strip() == "submit":
        draft.syntax(text[start:stop])
        draft.called("submit", {}, thought)
    else:
        opening, _, ending = text[start:stop].partition("\n")
        draft.markup(opening, ending[len(command) :])
        draft.ran("bash", command, thought)
    if rest:
        draft.said(rest)


def _called(entry: Any, draft: Draft) -> None:
    # the published form reads the text only
    if draft.faithful:
        _turn(turn(entry)[1], draft)
    else:
        tool_calls(entry, draft)


def _submitted(draft: Draft) -> None:
    actions = [item for item in draft.content if is_action(item)]
    last = (draft.content if draft.faithful else actions)[-1:]
    if not last or last[0].get("function") != "submit":
        raise Unfit("does not end in submit")


def _id(value: Any, notes: Notes) -> str:
    return str(value["id"]) if value.get("id") else _SUFFIX(value, notes)


def _likes(value: Any) -> int:
    return 95 if {"messages", "instance_id", "resolved", "traj_id", "patch"} <= value.keys() else 0


SWE_SMITH = Recipe(
    name="swe-smith",
    title="SWE-smith trajectories, SWE-agent 1.x (arXiv 2504.21798)",
    likes=_likes,
    build=Chat(
        _turn,
        field="messages",
        prefixes=(Prefix("OBSERVATION:\n"),),
        calls=_called,
    ),
    id=_id,
    solved="resolved",
    finish=_submitted,
    used=frozenset({"messages", "id"}),
    ending="always",
    tools=TOOLS,
).format()
