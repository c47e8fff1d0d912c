"""Trajectories -> lines of a Codex rollout: kept lines in their place with the items' text, new ones between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from fairtrial.formats.anthropic_blocks import kept
from fairtrial.formats.anthropic_turns import tell_what_is_left_out, turns
from fairtrial.formats.codex_parts import message_items, output_items, reasoning_of
from fairtrial.formats.format import Notes, Row
from fairtrial.formats.items import ACTIONS, Item, arguments_text

NS = "codex"


def encode(row: Row, notes: Notes) -> Iterator[dict[str, Any]]:
    """The rollout's lines, in the order of the file that it came from."""
    own = kept(row, NS)
    writer = _Writer(row, notes)
    tell_what_is_left_out(row, notes, NS, "a Codex rollout", frozenset({"timestamp"}))
    for name in ("tools", "subagents"):
        for value in row.get(name) or ():
            notes.drop(f"{name}: a Codex rollout does not say them", orjson.dumps(value).decode())
    if not own:
        writer.head()
    for segment, is_own in _segments(row["content"]):
        if is_own:
            writer.again(segment)
        else:
            writer.new(segment)
    writer.spend(None)
    lines = _still_true(own.get("other", ()), row["content"], notes) + writer.done
    lines.sort(key=lambda numbered: numbered[0])
    for _, line in lines:
        yield line


_MIRRORS = {"user_message": "message", "agent_message": "message", "agent_reasoning": "text"}


def _still_true(others: Any, content: list[Item], notes: Notes) -> list[tuple[int, Any]]:
    """The lines beside the conversation, without events that repeat a text which was changed since."""
    found: list[tuple[int, Any]] = []
    texts: list[str] = []
    for item in content:
        if not item.get("joined") or item["class_"] in ACTIONS:
            texts.append("\0")
        texts += [item[name] for name in ("content", "description", "reasoning") if isinstance(item.get(name), str)]
    said = "".join(texts)
    for number, value in others:
        payload = value.get("payload") if isinstance(value, dict) and value.get("type") == "event_msg" else None
        words = None
        if isinstance(payload, dict) and isinstance(payload.get("type"), str):
            words = payload.get(_MIRRORS.get(payload["type"], ""))
        if isinstance(words, str) and words.strip() not in said:
            notes.drop("an event that repeats a text which was changed", words)
        else:
            found.append((number, value))
    return found


def _segments(content: list[Item]) -> Iterator[tuple[list[Item], bool]]:
    """An item that came from kept lines (with the further parts of its message), or a run of items that did not."""
    segment: list[Item] = []
    own = False
    for item in content:
        has_lines = "lines" in kept(item, NS)
        part = item.get("joined") and item["class_"] not in ACTIONS
        if segment and (has_lines or (own and not part)):
            yield segment, own
            segment = []
        if not segment:
            own = has_lines
        segment.append(item)
    if segment:
        yield segment, own


class _Writer:
    """Writes one row."""

    def __init__(self, row: Row, notes: Notes) -> None:
        self.row, self.notes = row, notes
        self.done: list[tuple[int, Any]] = []
        self.at = 0
        self.stamp: str | None = None
        self.model: str | None = None
        self.open: int | None = None
        """The model call whose response is being written."""
        self.prompted = False

    def put(self, kind: str, payload: dict[str, Any]) -> None:
        line = {"type": kind, "payload": payload}
        self.done.append((self.at, line if self.stamp is None else {"timestamp": self.stamp, **line}))

    def head(self) -> None:
        """The first line of a rollout that is not written again: the session and its prompt."""
        payload: dict[str, Any] = {"id": self.row["id"]}
        first = self.row["content"][0] if self.row["content"] else {}
        if first.get("source") == "system" and not first.get("name") and first["class_"] == "text_observation":
            payload["base_instructions"] = {"text": first["content"]}
            self.stamp = first.get("timestamp")
            self.prompted = True
        self.put("session_meta", payload)

    def again(self, items: list[Item]) -> None:
        """The lines that these items came from, with the items' text."""
        self.spend(None)
        entries = kept(items[0], NS)["lines"]
        thoughts = [entry for entry in entries if entry.get("hole") == "reasoning"]
        told = "\n\n".join(filter(None, (reasoning_of(entry["payload"]) for entry in thoughts)))
        changed = told != (items[0].get("reasoning") or "")
        if changed and thoughts:
            self.notes.rewrite("reasoning that was changed is written as a summary", items[0].get("reasoning") or "")
        for entry in entries:
            payload = self.filled(items, entry, changed and entry is thoughts[0] if thoughts else False, changed)
            self.at = entry["n"]
            if payload is not None:
                line = payload if entry.get("bare") else {**entry["line"], "payload": payload}
                self.done.append((self.at, line))

    def filled(self, items: list[Item], entry: dict[str, Any], summary: bool, changed: bool) -> dict[str, Any] | None:
        """A kept payload with the text that belongs into it; None where nothing is left of it."""
        item, payload, hole = items[0], entry["payload"], entry.get("hole")
        words = item.get("description") if item["class_"] == "api_action" else item.get("content", "")
        if hole == "reasoning":
            if not changed:
                return payload
            short = [{"type": "summary_text", "text": item.get("reasoning") or ""}]
            return {"type": "reasoning", "summary": short} if summary else None
        if hole == "text":
            return {**payload, "content": [{**payload["content"][0], "text": words or ""}]}
        if hole == "prompt":
            return {**payload, "base_instructions": {**payload["base_instructions"], "text": words}}
        if hole in ("message", "output", "aggregated_output", "formatted_output"):
            return {**payload, hole: words}
        if hole is not None:
            return self.call(item, entry, hole)
        return self.whole(items, payload, words)

    def whole(self, items: list[Item], payload: dict[str, Any], words: str | None) -> dict[str, Any]:
        """A payload that is kept whole, unless its text was changed since."""
        if payload.get("type") == "message":
            if items[0]["class_"] in ACTIONS:
                if "".join(piece.text or "" for piece in message_items(payload)) == (words or ""):
                    return payload
                return {**payload, "content": [{"type": "output_text", "text": words or ""}]}
            if [piece.item()["content"] for piece in message_items(payload)] == [item["content"] for item in items]:
                return payload
            return {**payload, "content": [_part(item, "input_text") for item in items]}
        if "output" in payload or "call_id" in payload:
            was = output_items(payload.get("output"), None, "")
            if [item["content"] for item in was] == [item["content"] for item in items]:
                return payload
            return {**payload, "output": _output(items)}
        return payload

    def call(self, item: Item, entry: dict[str, Any], hole: str) -> dict[str, Any]:
        payload = dict(entry["payload"])
        if not entry.get("unnamed"):
            payload["name"] = item["function"]
        if "call_id" in item:
            payload["call_id"] = item["call_id"]
        kwargs = item["kwargs"]
        if hole == "input":
            payload["input"] = kwargs.get("input", "")
            return payload
        if "argv" in entry:
            field, *argv = entry["argv"]
            if isinstance(kwargs.get(field), str):
                kwargs = {**kwargs, field: [*argv, kwargs[field]]}
        if hole == "action":
            payload["action"] = kwargs
        elif "malformed" in item:
            payload["arguments"] = item["malformed"]
        else:
            payload["arguments"] = orjson.dumps(kwargs).decode()
            if "text" in entry and _same(entry["text"], kwargs):
                payload["arguments"] = entry["text"]
        return payload

    def new(self, items: list[Item]) -> None:
        for role, turn in turns(items, NS):
            self.stamp = turn[0].get("timestamp")
            if role == "system":
                self.prompts(turn)
            elif role == "assistant":
                for item in turn:
                    self.act(item)
            else:
                self.seen(turn)

    def prompts(self, items: list[Item]) -> None:
        self.spend(None)
        for item in items:
            if self.prompted and item is self.row["content"][0]:
                continue
            if item.get("name") == "compaction":
                self.put("compacted", {"message": item.get("content", "")})
                continue
            if item.get("name") != "developer":
                self.notes.rewrite("a later prompt is written as the developer's", item.get("content", ""))
            part = _part(item, "input_text")
            self.put("response_item", {"type": "message", "role": "developer", "content": [part]})

    def act(self, item: Item) -> None:
        index = item.get("model_call")
        if not item.get("joined") or index != self.open:
            self.spend(index)
        if reasoning := item.get("reasoning"):
            short = [{"type": "summary_text", "text": reasoning}]
            self.put("response_item", {"type": "reasoning", "summary": short})
        if item["class_"] == "message_action":
            if item.get("description"):
                self.say(item["description"])
            self.say(item["content"])
            return
        if item.get("description") is not None:
            self.say(item["description"])
        call: dict[str, Any] = {"type": "function_call", "call_id": item["call_id"]}
        if item["class_"] == "code_action":
            self.notes.rewrite("code written as a call of its language", item["content"])
            call |= {"name": item["language"], "arguments": orjson.dumps({"code": item["content"]}).decode()}
        else:
            call |= {"name": item["function"], "arguments": arguments_text(item)}
        self.put("response_item", call)

    def say(self, words: str) -> None:
        content = [{"type": "output_text", "text": words}]
        self.put("response_item", {"type": "message", "role": "assistant", "content": content})

    def spend(self, index: int | None) -> None:
        """Ends a response with what it used, and begins the next one's turn where the model is another."""
        calls = self.row.get("model_calls") or ()
        if self.open is not None and (usage := calls[self.open].get("usage")):
            used = {"input_tokens": usage.get("input_tokens", 0), "output_tokens": usage.get("output_tokens", 0)}
            used["cached_input_tokens"] = usage.get("cached_tokens", 0)
            self.put("event_msg", {"type": "token_count", "info": {"last_token_usage": used}})
        self.open = index
        if index is not None and calls[index]["model"] != self.model:
            self.model = calls[index]["model"]
            self.put("turn_context", {"model": self.model})

    def seen(self, items: list[Item]) -> None:
        self.spend(None)
        at = 0
        while at < len(items):
            call, end = items[at].get("call_id"), at + 1
            while end < len(items) and items[end].get("call_id") == call and items[end].get("joined"):
                end += 1
            part = items[at:end]
            if call is None:
                content = [_part(item, "input_text") for item in part]
                self.put("response_item", {"type": "message", "role": "user", "content": content})
            else:
                self.stamp = part[0].get("timestamp")
                if "is_error" in part[0]:
                    code = int(part[0]["is_error"])
                    self.put("event_msg", {"type": "exec_command_end", "call_id": call, "exit_code": code})
                output = {"type": "function_call_output", "call_id": call, "output": _output(part)}
                self.put("response_item", output)
            at = end


def _same(source: str, kwargs: dict[str, Any]) -> bool:
    try:
        return orjson.loads(source) == kwargs
    except ValueError:
        return not source and not kwargs


def _output(items: list[Item]) -> Any:
    if len(items) == 1 and items[0]["class_"] == "text_observation":
        return items[0]["content"]
    return [_part(item, "input_text") for item in items]


def _part(item: Item, kind: str) -> dict[str, Any]:
    if item["class_"] == "image_observation":
        return {"type": "input_image", "image_url": item["content"]}
    if item["class_"] == "web_observation":
        return {"type": kind, "text": item.get("axtree") or item.get("html") or ""}
    return {"type": kind, "text": item["content"]}
