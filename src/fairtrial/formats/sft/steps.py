"""What of a trajectory is written for training, and in which order: shared by the harness exports.

Left out, each time through `notes.drop`: synthetic text (unless asked for), what may not be learned from (`loss` false)
with its results, other programs' system prompts, hidden reasoning, runs of sub-agents. Parallel calls, which none of
the three harnesses can make, become calls one after the other, each followed by its own results; the thought stays on
the first (one thought per response), and text behind the calls of a response comes before them.
"""

from __future__ import annotations

import ast
import shlex
from dataclasses import dataclass, field
from typing import Any

from fairtrial.formats.format import Notes, Row
from fairtrial.formats.items import Item, is_action
from fairtrial.formats.sft.printing import json_text

CALLS = frozenset({"api_action", "code_action"})

SHELLS = frozenset(
    {"bash", "sh", "shell", "terminal", "execute_bash", "run_bash", "exec_command", "local_shell", "shell_command"}
    | {"run_terminal_cmd", "run_command"}
)
PYTHONS = frozenset({"python", "py", "python3", "ipython", "execute_python", "execute_ipython_cell", "run_ipython"})
EDITORS = frozenset({"str_replace_editor", "str_replace_based_edit_tool"})
FINISHES = frozenset({"finish", "final_answer", "submit", "stop", "end", "task_done"})
_CODE_ARGUMENTS = ("command", "cmd", "code", "script", "input")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a harness export is set up; everything left at None is read off the trajectory."""

    system: str | None = None
    """The harness's own system prompt. By default a short one in our words, with the same tools and call syntax."""
    web: bool | None = None
    """Whether dataset functions are actions in the browser. By default: the trajectory has a web page."""
    environment: str | None = None
    """OpenHands tool in which dataset functions are called. By default browser (web), else execute_bash where the
    trajectory runs bash and no Python, else execute_ipython_cell."""
    prefixes: bool | None = None
    """One record for each prefix that ends in an action. By default for web trajectories, unless faithful."""
    budget: int = 70_000
    """Characters that the turns of one prefix may have; the oldest pages are left out first."""


@dataclass(slots=True)
class Step:
    """A call with its results, or one other item."""

    item: Item
    results: list[Item] = field(default_factory=list[Item])


def is_web(row: Row, settings: Settings) -> bool:
    """Whether the agent acted in a browser."""
    if settings.web is not None:
        return settings.web
    return any(item["class_"] == "web_observation" for item in row.get("content", ()))


def steps(row: Row, notes: Notes) -> list[Step]:
    """The trajectory's steps in the order in which a harness without parallel calls would have them."""
    items = _without_endings(list(row.get("content", ())), notes)
    if row.get("subagents"):
        notes.drop("run of a sub-agent", ", ".join(str(run.get("id")) for run in row["subagents"]))
    found: list[Step] = []
    index = 0
    while index < len(items):
        if not is_action(items[index]):
            found.append(Step(items[index]))
            index += 1
            continue
        response = [items[index]]
        while (index := index + 1) < len(items) and is_action(items[index]) and items[index].get("joined"):
            response.append(items[index])
        seen: list[Item] = []
        while index < len(items) and not is_action(items[index]):
            seen.append(items[index])
            index += 1
        found += _response(response, seen)
    return [kept for step in found if (kept := _trained(step, notes)) is not None]


def _response(response: list[Item], seen: list[Item]) -> list[Step]:
    """One model response and what was seen before the next: text first, then each call with its results."""
    calls = [Step(item) for item in response if item["class_"] in CALLS]
    texts = [Step(item) for item in response if item["class_"] not in CALLS]
    if not calls:
        return texts + [Step(item) for item in seen]
    by_id = {step.item["call_id"]: step for step in calls if step.item.get("call_id")}
    named = {item["call_id"] for item in seen if item.get("call_id")}
    waiting = [step for step in calls if step.item.get("call_id") not in named]
    rest: list[Step] = []
    holder: list[Item] | None = None
    for item in seen:
        if item.get("joined") and holder is not None:
            holder.append(item)
            continue
        holder = None
        owner = by_id.get(item.get("call_id"))
        if owner is None and not rest and _is_result(item) and not item.get("call_id") and waiting:
            owner = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if owner is None:
            rest.append(Step(item))
        else:
            holder = owner.results
            holder.append(item)
    return texts + calls + rest


def _is_result(item: Item) -> bool:
    return item["class_"] == "web_observation" or item.get("source") == "environment"


def _without_endings(items: list[Item], notes: Notes) -> list[Item]:
    """Without the synthetic items at the end, unless they are asked for."""
    if notes.endings or notes.faithful:
        return items
    while items and items[-1].get("synthetic"):
        notes.drop("synthetic ending", _text(items.pop()))
    return items


def _trained(step: Step, notes: Notes) -> Step | None:
    """The step, or None where training may not see it."""
    item = step.item
    reason = None
    if item.get("loss") is False:
        reason = "not to be learned from"
    elif item.get("synthetic") and is_action(item) and not (notes.endings or notes.faithful):
        reason = "synthetic action"
    elif item.get("malformed") is not None:
        reason = "call with malformed arguments"
    elif item.get("source") == "system" and item.get("name") != "compaction":
        reason = "another program's system prompt"
    if reason is not None:
        notes.drop(reason, _text(item))
        for result in step.results:
            notes.drop(f"result of what was left out: {reason}", _text(result))
        return None
    if item.get("reasoning"):
        notes.drop("hidden reasoning", item["reasoning"])
    step.results = [result for result in step.results if _learnable(result, notes)]
    return step


def _learnable(result: Item, notes: Notes) -> bool:
    if result.get("loss") is False:
        notes.drop("not to be learned from", _text(result))
        return False
    return True


def _text(item: Item) -> str:
    parts = [item.get("description"), item.get("content"), item.get("function"), item.get("axtree")]
    if item.get("kwargs"):
        parts.append(json_text(item["kwargs"]))
    return "\n".join(part for part in (*parts, item.get("malformed")) if part)


def as_code(item: Item, notes: Notes) -> tuple[str, str, dict[str, Any]] | None:
    """(language, code, other arguments) of a code action, and of a call to a shell or Python tool; else None."""
    if item["class_"] == "code_action":
        name = item["language"].lower()
        language = "bash" if name in ("bash", "sh", "shell", "zsh") else "python" if name in PYTHONS else name
        return ("python3" if name == "python3" else language), item["content"], {}
    name = item["function"].lower()
    if name not in SHELLS and name not in PYTHONS:
        return None
    kwargs: dict[str, Any] = item["kwargs"]
    key = next((key for key in _CODE_ARGUMENTS if key in kwargs), None)
    if key is None:
        return None
    code = kwargs[key]
    if isinstance(code, list) and code and all(isinstance(word, str) for word in code):
        code = _command_line(code)
    if not isinstance(code, str):
        return None
    return ("bash" if name in SHELLS else "python"), code, {k: v for k, v in kwargs.items() if k != key}


def _command_line(argv: list[str]) -> str:
    if len(argv) == 3 and argv[0].rsplit("/", 1)[-1] in ("bash", "sh") and argv[1] in ("-c", "-lc"):
        return argv[2]
    return shlex.join(argv)


def fitting(name: str, kwargs: dict[str, Any], allowed: tuple[str, ...], notes: Notes) -> dict[str, Any]:
    """The arguments that a harness's tool has a place for; absent (null) ones and the others are left out."""
    kept = {key: value for key, value in kwargs.items() if key in allowed and value is not None}
    for key, value in kwargs.items():
        if key not in allowed and value is not None:
            notes.drop(f"argument that the harness's {name} does not have", f"{key}={json_text(value)}")
    return kept


def printed(item: Item, notes: Notes) -> dict[str, str]:
    """The source's own spelling of argument values, for the published form; a spelling that means another value not."""
    if not notes.faithful:
        return {}
    spelled = item.get("extra", {}).get("adp-v1", {}).get("printed", {})
    return {key: text for key, text in spelled.items() if _means(text, item["kwargs"].get(key))}


def _means(text: str, value: Any) -> bool:
    try:
        return ast.literal_eval(text) == value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def finish_message(item: Item) -> tuple[str, str] | None:
    """(text outside, text inside) of a message that is marked as the final answer; else None."""
    content: str = item["content"]
    start = content.find("<finish>")
    end = content.rfind("</finish>")
    if start < 0 or end < start:
        return None
    outside = content[:start].strip() + ("\n\n" if content[:start].strip() and content[end + 9 :].strip() else "")
    return outside + content[end + 9 :].strip(), content[start + 8 : end].strip()
