"""Which lines of a Claude Code session are the conversation, and in which order.

Lines are linked by `parentUuid`; file order is only where links are missing. A retry or an edited prompt forks the
chain: the main line is the one that ends at the last line of the conversation. Parallel calls fork it too, since every
result hangs on its own call: those lines belong to the response, wherever the chain runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fairtrial.formats.format import Notes

_SPOKEN = ("user", "assistant")


class Line:
    """A line of a session with its number, from 1, and what the threads ask about it."""

    __slots__ = ("blocks", "number", "response", "shown", "spoken", "type", "uuid", "value")

    def __init__(self, number: int, value: dict[str, Any]) -> None:
        self.number, self.value = number, value
        self.type, uuid, message = value.get("type"), value.get("uuid"), value.get("message")
        self.uuid = uuid if isinstance(uuid, str) else None
        self.spoken = self.type in _SPOKEN and isinstance(message, dict)
        """Whether it is a message of the user or the model."""
        self.shown = self.spoken or (self.type == "system" and (is_boundary(value) or is_local_command(value)))
        """Whether the conversation has a place for it: messages, compactions, local commands."""
        self.response: str | None = None
        """The id of the API message that it is a part of."""
        self.blocks: list[Any] = []
        """The blocks of its message; empty where that is a text."""
        if self.spoken and isinstance(message, dict):
            content, name = message.get("content"), message.get("id")
            if isinstance(content, list):
                self.blocks = content
            if self.type == "assistant" and isinstance(name, str):
                self.response = name


def is_boundary(value: dict[str, Any]) -> bool:
    """Whether a line says that the context before it was compacted."""
    return value.get("type") == "system" and value.get("subtype") == "compact_boundary"


def is_local_command(value: dict[str, Any]) -> bool:
    """Whether a line is a slash command or its output, which newer versions write as system lines."""
    return (
        value.get("type") == "system"
        and value.get("subtype") == "local_command"
        and isinstance(value.get("content"), str)
    )


def main_line(lines: list[Line], notes: Notes) -> list[Line]:
    """The conversation in order: the chain up from the last message, with the parallel calls and results beside it."""
    chain = _chain(lines, notes)
    if not chain:
        return []
    on_chain = {id(line) for line in chain}
    responses = {line.response for line in chain} - {None}
    beside: dict[str | None, list[Line]] = {}
    for line in lines:
        if id(line) not in on_chain and line.response in responses:
            beside.setdefault(line.response, []).append(line)
    answers = _answers(lines, chain, beside, on_chain)
    ordered: list[Line] = []
    last = {line.response: position for position, line in enumerate(chain)}
    for position, line in enumerate(chain):
        ordered.append(line)
        name = line.response
        if name is not None and last[name] == position:
            ordered += beside.get(name, ())
            ordered += answers.get(name, ())
    return [line for line in _results_last(ordered) if line.shown]


def _chain(lines: list[Line], notes: Notes) -> list[Line]:
    known: dict[str, int] = {}
    for position, line in enumerate(lines):
        if line.uuid is not None:
            known.setdefault(line.uuid, position)
    at = next((n for n in range(len(lines) - 1, -1, -1) if lines[n].shown), None)
    found: list[Line] = []
    seen: set[int] = set()
    while at is not None:
        if at in seen:
            notes.flaw("looped thread", f"line {lines[at].number} is its own ancestor")
            break
        seen.add(at)
        found.append(lines[at])
        at = _parent(lines, at, known, notes)
    found.reverse()
    return found


def _parent(lines: list[Line], at: int, known: dict[str, int], notes: Notes) -> int | None:
    value = lines[at].value
    named = value.get("parentUuid") or value.get("logicalParentUuid")
    if isinstance(named, str) and named in known:
        return known[named]
    compacted = is_boundary(value) or value.get("isCompactSummary") is True
    if named is None and "parentUuid" in value and not compacted:
        return None
    if named is not None:
        notes.flaw("missing parent", f"line {lines[at].number} follows {named!r}, which is not in the file")
    return next((n for n in range(at - 1, -1, -1) if lines[n].shown), None)


def _answers(
    lines: list[Line], chain: list[Line], beside: dict[str | None, list[Line]], on_chain: set[int]
) -> dict[str, list[Line]]:
    """Results of the conversation's calls that hang beside the chain, by response."""
    owner: dict[str, str] = {}
    for line in [*chain, *(line for group in beside.values() for line in group)]:
        if line.response is not None:
            for call in _named(line, "tool_use", "id"):
                owner[call] = line.response
    answered = {call for line in chain for call in _named(line, "tool_result", "tool_use_id")}
    found: dict[str, list[Line]] = {}
    for line in lines:
        if id(line) in on_chain or line.type != "user":
            continue
        results = _named(line, "tool_result", "tool_use_id")
        calls = [call for call in results if call in owner and call not in answered]
        if calls and len(calls) == len(results):
            answered.update(calls)
            found.setdefault(owner[calls[0]], []).append(line)
    return found


def _named(line: Line, kind: str, field: str) -> list[str]:
    """A field of the line's blocks of one kind: ids of calls, or of the calls that results answer."""
    found = [block.get(field) for block in line.blocks if isinstance(block, dict) and block.get("type") == kind]
    return [call for call in found if isinstance(call, str)]


def _results_last(lines: list[Line]) -> list[Line]:
    """Lines with those of one response together: results that came while the model still wrote follow it."""
    last = {line.response: position for position, line in enumerate(lines) if line.response is not None}
    ordered: list[Line] = []
    held: list[Line] = []
    until = -1
    for position, line in enumerate(lines):
        if line.response is not None:
            if position > until and held:
                ordered += held
                held = []
            until = max(until, last[line.response])
        if position < until and line.response is None:
            held.append(line)
            continue
        ordered.append(line)
        if position == until:
            ordered += held
            held = []
    return ordered + held


def counts(values: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many lines there are of each type."""
    found: dict[str, int] = {}
    for value in values:
        name = str(value.get("type", "")) or "no type"
        found[name] = found.get(name, 0) + 1
    return found
