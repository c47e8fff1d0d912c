"""Skills that a model writes: in one shot, or revised after attempts that failed (2602.12670, condition C).

The creator is told not to solve the task and sees neither the solver's work on it nor its answer. The solver is a run
of its own that gets the written skill and nothing else of it. Attempts are at other tasks that the own skill solves.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairtrial.agents.context import tags
from fairtrial.agents.reader import derived_seed
from fairtrial.agents.skills.disclosure import skill_md
from fairtrial.agents.skills.settings import SkillSettings
from fairtrial.core.clock import Timer
from fairtrial.core.errors import LimitExceeded
from fairtrial.core.limits import Meter, Usage
from fairtrial.models.model import Message, Model, Request, Sampling
from fairtrial.tasks.skill import check_fields, parse_skill
from fairtrial.tasks.worlds.world import SkillText

_RULES = (
    "You write skills for a solver that starts afresh and sees nothing but the task and your skill. Do not solve the "
    "task and do not write down its answer: write how to do every task of its kind, step by step.\n\n"
    "Reply with the text of one file SKILL.md and nothing else:\n"
    "---\nname: short-name-in-lower-case\ndescription: what it is for and when to use it\n---\nThe procedure."
)
_FENCE = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)
_FALLBACK = "written-skill"


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt at another task with the skill so far."""

    task: str
    question: str
    given: str | None
    answers: tuple[str, ...]
    right: bool


Attempts = Callable[[tuple[SkillText, ...], int], Awaitable[Sequence[Tried]]]
"""(skills so far, round) -> attempts with them, at other tasks each round."""


@dataclass(slots=True)
class Creator:
    """A model that writes one skill for one run."""

    model: Model
    settings: SkillSettings
    seed: int
    sampling: Sampling
    meter: Meter | None = None
    timer: Timer | None = None
    usage: Usage = field(default_factory=Usage)
    _versions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _tried: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def write(self, question: str, tools: Sequence[dict[str, Any]], attempts: Attempts) -> tuple[SkillText, ...]:
        """The skill; nothing where the model wrote nothing that could be read.

        Raises LimitExceeded (the trial's limits hold for creator and attempts too) and InfraError.
        """
        offered = [f"- {tool['function']['name']}: {tool['function'].get('description', '')}" for tool in tools]
        task = f"A task of the kind:\n\n{question}"
        if offered:
            task += "\n\nTools that the solver has:\n" + "\n".join(offered)
        skills = await self._version(task)
        if self.settings.id == "self":
            return skills
        for number in range(self.settings.rounds):
            tried = await attempts(skills, number)
            self._tried += [
                {"round": number, "task": each.task, "given": each.given, "right": each.right} for each in tried
            ]
            failed = [each for each in tried if not each.right]
            if not failed:
                break
            skills = await self._version(f"{task}\n\n{self._told(skills, failed)}") or skills
        return skills

    @property
    def report(self) -> dict[str, Any]:
        """How it went, as JSON: versions with what the specification has against them, attempts, and what it cost."""
        return {
            "versions": [{name: value for name, value in v.items() if name != "said"} for v in self._versions],
            "attempts": self._tried,
            "usage": self.usage.model_dump(mode="json", exclude_defaults=True),
        }

    @property
    def said(self) -> list[dict[str, Any]]:
        """Prompts and replies of all versions, as JSON."""
        return [version["said"] for version in self._versions]

    def _told(self, skills: Sequence[SkillText], failed: Sequence[Tried]) -> str:
        texts = "\n\n".join(skill_md(skill) for skill in skills) or "(none that could be read)"
        lines = [f"Your skill so far:\n{texts}\n\nOther tasks of the kind at which a solver with it failed:"]
        for each in failed:
            lines.append(f"Task: {each.question}\nIts answer: {each.given or '(none)'}")
            if self.settings.reveal:
                lines[-1] += f"\nRight answer: {each.answers[0]}"
        return "\n\n".join([*lines, "Write the skill anew so that such tasks succeed."])

    async def _version(self, task: str) -> tuple[SkillText, ...]:
        number = len(self._versions)
        seed = derived_seed(self.seed, "creator", number) if "seed" in self.model.features else None
        messages = (Message(role="system", content=_RULES), Message(role="user", content=task))
        request = Request(messages=messages, sampling=self.sampling.model_copy(update={"seed": seed}))
        reply = await self.model.generate(request, timer=self.timer)
        self.usage = self.usage + reply.usage
        skill, problems = read_written(reply.text)
        said = {"prompt": [message.content for message in messages], "reply": reply.text}
        self._versions.append({"readable": skill is not None, "problems": problems, "said": said})
        try:
            if self.meter is not None:
                self.meter.charge(reply.usage)
        except LimitExceeded as error:
            raise LimitExceeded(f"{error.limit}_limit", f"while a skill was written: {error}") from None
        return () if skill is None else (skill,)


def read_written(text: str) -> tuple[SkillText | None, list[str]]:
    """The skill of a model's reply, and what the specification has against it; None where it has no text at all.

    An invalid skill is read as well as it can be: agents read such skills too.
    """
    plain = tags.apart(text)[0].strip()
    if (fence := _FENCE.match(plain)) is not None:
        plain = fence[1].strip()
    fields, body, found = parse_skill(plain)
    name = fields.get("name")
    folder = name if isinstance(name, str) and name.strip() else _FALLBACK
    found += list(check_fields(fields, folder)) if not found else []
    if not body.strip():
        return None, [problem.message for problem in found] or ["it has no text"]
    said = fields.get("description")
    description = said.strip() if isinstance(said, str) and said.strip() else body.strip().splitlines()[0]
    return SkillText(folder.strip(), description, body.strip()), [problem.message for problem in found]
