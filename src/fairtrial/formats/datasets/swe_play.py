"""SWE-Play: tasks of generated projects solved by OpenHands, calls as `<function=NAME>` blocks (arXiv 2512.12216).

Rows: `{messages, category, source, id}`. The last call of a row is often cut off before its closing tag.
"""

from __future__ import annotations

from typing import Any

from fairtrial.formats.datasets.recipe import Chat, Draft, Recipe, turn
from fairtrial.formats.datasets.signatures import by_name, signatures
from fairtrial.formats.datasets.xml_calls import XmlTurn

_TOOLS = signatures(
    "execute_bash(command: str, is_input: Literal['true', 'false'] = 'false')",
    "str_replace_editor(command: Literal['view', 'create', 'str_replace', 'insert', 'undo_edit'], path: str,"
    " file_text: str = None, old_str: str = None, new_str: str = None, insert_line: int = None,"
    " view_range: list[int] = None)",
    "think(thought: str)",
    "finish(message: str, task_completed: Literal['true', 'false'] = 'true')",
)
_XML = XmlTurn(by_name(_TOOLS))
_RESULT = "EXECUTION RESULT of ["


def _turn(text: str, draft: Draft) -> None:
    if not draft.faithful and text.startswith("<finish>\n<parameter="):
        draft.notes.flaw("malformed call", "the call of finish is written <finish> instead of <function=finish>")
        draft.notes.rewrite("call syntax", "<finish></finish>")
        text = "<function=finish>" + text.removeprefix("<finish>").rstrip().removesuffix("</finish>") + "</function>"
    _XML(text.strip() if draft.faithful else text, draft)


def _named(draft: Draft) -> None:
    """Results name their tool in their first line; clean mode puts the name where names are."""
    for item in draft.content:
        if item["class_"] != "text_observation" or not item["content"].startswith(_RESULT):
            continue
        item["source"] = "environment"
        name, closing, rest = item["content"][len(_RESULT) :].partition("]:\n")
        if closing and not draft.faithful:
            draft.notes.rewrite("the tool's name in its field", f"{_RESULT}{name}{closing}")
            item["content"], item["name"] = rest, name


def _likes(value: Any) -> int:
    if not {"messages", "category", "source"} <= value.keys():
        return 0
    role, text = turn(value["messages"][0])
    return 92 if role == "system" and "<function=" in text else 60


SWE_PLAY = Recipe(
    name="swe-play",
    title="SWE-Play, OpenHands trajectories (arXiv 2512.12216)",
    likes=_likes,
    build=Chat(_turn, field="messages"),
    finish=_named,
    used=frozenset({"messages", "id"}),
    published=("category", "source"),
    tools=_TOOLS,
).format()
