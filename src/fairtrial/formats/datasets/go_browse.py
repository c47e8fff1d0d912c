"""Go-Browse-WA: web exploration, one record a step, actions as Python calls (arXiv 2506.03533).

Rows of apurvaga/go-browse-wa-raw: `{graph_data, node_data, step_data{step_number, action, parsed_action, thought,
obs{axtree_txt, pruned_html, last_action_error, ...}, misc}, traj_data{traj_num, goal, reward, traj_length, ...}}`;
consecutive rows of one `traj_num` are a trajectory.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fairtrial.formats.call_syntax import parse_python_call
from fairtrial.formats.datasets.recipe import Draft, Recipe, Unfit
from fairtrial.formats.datasets.signatures import BROWSERGYM, by_name, signatures
from fairtrial.formats.datasets.steps import gathered, repeated, tail
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item, api, message, text, web

_CALLABLE = by_name((*BROWSERGYM, *signatures("send_msg_to_user(text: str)")))
_ANSWER = "send_msg_to_user"
_VIEWPORT = [1280, 1440]
_SHOT = "datasets/go-browse-wa/screenshots/{:05d}-{:02d}.png"


def _likes(value: Any) -> int:
    known = value.keys() >= {"graph_data", "node_data", "step_data", "traj_data"}
    return 97 if known and "parsed_action" in value["step_data"] and "traj_num" in value["traj_data"] else 0


def _called(source: str) -> tuple[str, dict[str, Any]]:
    """Function and arguments by name of an action. Raises RowError where it is no call of a known tool."""
    try:
        function, positional, keywords = parse_python_call(source)
    except ValueError as error:
        raise RowError(f"the action is no call ({error}): {source[:80]!r}") from None
    tool = _CALLABLE.get(function)
    if tool is None:
        raise RowError(f"the action calls no tool of the data set: {source[:80]!r}")
    parameters = tool["function"]["parameters"]
    kwargs = {**dict(zip(parameters["properties"], positional, strict=False)), **keywords}
    if (
        len(positional) > len(parameters["properties"])
        or kwargs.keys() - parameters["properties"].keys()
        or set(parameters.get("required", ())) - kwargs.keys()
    ):
        raise RowError(f"the action's arguments do not fit the tool: {source[:80]!r}")
    return function, kwargs


def _clean(steps: list[Any], draft: Draft) -> None:
    run = steps[0]["traj_data"]
    length = run["traj_length"]
    for number, step in enumerate(steps):
        if step["step_data"]["step_number"] != number:
            raise RowError(f"step {number} of {length} is missing")
    draft.saw(run["goal"], "user")
    calls: list[Any] = []
    for number, step in enumerate(steps):
        try:
            _step(step["step_data"], draft)
        except RowError as error:
            raise RowError(f"step {number}: {error}") from None
        _usage(step["step_data"], draft.content[-1], calls)
    _finished(draft)
    if len(steps) != length:
        raise RowError(f"{len(steps)} of {length} steps are here")
    draft.extra = {"model_calls": calls, "reward": run["reward"]} if calls else {"reward": run["reward"]}
    judged = (run.get("misc") or {}).get("evaluation_info")
    if judged:
        draft.extra["extra"] = {"go-browse": {"evaluation": judged}}


def _step(step: Any, draft: Draft) -> None:
    seen, notes = step["obs"], draft.notes
    if error := seen.get("last_action_error"):
        draft.content.append(text(error, "environment", is_error=True))
    tree = seen["axtree_txt"]
    draft.content.append(
        web(axtree=tree, url=_address(tree), html=seen.get("pruned_html"), viewport_size=_VIEWPORT, joined=bool(error))
    )
    notes.drop("only the visible part of the accessibility tree", str(seen.get("axtree_visible_only_txt") or ""))
    notes.drop("copy of the action before", str(seen.get("last_action") or ""))
    function, kwargs = _called(step["parsed_action"])
    thought = _thought(step, notes)
    draft.syntax(step["parsed_action"])
    if function == _ANSWER:
        draft.content.append(message(kwargs["text"], thought))
    else:
        draft.content.append(api(function, kwargs, thought))


def _address(tree: str) -> str | None:
    """The page's address, which the root of the tree carries."""
    _, found, rest = tree.partition("\n")[0].rpartition(", url='")
    return rest.removesuffix("'") if found else None


def _thought(step: Any, notes: Notes) -> str | None:
    """What the model wrote before its answer, and the thought in it. The answer is JSON, mostly in a fence."""
    written, thought = step.get("action") or "", step["thought"]
    before, fence, after = written.partition("```json")
    if not fence:
        before, brace, after = written.partition("{")
        before = before if brace else ""
    notes.rewrite("thought and action as JSON", after if before or fence else written)
    return "\n\n".join(part for part in (before.strip(), thought.strip()) if part) or None


def _usage(step: Any, item: Item, calls: list[Any]) -> None:
    misc = step.get("misc") or {}
    model, used = (misc.get("agent_config") or {}).get("model_id"), misc.get("model_usage") or {}
    if not model:
        return
    item["model_call"] = len(calls)
    usage = {
        "calls": 1,
        "input_tokens": used.get("prompt_tokens") or 0,
        "output_tokens": used.get("completion_tokens") or 0,
        "cached_tokens": (used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    }
    temperature = misc["agent_config"].get("temperature")
    sampling = {} if temperature is None else {"temperature": temperature}
    calls.append({"model": model, "usage": usage, "sampling": sampling})


def _finished(draft: Draft) -> None:
    """The data set's own rules: no trajectory that waits twice in a row or has no answer."""
    functions = [item["function"] for item in draft.content if item["class_"] == "api_action"]
    if ("noop", "noop") in pairwise(functions):
        raise Unfit("does nothing twice in a row")
    if draft.content[-1]["class_"] != "message_action":
        raise Unfit("does not end with an answer")


def _published(steps: list[Any], draft: Draft) -> None:
    def build(step: Any) -> list[Item]:
        run, step = step["traj_data"], step["step_data"]
        shot = _SHOT.format(run["traj_num"], step["step_number"])
        function, kwargs = _called(step["parsed_action"])
        thought = step["thought"]
        page = web(
            axtree=step["obs"]["axtree_txt"],
            image_observation={"class_": "image_observation", "content": shot, "source": "environment"},
            viewport_size=_VIEWPORT,
        )
        if function == _ANSWER:
            # the published answer keeps the quotes of the call
            return [page, message(f'"{kwargs["text"]}"', thought.replace(_ANSWER, "finish"))]
        printed = {name: f'"{value}"' for name, value in kwargs.items() if isinstance(value, str)}
        lists = {name: [f'"{each}"' for each in value] for name, value in kwargs.items() if isinstance(value, list)}
        item = api(function, {**kwargs, **lists}, thought)
        if printed:
            item["extra"] = {"adp-v1": {"printed": printed}}
        return [page, item]

    draft.saw(steps[-1]["traj_data"]["goal"], "user")
    draft.content += tail(steps, build)
    _finished(draft)


def _build(value: Any, draft: Draft) -> None:
    steps = value["steps"]
    details: dict[str, Any] = {"source": "go-browse-wa"}
    if draft.faithful:
        _published(steps, draft)
    else:
        _clean(steps, draft)
        details |= {**steps[0]["graph_data"], **steps[0]["node_data"]}
    draft.extra["details"] = details


GO_BROWSE = Recipe(
    name="go-browse",
    title="Go-Browse-WA (apurvaga/go-browse-wa-raw)",
    likes=_likes,
    build=_build,
    id=lambda value, notes: repeated(str(value["steps"][0]["traj_data"]["traj_num"]), notes),
    skip=lambda value: "reward below 1" if value["steps"][0]["traj_data"]["reward"] < 1 else None,
    used=frozenset({"steps"}),
    ending="never",
    tools=BROWSERGYM,
    gather=gathered(lambda row: row["traj_data"]["traj_num"]),
).format()
