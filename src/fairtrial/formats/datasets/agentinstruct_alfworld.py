"""AgentInstruct, split alfworld: household tasks in text, `THOUGHT: ... ACTION: go to shelf 1`."""

from __future__ import annotations

import re

from fairtrial.formats.datasets.agentinstruct import split
from fairtrial.formats.datasets.recipe import Chat, Draft, Edit, Unfit, append, bound
from fairtrial.formats.datasets.signatures import by_name, signatures

_TOOLS = signatures(
    "go(location: str)",
    "take(item: str, source: str)",
    "put(item: str, target: str)",
    "open(obj: str)",
    "heat(item: str, appliance: str)",
    "examine(obj: str)",
    "cool(item: str, appliance: str)",
    "use(obj: str)",
    "close(obj: str)",
    "clean(item: str, appliance: str)",
    "report_problem(obj: str)",
    "inventory()",
    "look()",
    "look_at_under(item: str, reference: str)",
)
_BY_NAME = by_name(_TOOLS)
_COMMANDS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"go to (.+)", "go"),
        (r"take (.+?) from (.+)", "take"),
        (r"put (.+?) (?:in/on|in|on) (.+)", "put"),
        (r"open (.+)", "open"),
        (r"close (.+)", "close"),
        (r"examine (.+)", "examine"),
        (r"use (.+)", "use"),
        (r"heat (.+?) with (.+)", "heat"),
        (r"cool (.+?) with (.+)", "cool"),
        (r"clean (.+?) with (.+)", "clean"),
        (r"report problem with (.+)", "report_problem"),
        (r"inventory", "inventory"),
        (r"look at (.+?) under (.+)", "look_at_under"),
        (r"look", "look"),
    )
)
_OVER = (
    "task failed",
    "task succeeded",
    "end of the task",
    "end the task",
    "end task",
    "task cannot be completed",
    "unable to perform the task",
    "unable to complete the task",
)
"""Where an action says one of these, the agent gives up or declares success instead of acting."""
_FORM = re.compile(
    r' You should choose from two actions: .*"ACTION: your next action\n"\.(?= After your each turn)', re.S
)


def _turn(text: str, draft: Draft) -> None:
    before, label, action = text.rpartition("ACTION:")
    if not label:
        draft.said(text)
        return
    thought = before.strip()
    if thought.startswith("THOUGHT:"):
        draft.markup("THOUGHT:")
        thought = thought.removeprefix("THOUGHT:").strip()
    command = action.strip().lower()
    if any(phrase in command for phrase in _OVER):
        if draft.faithful:
            draft.lost(text if thought else "")
            draft.saw(thought or text, "agent")
        else:
            draft.markup("ACTION:")
            draft.said(action.strip(), thought)
        return
    for pattern, name in _COMMANDS:
        if found := pattern.fullmatch(command):
            draft.syntax("ACTION:" + action)
            draft.called(name, bound(_BY_NAME[name], found.groups()), thought)
            return
    raise Unfit("an action that the household does not know")


def _close(draft: Draft) -> None:
    # the published form also closes after a last word of the agent's
    if draft.faithful and draft.content and draft.content[-1].get("source") == "agent":
        draft.close(quiet=True)


AGENTINSTRUCT_ALFWORLD = (
    split(
        "alfworld",
        "household tasks",
        Chat(
            _turn,
            first=(
                Edit(re.compile(r"(?<=in this turn\.)" + _FORM.pattern + " ", re.S), "\n", "faithful"),
                append("\n\nOk? Understood?", "faithful"),
                Edit(_FORM, mode="clean"),
            ),
            every=(Edit("ACTION: ", mode="faithful"),),
        ),
        ("Interact with a household to solve a task.",),
        _TOOLS,
    )
    .but(quiet=True, finish=_close)
    .format()
)
