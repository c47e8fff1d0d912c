"""CodeActInstruct: tasks solved by Python in `<execute>`, answers in `<solution>` (arXiv 2402.01030).

Rows of xingyaoww/code-act, split codeact: `{id, conversations: [{role, content}]}`.
"""

from __future__ import annotations

import re
from typing import Any

from fairtrial.formats.datasets.recipe import Chat, Draft, Edit, Prefix, Recipe, append, turn
from fairtrial.formats.datasets.signatures import signatures

_TAG = re.compile(r"<(execute|solution)>(.*?)</\1>", re.S)
_CHANCES = (
    "\n\nYou have 5 chances to interact with the environment or propose a solution."
    " You can only propose a solution 2 times."
)
_TAGS_ASKED_FOR = "please use <execute> YOUR_CODE_HERE </execute>."


def _turn(text: str, draft: Draft) -> None:
    end = 0
    for found in _TAG.finditer(text):
        before = text[end : found.start()].strip()
        draft.markup(f"<{found[1]}>", f"</{found[1]}>")
        if found[1] == "execute":
            draft.ran("python", found[2].strip(), before)
        else:
            draft.solution(found[2].strip(), before)
        end = found.end()
        if draft.faithful:
            draft.lost(text[end:])
            return
    if end == 0:
        draft.said(text)
    elif (rest := text[end:].strip()) and rest not in ".!":
        draft.said(rest)
    else:
        draft.markup(rest)


def _likes(value: Any) -> int:
    role, text = turn(value["conversations"][0])
    return 94 if role == "system" and "<execute>" in text and "<solution>" in text else 0


CODEACTINSTRUCT = Recipe(
    name="codeactinstruct",
    title="CodeActInstruct, split codeact (arXiv 2402.01030)",
    likes=_likes,
    build=Chat(
        _turn,
        first=(append(_CHANCES, "faithful"),),
        every=(Edit(_TAGS_ASKED_FOR, "please follow the instructions.", "faithful"),),
        prefixes=(Prefix("Task:\n", "user"), Prefix("Observation:\n", published="user")),
    ),
    used=frozenset({"id", "conversations"}),
    tools=signatures(
        "wikipedia_search(query: str)",
        "put(object: str, receptacle: str)",
        "goto(receptacle: str)",
        "take_from(object: str, receptacle: str)",
        "open_receptacle(receptacle: str)",
        "toggle(object_or_receptacle: str)",
        "close_receptacle(receptacle: str)",
        "clean(object: str, receptacle: str)",
        "heat(object: str, receptacle: str)",
        "cool(object: str, receptacle: str)",
        "use(receptacle: str)",
        "look()",
    ),
    offered=False,
).format()
