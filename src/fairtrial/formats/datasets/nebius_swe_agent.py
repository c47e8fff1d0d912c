"""Nebius SWE-agent trajectories: issues solved with SWE-agent 0.x commands (nebius/SWE-agent-trajectories).

Rows: `{instance_id, model_name, target, trajectory: [{role: system|user|ai, text, system_prompt, ...}], exit_status,
generated_patch, eval_logs}`. An `ai` turn ends in a fenced command; commands of the editor are calls, others bash.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from fairtrial.formats.call_syntax import coerce, fences
from fairtrial.formats.datasets.recipe import Chat, Draft, Recipe, Unfit, bound, numbered
from fairtrial.formats.datasets.signatures import by_name, signatures

_TOOLS = signatures(
    "open(path: str, line_number: int = None)",
    "goto(line_number: int)",
    "scroll_down()",
    "scroll_up()",
    "create(filename: str)",
    "submit()",
    "search_dir(search_term: str, dir: str = None)",
    "search_file(search_term: str, file: str = None)",
    "find_file(file_name: str, dir: str = None)",
    "edit(start_line: int, end_line: int, replacement_text: str)",
)
_BY_NAME = by_name(_TOOLS)
_EDIT = re.compile(r"edit\s+(?:\S+\s+)?(\d+):(\d+)[ \t]*\n?(.*)end_of_edit\s*", re.S)
_LABEL = re.compile(r"^(?:DISCUSSION|COMMAND):?[ \t]*\n?", re.M)


def _turn(text: str, draft: Draft) -> None:
    blocks = fences(text)
    if not blocks:
        draft.said(text)
        return
    start, stop = blocks[-1].span
    command, before, after = blocks[-1].body, text[:start], text[stop:]
    arguments = _arguments(command, draft)
    if draft.faithful and arguments is None:
        draft.said(text)
        return
    opening, _, rest = text[start:stop].partition("\n")
    draft.markup(opening, rest[len(command) :], *_LABEL.findall(before))
    thought = _LABEL.sub("", before).strip()
    if draft.faithful and after.strip():
        thought = f"{thought}\n{after.strip()}".strip()
    if arguments:
        draft.syntax(command)
        _call(arguments[0], arguments[1], thought, draft)
    else:
        draft.ran("bash", command.strip() if draft.faithful else command, thought)
    if not draft.faithful and after.strip():
        draft.said(after.strip())


def _arguments(command: str, draft: Draft) -> tuple[str, dict[str, Any]] | tuple[()] | None:
    """Function and arguments; () where it is a command of the shell; None where an editor's command is malformed.

    Clean mode leaves to the shell whatever is not exactly one command of the editor.
    """
    malformed = None if draft.faithful else ()
    words = command.split(None, 1)
    name = words[0] if words else ""
    tool = _BY_NAME.get(name)
    if tool is None:
        return ()
    if name == "edit":
        found = _EDIT.fullmatch(command.strip() if draft.faithful else command)
        if not found:
            return malformed
        replacement = found[3].lstrip() if draft.faithful else found[3]
        return name, {"start_line": int(found[1]), "end_line": int(found[2]), "replacement_text": replacement}
    if not draft.faithful and "\n" in command.strip():
        return ()
    try:
        given = bound(tool, shlex.split(command)[1:])
    except (ValueError, Unfit):
        return malformed
    schemas = tool["function"]["parameters"]["properties"]
    values = {parameter: coerce(value, schemas[parameter]) for parameter, value in given.items()}
    # a word that is no number where one is due is something for the shell
    fit = all(isinstance(values[key], int) for key in values if schemas[key] == {"type": "integer"})
    return (name, values) if fit else malformed


def _call(function: str, kwargs: dict[str, Any], thought: str, draft: Draft) -> None:
    draft.called(function, kwargs, thought)
    if draft.faithful and function != "edit":
        # the published form has numbers as unquoted text here, in `edit` as numbers
        numbers = {name: str(value) for name, value in kwargs.items() if isinstance(value, int)}
        if numbers:
            printed = draft.content[-1].setdefault("extra", {}).setdefault("adp-v1", {}).setdefault("printed", {})
            printed.update(numbers)


_CHAT = Chat(_turn, field="trajectory", later="environment")


def _build(value: Any, draft: Draft) -> None:
    _CHAT(value, draft)
    dates = [entry["cutoff_date"] for entry in value["trajectory"] if entry.get("cutoff_date")]
    if draft.faithful:
        for date in dates:
            draft.lost(date)
    elif dates:
        draft.extra["details"] = {"cutoff_date": dates[0]}


def _likes(value: Any) -> int:
    return 95 if {"instance_id", "target", "trajectory", "generated_patch", "eval_logs"} <= value.keys() else 0


NEBIUS_SWE_AGENT = Recipe(
    name="nebius-swe-agent",
    title="Nebius SWE-agent trajectories (SWE-agent 0.x commands)",
    likes=_likes,
    build=_build,
    id=numbered("instance_id", re.compile(r"-\d+_\d+$")),
    solved="target",
    used=frozenset({"instance_id", "trajectory"}),
    published=("model_name", "exit_status", "generated_patch", "eval_logs"),
    tools=_TOOLS,
).format()
