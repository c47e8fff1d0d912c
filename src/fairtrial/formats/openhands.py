"""Event lists of OpenHands 0.x (read against 0.62): trajectories, feedback rows, evaluation outputs, session folders.

An event is an action or an observation: `{id, timestamp, source, message, cause?, action, args}` or `{..., observation,
content, extras}`; the public feedback has the arguments under `extras`, the oldest evaluations have them on the event
itself. Where an action quotes the model's tool call, that call is the action; else the event's own vocabulary is.
What neither the agent did nor its model saw (state changes, empty observations, requests to recall) is kept beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fairtrial.formats.datasets.openhands_page import page
from fairtrial.formats.event_log import EventLog, as_text, at, gathered, left, row_id, usage
from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError
from fairtrial.formats.items import Item, api, arguments, code, image, message, text

NAME = "openhands-v0"
# fmt: off
_ENVELOPE = frozenset({
    "id", "timestamp", "source", "message", "cause", "action", "observation", "content", "args", "extras",
    "tool_call_metadata", "llm_metrics", "timeout", "success",
})
_ACTIONS = frozenset({
    "message", "system", "start", "read", "write", "edit", "run", "run_ipython", "browse", "browse_interactive",
    "call_tool_mcp", "delegate", "think", "finish", "reject", "null", "pause", "resume", "stop",
    "change_agent_state", "push", "send_pr", "recall", "condensation", "condensation_request", "task_tracking",
    "loop_recovery", "initialize", "add_task", "modify_task", "save_plan", "task_plan", "crawl", "rag_search",
    "log",
})
_OBSERVATIONS = frozenset({
    "read", "write", "edit", "browse", "run", "run_ipython", "chat", "delegate", "message", "error", "success",
    "null", "think", "agent_state_changed", "user_rejected", "condense", "recall", "mcp", "download",
    "task_tracking", "loop_detection", "log",
})
_NO_ACTIONS = frozenset({
    "initialize", "change_agent_state", "null", "recall", "condensation_request", "start", "pause", "resume",
    "stop", "log", "loop_recovery",
})
_NOT_SEEN = frozenset({"agent_state_changed", "null", "log", "loop_detection"})
_HOUSEKEEPING = frozenset({
    "blocking", "is_static", "cwd", "hidden", "confirmation_state", "is_confirmed", "security_risk", "keep_prompt",
    "action_risk", "kernel_init_code", "include_extra", "impl_source", "translated_ipython_code", "return_axtree",
    "browsergym_send_msg_to_user",
})
# fmt: on
_DETAILS = ("instance_id", "feedback", "polarity", "version", "git_patch", "test_result", "metrics", "error")
_PERSONAL = ("email", "token")


class _Reader:
    """Reads the events of one agent."""

    def __init__(self, notes: Notes, id: str) -> None:
        self.log, self.id, self.notes = EventLog(NAME, notes), id, notes
        self.tools: list[Any] = []
        self.responses: dict[str, Any] = {}
        self.subagents: list[Row] = []
        self._caused: set[Any] = set()
        self._called: set[Any] = set()

    def read(self, events: list[Any]) -> None:
        """All events in order; those between a delegation and its result are a sub-agent's."""
        self._caused = {str(at(event, "cause")) for event in events if isinstance(at(event, "observation"), str)}
        delegations = _delegations(events)
        position = 0
        while position < len(events):
            self._event(events[position], ())
            end = delegations.get(position)
            if end is not None:
                inner = _Reader(self.notes, f"{self.id}.{len(self.subagents) + 1}")
                inner.read(events[position + 1 : end])
                self.subagents.append(inner.row())
                self._event(events[end], (inner.id,))
                position = end
            position += 1

    def row(self) -> Row:
        """The trajectory of what was read so far."""
        row: Row = {"id": self.id, "content": self.log.items}
        for name, value in (
            ("tools", self.tools),
            ("model_calls", self.log.model_calls),
            ("subagents", self.subagents),
        ):
            if value:
                row[name] = value
        own = {"beside": self.log.beside, "responses": list(self.responses.values())}
        own = {name: value for name, value in own.items() if value}
        if own:
            row["extra"] = {NAME: own}
        return row

    def _event(self, event: Any, subagents: tuple[str, ...]) -> None:
        action, observation = at(event, "action"), at(event, "observation")
        if isinstance(action, str):
            self._action(event, action)
        elif isinstance(observation, str):
            self._observation(event, observation, subagents)
        else:
            if not isinstance(event, dict) or (action, observation) != (None, None):
                self.notes.flaw("unreadable event", "an event is neither an action nor an observation; kept beside")
            self.log.put_beside(event)

    def _action(self, event: dict[str, Any], kind: str) -> None:
        if kind in _NO_ACTIONS:
            self.log.put_beside(event)
            return
        place, fields = _fields(event, "args")
        source = event.get("source") or self._likely_source(kind)
        stamp = _stamp(event)
        if kind == "system":
            tools = fields.get("tools")
            if isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools):
                self.tools += fields.pop("tools")
            self.log.see(
                [text(as_text(_take(fields, event, "content")), "system", **stamp)], _rest(event, place, fields)
            )
        elif kind == "condensation":
            self._compaction(event, place, fields, fields.pop("summary", None))
        elif source != "agent":
            self._users(event, kind, place, fields, stamp)
        else:
            self._agents(event, kind, place, fields, stamp)

    def _likely_source(self, kind: str) -> str:
        """The oldest event lists name no source: a message that follows the agent's own (or nothing) is the user's."""
        items = self.log.items
        asked = not items or items[-1]["class_"] == "message_action"
        return "user" if kind == "message" and asked else "agent"

    def _users(
        self, event: dict[str, Any], kind: str, place: str, fields: dict[str, Any], stamp: dict[str, Any]
    ) -> None:
        """A user's message, or what a user did with the agent's tools (a command typed in the terminal)."""
        if kind == "message":
            content = as_text(_take(fields, event, "content"))
            source = "environment" if event.get("source") == "environment" else "user"
            items = [text(content, source, **stamp), *_images(fields, source)]
        else:
            content = fields.pop("command" if kind == "run" else "code", None)
            items = [text(as_text(content), "user", kind, **stamp)]
        self.log.see(items, _rest(event, place, fields, items[0]["content"]))

    def _agents(
        self, event: dict[str, Any], kind: str, place: str, fields: dict[str, Any], stamp: dict[str, Any]
    ) -> None:
        call, call_id, response = self._call(event)
        if call is not None and isinstance(name := at(call, "function", "name"), str):
            given = arguments(at(call, "function", "arguments"), name, self.notes)
            thought = fields.pop("thought", None) if kind != "think" else None
            if thought is None and response is not None:
                thought = _said(self.responses[response], call)
            item = api(name, description=_maybe(thought), **given)
            fields = {name: value for name, value in fields.items() if given["kwargs"].get(name) != value}
        elif kind == "message":
            images = list(_images(fields, "agent"))
            item = message(as_text(_take(fields, event, "content")), **stamp)
            self.log.act(item, _rest(event, place, fields, item["content"]), response)
            self.log.see([item, *images][1:], {})
            return
        else:
            item = _own_vocabulary(kind, fields)
        if call_id is None and (id := event.get("id")) is not None and str(id) in self._caused:
            call_id = str(id)
        if call_id is not None:
            item["call_id"] = call_id
            self._called.add(call_id)
        item.update(stamp)
        self.log.act(item, _rest(event, place, fields), response)

    def _call(self, event: dict[str, Any]) -> tuple[Any, str | None, str | None]:
        """The model's tool call that an event quotes, its id, and its response's id; the response is stored once."""
        meta = event.get("tool_call_metadata")
        if not isinstance(meta, dict):
            return None, None, None
        call_id, response = meta.get("tool_call_id"), meta.get("model_response")
        call_id = call_id if isinstance(call_id, str) else None
        id = at(response, "id")
        if not isinstance(response, dict) or not isinstance(id, str):
            return None, call_id, None
        if id not in self.responses:
            self.responses[id] = response
            self.log.responses[id] = None
            if isinstance(model := response.get("model"), str):
                self.log.responses[id] = len(self.log.model_calls)
                made: dict[str, Any] = {"model": model, "usage": usage(response.get("usage"))}
                if isinstance(reason := at(response, "choices", 0, "finish_reason"), str):
                    made["finish_reason"] = reason
                self.log.model_calls.append(made)
        if response == self.responses[id]:
            event["tool_call_metadata"] = {**meta, "model_response": id}
        calls = at(response, "choices", 0, "message", "tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if at(call, "id") == call_id and call_id is not None:
                return call, call_id, id
        return None, call_id, id

    def _observation(self, event: dict[str, Any], kind: str, subagents: tuple[str, ...]) -> None:
        if kind in _NOT_SEEN:
            self.log.put_beside(event)
            return
        place, fields = _fields(event, "extras")
        content = as_text(_take(fields, event, "content"))
        if kind == "condense":
            self._compaction(event, place, fields, content)
            return
        _, call_id, _ = self._call(event)
        cause = event.get("cause")
        if call_id is None and cause is not None and str(cause) in self._called:
            call_id = str(cause)
        name = at(event, "tool_call_metadata", "function_name")
        about = {"call_id": call_id, "is_error": _failed(kind, fields), **_stamp(event)}
        seen = text(content, "environment", name if isinstance(name, str) else kind)
        items = [seen, *_images(fields, "environment"), *_shown(kind, fields)]
        if len(items) > 1 and not content:
            items = items[1:]
        if subagents:
            items[0]["subagents"] = list(subagents)
        items[0].update({name: value for name, value in about.items() if value is not None})
        for item in items[1:]:
            if call_id is not None:
                item["call_id"] = call_id
        self.log.see(items, _rest(event, place, fields, content))

    def _compaction(self, event: dict[str, Any], place: str, fields: dict[str, Any], summary: Any) -> None:
        item = text(as_text(summary), "system", "compaction", **_stamp(event))
        self.log.see([item], _rest(event, place, fields, item["content"]))


def _fields(event: dict[str, Any], place: str) -> tuple[str, dict[str, Any]]:
    """Where an event has its arguments, and a copy of them."""
    for name in (place, "args", "extras"):
        if isinstance(fields := event.get(name), dict):
            return name, dict(fields)
    return "", {name: value for name, value in event.items() if name not in _ENVELOPE}


def _rest(event: dict[str, Any], place: str, fields: dict[str, Any], said: str | None = None) -> dict[str, Any]:
    """What of an event is not in its item yet; `said` is the text that `message` and `content` may repeat."""
    rest = left({name: value for name, value in event.items() if name in _ENVELOPE or place}, {})
    fields = left(fields, {})
    if place:
        rest.pop(place, None)
        if fields:
            rest[place] = fields
    else:
        rest.update(fields)
    if isinstance(rest.get("timestamp"), str):
        del rest["timestamp"]
    for name in ("message", "content"):
        if said is not None and rest.get(name) == said:
            del rest[name]
    return rest


def _said(response: Any, call: Any) -> str | None:
    """The text of the response, for its first call."""
    said = at(response, "choices", 0, "message")
    return at(said, "content") if at(said, "tool_calls", 0) == call else None


def _take(fields: dict[str, Any], event: dict[str, Any], name: str) -> Any:
    """A text that stands among the arguments or on the event itself."""
    return fields.pop(name) if fields.get(name) is not None else event.get(name)


def _maybe(thought: Any) -> str | None:
    return thought if thought is None or isinstance(thought, str) else as_text(thought)


def _stamp(event: dict[str, Any]) -> dict[str, Any]:
    return {"timestamp": event["timestamp"]} if isinstance(event.get("timestamp"), str) else {}


def _own_vocabulary(kind: str, fields: dict[str, Any]) -> Item:
    """The action of an event that quotes no tool call; what it uses leaves `fields`."""
    if kind == "think":
        return api("think", {"thought": fields.pop("thought", None)})
    thought = _maybe(fields.pop("thought", None))
    if kind == "run" and isinstance(fields.get("command"), str) and not fields.get("is_input"):
        return code("bash", fields.pop("command"), thought)
    if kind == "run_ipython" and isinstance(fields.get("code"), str):
        return code("python", fields.pop("code"), thought)
    if kind == "call_tool_mcp" and isinstance(fields.get("name"), str) and isinstance(fields.get("arguments"), dict):
        return api(fields.pop("name"), fields.pop("arguments"), thought)
    kwargs = {name: fields.pop(name) for name in list(fields) if name not in _HOUSEKEEPING}
    return api(kind, kwargs, thought)


def _images(fields: dict[str, Any], source: Any) -> Iterator[Item]:
    for name in ("image_urls", "images_urls"):
        urls = fields.get(name)
        if isinstance(urls, list) and all(isinstance(url, str) for url in urls):
            for url in fields.pop(name):
                yield image(url, source)


def _shown(kind: str, fields: dict[str, Any]) -> Iterator[Item]:
    """What an observation holds beside its text: a page, or the texts that a recall put before the agent."""
    if kind == "browse":
        yield from _page(fields)
    elif kind == "recall":
        for name in ("repo_instructions", "additional_agent_instructions", "conversation_instructions"):
            if fields.get(name) and isinstance(fields[name], str):
                yield text(fields.pop(name), "system", name)
        knowledge = fields.get("microagent_knowledge")
        known = list(knowledge) if isinstance(knowledge, list) else []
        for index, entry in enumerate(known):
            if isinstance(entry, dict) and isinstance(entry.get("content"), str):
                known[index] = {key: value for key, value in entry.items() if key != "content"}
                yield text(entry["content"], "system", "microagent")
        if known:
            fields["microagent_knowledge"] = known


def _page(fields: dict[str, Any]) -> Iterator[Item]:
    """The page of a browse observation: address, accessibility tree, screenshot."""
    used = {name: fields.get(name) for name in ("url", "screenshot") if isinstance(fields.get(name), str)}
    tree = fields.get("axtree_object")
    try:
        shown = page({**used, "axtree_object": tree})
    except (KeyError, TypeError, AttributeError, ValueError):
        shown = page(used)  # a tree of another shape stays among the leftovers
    shot = shown.get("image_observation")
    if shot is not None and not shot["content"].startswith(("data:", "http")):
        shot["content"] = f"data:image/png;base64,{shot['content']}"
    for name in used:
        del fields[name]
    if len(shown) > 1:
        yield shown


def _failed(kind: str, fields: dict[str, Any]) -> bool | None:
    if kind == "error":
        return True
    if kind == "browse" and isinstance(fields.get("error"), bool):
        return fields["error"]
    for code_ in (at(fields, "metadata", "exit_code"), fields.get("exit_code")):
        if type(code_) is int:
            return None if code_ == -1 else code_ != 0
    return None


def _delegations(events: list[Any]) -> dict[int, int]:
    """Position of each outermost delegation -> position of its result."""
    open_: list[int] = []
    spans: dict[int, int] = {}
    for position, event in enumerate(events):
        if at(event, "action") == "delegate":
            open_.append(position)
        elif at(event, "action") is None and at(event, "observation") == "delegate" and open_:
            spans[open_.pop()] = position
    end = -1
    outermost: dict[int, int] = {}
    for start in sorted(spans):
        if start > end:
            outermost[start] = end = spans[start]
    return outermost


def _decode(value: Any, notes: Notes) -> Row:
    envelope: dict[str, Any] = {}
    events = value
    if isinstance(value, dict):
        envelope = dict(value)
        events = next((envelope.pop(name) for name in ("trajectory", "history") if name in envelope), None)
    if not isinstance(events, list):
        raise RowError("neither a list of events nor an object with one under trajectory or history")
    flat: list[Any] = []
    for event in events:
        # the oldest evaluations pair an action with its observation
        flat += event if isinstance(event, list) else [event]
    given = envelope.pop("id", None)
    id, own = row_id(NAME, value, envelope.get("instance_id") if given is None else given)
    reader = _Reader(notes, id)
    reader.read([dict(event) if isinstance(event, dict) else event for event in flat])
    row = reader.row()
    for name in _PERSONAL:
        if envelope.get(name):
            notes.drop("personal data (e-mail, token)", as_text(envelope[name]))
        envelope.pop(name, None)
    details = {name: envelope.pop(name) for name in _DETAILS if envelope.get(name) is not None}
    if details:
        row["details"] = details
    if envelope or own:
        row.setdefault("extra", {}).setdefault(NAME, {}).update(own, **({"run": envelope} if envelope else {}))
    return row


def _is_event(value: Any) -> bool:
    action, observation = at(value, "action"), at(value, "observation")
    if isinstance(action, str) and observation is None:
        return action in _ACTIONS and "class_" not in value
    if isinstance(observation, str) and action is None:
        return observation in _OBSERVATIONS and "class_" not in value
    return False


def _likes(value: Any) -> int:
    if isinstance(value, list):
        firsts = [event for part in value[:4] for event in (part[:2] if isinstance(part, list) else [part])]
        return 90 if any(map(_is_event, firsts)) else 0
    if _is_event(value):
        return 85
    events = at(value, "trajectory") or at(value, "history")
    if not isinstance(events, list) or _likes(events) == 0:
        return 0
    # the public feedback set has a recipe of its own
    return 60 if "feedback" in value else 88


def _claims(path: Path) -> bool:
    folder = path / "events"
    return folder.is_dir() and any(file.stem.isdigit() for file in folder.glob("*.json"))


def _open(path: Path) -> Iterator[Numbered]:
    """A session's folder: one file an event, named by its number."""
    files = [file for file in (path / "events").glob("*.json") if file.stem.isdigit()]
    events: list[Any] = []
    for file in sorted(files, key=lambda file: int(file.stem)):
        raw = file.read_bytes()
        try:
            events.append(orjson.loads(raw))
        except ValueError as error:
            yield Numbered(int(file.stem), problem=f"event file {file.name}: not valid JSON: {error}", raw=raw)
    yield Numbered(1, {"id": path.name, "trajectory": events})


OPENHANDS_V0 = Format(
    name=NAME,
    title="OpenHands 0.x events",
    likes=_likes,
    decode=_decode,
    gather=gathered(_is_event),
    open=_open,
    claims=_claims,
)
