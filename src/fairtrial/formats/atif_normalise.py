"""One way to say what agents say in many: `normalise` after reading traces of several harnesses that train together.

The rules are those that the ATIF-based Agent Data Protocol (June 2026) applies to raw ATIF, here for any row: thoughts
in `<think>` tags are reasoning, call ids are unique, shells, Pythons and final answers are one tool each, and texts
where a tool takes numbers, truth values or ranges are values. A second pass changes nothing.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson

from fairtrial.formats.atif_parts import NAME
from fairtrial.formats.format import Notes, Row
from fairtrial.formats.items import ACTIONS, Item
from fairtrial.formats.languages import normal_language

_BASH = frozenset({"bash", "shell", "sh", "terminal", "execute_bash", "run_shell_command"})
_PYTHON = frozenset({"python", "py", "python3", "ipython", "execute", "execute_ipython_cell"})
_FINISH = frozenset({"final_answer", "finish", "stop", "submit", "end"})
_ONE_ARGUMENT = {
    "bash": ("command", frozenset({"cmd", "script", "input", "code", "content"})),
    "python": ("code", frozenset({"command", "script", "source", "content", "cell"})),
}
_FINAL = ("answer", "final_answer", "output", "text", "result", "response")
_KINDS = {
    "view_range": "array",
    "insert_line": "integer",
    "task_completed": "boolean",
    "is_input": "boolean",
    "timeout": "number",
}
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False}
_TYPES: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "array": (list,), "boolean": (bool,)}


def normalise(row: Row, notes: Notes) -> Row:
    """The row with thoughts, call ids, tool names and arguments as said above; what was otherwise goes to `notes`."""
    kinds = _kinds(row)
    content = []
    renamed: dict[str, str] = {}
    for given in row.get("content", ()):
        item = given
        if item["class_"] in ACTIONS:
            item = _thought(item, notes)
        if item["class_"] == "api_action":
            item = _tool(item, kinds, notes)
            if item["function"] != given["function"] and "call_id" in item:
                renamed[item["call_id"]] = item["function"]
        elif item["class_"] == "text_observation" and "name" in item and item.get("call_id") in renamed:
            item = {**item, "name": renamed[item["call_id"]]}
        content.append(item)
    changed: Row = {**row, "content": _unique_ids(content, notes)}
    if tools := row.get("tools"):
        changed["tools"] = [_offered(tool) for tool in tools]
    if below := row.get("subagents"):
        changed["subagents"] = [normalise(subagent, notes) for subagent in below]
    return changed


def split_thought(text: str) -> tuple[str, str]:
    """(reasoning, the rest) of a text with `<think>` tags; a closing tag without an opening one ends the thought."""
    thoughts: list[str] = []
    while "</think>" in text:
        before, _, after = text.partition("</think>")
        start = before.rfind("<think>")
        thoughts.append(before[max(start, 0) + (7 if start >= 0 else 0) :].strip())
        outside = before[: max(start, 0)]
        text = (outside + after) if outside.strip() else after.lstrip()
    return "\n".join(thought for thought in thoughts if thought), text


def _thought(item: Item, notes: Notes) -> Item:
    field = "content" if item["class_"] == "message_action" else "description"
    text = item.get(field)
    if not text or "</think>" not in text:
        return item
    thought, rest = split_thought(text)
    if rest == text:
        return item
    notes.rewrite("text in <think> tags is reasoning", text)
    item = _without_raw(item, "step", "message")
    told = [item["reasoning"]] if item.get("reasoning") else []
    if thought:
        item["reasoning"] = "\n".join([*told, thought])
    item[field] = rest
    if field == "description" and not rest:
        del item[field]
    return item


def _without_raw(item: Item, place: str, key: str) -> Item:
    """A copy of the item that does not keep, from an ATIF file, the original of what changes now."""
    item = dict(item)
    own = item.get("extra", {}).get(NAME, {})
    if key in own.get(place, {}):
        kept = {name: value for name, value in own[place].items() if name != key}
        own = {name: value for name, value in {**own, place: kept}.items() if value}
        extra = {name: value for name, value in {**item["extra"], NAME: own}.items() if value}
        item["extra"] = extra
        if not extra:
            del item["extra"]
    return item


def _tool(item: Item, kinds: dict[tuple[str, str], str], notes: Notes) -> Item:
    function, kwargs = item["function"], item["kwargs"]
    name, arguments = _renamed(function, kwargs, "malformed" in item, notes)
    arguments = {key: _value(value, kinds.get((function, key)) or _KINDS.get(key)) for key, value in arguments.items()}
    if name == function and orjson.dumps(arguments) == orjson.dumps(kwargs):
        return item
    notes.rewrite("a call in another tool's words", orjson.dumps({"function": function, "kwargs": kwargs}).decode())
    return {**_without_raw(item, "call", "arguments"), "function": name, "kwargs": arguments}


def _renamed(function: str, kwargs: dict[str, Any], malformed: bool, notes: Notes) -> tuple[str, dict[str, Any]]:
    lowered = function.lower()
    if lowered == "execute_code" and isinstance(language := kwargs.get("language"), str):
        lowered = normal_language(language)
        rest = {key: value for key, value in kwargs.items() if key != "language"}
        name = _one(lowered)
        return (name, _one_argument(name, rest)) if name else (lowered, rest)
    if name := _one(lowered):
        return name, _one_argument(name, kwargs)
    if lowered in _FINISH:
        return "finish", kwargs if malformed else _final(kwargs, notes)
    return function, kwargs


def _one(lowered: str) -> str | None:
    return "bash" if lowered in _BASH else "python" if lowered in _PYTHON else None


def _one_argument(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    argument, aliases = _ONE_ARGUMENT[name]
    known = [key for key in kwargs if key in aliases]
    if argument in kwargs or len(known) != 1:
        return kwargs
    return {argument if key == known[0] else key: value for key, value in kwargs.items()}


def _final(kwargs: dict[str, Any], notes: Notes) -> dict[str, Any]:
    if "message" not in kwargs:
        alias = next((key for key in _FINAL if key in kwargs), None)
        kwargs = {"message": kwargs.get(alias, "") if alias else "", **{k: v for k, v in kwargs.items() if k != alias}}
    if "task_completed" not in kwargs:
        notes.invent("a final answer says that the task is completed", "true")
        kwargs = {**kwargs, "task_completed": True}
    return kwargs


def _kinds(row: Row) -> dict[tuple[str, str], str]:
    """(tool, argument) -> JSON type, as the tools offered say."""
    kinds = {}
    for tool in row.get("tools", ()):
        function = tool.get("function")
        parameters = function.get("parameters") if isinstance(function, dict) else None
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        for argument, schema in properties.items() if isinstance(properties, dict) else ():
            if isinstance(schema, dict) and isinstance(kind := schema.get("type"), str):
                kinds[function.get("name"), argument] = kind
    return kinds


def _value(value: Any, kind: str | None) -> Any:
    """A text where the tool takes another type, as a value of that type; unchanged where it is none."""
    if kind not in _TYPES or not isinstance(value, str):
        return value
    if kind == "boolean":
        return _BOOLEANS.get(value.strip().lower(), value)
    try:
        parsed = orjson.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, _TYPES[kind]) and not isinstance(parsed, bool) else value


def _offered(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool offered, by the name that its calls have now."""
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str):
        return tool
    new = _one(name.lower()) or ("finish" if name.lower() in _FINISH else name)
    return tool if new == name else {**tool, "function": {**function, "name": new}}


def _unique_ids(content: list[Item], notes: Notes) -> list[Item]:
    """Call ids used twice are renamed; the n-th result of an id goes with its n-th call."""
    taken = {item["call_id"] for item in content if "call_id" in item}
    fresh = (made for number in count(1) if (made := f"call_{number:06d}") not in taken)
    calls: dict[str, list[str]] = {}
    answered: dict[str, int] = {}
    done: list[Item] = []
    for item in content:
        id = item.get("call_id")
        if id is None:
            done.append(item)
            continue
        names = calls.setdefault(id, [])
        if item["class_"] in ACTIONS:
            names.append(id if not names else next(fresh))
            new = names[-1]
        else:
            if not (item.get("joined") and done and done[-1]["class_"] not in ACTIONS):
                answered[id] = answered.get(id, 0) + 1
            new = names[min(answered.get(id, 1), len(names)) - 1] if names else id
        if new != id:
            notes.rewrite("a call id that is used twice", id)
            item = {**item, "call_id": new}
        done.append(item)
    return done
