"""NNetNav-live and NNetNav-wa: web tasks, one record a step, actions in square brackets (arXiv 2410.02907).

Rows of stanfordnlp/nnetnav-live and nnetnav-wa: `{dataset, id, task_name, messages[system, user, assistant], output,
prompt, n_tokens}`; consecutive rows of one id are a trajectory. Each action is a label written after the run: the page
that follows is that of the action which the next row lists as performed. Where the two differ, the item says so in its
`extra` (`performed`).
"""

from __future__ import annotations

from typing import Any

from fairtrial.formats.datasets.recipe import Draft, Recipe, Unfit
from fairtrial.formats.datasets.signatures import signatures
from fairtrial.formats.datasets.steps import gathered, repeated, tail
from fairtrial.formats.format import Notes, RowError
from fairtrial.formats.items import Item, api, message, text, web

_KEYS = frozenset({"dataset", "id", "messages", "output", "task_name", "prompt"})
_LEAD_IN = "In summary, the next action I will perform is"
_REFUSED = ('Attempt to perfom "', 'The previous prediction you issued was "')  # as the environment spells it
_SCROLL = {"down": 500, "up": -500}
_ASK = (
    "You are given the following objective: {}\n"
    "Examine the current web page and perform the next appropriate action to move toward completing the objective."
)
_PLAIN = {"go_back": "go_back", "go_forward": "go_forward", "new_tab": "new_tab", "close_tab": "tab_close"}
_TOOLS = signatures(
    "noop(wait_ms: float = 1000)",
    "scroll(delta_x: float, delta_y: float)",
    "fill(bid: str, value: str)",
    "click(bid: str, button: Literal['left', 'middle', 'right'] = 'left')",
    "hover(bid: str)",
    "type(bid: str, text: str, press_enter_after: int = 1)",
    "go_back()",
    "go_forward()",
    "goto(url: str)",
    "new_tab()",
    "tab_focus(index: int)",
    "tab_close()",
    "keyboard_press(key: str)",
)


def _likes(value: Any) -> int:
    if not isinstance(value, dict) or not value.keys() >= _KEYS:
        return 0
    try:
        asked = value["messages"][1]["content"]
        return 95 if asked.startswith("OBSERVATION:") and "\nPREVIOUS ACTIONS:" in asked else 0
    except (TypeError, KeyError, IndexError, AttributeError):
        return 0


def _page(asked: str) -> tuple[str, str, str, str]:
    """Accessibility tree, address, objective and the list of previous actions of a step's prompt."""
    head, past, previous = asked.rpartition("\nPREVIOUS ACTIONS:")
    head, goal, objective = head.rpartition("\nOBJECTIVE:")
    head, address, url = head.rpartition("\nURL:")
    if not (past and goal and address and head.startswith("OBSERVATION:")):
        raise RowError("a step without OBSERVATION, URL, OBJECTIVE and PREVIOUS ACTIONS")
    return head.removeprefix("OBSERVATION:").strip(), url.strip(), objective.strip(), previous.strip()


def _brackets(rest: str, command: str) -> tuple[str, str]:
    """The first bracket's text (which may hold brackets that pair up) and what follows it."""
    rest = rest.lstrip()
    depth = 0
    for at, character in enumerate(rest):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            if at:
                return rest[1:at], rest[at + 1 :].strip()
            break
    raise RowError(f"{command} without its bracket: {rest[:60]!r}")


def _typing(rest: str) -> dict[str, Any]:
    """`[id] [text] [0|1]`: the text is all between the id and the last flag, brackets included."""
    bid, rest = _brackets(rest, "type")
    enter: dict[str, Any] = {}
    head, opening, flag = rest.removesuffix("]").rpartition("[")
    flag = flag.removeprefix("press_enter_after=").strip()
    if opening and head.rstrip().endswith("]") and flag in ("0", "1"):
        enter["press_enter_after"] = int(flag)
        rest = head.rstrip()
    if not (rest.startswith("[") and rest.endswith("]")):
        raise RowError(f"type without its text: {rest[:60]!r}")
    return {"bid": bid, "text": rest[1:-1], **enter}


def _call(action: str) -> tuple[str, dict[str, Any]]:
    """Function and arguments of an action in the bracket grammar; `stop` is ("stop", {"answer": ...})."""
    command = action[: len(action) - len(action.lstrip("abcdefghijklmnopqrstuvwxyz_"))]
    rest = action[len(command) :]
    if command in _PLAIN:
        return _PLAIN[command], {}
    if command == "type":
        return "type", _typing(rest)
    if command == "stop":
        return "stop", {"answer": rest.strip().removeprefix("[").removesuffix("]")}
    if command == "goto":
        return "goto", {"url": rest.strip().removeprefix("[").removesuffix("]")}
    if command not in ("click", "hover", "press", "scroll", "tab_focus", "page_focus"):
        raise RowError(f"no such action: {action[:60]!r}")
    argument, _ = _brackets(rest, command)
    match command:
        case "press":
            return "keyboard_press", {"key": argument}
        case "scroll":
            amount = _SCROLL.get(argument.removeprefix("direction=").strip())
            if amount is None:
                raise RowError(f"scroll neither down nor up: {argument[:60]!r}")
            return "scroll", {"delta_x": 0, "delta_y": amount}
        case "tab_focus" | "page_focus":
            if not argument.strip().isdecimal():
                raise RowError(f"tab_focus without a number: {argument[:60]!r}")
            return "tab_focus", {"index": int(argument)}
    return command, {"bid": argument}


def _answer(answer: str, notes: Notes) -> Item:
    """The thought and the action of one response."""
    parts = answer.split("```")
    # a response that quotes something in back-ticks on its way ends with the action
    inside = [index for index in range(1, len(parts), 2) if parts[index].strip()]
    if not inside:
        raise RowError("a response without an action between back-ticks")
    before, action, after = "```".join(parts[: inside[-1]]), parts[inside[-1]].strip(), parts[inside[-1] + 1 :]
    function, kwargs = _call(action)
    thought, lead, tail = before.rpartition("In summary,")
    if lead and not any(mark in tail.strip() for mark in ".!?\n"):
        notes.drop("the phrase that leads to the action", lead + tail)
    else:
        thought = before
    thought = "\n\n".join(part for part in (thought.strip(), "".join(after).strip(" .\n")) if part)
    notes.rewrite("an action in brackets is a call", action)
    if function == "stop":
        return message(kwargs["answer"], thought)
    return api(function, kwargs, thought)


def _performed(previous: str, number: int) -> list[str]:
    """The entries `1:` to `number:` of a list of previous actions. Raises RowError where it has more or fewer."""
    entries: list[str] = []
    rest = "\n" + previous
    for index in range(1, number + 2):
        found = rest.find(f"\n{index}: ")
        if found < 0:
            break
        if index > 1:
            entries.append(rest[:found].strip())
        rest = rest[found + len(f"\n{index}: ") :]
    entries.append(rest.strip())
    return entries


def _same(item: Item, performed: str) -> bool:
    """Whether the action that was performed is the one that the label says."""
    try:
        function, kwargs = _call(performed.partition(" where [")[0].strip())
    except RowError:
        return False
    if item["class_"] == "message_action":
        return function == "stop"
    stated = item["kwargs"]
    return function == item["function"] and all(
        " ".join(str(stated.get(name)).split()) == " ".join(str(value).split())
        for name, value in kwargs.items()
        if name != "press_enter_after"
    )


def _clean(name: str, steps: list[Any], draft: Draft) -> None:
    goal = None
    content, notes = draft.content, draft.notes
    for number, step in enumerate(steps, 1):
        prompt, asked, answer = (step["messages"][place]["content"] for place in range(3))
        axtree, url, objective, previous = _page(asked)
        performed = _performed(previous, number)
        if len(performed) != number:
            raise RowError(f"step {number} follows {len(performed) - 1} actions: a step is missing")
        joined = False
        if goal is None:
            goal = objective
            notes.drop("the prompt that described the actions", str(prompt))
            content.append(text(objective, "user"))
        elif objective != goal:
            raise RowError(f"step {number} has another objective")
        else:
            joined = _follow(name, content, performed[-1])
        content.append(web(axtree=axtree, url=url, joined=joined))
        try:
            content.append(_answer(answer, notes))
        except RowError as error:
            raise RowError(f"step {number}: {error}") from None
        draft.markup("OBSERVATION:", "URL:", "OBJECTIVE:", "PREVIOUS ACTIONS:")
        notes.drop("the list of the actions performed before", previous)
        # the same texts again, between the markers of a chat template
        notes.drop("copy of the answer", str(step.get("output") or ""))
        notes.drop("copy of the prompt", str(step.get("prompt") or ""))
    if content[-1]["class_"] != "message_action":
        raise Unfit("does not end with an answer")


def _follow(name: str, content: list[Item], performed: str) -> bool:
    """Notes what was performed in the last action's place; True where the environment refused it and says so."""
    last = content[-1]
    if performed.startswith(_REFUSED):
        content.append(text(performed, "environment", is_error=True))
        return True
    if not _same(last, performed):
        last["extra"] = {name: {"performed": performed}}
    return False


def _published(steps: list[Any], draft: Draft) -> None:
    def build(step: Any) -> list[Item]:
        asked = step["messages"][1]["content"]
        axtree = asked.split("OBSERVATION:")[1].split("\nURL: ")[0].strip()
        url = asked.split("\nURL: ")[1].split("\n")[0].strip()
        return [web(axtree=axtree, url=url), _published_answer(step["messages"][2]["content"])]

    objective = steps[-1]["messages"][1]["content"].partition("OBJECTIVE:")[2].partition("PREVIOUS ACTIONS:")[0]
    draft.saw(_ASK.format(objective.strip()), "user")
    draft.content += tail(steps, build)
    if draft.content[-1]["class_"] != "message_action":
        raise Unfit("does not end with an answer")


def _printed(function: str, kwargs: dict[str, Any], thought: str | None, fragments: dict[str, str]) -> Item:
    return api(function, kwargs, thought, extra={"adp-v1": {"printed": fragments}})


def _published_answer(answer: str) -> Item:
    """As published: any command word anywhere in the action wins, text ends at the first closing bracket."""
    start = answer.find("```") + 3
    action = answer[start : answer.rfind("```")].strip()
    thought = answer[: start - 3].replace(_LEAD_IN, "").strip() or None

    def part(index: int) -> str:
        return action.split("[")[index].split("]")[0]

    if "type" in action:
        bid, typed = part(1), part(2)
        enter = part(3) if action.count("[") > 3 else "0"
        kwargs = {"bid": bid, "text": typed, "press_enter_after": int(enter) if enter in ("0", "1") else enter}
        return _printed("type", kwargs, thought, {"bid": f'"{bid}"', "text": f'"{typed}"', "press_enter_after": enter})
    if "press" in action:
        return _printed("keyboard_press", {"key": part(1)}, thought, {"key": f'"{part(1)}"'})
    if "scroll" in action:
        return api("scroll", {"delta_x": 0, "delta_y": _SCROLL[part(1)]}, thought)
    if "close_tab" in action:
        return api("tab_close", {}, thought)
    if "stop" in action:
        return message(part(1), thought)
    for command in ("click", "hover"):
        if command in action:
            return _printed(command, {"bid": part(1)}, thought, {"bid": f'"{part(1)}"'})
    if "new_tab" in action:
        return api("new_tab", {}, thought)
    if "tab_focus" in action:
        return _printed("tab_focus", {"index": part(1)}, thought, {"index": part(1)})
    if "goto" in action:
        return _printed("goto", {"url": part(1)}, thought, {"url": f'"{part(1)}"'})
    for command in ("go_back", "go_forward"):
        if command in action:
            return api(command, {}, thought)
    raise RowError("no such action")


def _recipe(name: str, title: str, site: str) -> Recipe:
    def likes(value: Any) -> int:
        return _likes(value) and (96 if value["dataset"].startswith(site) else 85)

    def build(value: Any, draft: Draft) -> None:
        if draft.faithful:
            _published(value["steps"], draft)
        else:
            _clean(name, value["steps"], draft)
        draft.extra["details"] = {"source": name}
        if not draft.faithful:
            draft.extra["details"]["dataset"] = value["steps"][0]["dataset"]

    def id(value: Any, notes: Notes) -> str:
        return repeated(str(value["steps"][0]["id"]), notes)

    return Recipe(
        name=name,
        title=title,
        likes=likes,
        build=build,
        id=id,
        used=frozenset({"steps"}),
        ending="never",
        tools=_TOOLS,
        gather=gathered(lambda row: row["id"]),
    )


NNETNAV_LIVE = _recipe("nnetnav-live", "NNetNav-live (stanfordnlp/nnetnav-live)", "openweb").format()
NNETNAV_WA = _recipe("nnetnav-wa", "NNetNav-wa (stanfordnlp/nnetnav-wa)", "webarena").format()
