"""Skills in trials of the kind "episode": what an arm's `skills` comes to for one episode of a world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairtrial.agents.log import Log
from fairtrial.agents.skills.choosing import Shelf, choose
from fairtrial.agents.skills.disclosure import Kit
from fairtrial.agents.skills.measures import measures
from fairtrial.agents.skills.settings import WRITTEN, SkillSettings, skill_settings
from fairtrial.agents.skills.writing import Creator, Tried
from fairtrial.core.errors import UserError
from fairtrial.core.ids import canonical_json
from fairtrial.core.record import BlobRef
from fairtrial.core.redact import Redactor
from fairtrial.core.trial import BlobSink
from fairtrial.tasks.worlds.leaks import leaks
from fairtrial.tasks.worlds.world import Episode, SkillText, World

Spec = str | Mapping[str, Any]
Play = Callable[[Episode, Kit, str], Awaitable[str | None]]
"""(episode, kit, a name that seeds are derived from) -> the solver's answer."""


def check_skills(spec: Spec, world: World, episodes: Sequence[Episode], where: str) -> SkillSettings:
    """What an arm says. Raises UserError for what this world cannot give."""
    arm = skill_settings(spec, where)
    if arm.id == "none":
        return arm
    if any(not episode.skills for episode in episodes):
        raise UserError(f'{where}: "{arm.id}" needs a world whose episodes carry skills, such as "recipes"')
    if arm.id == "self-feedback" and not hasattr(world, "practice"):
        raise UserError(f'{where}: "self-feedback" needs a world with episodes to practise on; use "self" here')
    shelf = Shelf(_library(world))
    if arm.id in ("distractors", "wrong", "swapped"):
        for episode in episodes:
            choose(arm, episode.skills, shelf, episode.question, 0, episode.facts.get("swapped_with", ()))
    return arm


def leaked(episode: Episode) -> str | None:
    """Why an episode must not be used, if one of its skills says its answer."""
    found = leaks(episode)
    return f"its skill {found[0]} says the answer: it would be copied, not worked out" if found else None


class Teacher:
    """Makes kits for the episodes of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._shelf: Shelf | None = None

    async def kit(
        self,
        spec: Spec,
        episode: Episode,
        seed: int,
        creator: Creator | None,
        play: Play,
        tools: Sequence[dict[str, Any]],
    ) -> Kit:
        """What one run gets to see.

        Args:
            spec: The arm's `skills`.
            episode: What is to be solved.
            seed: Of draws; the same for all arms.
            creator: Writes skills, for arms in which a model does.
            play: Tries an episode with a kit.
            tools: Schemas of the solver's tools, for the creator.

        Raises:
            LimitExceeded, InfraError: As creator and attempts do.
        """
        arm = skill_settings(spec, "skills")
        if arm.id == "none":
            return Kit(arm, episode.skills)
        if arm.id in WRITTEN:
            assert creator is not None

            async def attempts(skills: tuple[SkillText, ...], number: int) -> list[Tried]:
                return [
                    await self._try(other, Kit(arm, other.skills, skills), play, f"practice {number}.{at}")
                    for at, other in enumerate(self._practice(episode, number, arm.attempts))
                ]

            written = await creator.write(episode.question, tools, attempts)
            creation = {**creator.report, "says_the_answer": leaks(episode, written)}
            return Kit(arm, episode.skills, written, creation, creator.said)
        if self._shelf is None:
            self._shelf = Shelf(_library(self._world))
        swapped = episode.facts.get("swapped_with", ())
        return Kit(arm, episode.skills, choose(arm, episode.skills, self._shelf, episode.question, seed, swapped))

    def _practice(self, episode: Episode, number: int, count: int) -> Sequence[Episode]:
        """The episodes of a round; each round has others."""
        world: Any = self._world
        return list(world.practice(episode, (number + 1) * count))[number * count :]

    async def _try(self, episode: Episode, kit: Kit, play: Play, name: str) -> Tried:
        given = await play(episode, kit, name)
        right = self._world.grade(episode, given, ())["em"] == 1.0
        return Tried(episode.info.id, episode.question, given, episode.answers, right)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a record says of skills."""

    visible: BlobRef
    """What could be seen: texts with their hashes, see `Kit.visible`."""
    artifacts: dict[str, BlobRef]
    """The texts themselves; prompts and replies of a creator."""
    details: dict[str, Any]
    """How many and how long the task's own are, what was shown, read and seen; see `Kit.account`, `measures`."""
    flags: tuple[str, ...]


def evidence(kit: Kit, episode: Episode, log: Log, blobs: BlobSink, redactor: Redactor) -> Evidence:
    """What is kept of a run's skills; the blobs are stored."""
    artifacts: dict[str, BlobRef] = {}
    if kit.skills:
        artifacts["skills.json"] = blobs.put(redactor.content(kit.texts()))
    if kit.said:
        artifacts["skill_creation.json"] = blobs.put(redactor.content(canonical_json(list(kit.said))))
    details = {
        "arm": kit.arm.id,
        "disclosure": "none" if not kit.skills else "forced" if kit.arm.forced else "listed",
        "own": measures(kit.own, episode.facts.get("length")),
        **kit.account(log),
        **({"creation": dict(kit.creation)} if kit.creation else {}),
    }
    flags = ("skill_says_the_answer",) if kit.creation.get("says_the_answer") else ()
    return Evidence(blobs.put(redactor.content(kit.visible())), artifacts, redactor.value(details), flags)


def _library(world: World) -> Sequence[SkillText]:
    """The world's library, or all skills of its episodes. Raises UserError where two of one name are not the same."""
    given: Any = getattr(world, "library", None)
    listed = given() if given is not None else [skill for episode in world.episodes() for skill in episode.skills]
    found: dict[str, SkillText] = {}
    for skill in listed:
        if found.setdefault(skill.name, skill) != skill:
            raise UserError(f'skills: two different skills are called "{skill.name}"; give each a name of its own')
    return list(found.values())
