"""Conversations of the OpenHands software-agent-sdk (read against its repository of 2026-08): lists and folders.

Events name their class in `kind`. The actions of one model response share `llm_response_id`; they are one batch of
parallel calls. A conversation's folder holds `base_state.json` and `events/event-00000-<id>.json`. What neither the
agent did nor its model saw (state updates, pauses, hooks, errors of the conversation) is kept beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fairtrial.core.trajectory import token_delta
from fairtrial.formats.event_log import EventLog, as_text, at, gathered, left, row_id, usage
from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError
from fairtrial.formats.items import Item, api, arguments, image, message, text

NAME = "openhands-sdk"
_SILENT = frozenset(
    {
        "CondensationRequest",
        "ConversationErrorEvent",
        "ConversationStateUpdateEvent",
        "HookExecutionEvent",
        "InterruptEvent",
        "LLMCompletionLogEvent",
        "PauseEvent",
        "ServerErrorEvent",
        "StreamingDeltaEvent",
    }
)
_ENDED = ("completed", "failed")


class _Reader:
    """Reads the events of one conversation."""

    def __init__(self, notes: Notes) -> None:
        self.log, self.notes = EventLog(NAME, notes), notes
        self.tools: list[Any] = []
        self._model: str | None = None
        self._spent: dict[str, tuple[Any, str | None]] = {}
        self._sequences: list[tuple[int, ...]] = []
        self._counted: list[int] = []
        self._last: str | None = None
        self._started: set[str] = set()
        self._tools_of: dict[str, str] = {}
        self._reads = {
            "SystemPromptEvent": self._system,
            "MessageEvent": self._message,
            "ActionEvent": self._action,
            "ObservationEvent": self._observation,
            "UserRejectObservation": self._refusal,
            "AgentErrorEvent": self._refusal,
            "Condensation": self._compaction,
            "CondensationSummaryEvent": self._compaction,
            "TokenEvent": self._tokens,
            "ACPToolCallEvent": self._foreign_call,
        }

    def read(self, state: Any, events: list[Any]) -> None:
        """All events in order; the models and prices that state updates tell are looked up first."""
        self._learn(state)
        for event in events:
            if at(event, "kind") == "ConversationStateUpdateEvent":
                self._learn(at(event, "value") if at(event, "key") != "stats" else {"stats": event["value"]})
        for event in events:
            kind = at(event, "kind")
            reads = self._reads.get(kind) if isinstance(kind, str) else None
            if reads is not None:
                rest = left(event, {"kind": kind})
                stamp = {"timestamp": rest.pop("timestamp")} if isinstance(rest.get("timestamp"), str) else {}
                rest["kind"] = kind
                reads(rest, stamp)
                continue
            if kind not in _SILENT:
                self.notes.flaw("unknown event", f"an event of the kind {str(kind)[:60]!r} is kept beside")
            self.log.put_beside(event)

    def _learn(self, state: Any) -> None:
        """The agent's model, and the tokens that each response took."""
        if self._model is None and isinstance(model := at(state, "agent", "llm", "model"), str):
            self._model = model
        spent = at(state, "stats", "usage_to_metrics")
        for metrics in spent.values() if isinstance(spent, dict) else ():
            name = at(metrics, "model_name")
            if self._model is None and isinstance(name, str):
                self._model = name
            tokens = at(metrics, "token_usages")
            for entry in tokens if isinstance(tokens, list) else ():
                if isinstance(id := at(entry, "response_id"), str) and id:
                    model = at(entry, "model")
                    self._spent[id] = (entry, model if isinstance(model, str) and model else None)

    def _response(self, rest: dict[str, Any]) -> str | None:
        """The id of an event's response; its model call is made when it is seen first."""
        id = rest.get("llm_response_id")
        if not isinstance(id, str) or not id:
            return None
        if id not in self.log.responses:
            tokens, model = self._spent.get(id, (None, None))
            model = model or self._model
            self.log.responses[id] = None if model is None else len(self.log.model_calls)
            if model is not None:
                self.log.model_calls.append({"model": model, "usage": usage(tokens)})
        self._last = id
        return id

    def _system(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        items: list[Item] = []
        for name in ("system_prompt", "dynamic_context"):
            if isinstance(at(rest, name, "text"), str):
                items.append(text(rest[name]["text"], "system"))
                if shape := left(rest.pop(name), {"text": items[-1]["content"], "type": "text", "cache_prompt": False}):
                    rest[name] = shape
        tools = rest.get("tools")
        if isinstance(tools, list) and all(isinstance(at(tool, "function"), dict) for tool in tools):
            self.tools += rest.pop("tools")
        self._see(items or [text("", "system")], rest, stamp)

    def _see(self, items: list[Item], rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        items[0].update(stamp)
        self.log.see(items, rest)

    def _message(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        said = rest.pop("llm_message", None)
        role = at(said, "role")
        if not isinstance(said, dict) or role not in ("user", "system", "assistant", "tool"):
            self.notes.flaw("unreadable message", "a message event holds no message; kept beside")
            self.log.put_beside({**rest, **stamp, **({} if said is None else {"llm_message": said})})
            return
        shape = left(said, {"role": role})
        if role == "assistant":
            self._said(shape, rest, stamp)
            return
        from_user = role == "user" and rest.get("source") in (None, "user")
        source = "user" if from_user else "system" if role == "system" else "environment"
        content, whole = _parts(shape.get("content"), source)
        if whole:
            shape.pop("content", None)
        if role == "tool" and isinstance(id := shape.get("tool_call_id"), str):
            for item in content:
                item["call_id"] = id
        if isinstance(added := rest.get("extended_content"), list) and added:
            more, whole = _parts(added, "system")
            content += more
            if whole:
                del rest["extended_content"]
        if shape:
            rest["llm_message"] = shape
        self._see(content or [text("", source)], rest, stamp)

    def _said(self, shape: dict[str, Any], rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        """What the agent told its user; calls that a message holds are kept with it (actions have their own events)."""
        content, whole = _parts(shape.get("content"), "agent")
        texts = [item["content"] for item in content if item["class_"] == "text_observation"]
        if whole and len(texts) == len(content):
            shape.pop("content", None)
        reasoning = shape.pop("reasoning_content") if isinstance(shape.get("reasoning_content"), str) else None
        if shape:
            rest["llm_message"] = shape
        response = self._response(rest)
        for number, said in enumerate(texts or [""]):
            item = message(said, reasoning=None if number else reasoning)
            item.update({"joined": True} if number else stamp)
            self.log.act(item, {} if number else rest, response)

    def _action(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        call = rest.pop("tool_call", None)
        function = at(call, "function") if isinstance(at(call, "function"), dict) else call
        name = at(function, "name")
        if not isinstance(name, str):
            name = rest.pop("tool_name") if isinstance(rest.get("tool_name"), str) else ""
            self.notes.flaw("unreadable call", "an action event holds no named tool call")
        given = at(function, "arguments")
        if given is None and isinstance(performed := rest.get("action"), dict):
            given = {key: value for key, value in performed.items() if key != "kind"}
        item = api(name, **arguments(given, name, self.notes), **stamp)
        thought, whole = _parts(rest.get("thought"), "agent")
        if texts := [part["content"] for part in thought if part["class_"] == "text_observation"]:
            item["description"] = "\n".join(texts)
        if whole and len(texts) == len(thought) <= 1:
            rest.pop("thought", None)
        if isinstance(rest.get("reasoning_content"), str):
            item["reasoning"] = rest.pop("reasoning_content")
        if isinstance(id := rest.get("tool_call_id"), str):
            item["call_id"] = rest.pop("tool_call_id")
            self._tools_of[id] = name
        if rest.get("tool_name") == name:
            del rest["tool_name"]
        if isinstance(rest.get("action"), dict):
            rest["action"] = left(rest["action"], item["kwargs"])
        if isinstance(call, dict):
            said = {"id": item.get("call_id"), "name": name, "arguments": given, "type": "function"}
            inner = left(function, said) if function is not call else {}
            if shape := left(call, {**said, "function": call.get("function")}) | inner:
                rest["tool_call"] = shape
        elif call is not None:
            rest["tool_call"] = call
        self.log.act(item, rest, self._response(rest))

    def _observation(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        seen = rest.pop("observation", None)
        shape = left(seen, {}) if isinstance(seen, dict) else {}
        field = next((name for name in ("content", "output") if name in shape), "content")
        content, whole = _parts(shape.get(field) if isinstance(seen, dict) else seen, "environment")
        if whole:
            shape.pop(field, None)
        elif not isinstance(seen, dict):
            rest["observation"] = seen
        about = dict(stamp)
        if isinstance(shape.get("is_error"), bool):
            about["is_error"] = shape.pop("is_error")
        if shape:
            rest["observation"] = shape
        added, whole = _parts(rest.get("extended_content"), "system")
        if whole and added:
            del rest["extended_content"]
        self._result([*(content or [text("", "environment")]), *added], rest, about)

    def _result(self, items: list[Item], rest: dict[str, Any], about: dict[str, Any]) -> None:
        """Items that answer a call."""
        if isinstance(id := rest.get("tool_call_id"), str):
            about["call_id"] = rest.pop("tool_call_id")
        name = rest.get("tool_name")
        if isinstance(name, str):
            del rest["tool_name"]
        else:
            name = self._tools_of.get(id) if isinstance(id, str) else None
        for item in items:
            if "call_id" in about and item.get("source") != "system":
                item["call_id"] = about["call_id"]
        if name is not None and items[0]["class_"] == "text_observation":
            items[0]["name"] = name
        elif name is not None:
            rest["tool_name"] = name
        self._see(items, rest, about)

    def _refusal(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        """A call that was not run: refused by the user, or an error of the scaffold."""
        failed = rest["kind"] == "AgentErrorEvent"
        said = rest.pop("error" if failed else "rejection_reason", None)
        self._result([text(as_text(said), "environment")], rest, {**stamp, **({"is_error": True} if failed else {})})

    def _compaction(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        self._see([text(as_text(rest.pop("summary", None)), "system", "compaction")], rest, stamp)

    def _tokens(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        """Token ids of the response before it."""
        prompt, completion = _ids(rest.get("prompt_token_ids")), _ids(rest.get("response_token_ids"))
        index = self.log.responses.get(self._last) if self._last is not None else None
        late = index is None or (self._counted and index <= self._counted[-1])
        if index is None or late or prompt is None or completion is None:
            self.log.put_beside({**rest, **stamp})
            return
        delta = token_delta(prompt, self._sequences)
        call = self.log.model_calls[index]
        call["prompt"] = {"keep": delta.keep, "append": list(delta.append)}
        if delta.base is not None:
            call["prompt"]["base"] = self._counted[delta.base]
        call["completion_ids"] = completion
        self._counted.append(index)
        self._sequences.append((*prompt, *completion))
        del rest["prompt_token_ids"], rest["response_token_ids"]
        self.log.put_beside({**rest, **stamp})

    def _foreign_call(self, rest: dict[str, Any], stamp: dict[str, Any]) -> None:
        """A tool call of another agent (ACP): told when it starts, and again whenever something of it is new."""
        id = rest.get("tool_call_id")
        if not isinstance(id, str):
            self.log.put_beside({**rest, **stamp})
            return
        status = rest.get("status")
        new = id not in self._started
        ended = status in _ENDED or rest.get("raw_output") is not None
        if new:
            self._started.add(id)
            name = rest.get("title") or rest.get("tool_kind")
            given = rest.get("raw_input")
            item = api(
                as_text(name), **arguments(given if given is None else _as_dict(given), as_text(name), self.notes)
            )
            item |= {"call_id": id, **stamp}
            own = {key: value for key, value in rest.items() if key != "raw_input"}
            self._tools_of[id] = item["function"]
            self.log.act(item, {"kind": rest["kind"]} if ended else own)
        if ended:
            output = rest.pop("raw_output", None)
            if not new and rest.get("raw_input") is None:
                rest.pop("raw_input", None)
            failed = rest.get("is_error") is True or status == "failed"
            self._result([text(as_text(output), "environment")], rest, {**stamp, "is_error": failed})
        elif not new:
            self.log.put_beside({**rest, **stamp})


def _as_dict(value: Any) -> Any:
    """Arguments that are no object under one name, so that they stay a value."""
    return value if isinstance(value, dict) else {"input": value}


def _ids(value: Any) -> list[int] | None:
    return value if isinstance(value, list) and all(type(id) is int for id in value) else None


def _parts(content: Any, source: Any) -> tuple[list[Item], bool]:
    """The items of a content, and whether they hold all that it says."""
    if content is None:
        return [], True
    if not isinstance(content, list):
        return [text(as_text(content), source)], isinstance(content, str)
    items: list[Item] = []
    whole = True
    for part in content:
        urls = at(part, "image_urls")
        if at(part, "type") == "text" and isinstance(at(part, "text"), str):
            items.append(text(part["text"], source))
            whole = whole and not left(part, {"type": "text", "text": part["text"], "cache_prompt": False})
        elif (
            at(part, "type") == "image"
            and isinstance(urls, list)
            and urls
            and all(isinstance(url, str) for url in urls)
        ):
            items += [image(url, source) for url in urls]
            whole = whole and not left(part, {"type": "image", "image_urls": urls, "cache_prompt": False})
        else:
            whole = False
    return items, whole


def _decode(value: Any, notes: Notes) -> Row:
    run: dict[str, Any] = {}
    events = value
    if isinstance(value, dict):
        run = dict(value)
        events = run.pop("events", None)
    if not isinstance(events, list):
        raise RowError("neither a list of events nor an object with one under events")
    reader = _Reader(notes)
    reader.read(run.get("base_state"), events)
    given = at(run, "base_state", "id")
    id, own = row_id(NAME, value, run.get("id") if given is None else given)
    row: Row = {"id": id, "content": reader.log.items}
    if reader.tools:
        row["tools"] = reader.tools
    if reader.log.model_calls:
        row["model_calls"] = reader.log.model_calls
    said = {"beside": reader.log.beside, "run": run}
    own |= {name: field for name, field in said.items() if field}
    if own:
        row["extra"] = {NAME: own}
    return row


def _is_event(value: Any) -> bool:
    kind = at(value, "kind")
    if not isinstance(kind, str) or "timestamp" not in value or "source" not in value:
        return False
    return kind.endswith("Event") or kind in ("Condensation", "CondensationRequest", "UserRejectObservation")


def _likes(value: Any) -> int:
    if isinstance(value, list):
        return 92 if any(map(_is_event, value[:4])) else 0
    if _is_event(value):
        return 90
    return 92 if isinstance(at(value, "events"), list) and _likes(value["events"]) else 0


def _claims(path: Path) -> bool:
    return (path / "base_state.json").is_file() and (path / "events").is_dir()


def _open(path: Path) -> Iterator[Numbered]:
    """A conversation's folder: its state, and one file an event."""
    whole: dict[str, Any] = {"events": []}
    files = sorted((path / "events").glob("event-*.json"), key=lambda file: (len(file.name.split("-")[1]), file.name))
    for number, file in enumerate([path / "base_state.json", *files]):
        raw = file.read_bytes()
        try:
            value = orjson.loads(raw)
        except ValueError as error:
            yield Numbered(number, problem=f"{file.name}: not valid JSON: {error}", raw=raw)
            continue
        if number:
            whole["events"].append(value)
        else:
            whole["base_state"] = value
    yield Numbered(1, {"id": path.name, **whole})


OPENHANDS_SDK = Format(
    name=NAME,
    title="OpenHands SDK conversations",
    likes=_likes,
    decode=_decode,
    gather=gathered(_is_event),
    open=_open,
    claims=_claims,
)
