"""Does a skill say the answer: the check that makes "the skill helped" mean that its procedure was followed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fairtrial.tasks.worlds.world import Episode, SkillText

_WORD = re.compile(r"\w+")


def holds(text: str, answer: str) -> bool:
    """Whether the words of an answer stand in a text, one after the other (case and punctuation aside)."""
    said, wanted = (" ".join(_WORD.findall(each.casefold())) for each in (text, answer))
    return bool(wanted) and f" {wanted} " in f" {said} "


def leaks(episode: Episode, skills: Iterable[SkillText] | None = None) -> list[str]:
    """Names of the skills (the episode's own, unless others are given) in which one of its answers stands."""
    shown = episode.skills if skills is None else skills
    return [
        skill.name for skill in shown if any(holds(text, answer) for text in skill.texts for answer in episode.answers)
    ]
