"""AgentInstruct, split mind2web: one question about a page and one answer, `Thought: ... Answer: B.`."""

from __future__ import annotations

import re
from typing import Any

from fairtrial.formats.datasets.agentinstruct import split, unsound
from fairtrial.formats.datasets.recipe import Chat, Draft, Unfit, turn

_FORM = re.compile(r"\s*Thought:(.*?)Answer:(.*)", re.S)


def _turn(text: str, draft: Draft) -> None:
    found = _FORM.fullmatch(text)
    if not found:
        raise Unfit("an answer in another form")
    draft.markup("Thought:", "Answer:")
    answer = found[2].strip()
    letter = re.match(r"[A-Z]\.", answer)
    if not letter or f"\n{letter[0]}" not in draft.content[-1]["content"]:
        raise Unfit("the chosen option was not on offer")
    draft.said(answer, found[1].strip())


def _skip(value: Any) -> str | None:
    reason = unsound(value)
    if reason is None and [turn(entry)[0] for entry in value["conversations"]] != ["user", "assistant"]:
        return "more than one question and answer"
    return reason


def _likes(value: Any) -> int:
    if "system" in value:
        return 0  # a training file made of it
    role, text = turn(value["conversations"][0])
    asked = "\n\nBased on the HTML webpage above, try to complete the following task:\n" in text
    return 92 if role == "user" and asked and len(value["conversations"]) == 2 else 0


AGENTINSTRUCT_MIND2WEB = (
    split("mind2web", "choose the element of a page", Chat(_turn), ())
    .but(likes=_likes, skip=_skip, ending="never")
    .format()
)
