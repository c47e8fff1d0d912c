"""AgentInstruct, split os: tasks in a Linux shell, `Think: ... Act: bash` with a fence, `answer(...)` or `finish`."""

from __future__ import annotations

import re

from fairtrial.formats.datasets.agentinstruct import split
from fairtrial.formats.datasets.recipe import Chat, Draft, Edit, Prefix, Unfit, append

_STEP = re.compile(r"\s*(?:Think:(?P<thought>.*?)\n\s*)?Act:\s*(?P<act>.*)", re.S)
_BASH = re.compile(r"bash\s*```bash\n(?P<code>.*?)\n?```\s*", re.S)
_ANSWER = re.compile(r"answer\((?P<answer>.*)\)\s*", re.S)


def _turn(text: str, draft: Draft) -> None:
    step = _STEP.fullmatch(text)
    if not step:
        raise Unfit("a step that names no act")
    act = step["act"]
    # one space after the label, and the line break before the next one, belong to the labels
    thought = (step["thought"] or "").removeprefix(" ").rstrip("\n")
    draft.markup("Think:" if step["thought"] is not None else "", "Act:")
    if found := _BASH.fullmatch(act):
        draft.markup(act[: found.start("code")], "```")
        draft.ran("bash", found["code"], thought)
    elif found := _ANSWER.fullmatch(act):
        draft.notes.rewrite("answer in a solution tag", act.strip())
        draft.solution(found["answer"], thought)
    elif act.strip() == "finish":
        draft.syntax("finish")
        draft.said("<finish></finish>", thought)
    else:
        raise Unfit("an act other than bash, answer and finish")


_FORM = "If you think you have got the answer to the question, you should print like this:"

AGENTINSTRUCT_OS = (
    split(
        "os",
        "a Linux shell",
        Chat(
            _turn,
            first=(
                Edit(re.compile(r"\AYou are an assistant .*?Now, my problem is:\n\n?", re.S)),
                Edit("?bash:`", "?"),
                append(f"\n\n{_FORM}\n\n<solution> Your solution here </solution>"),
            ),
            prefixes=(Prefix("The output of the OS:\n"),),
        ),
        ("You are an assistant that will act like a person, I'will play the role of linux",),
    )
    .but(ending="never")
    .format()
)
