"""AgentInstruct, split db: questions to a MySQL database, `Action: Operation` with SQL in a fence, `Action: Answer`."""

from __future__ import annotations

import re

from fairtrial.formats.datasets.agentinstruct import split
from fairtrial.formats.datasets.recipe import Chat, Draft, Edit, Unfit, append

_OPERATION = re.compile(r"Action:\s*Operation\s*```sql\n(.*?)\n?```", re.S)
_ANSWER = re.compile(r"Action:\s*Answer\s*Final Answer:(.*)", re.S)


def _turn(text: str, draft: Draft) -> None:
    if found := _OPERATION.search(text):
        draft.markup(text[found.start() : found.start(1)], text[found.end(1) : found.end()])
        draft.ran("mysql", found[1].strip(), text[: found.start()])
        after = text[found.end() :]
        if draft.faithful:
            draft.lost(after)
        elif after.strip():
            draft.said(after.strip())
    elif found := _ANSWER.search(text):
        draft.markup(text[found.start() : found.start(1)])
        draft.solution(found[1].strip(), text[: found.start()])
    else:
        draft.said(text)


def _answered(draft: Draft) -> None:
    if draft.content and draft.content[-1]["class_"] == "code_action":
        raise Unfit("ends without an answer")


AGENTINSTRUCT_DB = (
    split(
        "db",
        "a MySQL database",
        Chat(
            _turn,
            first=(
                Edit("Action: Operation\n```sql\n", "\n<execute_mysql>\n", "faithful"),
                Edit(";\n```\n", ";\n</excute_mysql>\n", "faithful"),
                Edit(
                    'Action: Answer\nFinal Answer: ["ANSWER1", "ANSWER2", ...]',
                    '\n<solution> [\\"ANSWER1\\", \\"ANSWER2\\", ...] </solution>',
                    "faithful",
                ),
                Edit("\nYour input will be raw MySQL response, you have to deal with it by yourself.", "", "faithful"),
                append("\n\nOk? Understood?", "faithful"),
                Edit("Action: Operation\n```sql\n", "<execute_mysql>\n", "clean"),
                Edit(";\n```\n", ";\n</execute_mysql>\n", "clean"),
                Edit("You MUST put SQL in markdown format without any other comments. ", "", "clean"),
                Edit("in the first SQL code block", "of the first call", "clean"),
                Edit("Action: Answer\nFinal Answer: [", "<solution> [", "clean"),
                Edit('"ANSWER2", ...]', '"ANSWER2", ...] </solution>', "clean"),
            ),
        ),
        ("I will ask you a question, then you should help me operate a MySQL database",),
    )
    .but(ending="never", finish=_answered)
    .format()
)
