"""SWE-agent's .traj files (read against 1.1 and the 0.x ones in its repository): fenced, XML and function calls.

`history` is what the model saw and said, `trajectory` what the harness did, step by step. The history is read, since
results are in it as the model saw them; each step adds to its response what the history lacks (state, execution time,
the last result, steps whose turn is not in the history). Where there is no history the steps are read alone.
"""

from __future__ import annotations

from typing import Any

import orjson

from fairtrial.formats.event_log import EventLog, as_text, at, left, row_id
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import Item, api, arguments, code, image, message, text

NAME = "swe-agent"
_DETAILS = ("exit_status", "submission", "model_stats")
_PROMPTS = ("query", "messages")


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not a JSON object")
    run = dict(value)
    history, steps = run.pop("history", None), run.pop("trajectory", None)
    if not isinstance(history, list) and not isinstance(steps, list):
        raise RowError("neither a history nor a trajectory")
    for name, part in (("history", history), ("trajectory", steps)):
        if part is not None and not isinstance(part, list):
            notes.flaw("unreadable part", f"the {name} is no list; kept beside")
            run[name] = part
    reader = _Reader(notes)
    steps = steps if isinstance(steps, list) else []
    history = history if isinstance(history, list) else []
    if any(at(entry, "role") == "assistant" and not _is_demo(entry) for entry in history):
        reader.history(history, steps)
    else:
        prompt = at(steps, 0, "query") or at(steps, 0, "messages")
        first = history or (prompt if isinstance(prompt, list) else [])
        reader.history([entry for entry in first if at(entry, "role") != "assistant"], steps)
        for entry in first:
            if at(entry, "role") == "assistant":
                reader.log.put_beside(entry)
    id, own = row_id(NAME, value, _given_id(run))
    row: Row = {"id": id, "content": reader.log.items}
    info = run.pop("info", None)
    if isinstance(info, dict):
        details = {name: info[name] for name in _DETAILS if info.get(name) is not None}
        info = left(info, details)
        if details:
            row["details"] = details
    said = {"beside": reader.log.beside, "info": info, "run": run}
    own |= {name: field for name, field in said.items() if field}
    if own:
        row["extra"] = {NAME: own}
    return row


def _given_id(run: dict[str, Any]) -> Any:
    """The problem's id, from the configuration that the file carries as JSON text."""
    config = run.get("replay_config")
    if isinstance(config, str):
        try:
            config = orjson.loads(config)
        except ValueError:
            return None
    return at(config, "problem_statement", "id")


def _is_demo(entry: Any) -> bool:
    return at(entry, "is_demo") is True or at(entry, "message_type") == "demonstration"


class _Reader:
    """Puts a history and its steps together."""

    def __init__(self, notes: Notes) -> None:
        self.log, self.notes = EventLog(NAME, notes), notes
        self._seen: dict[str, dict[str, Any]] = {}
        self._names: dict[str, str] = {}

    def history(self, history: list[Any], steps: list[Any]) -> None:
        """All messages in order, each response with its step; then the steps that no response is of."""
        self._seen = {as_text(entry.get("content")): entry for entry in history if isinstance(entry, dict)}
        step, acted, pending = 0, False, None
        for entry in history:
            if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
                self.notes.flaw("unreadable message", "an entry of the history is no message; kept beside")
                self.log.put_beside(entry)
            elif _is_demo(entry):
                self._demonstration(entry)
            elif entry["role"] == "assistant":
                self._result(pending)
                found = _step_of(entry, steps, step)
                if found is not None:
                    for missed in steps[step:found]:
                        self.log.put_beside({"step": self._without_prompts(missed)})
                    step = found + 1
                pending = None if found is None else steps[found]
                self._response(entry, pending)
                acted = True
            else:
                self._observation(entry, acted, pending)
                pending = pending if entry["role"] == "system" else None
        self._result(pending)
        for late in steps[step:]:
            self._late(late)

    def _demonstration(self, entry: dict[str, Any]) -> None:
        """Someone else's run, shown as an example: left out, and said."""
        self.notes.drop("demonstration", as_text(entry.get("content")))
        self.log.put_beside({name: field for name, field in entry.items() if name != "content"})

    def _response(self, entry: dict[str, Any], step: Any) -> None:
        rest = left(entry, {"role": "assistant"})
        rest.pop("content", None)
        if step is not None:
            more = self._without_prompts(step)
            same = {name: entry.get(name) for name in ("thought", "action")} | {"response": entry.get("content")}
            more.pop("observation", None)  # stands as the result
            if more := left(more, same):
                rest["step"] = more
        reasoning = _thinking(entry.get("thinking_blocks"))
        calls = entry.get("tool_calls")
        if isinstance(calls, list) and calls:
            rest.pop("tool_calls")
            self._calls(entry, calls, rest, reasoning)
            return
        said, thought, action = as_text(entry.get("content")), rest.pop("thought", None), rest.pop("action", None)
        if isinstance(action, str) and action.strip():
            item = code("bash", action, None if thought is None else as_text(thought), reasoning=reasoning)
            if said not in (action, thought):
                rest["content"] = said
        else:
            item = message(said, reasoning=reasoning)
            rest |= left({"thought": thought, "action": action}, {"thought": said, "action": ""})
        if not isinstance(entry.get("content"), str | None):
            rest["content"] = entry["content"]
        self.log.act(item, rest)

    def _calls(self, entry: dict[str, Any], calls: list[Any], rest: dict[str, Any], reasoning: str | None) -> None:
        said = entry.get("content")
        description = None if said is None else as_text(said)
        if description is not None and rest.get("thought") == description:
            del rest["thought"]
        for number, call in enumerate(calls):
            name = at(call, "function", "name")
            if not isinstance(name, str):
                self.notes.flaw("unreadable call", "a tool call has no function name; kept as text")
                item = message(as_text(call))
            else:
                item = api(name, **arguments(at(call, "function", "arguments"), name, self.notes))
            own = rest if number == 0 else {}
            if number == 0:
                if item["class_"] == "api_action":
                    item.update({} if description is None else {"description": description})
                elif description:
                    own["content"] = description
                item.update({} if reasoning is None else {"reasoning": reasoning})
            else:
                item["joined"] = True
            if isinstance(id := at(call, "id"), str):
                item["call_id"] = id
                if isinstance(name, str):
                    self._names[id] = name
            said_of_call = {"id": item.get("call_id"), "type": "function", "function": at(call, "function")}
            if isinstance(call, dict) and (shape := left(call, said_of_call)):
                own = {**own, "call": shape}
            function = at(call, "function")
            if isinstance(function, dict) and (shape := left(function, {"name": name, **_told(item, function)})):
                own = {**own, "function": shape}
            self.log.act(item, own)

    def _observation(self, entry: dict[str, Any], acted: bool, step: Any) -> None:
        role = entry["role"]
        source = "system" if role == "system" else "user" if role == "user" and not acted else "environment"
        items = _parts(entry.get("content"), source)
        rest = left(entry, {"role": role} if role in ("system", "user", "tool") else {})
        if not items:
            items = [text("", source)]
        elif isinstance(entry.get("content"), str) or "parts" not in items[0]:
            rest.pop("content", None)
        items[0].pop("parts", None)
        ids = entry.get("tool_call_ids")
        if isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], str):
            rest.pop("tool_call_ids")
            for item in items:
                item["call_id"] = ids[0]
            if (name := self._names.get(ids[0])) is not None and items[0]["class_"] == "text_observation":
                items[0]["name"] = name
        raw = at(step, "observation")
        if source == "environment" and raw is not None and raw not in items[0]["content"]:
            rest["observation"] = raw
        self.log.see(items, rest)

    def _result(self, step: Any) -> None:
        """A step's result that the history has not: the run ended there, or the response was not answered."""
        if (seen := at(step, "observation")) not in (None, ""):
            self.log.see([text(as_text(seen), "environment")], {"from": "step"})

    def _late(self, step: Any) -> None:
        """A step that is not in the history (an automatic submission, a run that was cut off)."""
        if not isinstance(step, dict):
            self.notes.flaw("unreadable step", "an entry of the trajectory is no step; kept beside")
            self.log.put_beside({"step": step})
            return
        rest = self._without_prompts(step)
        seen = rest.pop("observation", None)
        said, thought, action = rest.pop("response", None), rest.pop("thought", None), rest.pop("action", None)
        own: dict[str, Any] = {"step": rest} if rest else {}
        if isinstance(action, str) and action.strip():
            if said not in (None, action, thought):
                own["content"] = said
            self.log.act(code("bash", action, None if thought is None else as_text(thought)), own)
        else:
            own |= left({"thought": thought, "action": action}, {"thought": said, "action": ""})
            if said or thought:
                self.log.act(message(as_text(said)), own)
            elif own:
                self.log.put_beside(own)
        if seen not in (None, ""):
            self.log.see([text(as_text(seen), "environment")], {"from": "step"})

    def _without_prompts(self, step: Any) -> Any:
        """A step without its copies of the history; messages that were shown otherwise than there are kept."""
        if not isinstance(step, dict):
            return {} if step is None else {"step": step}
        rest = left(step, {})
        for name in _PROMPTS:
            if isinstance(prompt := rest.get(name), list):
                edited: list[Any] = []
                for index, entry in enumerate(prompt):
                    known = self._seen.get(as_text(at(entry, "content")), {})
                    other = left(entry, known) if isinstance(entry, dict) else entry
                    if other or not isinstance(entry, dict):
                        edited.append({"at": index, "message": other})
                rest[name] = {"messages": len(prompt), "otherwise": edited}
        return rest


def _step_of(entry: dict[str, Any], steps: list[Any], start: int) -> int | None:
    """Position of the step that a response is of: the next one with its text or its action."""
    for position in range(start, len(steps)):
        step = steps[position]
        said, action = at(step, "response"), at(step, "action")
        if said is not None and said == entry.get("content") and action == entry.get("action", action):
            return position
        if action is not None and action == entry.get("action") and at(step, "thought") == entry.get("thought"):
            return position
    return None


def _told(item: Item, function: dict[str, Any]) -> dict[str, Any]:
    """The arguments as they stand in the call where the item holds them."""
    return {"arguments": function.get("arguments")} if "kwargs" in item else {}


def _thinking(blocks: Any) -> str | None:
    if not isinstance(blocks, list):
        return None
    thoughts = [block["thinking"] for block in blocks if isinstance(at(block, "thinking"), str)]
    return "\n".join(thoughts) if thoughts else None


def _parts(content: Any, source: Any) -> list[Item]:
    """The items of a content; `parts` is set on the first where they do not hold all that it says."""
    if not isinstance(content, list):
        return [text(as_text(content), source)]
    items: list[Item] = []
    whole = True
    for part in content:
        url = at(part, "image_url", "url")
        if at(part, "type") == "text" and isinstance(at(part, "text"), str):
            items.append(text(part["text"], source))
            whole = whole and len(part) == 2
        elif isinstance(url, str):
            items.append(image(url, source))
            whole = False
        else:
            whole = False
    if items and items[0]["class_"] != "text_observation":
        items.insert(0, text("", source))
    if items and not whole:
        items[0]["parts"] = True
    return items


def _likes(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    step, first = at(value, "trajectory", 0), at(value, "history", 0)
    stepped = isinstance(step, dict) and {"action", "observation", "response"} <= step.keys()
    told = isinstance(first, dict) and "agent" in first and "role" in first
    if stepped and isinstance(value.get("history"), list):
        return 95
    if stepped or told:
        return 90 if "info" in value or "history" in value else 80
    return 0


SWE_AGENT = Format(name=NAME, title="SWE-agent .traj files (0.x, 1.x)", likes=_likes, decode=_decode)
