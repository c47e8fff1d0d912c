"""Mini-coder: issues solved by mini-swe-agent 1.x, one bash block a turn (ricdomolm/mini-coder-trajs-400k).

Rows: `{messages, patch, model, instance_id, verified, id}`; results are `<returncode>`/`<output>`.
"""

from __future__ import annotations

import re
from typing import Any

from fairtrial.formats.call_syntax import fences
from fairtrial.formats.datasets.recipe import Chat, Draft, Recipe, numbered, turn
from fairtrial.formats.datasets.signatures import by_name
from fairtrial.formats.datasets.swe_smith import TOOLS, by_shape
from fairtrial.formats.datasets.xml_calls import XmlTurn
from fairtrial.formats.format import Notes

_XML = XmlTurn(by_name(TOOLS), by_shape)
_REPEATED = numbered("instance_id")
_RESULT = re.compile(r"\s*<returncode>(-?\d+)</returncode>\s*<output>\n?(.*?)\n?</output>\s*", re.S)


def _turn(text: str, draft: Draft) -> None:
    blocks = fences(text)
    if "<function=" in text and not blocks:
        if not draft.faithful and text.startswith("THOUGHT:"):
            draft.markup("THOUGHT:")
            text = text.removeprefix("THOUGHT:")
        _XML(text, draft)
        return
    if not blocks:
        draft.said(text)
        return
    start, stop = blocks[0].span
    command, thought, rest = blocks[0].body, text[:start].strip(), text[stop:].strip()
    if thought.startswith("THOUGHT:"):
        draft.markup("THOUGHT:")
        thought = thought.removeprefix("THOUGHT:").strip()
    opening, _, ending = text[start:stop].partition("\n")
    draft.markup(opening, ending[len(command) :])
    draft.ran("bash", command, thought)
    if draft.faithful:
        draft.lost(rest)
    elif rest:
        draft.said(rest)


def _results(draft: Draft) -> None:
    """The published form has a result's output only; clean mode keeps the text and says whether it is an error."""
    for item in draft.content:
        if item["class_"] != "text_observation" or not (found := _RESULT.fullmatch(item["content"])):
            continue
        if draft.faithful:
            draft.lost(f"<returncode>{found[1]}</returncode><output></output>")
            item["content"], item["source"] = found[2], "environment"
        else:
            item["is_error"] = found[1] != "0"


def _likes(value: Any) -> int:
    if not {"messages", "instance_id", "verified"} <= value.keys():
        return 0
    role, text = turn(value["messages"][0])
    return 93 if role == "system" and "exactly ONE bash code block" in text else 60


def _id(value: Any, notes: Notes) -> str:
    return str(value["id"]) if value.get("id") else _REPEATED(value, notes)


MINI_CODER = Recipe(
    name="mini-coder",
    title="Mini-coder, mini-swe-agent 1.x trajectories",
    likes=_likes,
    build=Chat(_turn, field="messages"),
    id=_id,
    finish=_results,
    used=frozenset({"messages", "id"}),
    tools=TOOLS,
    offered=False,
).format()
