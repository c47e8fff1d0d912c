"""AgentInstruct, split kg: a knowledge base, `Thought: ... Action: get_relations(x)`, `Final Answer: #3`."""

from __future__ import annotations

import re

from fairtrial.formats.datasets.agentinstruct import split
from fairtrial.formats.datasets.recipe import Chat, Draft, Edit, Prefix, Unfit, append, bound
from fairtrial.formats.datasets.signatures import by_name, signatures

_TOOLS = signatures(
    "get_relations(variable: str)",
    "get_neighbors(variable: str, relation: str)",
    "intersection(variable1: str, variable2: str)",
    "get_attributes(variable: str)",
    "argmax(variable: str, attribute: str)",
    "argmin(variable: str, attribute: str)",
    "count(variable: str)",
)
_BY_NAME = by_name(_TOOLS)
_CALL = re.compile(r"\s*(\w+)\((.*)\)\s*", re.S)


def _thought(text: str, draft: Draft) -> str:
    if text.lstrip().startswith("Thought:"):
        draft.markup("Thought:")
        text = text.replace("Thought:", "", 1)
    return text.strip()


def _turn(text: str, draft: Draft) -> None:
    before, label, rest = text.partition("Final Answer:")
    if label:
        draft.markup(label)
        draft.solution(rest.strip(), _thought(before, draft))
        return
    before, label, rest = text.partition("Action:")
    if not label:
        # the agent's own word, which the published form has as something that it saw
        if draft.faithful:
            draft.saw(text, "agent")
        else:
            draft.said(text)
        return
    call = _CALL.fullmatch(rest)
    tool = _BY_NAME.get(call[1]) if call else None
    if call is None or tool is None:
        raise Unfit("a call of no known tool")
    values = _values(call[2], len(tool["function"]["parameters"]["properties"]), draft.faithful)
    draft.syntax(label + rest)
    draft.called(call[1], bound(tool, values), _thought(before, draft), quote="'")


def _values(text: str, count: int, faithful: bool) -> list[str]:
    # names of entities may hold commas; they come first, and what follows them holds none
    parts = text.split(",") if faithful and count > 1 else text.rsplit(",", count - 1)
    return [part.strip() for part in parts]


def _answered(draft: Draft) -> None:
    last = draft.content[-1] if draft.content else {"class_": ""}
    if last["class_"] != "message_action" or not last["content"].startswith("<solution>"):
        raise Unfit("ends without an answer")


AGENTINSTRUCT_KG = (
    split(
        "kg",
        "a knowledge base",
        Chat(
            _turn,
            first=(
                Edit(re.compile(r"(?<=\n\n)1\. get_relations\(.*?\n\n(?=After a variable is produced)", re.S)),
                Edit("'Final Answer: #id'", "'<solution> #id </solution>'"),
                Edit("'Final Answer: #3'", "'<solution> #3 </solution>'"),
                Edit("\n\nYou can only take ONE action", "\nYou can only take ONE action", "faithful"),
                append("\n\nOk? Understood?", "faithful"),
            ),
            prefixes=(Prefix("Observation:", published="user"),),
        ),
        ("You are an agent that answers questions based on the knowledge stored in a knowledge base.",),
        _TOOLS,
    )
    .but(ending="always", finish=_answered)
    .format()
)
