"""SWE-Gym: issues solved by OpenHands with native tool calls (arXiv 2412.21139).

Rows of SWE-Gym/OpenHands-Sampled-Trajectories, split train.raw: `{instance_id, run_id, resolved, messages, tools,
test_result}` with OpenAI messages whose arguments are JSON text.
"""

from __future__ import annotations

import re
from typing import Any

from fairtrial.formats.datasets.recipe import CALLS, Chat, Draft, Edit, Prefix, Recipe, numbered, turn
from fairtrial.formats.items import Item, arguments

_CODE = {"execute_bash": ("bash", "command"), "bash": ("bash", "command"), "execute_ipython_cell": ("python", "code")}
"""Tools that run code: name -> language and the parameter with the code."""


def tool_calls(entry: Any, draft: Draft) -> None:
    """Add an assistant turn with OpenAI tool calls; the published form repeats the thought on every call."""
    thought = None if entry.get("content") is None else turn(entry)[1]
    for call in entry["tool_calls"]:
        function = call["function"]
        rest = {} if draft.faithful else {"call_id": call.get("id")}
        given = arguments(function.get("arguments"), function["name"], draft.notes)
        add_call(function["name"], given, thought, draft, rest)
        if not draft.faithful:
            thought = None


def add_call(name: str, given: dict[str, Any], thought: str | None, draft: Draft, rest: dict[str, Any]) -> None:
    """Add one call: code where a tool only runs code, a final message where it is `finish`, else a call.

    Args:
        name: The tool.
        given: `kwargs`, and `malformed` where the arguments are no JSON object.
        thought: The text before the call.
        draft: What is added to.
        rest: Further fields of the item.
    """
    kwargs = given["kwargs"]
    if name == "finish" and "malformed" not in given:
        message = kwargs.get("message") or ("Task completed." if draft.faithful else "")
        draft.notes.invent("final answer convention", "<finish></finish>")
        if not kwargs.get("message") and message:
            draft.notes.invent("final answer", message)
        draft.said(f"<finish> {message} </finish>" if message else "<finish> </finish>", thought, **rest)
    elif (code := _CODE.get(name)) and isinstance(kwargs.get(code[1]), str) and (draft.faithful or len(kwargs) == 1):
        for parameter, value in kwargs.items():
            if parameter != code[1]:
                draft.lost(str(value))
        draft.ran(code[0], kwargs[code[1]], thought, **rest)
    else:
        draft.called(name, kwargs, thought, None, malformed=given.get("malformed"), **rest)


def _interleave(draft: Draft) -> None:
    """The published form puts each result of parallel calls right after its call, by position."""
    if not draft.faithful:
        return
    ordered: list[Item] = []
    at, content = 0, draft.content
    while at < len(content):
        stop = at
        while stop < len(content) and content[stop]["class_"] in CALLS:
            stop += 1
        calls, results = content[at:stop], content[stop : stop + stop - at]
        if len(calls) > 1 and all(item.get("source") == "environment" for item in results):
            for index, call in enumerate(calls):
                ordered += [call, *results[index : index + 1]]
            at = stop + len(results)
        else:
            ordered += content[at : max(stop, at + 1)]
            at = max(stop, at + 1)
    draft.content[:] = ordered


def without_nulls(value: Any) -> Any:
    """Schemas as they were before a columnar format filled absent keys with null."""
    if isinstance(value, dict):
        return {name: without_nulls(field) for name, field in value.items() if field is not None}
    return [without_nulls(field) for field in value] if isinstance(value, list) else value


def _build(value: Any, draft: Draft) -> None:
    _CHAT(value, draft)
    _interleave(draft)
    if not draft.faithful and value.get("tools"):
        draft.extra["tools"] = without_nulls(value["tools"])


def _said(content: str, draft: Draft) -> None:
    draft.said(content)


def _likes(value: Any) -> int:
    return 95 if {"instance_id", "run_id", "resolved", "messages", "test_result"} <= value.keys() else 0


_CHAT = Chat(
    _said,
    field="messages",
    first=(
        Edit(
            " with `python <filename.py>` using the BashTool, to confirm the error",
            ", to confirm the error",
            "faithful",
        ),
    ),
    prefixes=(Prefix("OBSERVATION:\n"),),
    calls=tool_calls,
)

SWE_GYM = Recipe(
    name="swe-gym",
    title="SWE-Gym, OpenHands trajectories (arXiv 2412.21139)",
    likes=_likes,
    build=_build,
    id=numbered("instance_id", re.compile(r"-\d+_\d+$")),
    solved="resolved",
    used=frozenset({"instance_id", "messages", "tools"}),
    published=("run_id", "resolved", "tools", "test_result"),
).format()
