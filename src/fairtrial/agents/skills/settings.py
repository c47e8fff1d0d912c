"""The setting `skills` of an arm: which skill texts an agent gets to see, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fairtrial.core.config import Config, parse

Chosen = Literal[
    "none", "curated", "forced", "distractors", "retrieved", "wrong", "swapped", "placebo", "self", "self-feedback"
]
WRITTEN: tuple[Chosen, ...] = ("self", "self-feedback")
"""The sets that a model writes."""
_BELONGS: Mapping[str, tuple[Chosen, ...]] = {
    "n": ("distractors",),
    "k": ("retrieved",),
    "creator": WRITTEN,
    "attempts": ("self-feedback",),
    "rounds": ("self-feedback",),
    "reveal": ("self-feedback",),
}


class SkillSettings(Config):
    """`skills = "curated"`, or `skills = { id = "distractors", n = 8 }`."""

    id: Chosen
    """none. curated: the task's own. forced: these, in the prompt. distractors: these, among `n` others. retrieved: the
    `k` best of all skills by BM25 with the question. wrong: as many of other tasks. swapped: another skill's text under
    the own one's name. placebo: the own names over text of the same length without the procedure. self: what a model
    writes that has seen the task (2602.12670, condition C). self-feedback: the same, revised after attempts that failed
    at other tasks which the own skill solves."""
    show: Literal["listed", "forced"] | None = None
    """listed: names and descriptions in the prompt, the rest on demand; forced: the bodies in the prompt too. Unset:
    listed, except for `id = "forced"`."""
    n: int = Field(default=4, ge=1, le=1000)
    k: int = Field(default=3, ge=1, le=1000)
    creator: str | dict[str, Any] | None = None
    """The model that writes; unset: the arm's own."""
    attempts: int = Field(default=3, ge=1, le=100)
    """Tasks that are tried in each round."""
    rounds: int = Field(default=2, ge=1, le=20)
    """Revisions; fewer where all attempts of a round succeed."""
    reveal: bool = True
    """Whether the creator sees the right answers to the attempts that failed."""

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        for name in self.model_fields_set:
            if name in _BELONGS and self.id not in _BELONGS[name]:
                raise ValueError(f'{name} belongs to id = "{_BELONGS[name][0]}", not to "{self.id}": leave it out')
        if self.id == "none" and self.show is not None:
            raise ValueError('show has no meaning with id = "none": leave it out')
        if self.id == "forced" and self.show == "listed":
            raise ValueError('id = "forced" puts the bodies into the prompt; for a list take id = "curated"')
        return self

    @property
    def forced(self) -> bool:
        """Whether bodies are in the prompt."""
        return self.id == "forced" or self.show == "forced"


def skill_settings(spec: str | Mapping[str, Any], where: str) -> SkillSettings:
    """What an arm says. Raises UserError, prefixed with `where`."""
    return parse(SkillSettings, {"id": spec} if isinstance(spec, str) else dict(spec), where=where)
