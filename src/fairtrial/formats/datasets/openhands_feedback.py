"""OpenHands feedback: sessions that users of OpenHands rated and shared (all-hands/openhands-feedback, events of 0.x).

Rows: `{version, feedback, polarity, permissions, email, token, timestamp, trajectory: [event]}`. An event has a source
and is an `action` with `args` or an `observation` with `content` and `extras` (in older rows the arguments stand in
`extras`). E-mail addresses and tokens of the people who gave feedback are left out in every mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from fairtrial.core.ids import digest
from fairtrial.formats.call_syntax import parse_python_calls
from fairtrial.formats.datasets.openhands_page import page
from fairtrial.formats.datasets.recipe import Draft, Recipe, Unfit
from fairtrial.formats.datasets.signatures import BROWSERGYM, by_name, signatures
from fairtrial.formats.datasets.steps import repeated
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item, api, code, image, message, text

_OWN = signatures(
    "initialize(env_vars: dict)",
    "change_agent_state(agent_state: str)",
    "delegate_to_agent(agent: str, task: str)",
    "delegate_to_CrawlAgent(task: str, link: str)",
    "delegate_to_RagAgent(task: str, query: str)",
    "finish(output: str)",
    "add_task(goal: str)",
    "modify_task(task_id: str, state: str)",
    "save_plan(plan: list[str])",
    "task_plan(task: str, plan: str)",
    "edit(path: str, content: str, start: int, end: int)",
    "read(path: str, start: int, end: int)",
    "crawl(link: str)",
    "rag_search(query: str)",
    "send_msg_to_user(msg: str)",
)
_TOOLS = (*_OWN, *BROWSERGYM)
_BY_NAME = by_name(_TOOLS)
_DELEGATES = {"RagAgent": ("task", "query"), "CrawlAgent": ("task", "link")}
_REPEATED = frozenset({"command", "code", "outputs"})
"""Extras of a result that say again what was run, or what the result is."""
_ECHOED = "USER (assistant): "
_PERSONAL = ("email", "token")
_DETAILS = ("feedback", "version", "polarity", "timestamp")


def _likes(value: Any) -> int:
    if not {"feedback", "permissions", "trajectory", "version"} <= value.keys():
        return 0
    event = value["trajectory"][0]
    return 95 if "source" in event and ("action" in event or "observation" in event) else 0


def _args(event: Any) -> dict[str, Any]:
    return {**(event.get("args") or {}), **(event.get("extras") or {})}


def _build(value: Any, draft: Draft) -> None:
    for field in _PERSONAL:
        if given := value.get(field):
            draft.notes.drop("personal data", "*" * len(str(given)))
    events = value["trajectory"]
    if draft.faithful:
        _published(events, draft)
        draft.extra["details"] = {name: value.get(name) or "" for name in _DETAILS}
    else:
        _clean(events, draft)
    if not draft.content or draft.content[0]["class_"].endswith("action"):
        raise Unfit("does not start with what the agent saw")
    if draft.faithful or draft.notes.endings:
        _close(draft)


def _close(draft: Draft) -> None:
    """The closing exchange; after an observation only its second half, as published."""
    answered = draft.content[-1]["class_"].endswith("action")
    draft.close()
    if not answered:
        del draft.content[-2]
        del draft.notes.invented[-2]


# clean mode


def _clean(events: list[Any], draft: Draft) -> None:
    causes = {event.get("cause") for event in events if event.get("observation")} - {None}
    answers: dict[Any, str] = {}
    details: dict[str, Any] = {}
    for event in events:
        if not isinstance(event, dict):
            raise RowError("an event that is no object")
        start = len(draft.content)
        if event.get("action"):
            if event.get("source") == "environment":
                _set_up(event, draft, details)
            else:
                _act(event, draft)
                if event.get("id") in causes and draft.content[start:]:
                    called = (event.get("tool_call_metadata") or {}).get("tool_call_id") or str(event["id"])
                    answers[event["id"]] = draft.content[-1]["call_id"] = called
        else:
            _observe(event, draft)
            if (called := answers.get(event.get("cause"))) is not None:
                for item in draft.content[start : start + 1]:
                    item["call_id"] = called
        for item in draft.content[start:]:
            if event.get("timestamp"):
                item["timestamp"] = str(event["timestamp"])
        summary = event.get("message")
        if summary and not any(summary == item.get("content") for item in draft.content[start:]):
            draft.notes.drop("summary of an event", str(summary))
    draft.extra["details"] = details


def _set_up(event: Any, draft: Draft, details: dict[str, Any]) -> None:
    args = _args(event)
    for field, name in (("LLM_MODEL", "model"), ("AGENT", "agent")):
        if args.get(field):
            details[name] = args[field]
    shown = {name: value for name, value in args.items() if "KEY" not in name and "TOKEN" not in name}
    _left_out({**event, "args": shown, "extras": None}, draft)


def _left_out(event: Any, draft: Draft) -> None:
    draft.notes.drop("session set-up", orjson.dumps(event).decode())


def _act(event: Any, draft: Draft) -> None:
    name, args = event["action"], _args(event)
    thought = draft.thought(args.pop("thought", None))
    if name == "message":
        _message(event, args, draft)
    elif name == "run":
        draft.content.append(code("bash", args.pop("command"), thought, **_rest(args, "args")))
    elif name == "run_ipython":
        draft.content.append(code("python", args.pop("code"), thought, **_rest(args, "args")))
    elif name == "browse_interactive":
        for index, (function, kwargs) in enumerate(_browser_calls(args.get("browser_actions") or "")):
            draft.content.append(api(function, kwargs, None if index else thought, joined=bool(index)))
        draft.syntax(args.get("browser_actions") or "")
    elif name == "finish":
        answer = (args.get("outputs") or {}).get("content") or event.get("message") or thought or ""
        draft.notes.invent("final answer convention", "<finish></finish>")
        draft.said(f"<finish> {answer} </finish>", None if thought == answer.strip() else thought)
    elif name == "delegate":
        inputs = args.get("inputs") or {}
        draft.content.append(api(*_delegate(args.get("agent"), inputs), thought))
    elif name in ("change_agent_state", "null"):
        _left_out(event, draft)
    else:
        function = "edit" if name == "write" else name
        known = _BY_NAME[function]["function"]["parameters"]["properties"] if function in _BY_NAME else args
        kwargs = {key: args.pop(key) for key in list(args) if key in known}
        draft.content.append(api(function, kwargs, thought, **_rest(args, "args")))


def _rest(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """What an event says beyond its item, as the item's extra."""
    rest = {key: value for key, value in fields.items() if value is not None}
    return {"extra": {"openhands-feedback": {name: rest}}} if rest else {}


def _message(event: Any, args: dict[str, Any], draft: Draft) -> None:
    said = args.get("content") or event.get("content") or ""
    if event.get("source") == "user":
        draft.content.append(text(said, "user"))
        for url in args.get("images_urls") or args.get("image_urls") or ():
            draft.content.append(image(url, "user", joined=True))
        return
    if said.startswith(_ECHOED):
        draft.markup(_ECHOED)
        said = said[len(_ECHOED) :]
    draft.content.append(message(said))


def _delegate(agent: Any, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if agent in _DELEGATES:
        return f"delegate_to_{agent}", {name: inputs[name] for name in _DELEGATES[agent] if name in inputs}
    return "delegate_to_agent", {"agent": agent, "task": inputs.get("task", "")}


def _browser_calls(source: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        calls = parse_python_calls(source)
    except ValueError as error:
        raise RowError(f"browser actions that are no calls ({error}): {source[:80]!r}") from None
    return [(function, _named(function, positional, keywords)) for function, positional, keywords in calls]


def _named(function: str, positional: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    names = list(_BY_NAME[function]["function"]["parameters"]["properties"]) if function in _BY_NAME else []
    if len(positional) > len(names):
        raise RowError(f"browser action {function} with {len(positional)} arguments")
    return {**dict(zip(names, positional, strict=False)), **keywords}


def _observe(event: Any, draft: Draft) -> None:
    kind, seen, extras = event.get("observation"), event.get("content") or "", event.get("extras") or {}
    if kind in (None, "null", "agent_state_changed"):
        _left_out(event, draft)
        return
    if kind == "browse":
        draft.content.append(page(extras))
        if dom := extras.get("dom_object"):
            draft.notes.drop("the page as a node list", orjson.dumps(dom).decode())
        if seen.strip():
            draft.content.append(text(seen, "environment", joined=True))
        return
    if kind == "run":
        seen = _without_echo(seen, extras, draft)
    elif kind == "delegate":
        seen = seen or (extras.get("outputs") or {}).get("content") or ""
    failed = True if kind == "error" or extras.get("exit_code") not in (None, 0, -1) else None
    rest = {name: value for name, value in extras.items() if name not in _REPEATED}
    draft.content.append(text(seen, "environment", kind, is_error=failed, **_rest(rest, "extras")))


def _without_echo(seen: str, extras: dict[str, Any], draft: Draft) -> str:
    """The output without its first lines where they are the command itself."""
    command = (extras.get("command") or "").replace("\n", "\r\n")
    for echo in (command, command.replace("\r\n", "\r\n> ")):
        if echo and seen.startswith(echo) and seen[len(echo) : len(echo) + 2] in ("", "\r\n"):
            draft.notes.drop("echo of the command", echo)
            return seen[len(echo) + 2 :]
    return seen


# as published


def _published(events: list[Any], draft: Draft) -> None:
    content = draft.content
    for event in events:
        if event.get("source") == "environment":
            continue
        if event.get("action"):
            # the published form looks at what its predecessors left each time, even where it adds nothing
            if _published_action(event["action"], _args(event), event, draft):
                continue
        elif not _published_observation(event, draft):
            continue
        _merge(content, "message_action", lambda item: item["class_"].endswith("_action"), _into_thought)
        _merge(content, "text_observation", lambda item: item["class_"] == "text_observation", _into_text)
        if len(content) > 1 and all(item["class_"].endswith("_action") for item in content[-2:]):
            if content[-1]["class_"] == "message_action":
                continue
            raise Unfit("two actions in a row")


def _merge(content: list[Item], before: str, fits: Callable[[Item], bool], into: Callable[[str, Item], None]) -> None:
    if len(content) > 1 and fits(content[-1]) and content[-2]["class_"] == before:
        if before == "text_observation" and content[-1]["source"] != content[-2]["source"]:
            raise Unfit("observations of two sources in a row")
        earlier = content.pop(-2)["content"]
        if earlier:
            into(earlier, content[-1])


def _into_thought(earlier: str, item: Item) -> None:
    thought = item.get("description")
    item["description"] = (f"{earlier}\n\n{thought}" if thought else earlier).strip()


def _into_text(earlier: str, item: Item) -> None:
    item["content"] = (f"{earlier}\n\n{item['content']}" if item["content"] else earlier).strip()


def _published_observation(event: Any, draft: Draft) -> bool:
    """Adds what an event showed the agent; False where the published form goes on to the next event at once."""
    kind, seen, extras = event.get("observation"), event.get("content"), event.get("extras") or {}
    if not (kind or event.get("message") or seen):
        return True
    if kind == "agent_state_changed":
        return False
    if kind == "browse":
        draft.content.append(page(extras))
        return True
    if kind == "run":
        shown = str(seen)
        if "\r\n" in shown:
            draft.lost(shown.partition("\r\n")[0])
            shown = shown.partition("\r\n")[2]
    elif kind == "run_ipython":
        shown = str(seen)
    elif kind == "delegate":
        shown = seen or (extras.get("outputs") or {}).get("content") or ""
    elif kind in ("edit", "write", "read", "rag_search", "crawl", "task_plan", "error", "user_rejected"):
        if kind == "error" and draft.content and draft.content[-1]["class_"].endswith("observation"):
            return False
        told = event.get("message")
        shown = f"{told}\n{seen}" if told != seen else str(told)
    else:
        if event.get("message") == "No observation":
            return False
        fields = ((name, event.get(name)) for name in ("observation", "message", "content", "status", "error"))
        shown = "\n".join(f"{name}: {field}" for name, field in fields if field and str(field).strip())
    draft.saw(shown, "user" if event.get("source") == "user" else "environment")
    return True


def _published_action(name: str, args: dict[str, Any], event: Any, draft: Draft) -> bool:
    """Adds an action; True where the published form goes on to the next event at once."""
    thought = args.get("thought")
    if name == "message":
        said = args.get("content")
        if not said:
            return True
        if event.get("source") == "user":
            draft.saw(said, "user")
        else:
            draft.said(said.removeprefix(_ECHOED))
    elif name in ("run", "run_ipython"):
        language, field = ("bash", "command") if name == "run" else ("python", "code")
        draft.ran(language, args[field], thought)
    elif name == "browse_interactive":
        for function, kwargs in _browser_calls(args.get("browser_actions") or ""):
            draft.called(function, kwargs, thought)
    elif name == "finish":
        told = event.get("message")
        output = (args.get("outputs") or {}).get("content") or told
        draft.called("finish", {"output": str(output)}, thought or told)
    elif name == "delegate":
        draft.called(*_delegate(args.get("agent"), args.get("inputs") or {}), thought)
        draft.saw("Continue", "user")
        draft.content[-1]["synthetic"] = True
    elif name == "change_agent_state":
        return True
    else:
        function = "edit" if name == "write" else name
        known = _BY_NAME[function]["function"]["parameters"]["properties"] if function in _BY_NAME else {}
        if known:
            draft.called(function, {key: args.get(key) for key in known}, thought)
    return False


def _id(value: Any, notes: Notes) -> str:
    given = value.get("id")
    return repeated(f"openhands-feedback-{digest(value['trajectory'])[:16]}" if given is None else str(given), notes)


OPENHANDS_FEEDBACK = Recipe(
    name="openhands-feedback",
    title="OpenHands feedback (all-hands/openhands-feedback)",
    likes=_likes,
    build=_build,
    id=_id,
    skip=lambda value: None if value.get("feedback") == "positive" else "feedback is not positive",
    used=frozenset({"id", "trajectory", *_PERSONAL}),
    published=_DETAILS,
    ending="never",
    tools=_TOOLS,
).format()
