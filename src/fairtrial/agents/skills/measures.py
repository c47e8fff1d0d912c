"""By what studies of skills cut their results: how many skills a task has, and how long they are (2602.12670)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairtrial.tasks.worlds.world import SkillText


def measures(own: Sequence[SkillText], length: str | None = None, domain: str | None = None) -> dict[str, Any]:
    """Of a task's own skills, whatever the arm shows, so that all arms of a task fall into the same row.

    `length` is the world's own word for it; where it has none, readers of records cut by `words`. `domain` is the
    task's category.
    """
    bodies = sum(len(skill.body.split()) for skill in own)
    return {
        "names": [skill.name for skill in own],
        "number": len(own),
        "number_class": "none" if not own else "1" if len(own) == 1 else "2-3" if len(own) < 4 else "4+",
        "characters": sum(len(text) for skill in own for text in skill.texts[1:]),
        "words": bodies + sum(len(text.split()) for skill in own for text in skill.files.values()),
        "body_words": bodies,
        "files": sum(len(skill.files) for skill in own),
        **({"length": length} if length else {}),
        **({"domain": domain} if domain else {}),
    }
