"""Runs of mini-SWE-agent: 1.x message lists and `{info, messages}` files, 2.x `mini-swe-agent-1.1` (read against 2.4).

Messages are chat messages with one more field, `extra`. A response's action is its one fenced block of shell (text) or
its tool calls; what the harness answers stands as the user's message in the text style, and is the environment's here.
"""

from __future__ import annotations

from typing import Any

from fairtrial.formats.call_syntax import fences
from fairtrial.formats.chat_messages import items_of_messages
from fairtrial.formats.event_log import as_text, at, iso, row_id, usage
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import ACTIONS, Item, code, message

NAME = "mini-swe-agent"
_FENCES = ("mswea_bash_command", "bash")
_DETAILS = ("exit_status", "submission", "model_stats", "mini_version")


def _decode(value: Any, notes: Notes) -> Row:
    run = dict(value) if isinstance(value, dict) else {"messages": value}
    messages = run.pop("messages", None)
    if not isinstance(messages, list):
        raise RowError("neither a list of messages nor an object with one")
    own: dict[str, Any] = {}
    spoken: list[Any] = []
    for index, entry in enumerate(messages):
        if at(entry, "role") == "exit":
            own.setdefault("exit", []).append({"at": index, "message": entry})
        else:
            spoken.append(_as_chat(entry))
    info = run.pop("info", None)
    model = at(info, "config", "model", "model_name")
    content, calls = _items(items_of_messages(spoken, notes, NAME), model if isinstance(model, str) else None)
    id, made = row_id(NAME, value, run.get("instance_id"))
    row: Row = {"id": id, "content": content}
    if calls:
        row["model_calls"] = calls
    if isinstance(info, dict):
        details = {name: info[name] for name in _DETAILS if info.get(name) is not None}
        info = {name: field for name, field in info.items() if name not in details}
        if details:
            row["details"] = details
    if info:
        own["info"] = info
    if run:
        own["run"] = run
    if own or made:
        row["extra"] = {NAME: own | made}
    return row


def _as_chat(entry: Any) -> Any:
    """A message of the Responses API as a chat message; any other as it is."""
    if at(entry, "type") == "function_call_output" and "role" not in entry:
        return {**entry, "role": "tool", "tool_call_id": entry.get("call_id"), "content": entry.get("output")}
    if not isinstance(at(entry, "output"), list) or "role" in entry:
        return entry
    said: list[str] = []
    thought: list[str] = []
    calls: list[Any] = []
    for part in entry["output"]:
        kind = at(part, "type")
        if kind == "function_call":
            function = {"name": part.get("name"), "arguments": part.get("arguments")}
            calls.append({"id": part.get("call_id"), "type": "function", "function": function})
        elif kind in ("message", "reasoning"):
            into, name = (said, "content") if kind == "message" else (thought, "summary")
            texts = part.get(name)
            into += [as_text(at(one, "text")) for one in texts] if isinstance(texts, list) else []
    chat = {**entry, "role": "assistant", "content": "\n".join(said) if said else None}
    if calls:
        chat["tool_calls"] = calls
    if thought:
        chat["reasoning_content"] = "\n".join(thought)
    return chat


def _items(items: list[Item], model: str | None) -> tuple[list[Item], list[dict[str, Any]]]:
    """Items with the harness's own meaning: fenced actions, results that were the user's, model calls, times."""
    content: list[Item] = []
    calls: list[dict[str, Any]] = []
    call: int | None = None
    acted = False
    for item in items:
        extra = item.get("extra")
        fields = None if extra is None else at(extra, NAME, "fields")
        own = None if fields is None else at(fields, "extra")
        if own is not None and not item.get("joined") and (stamp := iso(at(own, "timestamp"))) is not None:
            item["timestamp"] = stamp
        if item["class_"] in ACTIONS:
            acted = True
            if not item.get("joined"):
                made = _model_call(fields, own, model)
                call = len(calls) if made else None
                calls += [made] if made else []
            actions = _fenced(item, own) if item["class_"] == "message_action" else [item]
            for action in actions:
                if call is not None:
                    action["model_call"] = call
            content += actions
            continue
        if item.get("source") == "user" and acted and at(own, "interrupt_type") != "UserInterruption":
            item["source"] = "environment"
        if item.get("source") == "environment" and (failed := _failed(item, own)) is not None:
            item["is_error"] = failed
        content.append(item)
    return content, calls


def _model_call(fields: Any, own: Any, model: str | None) -> dict[str, Any] | None:
    if own is None:
        return None
    response = at(own, "response") or (fields if isinstance(at(fields, "output"), list) else None)
    named = at(response, "model")
    model = named if isinstance(named, str) else model
    if model is None or not isinstance(own, dict) or not (response or "cost" in own):
        return None
    made: dict[str, Any] = {"model": model, "usage": usage(at(response, "usage"), own.get("cost"))}
    if isinstance(reason := at(response, "choices", 0, "finish_reason"), str):
        made["finish_reason"] = reason
    return made


def _fenced(item: Item, own: Any) -> list[Item]:
    """The action of a text response: its one block of shell. None or several were refused by the harness."""
    said = item["content"]
    blocks = fences(said)
    found = next((few for word in _FENCES if (few := [block for block in blocks if block.word == word])), [])
    if len(found) != 1 or (own is not None and at(own, "actions") == []):
        return [item]
    [block] = found
    before, after = said[: block.span[0]], said[block.span[1] :]
    thought = before.rstrip()
    extra = dict(at(item.get("extra"), NAME) or {})
    extra["fence"] = {"word": block.word, "before": before[len(thought) :]}
    if f"```{block.word}\n{block.body}\n```" != said[slice(*block.span)]:
        extra["content"] = said
    action = code("bash", block.body, thought, extra={NAME: extra})
    for name in ("reasoning", "joined", "loss", "timestamp"):
        if name in item:
            action[name] = item[name]
    if after.strip():
        return [action, message(after, joined=True)]
    if after:
        extra["fence"]["after"] = after
    return [action]


def _failed(item: Item, own: Any) -> bool | None:
    """Whether a result's return code tells of a failure."""
    code_ = None if own is None else at(own, "returncode")
    if type(code_) is int:
        return code_ != 0
    said = item.get("content", "")
    if isinstance(said, str) and said.startswith("<returncode>"):
        number = said[12 : said.find("</returncode>")]
        if number.strip().lstrip("-").isdecimal():
            return int(number) != 0
    return None


def _marked(messages: Any) -> bool:
    """Whether messages show what only this harness writes."""
    for entry in messages[:8] if isinstance(messages, list) else ():
        said = at(entry, "content")
        if at(entry, "role") == "exit" or isinstance(at(entry, "extra", "actions"), list):
            return True
        if isinstance(said, str) and ("```mswea_bash_command" in said or said.startswith("<returncode>")):
            return True
    return False


def _likes(value: Any) -> int:
    if isinstance(value, list):
        return 90 if _marked(value) else 0
    written = at(value, "trajectory_format")
    if isinstance(written, str) and written.startswith(NAME):
        return 97
    if not isinstance(at(value, "messages"), list):
        return 0
    if isinstance(at(value, "info", "mini_version"), str):
        return 95
    if not _marked(value["messages"]):
        return 0
    info = value.get("info")
    ended = isinstance(at(info, "model_stats"), dict) or at(info, "exit_status") is not None
    return 85 if ended else 60


MINI_SWE_AGENT = Format(name=NAME, title="mini-SWE-agent runs, 1.x and 2.x", likes=_likes, decode=_decode)
