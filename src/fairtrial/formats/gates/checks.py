"""The checks of one trajectory. Each follows a trap of data published before (its number in brackets)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from fairtrial.formats.format import Notes, Row
from fairtrial.formats.gates.findings import Finding
from fairtrial.formats.gates.grounding import Page, page_of, ungrounded
from fairtrial.formats.items import Item

CALLS = frozenset({"api_action", "code_action"})
MARKUP = (
    "<function=",
    "</function>",
    "<parameter=",
    "</parameter>",
    "<tool_call>",
    "<|tool_call",
    "<function_calls>",
    "<invoke name=",
    "<execute>",
    "<execute_",
)
"""Call syntax of common harnesses, which has no place in a thought or a message."""
_PRAISE = (
    "you have successfully solved the task",
    "your solution has been verified as correct",
    "well done on successfully completing the task",
    "satisfies the task requirements",
    "task completed successfully",
)
_CLOSING = (
    "i have successfully completed the task",
    "i did it! the task is now complete",
    "the objective has been achieved with no outstanding issues",
    "i have fulfilled all the requirements of the task",
    "i've wrapped up the task successfully",
)
_ENDERS = frozenset({"finish", "stop", "submit", "exit", "final_answer", "answer", "send_msg_to_user", "ask_user"})
"""Tools after which the user may speak, though a call came before."""
_FOR_TOOLS = ("<execute", "Action: Operation", "```sql", "```bash", "available actions", "Action:")
_ANSWERS = ("<finish>", "<solution>")


def check_row(row: Row, *, raw: Any = None, notes: Notes | None = None) -> list[Finding]:
    """All findings of one trajectory.

    Args:
        row: The trajectory.
        raw: What it was made from, where steps are to be compared. Text is accounted for in `coverage`, not here.
        notes: Of the conversion; one that leaves out a response says so there.
    """
    content: list[Item] = row.get("content", [])
    types = {
        tool["function"]["name"]: (tool["function"].get("parameters") or {}).get("properties") or {}
        for tool in row.get("tools") or ()
        if isinstance(tool.get("function"), dict) and "name" in tool["function"]
    }
    found: list[Finding] = []
    found += _call_ids(content)
    found += _each(content, types)
    found += _roles(content)
    found += _thoughts(content)
    found += _endings(content)
    found += _claims(row, content)
    if raw is not None:
        found += _steps(content, raw)
    return found


def _call_ids(content: list[Item]) -> Iterator[Finding]:
    """Pairing of calls and results."""
    calls: dict[str, int] = {}
    answered: set[str] = set()
    last_seen = -1
    for index, item in enumerate(content):
        action = item["class_"].endswith("_action")
        if not action:
            last_seen = index
        id = item.get("call_id")
        if id is None:
            continue
        if action:
            if id in calls:
                yield Finding("call ids", index, f"a second call with the id {id!r}")
            calls[id] = index
        elif id not in calls:
            yield Finding("call ids", index, f"a result of {id!r}, which is no call before it")
        else:
            answered.add(id)
    for id, index in calls.items():
        if id not in answered and index < last_seen and content[index]["class_"] in CALLS:
            yield Finding("call ids", index, f"the call {id!r} has no result")


def _each(content: list[Item], types: dict[str, Any]) -> Iterator[Finding]:
    """What can be seen at one item: grounding (1), call syntax in text (3), types (9), labels."""
    page: Page | None = None
    for index, item in enumerate(content):
        kind = item["class_"]
        if kind == "web_observation":
            page = page_of(item)
        if not kind.endswith("_action"):
            continue
        yield from _texts(index, item)
        if kind == "api_action":
            kwargs = item.get("kwargs") or {}
            for bid in ungrounded(kwargs, page)[1]:
                yield Finding("grounded elements", index, f"{item['function']} names {bid!r}, which is not in the page")
            if types:
                yield from _typed(index, item, types.get(item["function"]) or {})
        for fields in (item.get("extra") or {}).values():
            if isinstance(fields, dict) and "performed" in fields:
                yield Finding("labels performed", index, f"performed was {str(fields['performed'])[:80]!r}")


def _texts(index: int, item: Item) -> Iterator[Finding]:
    for field in ("description", "content") if item["class_"] == "message_action" else ("description",):
        text = item.get(field)
        if text and "<" in text:
            for mark in MARKUP:
                if mark in text:
                    yield Finding("call syntax in text", index, f"the {field} holds {mark!r}")
                    break


def _typed(index: int, item: Item, properties: dict[str, Any]) -> Iterator[Finding]:
    for name, value in (item.get("kwargs") or {}).items():
        declared = properties.get(name)
        if not isinstance(declared, dict):
            continue
        if declared.get("type") == "string" and isinstance(value, int | float | bool):
            yield Finding("arguments typed", index, f"{name} of {item['function']} is text, not {value!r}")
        elif declared.get("type") in ("integer", "number") and isinstance(value, str):
            yield Finding("arguments typed", index, f"{name} of {item['function']} is a number, not {value[:40]!r}")


def _roles(content: list[Item]) -> Iterator[Finding]:
    """Tool output labelled as the user's (5).

    Where the source labels other results as the environment's, a user's text after a call is the user's word.
    """
    with_ids = any("call_id" in item for item in content)
    after = [
        (index, item)
        for index, (before, item) in enumerate(pairwise(content), 1)
        if before["class_"] in CALLS and before.get("function") not in _ENDERS and "source" in item
    ]
    if not with_ids and any(item["source"] == "environment" for _, item in after):
        return
    for index, item in after:
        # with ids a missing result is seen there, and a user may interrupt
        if item["source"] in ("user", "agent") and not item.get("synthetic") and (not with_ids or "call_id" in item):
            yield Finding("roles", index, f"what follows a call comes from the {item['source']}")


def _thoughts(content: list[Item]) -> Iterator[Finding]:
    """One thought on each of several parallel calls (13)."""
    before: Item | None = None
    for index, item in enumerate(content):
        if item["class_"] not in CALLS:
            before = None
            continue
        thought = item.get("description")
        if thought and before is not None and before.get("description") == thought:
            yield Finding("one thought a response", index, "the thought of the call before it")
        before = item


def _endings(content: list[Item]) -> Iterator[Finding]:
    """Praise and closing words of a converter that are not marked (6)."""
    for index in range(max(0, len(content) - 2), len(content)):
        item = content[index]
        text = item.get("content")
        if item.get("synthetic") or not isinstance(text, str) or len(text) > 200:
            continue
        lowered = text.lower()
        if item["class_"] == "text_observation":
            if any(praise in lowered for praise in _PRAISE):
                yield Finding("synthetic tagged", index, f"not marked as synthetic: {text[:80]!r}")
        elif any(closing in f"{lowered} {(item.get('description') or '').lower()[:200]}" for closing in _CLOSING):
            yield Finding("synthetic tagged", index, f"not marked as synthetic: {text[:80]!r}")


def _claims(row: Row, content: list[Item]) -> Iterator[Finding]:
    """An answer in a task for tools without a single call (7)."""
    if not content or any(item["class_"] in CALLS or item["class_"] == "web_observation" for item in content):
        return
    last = content[-1]
    if last["class_"] != "message_action" or not last["content"].startswith(_ANSWERS):
        return
    asked = next((item["content"] for item in content if item["class_"] == "text_observation"), "")
    if row.get("tools") or any(mark in asked for mark in _FOR_TOOLS):
        yield Finding("claims without action", len(content) - 1, "an answer, and nothing was called before it")


def _steps(content: list[Item], raw: Any) -> Iterator[Finding]:
    """Responses of the source that are not in the trajectory (4)."""
    expected = responses(raw)
    if expected is None:
        return
    there = sum(
        1
        for item in content
        if (item["class_"].endswith("_action") or item.get("source") == "agent")
        and not item.get("joined")
        and not item.get("synthetic")
    )
    if there < expected:
        yield Finding("steps conserved", None, f"{there} of the source's {expected} responses are here")


_TURNS = ("steps", "messages", "conversations", "trajectory")
_SPEAKERS = frozenset({"assistant", "gpt", "ai"})


def responses(raw: Any) -> int | None:
    """How many responses of a model a raw value holds, where that can be told: steps, or turns of an assistant."""
    if not isinstance(raw, dict):
        return None
    for name in _TURNS:
        turns = raw.get(name)
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
            continue
        if name == "steps":
            return len(turns)
        speakers = [turn.get("role") or turn.get("from") for turn in turns]
        if any(speaker in _SPEAKERS for speaker in speakers):
            return sum(speaker in _SPEAKERS for speaker in speakers)
    return None
