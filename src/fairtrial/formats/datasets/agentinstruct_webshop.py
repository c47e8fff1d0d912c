"""AgentInstruct, split webshop: shopping in text, `Thought: ... Action: search[...]` or `click[...]`."""

from __future__ import annotations

import re

from fairtrial.formats.datasets.agentinstruct import split
from fairtrial.formats.datasets.recipe import Chat, Draft, Edit, Unfit, bound
from fairtrial.formats.datasets.signatures import by_name, signatures

_TOOLS = signatures("search(keywords: str)", "click(element: str)")
_BY_NAME = by_name(_TOOLS)
_STEP = re.compile(r"\s*Thought:\s*(?P<thought>.*?)\s*Action:\s*(?P<name>search|click)\[(?P<value>.*)\]\s*", re.S)


def _turn(text: str, draft: Draft) -> None:
    if "Action:" not in text and "Thought:" not in text:
        draft.said(text)
        return
    step = _STEP.fullmatch(text)
    if not step:
        raise Unfit("a step that is neither search nor click")
    draft.markup("Thought:")
    draft.syntax(text[step.end("thought") :])
    draft.called(step["name"], bound(_BY_NAME[step["name"]], (step["value"],)), step["thought"])


AGENTINSTRUCT_WEBSHOP = (
    split(
        "webshop",
        "a shop",
        Chat(
            _turn,
            first=(
                Edit(re.compile(r"You can use search action if search is available\..*", re.S), "", "faithful"),
                Edit("An action should be of the following structure:\nsearch[keywords]\nclick[value]\n", "", "clean"),
                Edit(re.compile(r"\nYour response should use the following format:\n.*", re.S), "", "clean"),
            ),
        ),
        ("You are web shopping.\n",),
        _TOOLS,
    )
    .but(quiet=True)
    .format()
)
