"""Rows as ATIF: items are gathered into steps; what ATIF has no field for is carried in `extra` (see `atif_parts`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from typing import Any

from fairtrial.formats.atif_parts import (
    CARRIED,
    NAME,
    code_call,
    content_of,
    media_type,
    names_model,
    rest_of,
    unsaid,
    with_extra,
    write_metrics,
)
from fairtrial.formats.format import Notes, Row, RowError
from fairtrial.formats.items import Item, is_action

VERSION = "ATIF-v1.7"

_ROOT = frozenset({"id", "content", "tools", "model_calls", "subagents", "extra"})
_TOLD = frozenset({"class_", "content", "source", "timestamp"})
_SAID = frozenset({"class_", "content", "timestamp", "reasoning", "model_call"})
_API = frozenset({"class_", "function", "kwargs", "call_id", "joined", "model_call"})
_CODE = frozenset({"class_", "language", "content", "call_id", "joined", "model_call"})
_FIRST = frozenset({"description", "reasoning", "timestamp"})
_RESULT = frozenset({"class_", "content", "source", "name", "call_id", "subagents"})
_PART = frozenset({"class_", "content", "source", "joined", "call_id"})
_WEB = frozenset({"html", "axtree", "url", "image_observation", "viewport_size"})


def default_agent(row: Row) -> dict[str, Any]:
    """The `agent` of a row that did not come from ATIF: nobody told its name."""
    agent: dict[str, Any] = {"name": "unknown", "version": "unknown"}
    if calls := row.get("model_calls"):
        agent["model_name"] = calls[0]["model"]
    return agent


def encoder(version: str) -> Callable[[Row, Notes], Iterator[dict[str, Any]]]:
    """`encode` for this version; a trajectory that was read from another version keeps its own."""

    def encode(row: Row, notes: Notes) -> Iterator[dict[str, Any]]:
        if not row.get("content"):
            raise RowError("a trajectory without items has no steps, and ATIF demands one")
        yield _write(row, notes, version)

    return encode


def _write(row: Row, notes: Notes, version: str) -> dict[str, Any]:
    own = dict(row.get("extra", {}).get(NAME, {}))
    made, ids = own.pop("id", None), own.pop("ids", {"trajectory_id": "id", "session_id": "id"})
    agent = dict(own.pop("agent", None) or default_agent(row))
    value: dict[str, Any] = {"schema_version": own.pop("schema_version", version)}
    for key, given in ids.items():
        if not (made and given == "id"):
            value[key] = row["id"] if given == "id" else given
    steps = _Steps(row, agent.get("model_name"), notes)
    if row.get("tools"):
        agent["tool_definitions"] = row["tools"]
    value["agent"] = agent
    value["steps"] = steps.steps
    extra = own.pop("extra", None)
    value |= own
    carried = rest_of(row, _ROOT)
    if steps.model_calls_apart:
        carried["model_calls"] = row["model_calls"]
    with_extra(value, extra, carried)
    if extra is None and "extra" in row.get("extra", {}).get(NAME, {}) and not carried:
        value["extra"] = None
    if subagents := row.get("subagents"):
        value["subagent_trajectories"] = [_write(below, notes, version) for below in subagents]
    return value


class _Steps:
    """Gathers a row's items into steps."""

    def __init__(self, row: Row, agent_model: Any, notes: Notes) -> None:
        self.notes = notes
        self.agent_model = agent_model
        self.steps: list[dict[str, Any]] = []
        self.owner: dict[str, dict[str, Any]] = {}
        """Call id -> the step that makes the call."""
        self.calls: dict[str, Item] = {}
        self.nameless: list[str] = []
        """Ids made for the calls of the last step that have none, not yet answered."""
        self.sequences: list[list[int]] = []
        self.speaking: dict[str, Any] = {}
        """The last step that has an item of its own, beside its results."""
        self.current_call: int | None = None
        """The model call that reading gives to every action of the current response."""
        content = row["content"]
        taken = {item["call_id"] for item in content if "call_id" in item}
        self.fresh = (made for number in count(1) if (made := f"call_{number:06d}") not in taken)
        groups = _groups(content)
        self.model_calls = row.get("model_calls", [])
        order = [group[0]["model_call"] for group in groups if "model_call" in group[0] and is_action(group[0])]
        self.model_calls_apart = bool(self.model_calls) and order != list(range(len(self.model_calls)))
        for group in groups:
            first = group[0]
            if is_action(first):
                self.respond(group)
            elif _is_told(first):
                self.tell(group)
            else:
                self.observe(group)

    def open(self, source: str, first: Item) -> dict[str, Any]:
        """A new step; what the file said of it beyond us comes from its first item."""
        own = _own(first).get("step", {})
        step: dict[str, Any] = {"step_id": len(self.steps) + 1}
        timestamp = first.get("timestamp")
        if _is_time(timestamp):
            step["timestamp"] = timestamp
        step |= {"source": own.get("source", source), "message": ""}
        step |= {key: value for key, value in own.items() if key not in ("source", "extra", "missing", "metrics")}
        if "message" in own.get("missing", ()):
            del step["message"]
        self.steps.append(step)
        self.nameless = []
        return step

    def close(self, step: dict[str, Any], first: Item, carried: dict[str, Any]) -> None:
        own = _own(first).get("step", {})
        timestamp = first.get("timestamp")
        if timestamp is not None and not _is_time(timestamp):
            carried["timestamp"] = timestamp
        if own.get("is_copied_context") is True and carried.get("loss") is False:
            del carried["loss"]
        with_extra(step, own.get("extra"), carried)
        if "extra" in own and own["extra"] is None and not carried:
            step["extra"] = None

    def tell(self, group: list[Item]) -> None:
        first = group[0]
        source = first["source"]
        step = self.open(source, first)
        carried = rest_of(first, _TOLD)
        if "message" not in _own(first).get("step", {}):
            step["message"] = content_of(group)
        if source == "agent":
            carried |= {key: first[key] for key in ("class_", "source", "content")}
            if len(group) > 1:
                carried["after"] = group[1:]
            step["message"] = first["content"]
            self.close(step, first, carried)
            return
        raw = _own(first).get("step", {}).get("message")
        carried = unsaid(carried, raw, source, 0)
        self.parts(group, carried, raw)
        self.close(step, first, carried)
        self.speaking = step

    def parts(self, group: list[Item], carried: dict[str, Any], raw: Any) -> None:
        """What a part of a message cannot say is carried beside the first one's."""
        first = group[0]
        kept = {}
        copied = "loss" in first and _own(first).get("step", {}).get("is_copied_context") is True
        for place, item in enumerate(group[1:], 1):
            rest = unsaid(rest_of(item, _PART), raw, first["source"], place)
            for key in ("source", "call_id"):
                if item.get(key) != first.get(key):
                    rest[key] = item.get(key)
            if copied and rest.get("loss") is False:
                del rest["loss"]
            if rest:
                kept[str(place)] = rest
            self.tell_media(item)
        self.tell_media(first)
        if kept:
            carried["parts"] = kept

    def tell_media(self, item: Item) -> None:
        if item["class_"] == "image_observation" and item["content"].startswith("data:"):
            told = item["content"][5:].partition(";")[0]
            if told != media_type(item["content"]):
                self.notes.rewrite(f"an image of type {told} is called {media_type(item['content'])}", told)

    def respond(self, group: list[Item]) -> None:
        group = self.message_first(group)
        first = group[0]
        step = self.open("agent", first)
        own = _own(first).get("step", {})
        carried: dict[str, Any] = {}
        self.current_call = None if self.model_calls_apart else first.get("model_call")
        if first["class_"] == "message_action":
            text, calls, after = first["content"], [], group[1:]
            carried = rest_of(first, _SAID)
        else:
            text = first.get("description", "")
            calls = [item for item in group if item["class_"] != "message_action"]
            after = [item for item in group if item["class_"] == "message_action"]
            if first.get("description") == "":
                carried["description"] = ""
        if "message" not in own and "message" not in own.get("missing", ()):
            step["message"] = text
        if (reasoning := first.get("reasoning")) is not None:
            step["reasoning_content"] = reasoning
        if after:
            carried["after"] = after
        if calls:
            step["tool_calls"] = [self.call(item, step, item is first) for item in calls]
        self.model_call(step, group, own, carried)
        self.close(step, first, carried)
        self.speaking = step

    def message_first(self, group: list[Item]) -> list[Item]:
        """A message with calls joined to it: its text is what the first call is described with."""
        first = group[0]
        calls = [item for item in group[1:] if item["class_"] != "message_action"]
        if first["class_"] != "message_action" or not calls:
            return group
        self.notes.rewrite("a message before calls is written as the text of their step", first["content"])
        text = "\n".join([first["content"], *([calls[0]["description"]] if calls[0].get("description") else [])])
        head = {key: first[key] for key in ("reasoning", "timestamp", "model_call", "extra") if key in first}
        described = {**calls[0], **head, "description": text}
        described.pop("joined", None)
        return [described, *(item for item in group[1:] if item is not calls[0])]

    def call(self, item: Item, step: dict[str, Any], is_first: bool) -> dict[str, Any]:
        left = _own(item).get("call", {})
        is_code = item["class_"] == "code_action"
        rest = rest_of(item, (_CODE if is_code else _API) | (_FIRST if is_first else frozenset()))
        id = item.get("call_id")
        if id is None:
            id = next(self.fresh)
            rest["call_id"] = None
            self.nameless.append(id)
            self.notes.invent("a call id", id)
        if step.get("is_copied_context") is True and rest.get("loss") is False:
            del rest["loss"]
        call: dict[str, Any] = {"tool_call_id": id}
        call |= code_call(item) if is_code else {"function_name": item["function"], "arguments": item["kwargs"]}
        kept = left.get("extra", call.get("extra"))
        call |= {key: value for key, value in left.items() if key != "extra"}
        if item.get("malformed") is not None:
            if "arguments" in left and isinstance(left["arguments"], dict):
                del rest["malformed"]
            else:
                call["arguments"] = {}
        if is_first and item.get("joined"):
            rest["joined"] = True
        if not is_first and item.get("model_call") != self.current_call:
            rest["model_call"] = item.get("model_call")
        with_extra(call, kept, rest)
        if "extra" in left and left["extra"] is None and not rest:
            call["extra"] = None
        self.owner[id] = step
        self.calls[id] = item
        return call

    def model_call(self, step: dict[str, Any], group: list[Item], own: dict[str, Any], carried: dict[str, Any]) -> None:
        """Metrics and model of the step."""
        index = group[0].get("model_call")
        if index is None:
            if "metrics" in own:
                step["metrics"] = own["metrics"]
            return
        if self.model_calls_apart:
            carried["model_call"] = index
            return
        call = self.model_calls[index]
        metrics = write_metrics(call, step.get("llm_call_count") or 1, self.sequences)
        left = own.get("metrics")
        if isinstance(left, dict):
            extra = left.get("extra")
            metrics |= {key: value for key, value in left.items() if key != "extra"}
            if "extra" in left:
                metrics["extra"] = {**(extra or {}), **metrics["extra"]} if "extra" in metrics else extra
        if metrics or left == {}:
            step["metrics"] = metrics
        elif "metrics" in own:
            step["metrics"] = left
        if (
            "model_name" not in own
            and "model_name" not in own.get("missing", ())
            and names_model(call["model"], self.agent_model, metrics)
        ):
            step["model_name"] = call["model"]

    def observe(self, group: list[Item]) -> None:
        first = group[0]
        own = _own(first)
        step = self.steps[-1] if self.steps else None
        fresh = "step" in own or step is None or (step["source"] == "user" and "attach" not in own)
        owner = self.owner.get(first.get("call_id", ""))
        if owner is not None and owner is not step and not own.keys() & {"step", "attach"}:
            step, fresh = owner, False
            self.notes.rewrite("a result that comes late stands with its call", first["call_id"])
        if fresh or step is None:
            step = self.open("system", first)
        elif step is self.speaking and not step.get("message") and not _speaks(step):
            with_extra(step, step.get("extra"), {"message": True})
            self.speaking = {}
        timestamp = fresh and _is_time(first.get("timestamp"))
        result, carried = self.result(group, step, timestamp)
        left = own.get("result", {})
        kept = left.get("extra", result.get("extra"))
        result |= {key: value for key, value in left.items() if key not in ("extra", "missing", "web")}
        if "web" in left:
            result["extra"]["web"] = left["web"]
        for key in left.get("missing", ()):
            del result[key]
        if "web" in result.get("extra", {}) and isinstance(kept, dict):
            kept = {**kept, "adp_class": "web_observation", "web": result["extra"]["web"]}
        with_extra(result, kept, carried)
        if "extra" in left and left["extra"] is None and not carried:
            result["extra"] = None
        given = step.get("observation") or {}
        step["observation"] = {**given, "results": [*given.get("results", ()), result]}
        if fresh:
            kept = own.get("step", {}).get("extra")
            if kept is not None or "extra" in own.get("step", {}):
                step["extra"] = kept
            if "metrics" in own.get("step", {}):
                step["metrics"] = own["step"]["metrics"]

    def result(self, group: list[Item], step: dict[str, Any], timestamp: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        first = group[0]
        web = first["class_"] == "web_observation"
        carried = rest_of(first, (_RESULT | _WEB if web else _RESULT) | ({"timestamp"} if timestamp else frozenset()))
        result: dict[str, Any] = {}
        id = first.get("call_id")
        if id is None and self.nameless and first.get("source", "environment") == "environment":
            id = self.nameless.pop(0)
            carried["call_id"] = None
        if id is not None:
            if id not in self.owner and step.get("tool_calls"):
                self.notes.flaw("result without call", f"a result of {id}, which is not called before it")
                carried["call_id"] = id
            else:
                result["source_call_id"] = id
        if web:
            result["content"], result["extra"] = write_web(first)
        else:
            result["content"] = content_of(group)
            call = self.calls.get(result.get("source_call_id", ""))
            implied = call["function"] if call and call["class_"] == "api_action" else None
            if first["class_"] != "text_observation":
                implied = None
            if first.get("name") != implied:
                carried["name"] = first.get("name")
            if first["source"] != "environment":
                carried["source"] = first["source"]
            carried = unsaid(carried, _own(first).get("result", {}).get("content"), "environment", 0)
            self.parts(group, carried, _own(first).get("result", {}).get("content"))
            for place, item in enumerate(group[1:] if "call_id" in carried else (), 1):
                carried.setdefault("parts", {}).setdefault(str(place), {})["call_id"] = item.get("call_id")
        if subagents := first.get("subagents"):
            result["subagent_trajectory_ref"] = [{"trajectory_id": below} for below in subagents]
        if step.get("is_copied_context") is True and carried.get("loss") is False:
            del carried["loss"]
        return result, carried


def write_web(item: Item) -> tuple[str, dict[str, Any]]:
    """A page as text (its accessibility tree, else its HTML), and the rest of it in the extra that ADP's ATIF uses."""
    shown = "axtree" if "axtree" in item else "html" if "html" in item else ""
    web = {key: item[key] for key in _WEB if key in item and key != shown}
    if shown:
        web["content"] = shown
    return item.get(shown, ""), {"adp_class": "web_observation", "web": web}


def _is_told(item: Item) -> bool:
    """Whether an observation is somebody's message and not the environment's."""
    return item["class_"] != "web_observation" and item["source"] != "environment"


def _groups(content: list[Item]) -> list[list[Item]]:
    """Items by message: a response with its calls, a text with the images beside it."""
    groups: list[list[Item]] = []
    for item in content:
        if groups and item.get("joined") and _joins(groups[-1], item):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _joins(group: list[Item], item: Item) -> bool:
    first = group[0]
    if is_action(first) or is_action(item):
        return is_action(first) and is_action(item)
    return "web_observation" not in (first["class_"], item["class_"]) and _is_told(first) == _is_told(item)


def _speaks(step: dict[str, Any]) -> bool:
    """Whether a step with an empty message is read as more than its results."""
    told = any(step.get(key) for key in ("tool_calls", "reasoning_content", "metrics"))
    return told or CARRIED in (step.get("extra") or {})


def _own(item: Item) -> dict[str, Any]:
    return item["extra"].get(NAME, {}) if "extra" in item else {}


def _is_time(timestamp: Any) -> bool:
    if not isinstance(timestamp, str):
        return False
    try:
        datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    except ValueError:
        return False
    return True
