"""Trajectories -> lines of a Claude Code session: kept lines in their place, new ones threaded behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.core.ids import digest
from fairtrial.formats.anthropic_blocks import kept, write_response, write_user
from fairtrial.formats.anthropic_turns import Role, tell_what_is_left_out, turns
from fairtrial.formats.format import Notes, Row
from fairtrial.formats.items import Item

NS = "claude-code"


def encode(row: Row, notes: Notes) -> Iterator[dict[str, Any]]:
    """The session's lines, in the order of the file that it came from; sub-agents' own files follow as side lines."""
    main: list[tuple[int, Any]] = []
    after: list[Any] = []
    _collect(row, row, notes, main, after, side=False)
    main.sort(key=lambda numbered: numbered[0])
    for _, line in main:
        yield line
    yield from after


def _collect(top: Row, row: Row, notes: Notes, main: list[tuple[int, Any]], after: list[Any], side: bool) -> None:
    own = kept(row, NS)
    held = {"timestamp", "loss"} if own else {"timestamp"}  # its own errors are marked as nothing to learn
    tell_what_is_left_out(row, notes, NS, "a Claude Code session", frozenset(held))
    if row.get("tools"):
        notes.drop("the tools offered: a Claude Code session does not say them", orjson.dumps(row["tools"]).decode())
    lines = [(number, value) for number, value in own.get("other", ())]
    lines += _Writer(top, row, notes, side).lines()
    if "file" in own or (side and not own):
        after += [value for _, value in sorted(lines, key=lambda numbered: numbered[0])]
        if "meta" in own:
            notes.drop("a sub-agent's .meta.json: it is a file of its own", orjson.dumps(own["meta"]).decode())
    else:
        main += lines
    for below in row.get("subagents") or ():
        _collect(top, below, notes, main, after, side=True)


class _Writer:
    """Writes one agent's run."""

    def __init__(self, top: Row, row: Row, notes: Notes, side: bool) -> None:
        self.top, self.row, self.notes, self.side = top, row, notes, side
        self.at, self.made = 0, 0
        self.parent: str | None = None
        self.done: list[tuple[int, Any]] = []

    def lines(self) -> list[tuple[int, Any]]:
        for segment in _segments(self.row["content"]):
            entries = kept(segment[0], NS).get("lines")
            if isinstance(entries, list):
                self.again(segment, entries)
            else:
                for role, items in turns(segment, NS):
                    self.new(role, items)
        return self.done

    def put(self, number: int, line: dict[str, Any]) -> None:
        self.at = number
        self.done.append((number, line))
        if isinstance(line.get("uuid"), str):
            self.parent = line["uuid"]

    def again(self, items: list[Item], entries: list[dict[str, Any]]) -> None:
        """The lines that these items came from, with the items' text."""
        spoken = [entry for entry in entries if "message" in entry]
        content: Any = None
        if spoken:
            is_response = spoken[0]["line"].get("type") == "assistant"
            content = write_response(items, NS, self.notes) if is_response else write_user(items, NS, self.notes)
        for entry in entries:
            if entry.get("in") == "content":
                self.put(entry["n"], {**entry["line"], "content": items[0]["content"]})
            elif "message" not in entry:
                self.put(entry["n"], entry["line"])
            else:
                part = content
                if len(spoken) > 1:
                    cut = len(content) if entry is spoken[-1] else entry.get("blocks", 0)
                    part, content = content[:cut], content[cut:]
                message = entry["message"] if entry.get("bare") else {**entry["message"], "content": part}
                self.put(entry["n"], {**entry["line"], "message": message})

    def new(self, role: Role, items: list[Item]) -> None:
        first = items[0]
        if role == "system":
            for item in items:
                if item.get("name") == "compaction":
                    self.compaction(item)
                else:
                    self.notes.drop("a system prompt: a Claude Code session does not say it", item.get("content", ""))
            return
        if role == "assistant":
            message = self.answer(items)
        else:
            message = {"role": "user", "content": write_user(items, NS, self.notes)}
            for item in items:
                if "call_id" not in item and item.get("source") != "user":
                    self.notes.rewrite("text that no user wrote stands on the user's line", item.get("content", ""))
        line = self.envelope(role, first)
        line["message"] = message
        reports = [name for item in items for name in item.get("subagents") or ()]
        if len(reports) == 1:
            line["toolUseResult"] = {"agentId": reports[0]}
        self.put(self.at, line)

    def compaction(self, item: Item) -> None:
        line = self.envelope("system", item)
        line |= {"parentUuid": None, "logicalParentUuid": line["parentUuid"]}
        self.put(self.at, {**line, "subtype": "compact_boundary", "content": "Conversation compacted"})
        if item["content"]:
            line = self.envelope("user", item)
            line["message"] = {"role": "user", "content": item["content"]}
            self.put(self.at, {**line, "isCompactSummary": True})

    def envelope(self, kind: str, item: Item) -> dict[str, Any]:
        self.made += 1
        name = digest([self.row["id"], self.made])
        uuid = f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:32]}"
        line = {"parentUuid": self.parent, "isSidechain": self.side, "type": kind, "uuid": uuid}
        line["sessionId"] = self.top["id"]
        if self.side:
            line["agentId"] = self.row["id"]
        if "timestamp" in item:
            line["timestamp"] = item["timestamp"]
        return line

    def answer(self, items: list[Item]) -> dict[str, Any]:
        content = write_response(items, NS, self.notes)
        message: dict[str, Any] = {"id": f"msg_{self.made}", "type": "message", "role": "assistant", "content": content}
        index = items[0].get("model_call")
        if index is None:
            return message
        call = self.row["model_calls"][index]
        message["model"] = call["model"]
        if "finish_reason" in call:
            message["stop_reason"] = call["finish_reason"]
        if usage := call.get("usage"):
            cached = usage.get("cached_tokens", 0)
            message["usage"] = {"input_tokens": usage.get("input_tokens", 0) - cached}
            message["usage"] |= {"cache_read_input_tokens": cached, "output_tokens": usage.get("output_tokens", 0)}
        for name in call.keys() - {"model", "finish_reason", "usage"}:
            self.notes.drop(f"{name} of a call: a Claude Code session has no place for it", str(call[name]))
        return message


def _segments(content: list[Item]) -> Iterator[list[Item]]:
    """Items that came from the same kept lines, and runs of items that came from none."""
    segment: list[Item] = []
    own = False
    for item in content:
        has_lines = "lines" in kept(item, NS)
        if segment and (has_lines or (own and not item.get("joined"))):
            yield segment
            segment = []
        if not segment:
            own = has_lines
        segment.append(item)
    if segment:
        yield segment
