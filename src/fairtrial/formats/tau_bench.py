"""Result files of tau-bench (2026-03) and tau2-bench (2026-08): every run in them is one trajectory.

tau-bench: a list of `{task_id, trial, reward, info, traj}`, `traj` being chat messages. tau2: `{tasks, simulations,
info}`, where the simulated user has tools as well; the agent neither makes nor sees those calls: they are kept beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairtrial.formats.chat_messages import items_of_messages
from fairtrial.formats.event_log import at, row_id, usage
from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError, Skip
from fairtrial.formats.items import ACTIONS, Item

NAME = "tau-bench"
_DETAILS = ("task_id", "trial", "seed", "termination_reason", "mode")


def _gather(values: Iterator[Numbered]) -> Iterator[Numbered]:
    """One value for each simulation of a tau2 file, with its task; anything else passes."""
    for numbered in values:
        value = numbered.value
        runs = at(value, "simulations")
        if not isinstance(runs, list):
            yield numbered
            continue
        rest = {name: field for name, field in value.items() if name not in ("simulations", "tasks")}
        tasks = value.get("tasks")
        by_id = {str(at(task, "id")): task for task in (tasks if isinstance(tasks, list) else ())}
        for number, run in enumerate(runs, 1):
            whole = {"simulation": run, "file": rest}
            if (task := by_id.get(str(at(run, "task_id")))) is not None:
                whole["task"] = task
            yield Numbered(number, whole)


def _decode(value: Any, notes: Notes) -> Row | Skip:
    if not isinstance(value, dict):
        raise RowError("not a JSON object")
    if isinstance(value.get("traj"), list):
        return _first_generation(value, notes)
    run = value.get("simulation", value)
    if not isinstance(run, dict):
        raise RowError("the simulation is no JSON object")
    if not isinstance(messages := run.get("messages"), list):
        if isinstance(run.get("ticks"), list):
            return Skip("a voice simulation: audio ticks, no messages")
        raise RowError("no messages")
    rest = {name: field for name, field in run.items() if name != "messages"}
    own: dict[str, Any] = {name: value[name] for name in ("task", "file") if name in value and run is not value}
    model = at(value, "file", "info", "agent_info", "llm")
    content, calls, beside = _simulated(messages, model if isinstance(model, str) else None, notes)
    if beside:
        own["beside"] = beside
    row = _row(rest, value, content, rest.pop("id", None), at(rest, "reward_info", "reward"), own)
    if calls:
        row["model_calls"] = calls
    return row


def _first_generation(value: dict[str, Any], notes: Notes) -> Row:
    rest = {name: field for name, field in value.items() if name != "traj"}
    task, trial = rest.get("task_id"), rest.get("trial")
    id = None if task is None else f"{task}-{trial}" if trial is not None else str(task)
    content = items_of_messages(value["traj"], notes, NAME)
    reward = rest.get("reward")
    if _is_number(reward):
        del rest["reward"]
    return _row(rest, value, content, id, reward, {})


def _row(rest: dict[str, Any], value: Any, content: list[Item], id: Any, reward: Any, own: dict[str, Any]) -> Row:
    name, made = row_id(NAME, value, id)
    row: Row = {"id": name, "content": content}
    if _is_number(reward):
        row["reward"] = reward
    details = {name: rest.pop(name) for name in _DETAILS if rest.get(name) is not None}
    if details:
        row["details"] = details
    if rest:
        own["run"] = rest
    if id is not None and made:
        own["given_id"] = id
    if own or made:
        row["extra"] = {NAME: own | made}
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _simulated(
    messages: list[Any], model: str | None, notes: Notes
) -> tuple[list[Item], list[dict[str, Any]], list[dict[str, Any]]]:
    """Items, model calls, and what is no message to or from the agent: the simulated user's own calls."""
    chat: list[Any] = []
    beside: list[dict[str, Any]] = []
    for entry in messages:
        several = at(entry, "tool_messages")
        if isinstance(several, list):
            around = {name: field for name, field in entry.items() if name != "tool_messages"}
            if around != {"role": "tool"}:
                beside.append({"at": len(chat), "around": around})
        for part in several if isinstance(several, list) else [entry]:
            if _of_the_user(part):
                beside.append({"at": len(chat), "message": part})
                if not part.get("content") or part.get("role") == "tool":
                    continue
                part = {name: field for name, field in part.items() if name != "tool_calls"}
            chat.append(_as_chat(part))
    items = items_of_messages(chat, notes, NAME)
    calls: list[dict[str, Any]] = []
    call: int | None = None
    for item in items:
        fields = at(item, "extra", NAME, "fields")
        if isinstance(fields, dict) and isinstance(fields.get("timestamp"), str):
            item["timestamp"] = fields.pop("timestamp")
        if item["class_"] not in ACTIONS:
            if item.get("call_id") is not None and isinstance(at(fields, "error"), bool):
                item["is_error"] = fields["error"]
        else:
            if not item.get("joined"):
                made = _model_call(fields, model)
                call = len(calls) if made else None
                calls += [made] if made else []
            if call is not None:
                item["model_call"] = call
    return items, calls, beside


def _of_the_user(part: Any) -> bool:
    """Whether a message is the simulated user's call of its own tools, or their answer."""
    if at(part, "role") == "user":
        return bool(at(part, "tool_calls"))
    return at(part, "role") == "tool" and at(part, "requestor") == "user"


def _as_chat(part: Any) -> Any:
    """A tau2 message as a chat message: calls as functions, a result by its call's id."""
    if not isinstance(part, dict):
        return part
    # a field that says nothing (None) is as good as absent
    chat = {name: field for name, field in part.items() if field is not None or name == "content"}
    if part.get("role") == "tool" and "tool_call_id" not in part:
        chat["tool_call_id"] = chat.pop("id", None)
    calls = part.get("tool_calls")
    if isinstance(calls, list):
        chat["tool_calls"] = [_as_function(call) for call in calls]
    return chat


def _as_function(call: Any) -> Any:
    if not isinstance(call, dict) or "function" in call:
        return call
    rest = {name: field for name, field in call.items() if name not in ("name", "arguments")}
    function = {name: call[name] for name in ("name", "arguments") if name in call}
    return {"type": "function", "function": function, **rest}


def _model_call(fields: Any, model: str | None) -> dict[str, Any] | None:
    named = at(fields, "raw_data", "model")
    model = named if isinstance(named, str) else model
    if model is None or (at(fields, "usage") is None and at(fields, "cost") is None):
        return None
    return {"model": model, "usage": usage(fields.get("usage"), fields.get("cost"))}


def _likes(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    if isinstance(value.get("traj"), list) and "task_id" in value:
        return 92 if "reward" in value else 70
    if isinstance(value.get("simulations"), list):
        return 95 if "tasks" in value or "info" in value else 70
    run = value.get("simulation", value)
    if "task_id" in value or run is not value:
        spoken = at(run, "messages"), at(run, "ticks")
        return 92 if at(run, "termination_reason") is not None and any(isinstance(one, list) for one in spoken) else 0
    return 0


TAU_BENCH = Format(name=NAME, title="tau-bench and tau2-bench results", likes=_likes, decode=_decode, gather=_gather)
