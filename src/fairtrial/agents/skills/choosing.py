"""Which skill texts an arm shows: a pure function of the arm, the task's own skills, the library and a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from fairtrial.agents.skills.settings import SkillSettings
from fairtrial.core.errors import UserError
from fairtrial.tasks.worlds.bm25 import Bm25, Page
from fairtrial.tasks.worlds.world import SkillText

_NEUTRAL = (
    "work with care", "take the time that it needs", "read the question twice", "keep what is given in mind",
    "do one thing after the other", "look at the whole before the parts", "think before each move",
    "be sure of what is asked", "leave nothing out", "be plain and exact", "look over the result at the end",
    "stay calm when it is long", "trust what was checked", "write clearly", "begin at the beginning",
)  # fmt: skip
_LEAD = re.compile(r"\s*(?:#+ |\d+[.)] |[-*+] |> )?")


class Shelf:
    """A library of skills, and its index, which is made when something is looked for."""

    def __init__(self, library: Sequence[SkillText]) -> None:
        self.skills: Mapping[str, SkillText] = {skill.name: skill for skill in library}
        self._index: Bm25 | None = None

    def found(self, question: str, k: int) -> list[SkillText]:
        """The best by BM25 over name, description and body, best first."""
        if self._index is None:
            pages = [Page(s.name, f"{s.description}\n{s.body}") for s in self.skills.values()]
            self._index = Bm25(pages)
        return [self.skills[hit.page.title] for hit in self._index.search(question, k)]

    def others(self, own: Sequence[SkillText], count: int, rng: random.Random) -> list[SkillText]:
        """So many that are not `own`. Raises UserError where there are fewer."""
        names = {skill.name for skill in own}
        rest = [skill for skill in self.skills.values() if skill.name not in names]
        if len(rest) < count:
            raise UserError(f"skills: {count} skills of other tasks are asked for, but the library has {len(rest)}")
        return rng.sample(rest, count)


def choose(
    arm: SkillSettings,
    own: Sequence[SkillText],
    shelf: Shelf,
    question: str,
    seed: int,
    swapped_with: Sequence[str] = (),
) -> tuple[SkillText, ...]:
    """The skills of an arm that are not written by a model.

    Args:
        arm: Which and how.
        own: The task's.
        shelf: All skills of the suite.
        question: What is looked for with `retrieved`.
        seed: Of draws; the same in all arms of a block.
        swapped_with: Names of the skills whose text `swapped` shows, where the task says so; else they are drawn.

    Raises:
        UserError: The library is too small.
    """
    rng = random.Random(f"skills {seed}")  # noqa: S311 - which skills are shown, not a secret
    if arm.id == "none":
        return ()
    if arm.id == "distractors":
        shown = [*own, *shelf.others(own, arm.n, rng)]
        rng.shuffle(shown)
        return tuple(shown)
    if arm.id == "retrieved":
        return tuple(shelf.found(question, arm.k))
    if arm.id == "wrong":
        return tuple(shelf.others(own, len(own), rng))
    if arm.id == "swapped":
        others = [shelf.skills[name] for name in swapped_with] or shelf.others(own, len(own), rng)
        return tuple(renamed(other, skill) for other, skill in zip(others, own, strict=True))
    if arm.id == "placebo":
        return tuple(placebo(skill, rng) for skill in own)
    return tuple(own)


def renamed(text: SkillText, name: SkillText) -> SkillText:
    """The one's text under the other's name and description."""

    def called(said: str) -> str:
        return re.sub(rf"\b{re.escape(text.name)}\b", name.name, said)

    files = {path: called(content) for path, content in text.files.items()}
    return SkillText(name.name, name.description, called(text.body), files)


def placebo(skill: SkillText, rng: random.Random) -> SkillText:
    """The same name, description, lines and length in characters, without anything that the skill says."""

    def emptied(text: str) -> str:
        return "\n".join(_filled(line, rng) for line in text.split("\n"))

    files = {path: emptied(content) for path, content in skill.files.items()}
    return SkillText(skill.name, skill.description, emptied(skill.body), files)


def _filled(line: str, rng: random.Random) -> str:
    """A line of the same length and with the same mark at its start, of neutral words."""
    lead = match[0] if (match := _LEAD.match(line)) else ""
    room = len(line) - len(lead)
    words: list[str] = []
    while sum(map(len, words)) + len(words) <= room:
        words += rng.choice(_NEUTRAL).split()
    text = " ".join(words)[:room]
    return lead + (f"{text[:-1]}." if text.endswith(" ") else text)
