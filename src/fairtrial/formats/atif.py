"""ATIF, Harbor's Agent Trajectory Interchange Format: versions 1.4 to 1.8 read, 1.7 written (1.8 by `ATIF_1_8`).

Read: the model at v1.7 in neulab/agent-data-protocol (June 2026) and the package `atif` 1.8.0. One file is one
trajectory of steps; an agent's step holds its message, its calls and their results. What a step says beyond our
vocabulary stays with its first item under `extra["atif"]["step"]`, of a call under `["call"]`, of a result under
`["result"]`, of the run under the row's `extra["atif"]`, so that writing gives the file back.
"""

from __future__ import annotations

from typing import Any

from fairtrial.core.ids import digest
from fairtrial.formats.atif_parts import (
    NAME,
    apply,
    content_of,
    items_of,
    names_model,
    read_code,
    read_metrics,
    take_carried,
    text_of,
)
from fairtrial.formats.atif_writing import VERSION, default_agent, encoder, write_web
from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import Item, arguments

_AGENT_ONLY = frozenset({"reasoning_content", "tool_calls", "metrics", "model_name"})
_READ = frozenset({"step_id", "source", "message", "observation", "timestamp", "extra"})


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not a JSON object")
    if not isinstance(value["schema_version"], str) or not value["schema_version"].startswith("ATIF"):
        raise RowError(f"schema_version {value['schema_version']!r} is no version of ATIF")
    if not isinstance(value["steps"], list):
        raise RowError("steps is no list")
    if not isinstance(value["agent"], dict):
        raise RowError("agent is no object")
    agent = dict(value["agent"])
    reader = _Reader(agent.get("model_name"), notes)
    for number, step in enumerate(value["steps"], 1):
        reader.step(number, step)
    row: Row = {"id": "", "content": reader.content}
    if isinstance(tools := agent.get("tool_definitions"), list) and tools:
        row["tools"] = agent.pop("tool_definitions")
    if reader.model_calls:
        row["model_calls"] = reader.model_calls
    if subagents := value.get("subagent_trajectories"):
        row["subagents"] = [_decode(below, notes) for below in subagents]
    _read_root(value, agent, row)
    return row


def _read_root(value: dict[str, Any], agent: dict[str, Any], row: Row) -> None:
    """The id, and what the root says beyond a row: kept where writing would not say the same."""
    carried, extra = take_carried(value.get("extra"))
    known = {"steps", "agent", "extra", "schema_version", "trajectory_id", "session_id", "subagent_trajectories"}
    own = {key: field for key, field in value.items() if key not in known}
    if not value.get("subagent_trajectories", True):
        own["subagent_trajectories"] = value["subagent_trajectories"]
    if extra is not None or value.get("extra", 0) is None:
        own["extra"] = extra
    if value["schema_version"] != VERSION:
        own["schema_version"] = value["schema_version"]
    apply(row, carried)
    if agent != default_agent(row):
        own["agent"] = agent
    ids = {key: value[key] for key in ("trajectory_id", "session_id") if key in value}
    id = ids.get("trajectory_id") if isinstance(ids.get("trajectory_id"), str) else ids.get("session_id")
    if not isinstance(id, str):
        id, own["id"] = f"{NAME}-{digest(value)[:16]}", "made"
    row["id"] = id
    if ids != {"trajectory_id": id, "session_id": id}:
        own["ids"] = {key: "id" if given == id else given for key, given in ids.items()}
    if own:
        row["extra"] = {**row.get("extra", {}), NAME: own}


class _Reader:
    """Reads steps into items; knows the calls of the run and the token sequences of its model calls."""

    def __init__(self, model: Any, notes: Notes) -> None:
        self.agent_model = model
        self.notes = notes
        self.content: list[Item] = []
        self.model_calls: list[dict[str, Any]] = []
        self.sequences: list[list[int]] = []
        self.calls: dict[str, Item] = {}
        self.takes_results = False
        """Whether an observation written next would join the step before."""

    def step(self, number: int, step: dict[str, Any]) -> None:
        source = step["source"]
        if source not in ("system", "user", "agent"):
            raise RowError(f"step {number}: source {source!r} is none of system, user, agent")
        if step.get("step_id") != number:
            self.notes.flaw("step ids", f"step {number} has step_id {step.get('step_id')!r}")
        known = _READ | _AGENT_ONLY if source == "agent" else _READ
        own = {key: field for key, field in step.items() if key not in known}
        carried, extra = take_carried(step.get("extra"))
        if extra is not None or step.get("extra", 0) is None:
            own["extra"] = extra
        start = len(self.content)
        results = self.results(step, own)
        if source == "agent":
            self.agent(step, own, carried, bool(results))
        else:
            self.told(step, own, carried, bool(results))
        alone = len(self.content) == start
        calls = {call["tool_call_id"] for call in step.get("tool_calls") or ()}
        for result in results:
            self.result(number, result, calls)
        first = self.content[start]
        if isinstance(step.get("timestamp"), str):
            first.setdefault("timestamp", step["timestamp"])
        elif "timestamp" in step:
            own["timestamp"] = step["timestamp"]
        if alone and (self.takes_results or source != "system"):
            own["source"] = source
        elif results and not alone and source == "user":
            for item in self.content[start:]:
                if item.get("source") != "user":
                    _own(item)["attach"] = True
        if own:
            _own(first)["step"] = own
        if step.get("is_copied_context") is True:
            for item in self.content[start:]:
                item.setdefault("loss", False)
        self.takes_results = source != "user" or alone

    def results(self, step: dict[str, Any], own: dict[str, Any]) -> list[dict[str, Any]]:
        observation = step.get("observation")
        if not isinstance(observation, dict):
            if "observation" in step:
                own["observation"] = observation
            return []
        results = observation["results"]
        if not results or len(observation) > 1:
            own["observation"] = {k: v for k, v in observation.items() if k != "results" or not results}
        return results or []

    def told(self, step: dict[str, Any], own: dict[str, Any], carried: dict[str, Any], results: bool) -> None:
        """What a user or the system said. A step of results alone says nothing."""
        message = step["message"]
        if message == "" and results and step["source"] == "system" and not carried:
            return
        items = items_of(message, step["source"])
        if content_of(items) != message:
            own["message"] = message
        _carry(items, carried)
        self.content += items

    def agent(self, step: dict[str, Any], own: dict[str, Any], carried: dict[str, Any], results: bool) -> None:
        message = step.get("message")
        said = text_of(message)
        if said != message:
            own["message"] = message
            if "message" not in step:
                own["missing"] = ["message"]
        calls = step.get("tool_calls") or []
        if not calls and "tool_calls" in step:
            own["tool_calls"] = step["tool_calls"]
        items = [self.call(call) for call in calls]
        for item in items[1:]:
            item["joined"] = True
        # without calls, a step that says nothing is one of results alone (a dispatch without a model)
        if not items and (said or not results or carried or step.keys() & {"reasoning_content", "metrics"}):
            items = [{"class_": "message_action", "content": said}]
        elif items and said:
            items[0]["description"] = said
        if not items:
            own |= {key: step[key] for key in _AGENT_ONLY & step.keys() - {"tool_calls"}}
            return
        if isinstance(step.get("reasoning_content"), str):
            items[0]["reasoning"] = step["reasoning_content"]
        elif "reasoning_content" in step:
            own["reasoning_content"] = step["reasoning_content"]
        self.model_call(step, own, items)
        carried = dict(carried)
        after = carried.pop("after", [])
        carried.pop("message", None)
        apply(items[0], carried)
        for call, item in zip(calls, items, strict=False):
            apply(item, take_carried(call.get("extra"))[0])
        self.content += [*items, *after]

    def call(self, call: dict[str, Any]) -> Item:
        item = read_code(call)
        left = {k: v for k, v in call.items() if k not in {"tool_call_id", "function_name", "arguments", "extra"}}
        _, extra = take_carried(call.get("extra"))
        if item is not None:
            if extra != {"adp_class": "code_action", "language": item["language"]}:
                left["extra"] = extra
        else:
            function = call["function_name"]
            item = {"class_": "api_action", "function": function}
            item |= arguments(call.get("arguments"), function, self.notes)
            if item["kwargs"] != call.get("arguments"):
                left["arguments"] = call.get("arguments")
            if extra is not None or call.get("extra", 0) is None:
                left["extra"] = extra
        item["call_id"] = id = call["tool_call_id"]
        if id in self.calls:
            self.notes.flaw("duplicate call id", f"two calls have the id {id}")
        self.calls[id] = item
        if left:
            _own(item)["call"] = left
        return item

    def model_call(self, step: dict[str, Any], own: dict[str, Any], items: list[Item]) -> None:
        """The model call of a step that gives metrics or a model."""
        metrics, name = step.get("metrics"), step.get("model_name")
        if not isinstance(metrics, dict) and "metrics" in step:
            own["metrics"] = metrics
        if not isinstance(metrics, dict) and not isinstance(name, str):
            if "model_name" in step:
                own["model_name"] = name
            return
        model = name if isinstance(name, str) else self.agent_model
        model = model if isinstance(model, str) else "unknown"
        inferences = step.get("llm_call_count")
        call, left = read_metrics(
            metrics if isinstance(metrics, dict) else {}, model, inferences if inferences else 1, self.sequences
        )
        if left or metrics == {}:
            own["metrics"] = left
        if ("model_name" in step) != names_model(model, self.agent_model, metrics) or name not in (model, None):
            if "model_name" in step:
                own["model_name"] = name
            else:
                own["missing"] = [*own.get("missing", ()), "model_name"]
        elif "model_name" in step and name is None:
            own["model_name"] = None
        for item in items:
            item["model_call"] = len(self.model_calls)
        self.model_calls.append(call)

    def result(self, number: int, result: dict[str, Any], calls: set[str]) -> None:
        content, id = result.get("content"), result.get("source_call_id")
        carried, extra = take_carried(result.get("extra"))
        left = {key: value for key, value in result.items() if key not in {"source_call_id", "content", "extra"}}
        items = items_of(content, "environment")
        if (
            isinstance(extra, dict)
            and extra.get("adp_class") == "web_observation"
            and isinstance(extra.get("web"), dict)
        ):
            items = [_web(content, extra["web"])]
            if write_web(items[0]) != (content, {"adp_class": "web_observation", "web": extra["web"]}):
                left |= {"content": content, "web": extra["web"]}
            extra = {key: value for key, value in extra.items() if key not in {"adp_class", "web"}} or None
        elif content_of(items) != content:
            left["content"] = content
            if "content" not in result:
                left["missing"] = ["content"]
        if extra is not None or result.get("extra", 0) is None:
            left["extra"] = extra
        first = items[0]
        if isinstance(id, str):
            for item in items:
                item["call_id"] = id
            call = self.calls.get(id)
            if id not in calls:
                _own(first)["attach"] = True
                self.notes.flaw("result without call", f"step {number} has a result of {id}, which it does not call")
            if call and call["class_"] == "api_action" and first["class_"] == "text_observation":
                first["name"] = call["function"]
        elif "source_call_id" in result:
            left["source_call_id"] = id
        references = left.get("subagent_trajectory_ref")
        if isinstance(references, list) and references:
            first["subagents"] = [ref["trajectory_id"] for ref in references if ref.get("trajectory_id")]
            if [{"trajectory_id": below} for below in first["subagents"]] == references:
                del left["subagent_trajectory_ref"]
        _carry(items, carried)
        if left:
            _own(first)["result"] = left
        self.content += items


def _web(content: Any, web: dict[str, Any]) -> Item:
    """A web page: the fields under `web`, the one that the content shows taken from there."""
    item = {"class_": "web_observation", **{key: value for key, value in web.items() if value is not None}}
    if (shown := item.pop("content", None)) is not None:
        item[shown] = content
    if isinstance(image := item.get("image_observation"), dict):
        image = {key: value for key, value in image.items() if value is not None}
        item["image_observation"] = {"class_": "image_observation", "source": "environment", **image}
    return item


def _carry(items: list[Item], carried: dict[str, Any]) -> None:
    if carried:
        carried = dict(carried)
        for place, rest in carried.pop("parts", {}).items():
            apply(items[int(place)], rest)
        carried.pop("message", None)
        apply(items[0], carried)


def _own(item: Item) -> dict[str, Any]:
    return item.setdefault("extra", {}).setdefault(NAME, {})


def _likes(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    version, steps = value.get("schema_version"), value.get("steps")
    if isinstance(version, str) and version.startswith("ATIF"):
        return 97
    if not isinstance(steps, list) or not steps or not isinstance(steps[0], dict):
        return 0
    return 85 if {"step_id", "source", "message"} <= steps[0].keys() else 0


ATIF = Format(
    name=NAME,
    title="ATIF, read 1.4 to 1.8, written 1.7 (Harbor)",
    likes=_likes,
    decode=_decode,
    encode=encoder(VERSION),
)
ATIF_1_8 = Format(
    name="atif-1.8",
    title="ATIF 1.8 (Harbor; atif reads it)",
    likes=lambda value: 0,
    encode=encoder("ATIF-v1.8"),
    kind="export",
)
