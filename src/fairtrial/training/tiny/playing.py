"""Episodes of a world played by a script, to learn from, or by a model, to be graded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fairtrial.agents.accounting import Estimate, visited
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.episode import open_world
from fairtrial.agents.log import Log
from fairtrial.agents.oracle_player import OracleSettings
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.planners.planner import Planner
from fairtrial.agents.reader import Reader
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.skills.disclosure import Kit
from fairtrial.agents.skills.episodes import Teacher
from fairtrial.agents.skills.follower import FollowerModel, FollowerSettings
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.config import Config
from fairtrial.core.ids import seed as derive
from fairtrial.models.model import Model, Sampling
from fairtrial.tasks.worlds.world import Episode, World
from fairtrial.training.tiny.speller import Speller

_TOGETHER = 16
"""Episodes that are played at once: as many requests as the model decodes together."""


class Play(Config):
    """How an episode is played, and by which script it is shown."""

    policy: str | dict[str, Any] = "append"
    planner: str | dict[str, Any] = "react"
    plan: Literal["sequential", "parallel"] = "sequential"
    """What the oracle says in one turn."""
    blocks: int = Field(default=5, ge=1)
    """The oracle folds everything together when it has so many blocks, where it chooses."""
    reader: bool = False
    """Whether plans may read within the graph; the player is the reader."""
    skills: str | dict[str, Any] = "none"
    """For worlds that have skills; not those that a model writes."""
    turns: int = Field(default=40, ge=1)
    repairs: int = Field(default=3, ge=0)
    reply_tokens: int = Field(default=400, ge=1)
    """Of one reply at most."""


@dataclass(frozen=True, slots=True)
class Played:
    """One episode that was played."""

    episode: Episode
    log: Log
    scores: dict[str, float]


def open_plain(settings: dict[str, Any]) -> World:
    """A world (default: "wiki") in the style that small models are made for. Raises UserError."""
    return open_world({"id": "wiki", "style": "plain", **settings}, Path())


async def play(
    world: World, how: Play, *, model: Model | None = None, seed: int = 0, sampling: Sampling | None = None
) -> list[Played]:
    """Play all episodes of a world; by a script where there is no model. Raises like `Runtime.play`."""
    free, teacher = asyncio.Semaphore(_TOGETHER), Teacher(world)

    async def one(episode: Episode) -> Played:
        async with free:
            return await _episode(world, teacher, episode, how, model, seed, sampling)

    return list(await asyncio.gather(*(one(episode) for episode in world.episodes())))


async def _episode(
    world: World,
    teacher: Teacher,
    episode: Episode,
    how: Play,
    model: Model | None,
    seed: int,
    sampling: Sampling | None,
) -> Played:
    clock = SimulatedClock()
    policy, planner = open_policy(how.policy, Estimate(4.0)), open_planner(how.planner)
    environment = derive(seed, episode.info.id, 0, "environment")
    kit = await teacher.kit(how.skills, episode, environment, None, _no_attempts, [])
    tools = [
        Tool(each.name, each.description, each.parameters, each.call)
        for each in world.functions(episode, clock, environment)
    ]
    player = model or script(episode, how, planner, policy)
    runtime = Runtime(
        player,
        policy,
        planner,
        [*tools, *kit.tools],
        clock,
        budget=Budget(how.turns, repairs=how.repairs),
        sampling=sampling or Sampling(temperature=0, max_tokens=how.reply_tokens),
        reader=Reader(player, seed) if how.reader else None,
    )
    log = runtime.begin(episode.question, seed=derive(seed, episode.info.id, 0, "sampling"), told=kit.told)
    await runtime.play(log)
    return Played(episode, log, dict(world.grade(episode, log.answer, visited(log))))


def script(episode: Episode, how: Play, planner: Planner, policy: ContextPolicy) -> Model:
    """The player that is imitated: one that follows texts where there are skills, else the oracle, spelled out."""
    if episode.skills:
        return FollowerModel(FollowerSettings(planner=how.planner, policy=how.policy))
    return Speller(episode, OracleSettings(plan=how.plan, blocks=how.blocks), planner=planner, policy=policy)


async def _no_attempts(episode: Episode, kit: Kit, name: str) -> str | None:
    raise NotImplementedError("skills that a model writes are not played here")
