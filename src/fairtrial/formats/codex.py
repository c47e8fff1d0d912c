"""Codex rollouts: one JSONL file is one trajectory.

Read against the protocol of codex-rs 0.20 to 0.140 and the rollouts before it, which have no envelope. Two logs lie in
one file: what the model exchanged (`response_item`) and what was shown (`event_msg`). The first is read; an event that
only mirrors it is kept with its place, one that nothing mirrors becomes an item. A rollout is written again exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.core.ids import digest
from fairtrial.formats.anthropic_blocks import keep
from fairtrial.formats.codex_lines import NS, encode
from fairtrial.formats.codex_parts import (
    Piece,
    arguments_of,
    call_of,
    failed,
    is_call,
    is_output,
    message_items,
    output_items,
    reasoning_of,
)
from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError, Skip
from fairtrial.formats.items import Item, text

_KINDS = frozenset({"session_meta", "turn_context", "response_item", "event_msg", "compacted", "world_state"})
_BARE = frozenset(
    {"message", "reasoning", "function_call", "function_call_output", "local_shell_call", "custom_tool_call"}
    | {"custom_tool_call_output", "web_search_call"}
)


def _likes(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    kind = value.get("type")
    if isinstance(value.get("payload"), dict) and isinstance(kind, str):
        return 96 if kind in _KINDS else 72 if "timestamp" in value else 0
    if value == {"record_type": "state"}:
        return 95
    if "type" not in value and "instructions" in value and {"id", "timestamp"} <= value.keys():
        return 92
    # items of the Responses API without an envelope: an old rollout, or a file of that API's own items
    return 45 if isinstance(kind, str) and kind in _BARE else 0


def _gather(values: Iterator[Numbered]) -> Iterator[Numbered]:
    """A file's lines as one rollout; what cannot be read is told in its place and the rest goes on."""
    lines: list[list[Any]] = []
    for item in values:
        if item.problem is not None:
            yield item
        else:
            lines.append([item.line, item.value])
    if lines:
        yield Numbered(lines[0][0], {"lines": lines})


def _decode(value: Any, notes: Notes) -> Row | Skip:
    pairs = list(enumerate(value, 1)) if isinstance(value, list) else value.get("lines")
    if not isinstance(pairs, list):
        raise RowError("not the lines of a rollout")
    lines = [_Line(number, line) for number, line in pairs]
    run = _Run(notes, lines)
    for line in lines:
        run.take(line)
    run.close()
    if not run.content:
        if any(_likes(line.value) for line in lines):
            return Skip("a rollout without a message")
        raise RowError("not the lines of a rollout")
    own: dict[str, Any] = {"other": run.other}
    if run.id is None:
        values = orjson.dumps([line for _, line in pairs], option=orjson.OPT_SORT_KEYS)
        run.id, own["id"] = f"{NS}-{digest(values)[:16]}", "made"
    row: Row = {"id": run.id, "content": run.content}
    if run.calls:
        row["model_calls"] = run.calls
    row["extra"] = {NS: own}
    return row


class _Line:
    """A line with its envelope taken off."""

    __slots__ = ("kind", "number", "payload", "type", "value")

    def __init__(self, number: int, value: Any) -> None:
        self.number, self.value = number, value
        self.kind: str | None = None
        self.payload: dict[str, Any] = {}
        if isinstance(value, dict):
            kind, payload = value.get("type"), value.get("payload")
            if isinstance(payload, dict) and isinstance(kind, str):
                self.kind, self.payload = kind, payload
            elif isinstance(kind, str):
                self.kind, self.payload = "response_item", value
            elif "id" in value and "timestamp" in value:
                self.kind, self.payload = "session_meta", value
        found = self.payload.get("type")
        self.type = found if isinstance(found, str) else ""

    @property
    def bare(self) -> bool:
        return self.payload is self.value

    def entry(self, **fields: Any) -> dict[str, Any]:
        """What is kept of the line: its place, its envelope, and what else is named."""
        if self.bare:
            return {"n": self.number, "bare": True, **fields}
        return {"n": self.number, "line": _without(self.value, "payload"), **fields}


class _Mirrors:
    """What the protocol's log says, to tell the events that only repeat it."""

    def __init__(self, lines: list[_Line]) -> None:
        self.said: dict[str, list[str]] = {"user": [], "assistant": []}
        self.thought: list[str] = []
        self.called, self.answered = set[str](), set[str]()
        self.exits: dict[str, bool] = {}
        for line in lines:
            call = line.payload.get("call_id")
            if line.kind == "event_msg":
                wrong = failed(line.payload)
                if isinstance(call, str) and wrong is not None:
                    self.exits[call] = wrong
            elif line.kind == "response_item":
                if line.type == "message":
                    words = "".join(piece.text or "" for piece in message_items(line.payload))
                    self.said.setdefault(str(line.payload.get("role")), []).append(words)
                elif line.type == "reasoning":
                    self.thought.append(reasoning_of(line.payload))
                elif isinstance(call, str):
                    (self.answered if is_output(line.type) else self.called).add(call)
        self._exact = {role: set(texts) for role, texts in self.said.items()}

    def has(self, role: str, words: str) -> bool:
        """Whether a message of this role has this text."""
        if words in self._exact[role]:
            return True
        bare = words.strip()
        return any(bare in text for text in self.said[role])


class _Run:
    """Builds the items of one rollout."""

    def __init__(self, notes: Notes, lines: list[_Line]) -> None:
        self.notes, self.mirrors = notes, _Mirrors(lines)
        self.content, self.calls, self.other = list[Item](), list[dict[str, Any]](), list[list[Any]]()
        self.id: str | None = None
        self.model: str | None = None
        self.total: Any = None
        self.names: dict[str, str] = {}
        self.reset()

    def reset(self) -> None:
        """A new response begins."""
        self.response = list[Item]()
        self.pending: Item | None = None
        self.thoughts = list[str]()
        self.entries = list[dict[str, Any]]()

    def take(self, line: _Line) -> None:
        kind, payload = line.kind, line.payload
        if kind == "response_item":
            self.response_item(line)
            return
        if kind == "event_msg":
            self.event(line)
            return
        if kind == "compacted" and isinstance(payload.get("message"), str):
            self.close()
            rest = _without(payload, "message")
            item = text(payload["message"], "system", "compaction")
            self.put([item], line, line.entry(hole="message", payload=rest))
            return
        if kind == "turn_context" and isinstance(payload.get("model"), str):
            self.model = payload["model"]
        if kind == "session_meta" and self.meta(line):
            return
        if not isinstance(line.value, dict):
            self.notes.flaw("line of another kind", f"line {line.number} is no JSON object: {str(line.value)[:80]!r}")
        self.other.append([line.number, line.value])

    def meta(self, line: _Line) -> bool:
        """The head of the file; a second one is that of the session that this one was forked from."""
        named = line.payload.get("id", line.payload.get("session_id"))
        if self.id is not None or not isinstance(named, str) or not named:
            return False
        self.id = named
        if isinstance(line.payload.get("model"), str):
            self.model = line.payload["model"]
        prompt = line.payload.get("base_instructions")
        if not (isinstance(prompt, dict) and isinstance(prompt.get("text"), str)):
            return False
        rest = {**line.payload, "base_instructions": _without(prompt, "text")}
        self.put([text(prompt["text"], "system")], line, line.entry(hole="prompt", payload=rest))
        return True

    def response_item(self, line: _Line) -> None:
        payload = line.payload
        if line.type == "message" and payload.get("role") == "assistant":
            self.said(line, message_items(payload))
        elif line.type == "message":
            self.close()
            items = [piece.item() for piece in message_items(payload, classify=True)]
            self.put(items, line, _message_entry(line))
        elif line.type == "reasoning":
            self.flush()
            self.thoughts.append(reasoning_of(payload))
            self.entries.append(line.entry(hole="reasoning", payload=payload))
        elif line.type in ("compaction", "compaction_summary", "context_compaction"):
            self.close()
            self.put([text("", "system", "compaction")], line, line.entry(payload=payload))
        elif is_output(line.type) and isinstance(payload.get("call_id"), str):
            self.output(line)
        elif is_call(line.type) and (call := call_of(payload)) is not None:
            self.call(line, *call)
        else:
            self.other.append([line.number, line.value])

    def said(self, line: _Line, pieces: list[Piece]) -> None:
        self.flush()
        words = "".join(piece.text or "" for piece in pieces)
        self.pending = {"class_": "message_action", "content": words}
        self.entries.append(_message_entry(line))

    def flush(self) -> None:
        """What was said without a call after it is a message."""
        if self.pending is not None:
            item, self.pending = self.pending, None
            self.act(item)

    def act(self, item: Item, line: _Line | None = None, entry: dict[str, Any] | None = None) -> None:
        """An action of the response, with what was thought before it and the lines that it came from."""
        if self.thoughts:
            item["reasoning"] = "\n\n".join(filter(None, self.thoughts))
        entries = [*self.entries, *([entry] if entry is not None else [])]
        self.thoughts, self.entries = [], []
        keep(item, NS, lines=entries)
        if self.response:
            item["joined"] = True
        stamp = entries[0].get("line", {}).get("timestamp")
        if isinstance(stamp, str) and "joined" not in item:
            item["timestamp"] = stamp
        self.response.append(item)
        self.content.append(item)

    def call(self, line: _Line, name: str, source: Any, hole: str) -> None:
        payload = line.payload
        item: Item = {"class_": "api_action", "function": name}
        fields, about = arguments_of(source, name, hole, self.notes)
        item.update(fields)
        call = payload.get("call_id")
        if isinstance(call, str):
            if call in self.names:
                self.notes.flaw("duplicate call id", f"line {line.number} calls {call} again")
            item["call_id"] = call
            self.names[call] = name
        if self.pending is not None:
            item["description"], self.pending = self.pending["content"], None
        held = {"name", hole} | ({"call_id"} if "call_id" in item else set())
        rest = {k: v for k, v in payload.items() if k not in held}
        if "name" not in payload:
            about["unnamed"] = True
        self.act(item, line, line.entry(hole=hole, payload=rest, **about))

    def output(self, line: _Line) -> None:
        self.close()
        call = line.payload["call_id"]
        name = self.names.get(call)
        if name is None:
            self.notes.flaw("result without a call", f"line {line.number} answers {call}, which no earlier call has")
        output = line.payload.get("output")
        items = output_items(output, name, call)
        if call in self.mirrors.exits and "is_error" not in items[0]:
            items[0]["is_error"] = self.mirrors.exits[call]
        if isinstance(output, str):
            self.put(items, line, line.entry(hole="output", payload=_without(line.payload, "output")))
        else:
            self.put(items, line, line.entry(payload=line.payload))

    def event(self, line: _Line) -> None:
        payload, kind = line.payload, line.type
        if kind == "token_count":
            self.usage(payload.get("info"))
        elif kind == "user_message" and isinstance(payload.get("message"), str):
            if not self.mirrors.has("user", payload["message"]):
                self.close()
                item = text(payload["message"], "user")
                self.put([item], line, line.entry(hole="message", payload=_without(payload, "message")))
                return
        elif kind == "agent_message" and isinstance(payload.get("message"), str):
            if not self.mirrors.has("assistant", payload["message"]):
                self.flush()
                entry = line.entry(hole="message", payload=_without(payload, "message"))
                self.act({"class_": "message_action", "content": payload["message"]}, line, entry)
                return
        elif kind == "agent_reasoning" and isinstance(payload.get("text"), str):
            if not any(payload["text"].strip() in thought for thought in self.mirrors.thought):
                self.flush()
                self.thoughts.append(payload["text"])
                self.entries.append(line.entry(hole="reasoning", payload=payload))
                return
        elif kind == "exec_command_end" and self.executed(line):
            return
        self.other.append([line.number, line.value])

    def executed(self, line: _Line) -> bool:
        """A command whose result is only in the events: the user's own, or one of a cut protocol log."""
        payload, call = line.payload, line.payload.get("call_id")
        words = payload.get("aggregated_output", payload.get("formatted_output"))
        if not isinstance(words, str) or not isinstance(call, str) or call in self.mirrors.answered:
            return False
        self.close()
        hole = "aggregated_output" if "aggregated_output" in payload else "formatted_output"
        by_agent = call in self.names
        item = text(words, "environment", self.names.get(call, "shell"), call_id=call if by_agent else None)
        if call in self.mirrors.exits:
            item["is_error"] = self.mirrors.exits[call]
        self.put([item], line, line.entry(hole=hole, payload=_without(payload, hole)))
        return True

    def usage(self, info: Any) -> None:
        """Tokens of the response before; a repeated count is the same response again."""
        if not isinstance(info, dict) or (info.get("total_token_usage") == self.total and self.total is not None):
            return
        self.total = info.get("total_token_usage")
        last = info.get("last_token_usage")
        self.flush()
        if not self.response and self.calls and not self.calls[-1].get("usage") and isinstance(last, dict):
            self.calls[-1]["usage"] = _usage(last)
        elif self.response and isinstance(last, dict):
            self.finish(_usage(last))

    def finish(self, usage: dict[str, Any] | None) -> None:
        """The response is whole."""
        if self.response and (usage is not None or self.model is not None):
            call: dict[str, Any] = {"model": self.model or "unknown"}
            if usage is not None:
                call["usage"] = usage
            for item in self.response:
                item["model_call"] = len(self.calls)
            self.calls.append(call)
        self.response = []

    def close(self) -> None:
        """Something else than the model speaks: the response before it is over."""
        self.flush()
        if self.entries:
            self.act({"class_": "message_action", "content": ""})
        self.finish(None)

    def put(self, items: list[Item], line: _Line, entry: dict[str, Any]) -> None:
        for item in items[1:]:
            item["joined"] = True
        keep(items[0], NS, lines=[entry])
        stamp = None if line.bare else line.value.get("timestamp")
        if isinstance(stamp, str):
            items[0]["timestamp"] = stamp
        self.content += items


def _message_entry(line: _Line) -> dict[str, Any]:
    """A message of one text is kept without it, any other whole."""
    content = line.payload.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        part = content[0]
        if isinstance(part.get("text"), str):
            rest = {**line.payload, "content": [_without(part, "text")]}
            return line.entry(hole="text", payload=rest)
    return line.entry(payload=line.payload)


def _usage(last: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"calls": 1}
    for ours, theirs in (("input_tokens", "input_tokens"), ("output_tokens", "output_tokens")):
        found[ours] = _count(last.get(theirs))
    if cached := _count(last.get("cached_input_tokens")):
        found["cached_tokens"] = cached
    return found


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _without(value: dict[str, Any], name: str) -> dict[str, Any]:
    rest = value.copy()
    rest.pop(name, None)
    return rest


CODEX = Format(
    name=NS,
    title="Codex rollouts (codex-rs 0.20 to 0.140, and those before the envelope)",
    likes=_likes,
    decode=_decode,
    encode=encode,
    gather=_gather,
    sessions=True,
)
