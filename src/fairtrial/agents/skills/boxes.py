"""Skills in trials of the kind "agent": folders in the box, as the arm's `skills` says, and what of them was read.

`none` and `curated` are as the task has them. All others get a folder that is made for the trial and shown at the same
places, so that an agent cannot tell arms apart by where it finds skills. Retrieval looks through the skills of the
whole suite. A creator is one model call that sees the instruction (in 2602.12670 it is an agent that sees the box).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairtrial.agents.skills.choosing import Shelf, choose
from fairtrial.agents.skills.disclosure import MAIN, forced, listed, skill_md
from fairtrial.agents.skills.episodes import Spec
from fairtrial.agents.skills.measures import measures
from fairtrial.agents.skills.settings import WRITTEN, SkillSettings, skill_settings
from fairtrial.agents.skills.writing import Creator, Tried
from fairtrial.core.errors import UserError
from fairtrial.core.trajectory import TextObservation, Trajectory
from fairtrial.tasks.scratch import copy_tree
from fairtrial.tasks.skill import read_skill
from fairtrial.tasks.task import Skill, Task
from fairtrial.tasks.worlds.world import SkillText

_TEXT_LIMIT = 1 << 20
_TELLING = 20
"""Characters from which on a line can tell one skill from another."""


def skill_text(skill: Skill) -> SkillText:
    """A skill folder as texts; files that are not UTF-8 or larger than 1 MB are left out."""
    files: dict[str, str] = {}
    for path in sorted(skill.path.rglob("*")):
        name = str(path.relative_to(skill.path))
        if path.is_symlink() or not path.is_file() or name.lower() == MAIN.lower():
            continue
        if path.stat().st_size <= _TEXT_LIMIT:
            try:
                files[name] = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
    return SkillText(skill.name, skill.description, skill.body, files)


@dataclass(frozen=True, slots=True)
class Pack:
    """The skills of one trial."""

    arm: SkillSettings
    own: tuple[SkillText, ...]
    skills: tuple[SkillText, ...] = ()
    """What the box shows."""
    folder: Path | None = None
    """Host folder with them, where it is not the task's own."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Skill -> its folder's name."""
    creation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    said: Sequence[Mapping[str, Any]] = ()
    domain: str | None = None
    """The task's category."""

    @property
    def instruction(self) -> str:
        """What stands behind the instruction: the bodies, where the arm forces them."""
        return f"\n\n{forced(self.skills)}\n" if self.arm.forced and self.skills else ""

    def listing(self, place: str) -> str:
        """Names, descriptions and places, for agents that do not look for skills themselves."""
        if not self.skills or self.arm.forced:
            return ""
        places = {name: f"{place}/{folder}/{MAIN}" for name, folder in self.names.items()}
        return (
            "A skill tells how to do one kind of task. Where the description of one fits what is asked, read its file "
            f"before you work, and follow it.\n{listed(self.skills, places)}"
        )

    def account(self, trajectory: Trajectory | None) -> dict[str, Any]:
        """What became of them, from the results that the agent saw; invoked is None where these are not known."""
        told = [] if trajectory is None else _results(trajectory)
        known = trajectory is not None and (bool(trajectory.model_calls) or len(told) > 1)
        read = [skill.name for skill in self.skills if any(_shows(text, skill, self.skills) for text in told)]
        names = {skill.name for skill in self.own}
        readable = bool(self.skills) and not self.arm.forced and known
        return {
            "arm": self.arm.id,
            "disclosure": "none" if not self.skills else "forced" if self.arm.forced else "box",
            "own": measures(self.own, domain=self.domain),
            "shown": [skill.name for skill in self.skills],
            "read": read,
            "invoked": bool(read) if readable else None,
            "invoked_own": bool(names & set(read)) if readable else None,
            **({"creation": dict(self.creation)} if self.creation else {}),
        }


def _results(trajectory: Trajectory) -> list[str]:
    return [
        item.content
        for item in trajectory.content
        if isinstance(item, TextObservation) and item.source == "environment" and isinstance(item.content, str)
    ]


def _shows(result: str, skill: SkillText, all_skills: Sequence[SkillText]) -> bool:
    """Whether a result holds a line that stands in the body of this skill alone."""
    others = "\n".join(other.body for other in all_skills if other is not skill)
    lines = [line.strip() for line in skill.body.splitlines()]
    longest = max(map(len, lines), default=0)
    return any(line in result for line in lines if line and len(line) >= min(_TELLING, longest) and line not in others)


class Packs:
    """Makes packs for the tasks of one suite."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._folders: dict[str, Skill] = {}
        for task in tasks:
            for skill in task.skills:
                self._folders.setdefault(skill.name, skill)
        self._tasks = tasks
        self._texts: dict[Path, SkillText] = {}
        self._shelf: Shelf | None = None

    def check(self, spec: Spec, where: str) -> SkillSettings:
        """What an arm says. Raises UserError for what this suite cannot give."""
        arm = skill_settings(spec, where)
        if arm.id == "none":
            return arm
        if arm.id not in WRITTEN and not self._folders:
            raise UserError(f'{where} = "{arm.id}", but no task of the suite has a skill')
        if arm.id == "self-feedback":
            raise UserError(f'{where}: "self-feedback" needs a world with episodes to practise on; use "self" here')
        if arm.id in WRITTEN and arm.creator is None:
            raise UserError(f'{where}: "{arm.id}" needs a model that writes: creator = "KIND:..."')
        if arm.id in ("distractors", "wrong", "swapped"):
            for task in self._tasks:
                self._choose(arm, task, 0)
        return arm

    def invalid(self) -> list[str]:
        """What the specification's reference rejects of the tasks' own skills, a line for each skill."""
        found: list[str] = []
        for skill in (skill for task in self._tasks for skill in task.skills):
            try:
                read_skill(skill.path)
            except UserError as error:
                found.append(str(error))
        return found

    async def make(self, spec: Spec, task: Task, folder: Path, seed: int, creator: Creator | None) -> Pack:
        """The skills of one trial.

        Args:
            spec: The arm's `skills`.
            task: The task.
            folder: An empty host folder for those that are not the task's own folder as it is.
            seed: Of draws; the same for all arms.
            creator: Writes, for arms in which a model does.

        Raises:
            LimitExceeded, InfraError: As the creator does.
        """
        arm = skill_settings(spec, "skills")
        own, domain = tuple(map(self._text, task.skills)), next(iter(task.info.tags), None)
        if arm.id == "none":
            return Pack(arm, own, domain=domain)
        if arm.id in ("curated", "forced"):
            names = {skill.name: skill.path.name for skill in task.skills}
            return Pack(arm, own, own, None, names, domain=domain)
        creation, said = {}, ()
        if arm.id in WRITTEN:
            assert creator is not None
            chosen = await creator.write(task.steps[0].instruction, (), _nothing)
            creation, said = creator.report, creator.said
        else:
            chosen = self._choose(arm, task, seed)
        names = {skill.name: self._put(skill, task, folder) for skill in chosen}
        return Pack(arm, own, chosen, folder, names, creation, said, domain)

    def _text(self, skill: Skill) -> SkillText:
        if skill.path not in self._texts:
            self._texts[skill.path] = skill_text(skill)
        return self._texts[skill.path]

    def _choose(self, arm: SkillSettings, task: Task, seed: int) -> tuple[SkillText, ...]:
        if self._shelf is None:
            self._shelf = Shelf([self._text(skill) for skill in self._folders.values()])
        own = tuple(map(self._text, task.skills))
        return choose(arm, own, self._shelf, task.steps[0].instruction, seed)

    def _put(self, skill: SkillText, task: Task, folder: Path) -> str:
        """Write a skill below `folder`; returns its folder's name. A skill as its author made it is copied whole."""
        own = {each.name: each for each in task.skills}
        source = own.get(skill.name) or self._folders.get(skill.name)
        as_made = source is not None and self._text(source) == skill
        wanted = source.path.name if source is not None else re.sub(r"[^\w-]+", "-", skill.name)[:64].strip("-")
        name = wanted or "skill"
        while (folder / name).exists():
            name += "-2"
        if source is not None and as_made:
            copy_tree(source.path, folder / name)
            return name
        for path, text in ((MAIN, skill_md(skill)), *skill.files.items()):
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
        return name


async def _nothing(skills: tuple[SkillText, ...], number: int) -> list[Tried]:
    del skills, number
    return []
