"""Synatra: single synthetic web steps, written as a Python file (arXiv 2409.15637).

Rows `{prompt, response}`. The prompt has the sections `# website`, `# observation of the current web page`,
`# objective` and `# past actions`, values in string assignments that are not escaped; the response has `# sub-task`,
`# step N: ...` with the reasoning (any number of lines), one call, and `# step summary:`.
"""

from __future__ import annotations

import re
from typing import Any

from fairtrial.core.ids import digest
from fairtrial.formats.call_syntax import parse_python_call
from fairtrial.formats.datasets.recipe import Draft, Recipe
from fairtrial.formats.datasets.signatures import signatures
from fairtrial.formats.datasets.steps import repeated
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item, api, message, text, web

_TOOLS = signatures(
    "scroll(delta_x: float, delta_y: float)",
    "type(bid: str, text: str)",
    "press(key_comb: str)",
    "stop(answer: str = '')",
    "new_tab(url: str)",
    "tab_focus(page_number: int)",
    "close_tab()",
    "click(bid: str)",
    "hover(bid: str)",
    "go_back()",
    "go_forward()",
    "goto(url: str)",
)
_CALLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "click": ("click", ("bid",)),
    "hover": ("hover", ("bid",)),
    "type": ("type", ("bid", "text")),
    "key_press": ("press", ("key_comb",)),
    "goto": ("goto", ("url",)),
    "new_tab": ("new_tab", ("url",)),
    "switch_tab": ("tab_focus", ("page_number",)),
    "go_back": ("go_back", ()),
    "go_forward": ("go_forward", ()),
    "close_tab": ("close_tab", ()),
    "scroll": ("scroll", ("direction",)),
    "stop": ("stop", ("answer",)),
}
"""The call as a response writes it -> the tool and its parameters, in the order of the values."""
_MARKS = (
    '# website\nwebsite = "',
    '"\n\n# observation of the current web page\nobservation = """',
    '"""\n\n# objective\nobjective = "',
    '"\n\n# past actions\n',
)
_ASK = "Generate the next action given the an objective, the current web page, and previous actions. \n\nObjective: "


def _likes(value: Any) -> int:
    if not {"prompt", "response"} <= value.keys():
        return 0
    return 92 if all(mark in value["prompt"] for mark in (_MARKS[0], _MARKS[3])) else 0


def _sections(prompt: str) -> tuple[str, str, str, str, str]:
    """Instruction, website, observation, objective and past actions of a prompt."""
    head, found, rest = prompt.partition(_MARKS[0])
    website, also, rest = rest.partition(_MARKS[1])
    # from the end: a page may hold anything
    rest, last, past = rest.rpartition(_MARKS[3])
    page, third, objective = rest.rpartition(_MARKS[2])
    if not (found and also and last and third):
        raise RowError("a prompt without the sections website, observation, objective and past actions")
    return head.strip(), website, page, objective, past


def _response(response: str) -> tuple[str, dict[str, Any], str, str]:
    """Tool, arguments, the thought (all text but the call) and the call as written."""
    lines = response.split("\n")
    found: list[tuple[int, str, dict[str, Any]]] = []
    for index, line in enumerate(lines):
        if "(" in line and line.lstrip()[:1] != "#":
            call = _call(line.strip())
            if call is not None:
                found.append((index, *call))
    if len(found) != 1:
        raise RowError(f"{len(found)} actions in a response where one is expected")
    index, function, kwargs = found[0]
    thought = "\n".join([*lines[:index], *lines[index + 1 :]]).strip()
    return function, kwargs, thought, lines[index]


def _call(line: str) -> tuple[str, dict[str, Any]] | None:
    try:
        name, positional, keywords = parse_python_call(line)
    except ValueError:
        return None
    if name not in _CALLS:
        return None
    function, names = _CALLS[name]
    values = [*positional, *keywords.values()]
    if len(values) > len(names):
        raise RowError(f"a call with {len(values)} arguments: {line[:80]!r}")
    return function, dict(zip(names, values, strict=False))


def _clean(value: Any, draft: Draft) -> None:
    instruction, website, page, objective, past = _sections(value["prompt"])
    function, kwargs, thought, written = _response(value["response"])
    draft.saw(instruction.strip('"'), "system")
    draft.saw(objective, "user")
    if past.strip():
        draft.content.append(text(past, "user", "past actions", joined=True))
    draft.content.append(web(axtree=page, url=website or None))
    draft.markup(*_MARKS)
    draft.syntax(written)
    if function == "stop":
        draft.content.append(message(str(kwargs.get("answer", "")), thought))
    else:
        draft.content.append(_action(function, kwargs, thought))


def _action(function: str, kwargs: dict[str, Any], thought: str) -> Item:
    if function == "scroll":
        direction = str(kwargs.get("direction", ""))
        if not direction.startswith(("down", "up")):
            raise RowError(f"scroll neither down nor up: {direction[:40]!r}")
        kwargs = {"delta_x": 0, "delta_y": 100 if direction.startswith("down") else -100}
    elif function == "tab_focus":
        number = str(kwargs.get("page_number", "")).strip()
        if not number.isdecimal():
            raise RowError(f"switch_tab without a number: {number[:40]!r}")
        kwargs = {"page_number": int(number)}
    else:
        kwargs = {name: str(value) for name, value in kwargs.items()}
    return api(function, kwargs, thought)


# as published: of the reasoning only the line that starts with "# step" is kept; the call is cut at commas and brackets

_PUBLISHED = ("click", "type", "hover", "key_press", "goto", "go_back", "go_forward", "new_tab", "close_tab")
_PUBLISHED += ("switch_tab", "stop", "scroll")


def _published(value: Any, draft: Draft) -> None:
    _, website, page, objective, past = _sections(value["prompt"])
    subtask = step = summary = ""
    call: tuple[str, list[str]] | None = None
    for line in value["response"].split("\n"):
        stripped = line.strip()
        if stripped.startswith("# sub-task "):
            subtask = stripped
        elif stripped.startswith("# step summary:"):
            summary = stripped
        elif stripped.startswith("# step"):
            step = stripped
        elif "# step" not in line and (name := _published_name(line)):
            bare = line.replace("element_id=", "").replace("string=", "").replace("'", "").replace('"', "")
            call = name, [part.strip() for part in re.split("[(),]", bare)]
        else:
            draft.lost(line)
    if call is None:
        raise RowError("no action in a response")
    thought = "".join((subtask and f"{subtask}.\n\n", step and f"{step}\n\n", summary and f"{summary}\n\n"))
    draft.saw(_ASK + objective, "user")
    draft.content.append(
        web(axtree=f"{page}\n\n# Previous Actions\n{past.replace('element_id', 'bid')}", url=website),
    )
    name, parts = call
    function, names = _CALLS[name]
    if name == "hover":
        raise RowError("an action that the published form has no tool for")
    if function == "scroll":
        draft.called("scroll", {"delta_x": 0, "delta_y": 100 if "down" in parts[1] else -100}, thought)
    elif function == "tab_focus":
        draft.called("tab_focus", {"page_number": parts[1]}, thought, quote="")
    else:
        draft.called(function, dict(zip(names, parts[1:], strict=False)), thought)


def _published_name(line: str) -> str | None:
    if "(" not in line or ")" not in line:
        return None
    for name in _PUBLISHED:
        if f"{name}(" in line and (name not in ("click", "type", "hover") or "(element_id=" in line):
            return name
    return None


def _build(value: Any, draft: Draft) -> None:
    if draft.faithful:
        _published(value, draft)
    else:
        _clean(value, draft)
    _, website, _, objective, _ = _sections(value["prompt"])
    draft.extra["details"] = {"task_description": objective, "website": website}


def _id(value: Any, notes: Notes) -> str:
    """Published: the row's number in the file; else by content, so that a part of the file gives the same ids."""
    if notes.faithful:
        return str(notes.repeat("synatra row") - 1)
    return repeated(f"synatra-{digest([value['prompt'], value['response']])[:16]}", notes)


SYNATRA = Recipe(
    name="synatra",
    title="Synatra (rows of prompt and response)",
    likes=_likes,
    build=_build,
    id=_id,
    used=frozenset({"prompt", "response"}),
    ending="never",
    tools=_TOOLS,
).format()
