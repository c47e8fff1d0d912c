"""Training records for AgentLab 0.4 with the action set of BrowserGym 0.14 (0.14.3 was read): one record per action.

Agent Data Protocol (arXiv 2510.24702) section 3.3 and its published AgentLab form: goal, page, action space, past
actions; the answer is a JSON object with a thought and one action (the section heads are those of BrowserGym's demo
agent). The prompt's wording is ours; `Settings.system` replaces the system prompt.

Thoughts are the agent's (the published ones are a piece of call syntax), the page ends where it ends (published: a
stray delimiter), messages are quoted as Python. Functions of the data set that BrowserGym does not have are described
in the action space. Code, pages of HTML only, elements named only by xpath and trajectories without a page raise
RowError (`notes.faithful` lets the last kind pass, as published).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import Item
from fairtrial.formats.sft import prompts
from fairtrial.formats.sft.conversation import (
    Turn,
    check_thought,
    dataset_info,
    join,
    likes_nothing,
    record,
)
from fairtrial.formats.sft.pages import shown
from fairtrial.formats.sft.printing import documentation, expression
from fairtrial.formats.sft.steps import CALLS, Settings, Step, as_code, finish_message, printed, steps

ACTIONS = frozenset(
    {"noop", "send_msg_to_user", "scroll", "fill", "select_option", "click", "dblclick", "hover", "press", "focus"}
    | {"clear", "drag_and_drop", "upload_file", "report_infeasible", "go_back", "go_forward", "goto"}
)
_FINISHES = frozenset({"finish", "stop", "final_answer", "submit"})


class _Browsing:
    """What is known at one point of one trajectory: goal, page, past actions, the last error."""

    def __init__(self, tools: Iterable[dict[str, Any]], notes: Notes) -> None:
        self.notes = notes
        own = [tool for tool in tools if _is_own(tool.get("function", {}).get("name", ""))]
        self.space = join(prompts.ACTION_SPACE.rstrip("\n"), documentation(own, "the browser", also=True).rstrip("\n"))
        self.goal = ""
        self.page: str | None = None
        self.past: list[str] = []
        self.error = ""

    def see(self, item: Item, called: bool) -> None:
        kind = item["class_"]
        if kind == "web_observation":
            self.page, self.error = shown(item, self.notes), ""
        elif kind == "image_observation":
            self.notes.drop("image: the prompt shows text only", item["content"])
        elif called or item["source"] == "environment":
            if item.get("is_error"):
                self.error = item["content"]
            else:
                self.notes.drop("result that is no page", item["content"])
        elif item["source"] == "user" and (not self.goal or not self.notes.faithful):
            self.goal = join(self.goal, item["content"])

    def prompt(self) -> str:
        page = f"# Current page Accessibility Tree\n\n{self.page}\n\n" if self.page is not None else ""
        error = f"# Error message from last action\n\n{self.error}\n\n" if self.error else ""
        past = "# History of past actions\n\n" + "".join(f"{action}\n" for action in self.past)
        return f"# Goal\n{self.goal}\n\n{page}{self.space}\n\n{past}\n{error}{prompts.NEXT_ACTION}".rstrip("\n")

    def action(self, item: Item) -> dict[str, str]:
        """Thought and action of what the agent did."""
        thought = item.get("description") or ""
        if item["class_"] == "message_action":
            final = finish_message(item)
            outside, said = final if final is not None else ("", item["content"])
            return {"thought": join(thought, outside), "action": expression("send_msg_to_user", {"text": said})}
        if as_code(item, self.notes) is not None:
            raise RowError("code: AgentLab's agent acts in a browser only")
        kwargs = dict(item["kwargs"])
        name: str = item["function"]
        if name in _FINISHES:
            said = join(*(value for value in kwargs.values() if isinstance(value, str)))
            return {"thought": thought, "action": expression("send_msg_to_user", {"text": said})}
        spelled = dict(printed(item, self.notes))
        if "element_id" in kwargs and "bid" not in kwargs:
            kwargs = {"bid" if key == "element_id" else key: value for key, value in kwargs.items()}
            spelled = {"bid" if key == "element_id" else key: value for key, value in spelled.items()}
        if kwargs.pop("xpath", None) is not None and "bid" not in kwargs:
            raise RowError(f"{name} names its element by xpath only: only a browser can find its id")
        return {"thought": thought, "action": expression(name, kwargs, spelled)}


def _is_own(name: str) -> bool:
    return name not in ACTIONS and name not in _FINISHES


def _records(row: Row, found: list[Step], notes: Notes, system: str) -> Iterator[dict[str, Any]]:
    browsing = _Browsing(row.get("tools", ()), notes)
    number, called = 0, False
    for step in found:
        item = step.item
        if item["class_"] not in CALLS and item["class_"] != "message_action":
            browsing.see(item, called and notes.faithful)
            called = False
            continue
        if not browsing.goal:
            raise RowError("acts before the user has said what to do")
        action = browsing.action(item)
        check_thought(action["thought"])
        answer = json.dumps(action, ensure_ascii=False)
        yield record(f"{row['id']}-{number}", [Turn("human", browsing.prompt()), Turn("gpt", answer)], system)
        number += 1
        browsing.past.append(answer)
        browsing.error = ""
        called = item["class_"] in CALLS
        for result in step.results:
            browsing.see(result, True)


def agentlab(settings: Settings | None = None) -> Format:
    """The export with its own settings (`system` and `web` matter here)."""
    chosen = settings or Settings()

    def encode(row: Row, notes: Notes) -> Iterable[dict[str, Any]]:
        pages = any(item["class_"] == "web_observation" for item in row.get("content", ()))
        if not (chosen.web if chosen.web is not None else pages or notes.faithful):
            raise RowError("no web page: not for a browsing agent")
        found = list(
            _records(row, steps(row, notes), notes, prompts.AGENTLAB if chosen.system is None else chosen.system)
        )
        if not found:
            raise RowError("the agent does nothing that could be trained on")
        return found

    return Format(
        name="sft-agentlab",
        title="training records for AgentLab 0.4 with BrowserGym's action set (browsergym-core 0.14)",
        likes=likes_nothing,
        encode=encode,
        kind="export",
        beside=dataset_info,
    )


SFT_AGENTLAB = agentlab()
