"""Episodes of a world played by the oracle, to learn from, or by a model, to be graded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from fairtrial.agents.accounting import Estimate, visited
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.episode import open_world
from fairtrial.agents.log import Log
from fairtrial.agents.oracle_player import OracleModel, OracleSettings
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import Timer
from fairtrial.core.config import Config
from fairtrial.core.ids import seed as derive
from fairtrial.models.model import Delta, Model, Pair, Reply, Request, Sampling, Score
from fairtrial.tasks.worlds.world import Episode, World

_LOOK_UP = re.compile(r"I look up ([^,.]+)\.")
_ANSWER = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_DONE = "All that is asked for is known."
_TOGETHER = 16
"""Episodes that are played at once: as many requests as the model decodes together."""


class Habit(Config):
    """A way of working that is learned and tested: policy, planner, and how the oracle plays it."""

    name: str = Field(min_length=1)
    policy: str | dict[str, Any] = "append"
    planner: str | dict[str, Any] = "react"
    oracle: OracleSettings = OracleSettings(plan="sequential")
    """The player that is imitated."""
    spelled: bool = False
    """Whether the player spells out what its actions rest on."""
    turns: int = Field(default=30, ge=1)
    repairs: int = Field(default=3, ge=0)
    reply_tokens: int = Field(default=256, ge=1)
    """Of one reply at most."""


class Spelling:
    """The oracle, but what it says beside its actions is spelled out for a small reader: where each value comes from.

    A question is named with its number, and before an answer every fact that it rests on is said again, so that what
    is to be written next is always behind something that was just written.
    """

    name = "oracle-player, spelled out"
    features = OracleModel.features
    context: int | None = None

    def __init__(self, oracle: OracleModel, episode: Episode) -> None:
        self._oracle, self._episode = oracle, episode

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """The oracle's reply, spelled out. Raises like the oracle."""
        reply = await self._oracle.generate(request, on_delta=on_delta, timer=timer)
        text = _LOOK_UP.sub(lambda found: f"I look up {self._numbered(found[1])} ?", reply.text)
        answer = _ANSWER.search(text)
        if answer is not None and "items" in self._episode.facts:
            text = text.replace(_DONE, self._facts(answer[1].split(" ; ")), 1)
        return replace(reply, message=reply.message.model_copy(update={"content": text}))

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """It has no probabilities. Raises UnsupportedError."""
        return await self._oracle.score(pairs)

    async def close(self) -> None:
        """Nothing to release."""

    def _numbered(self, asked: str) -> str:
        at = self._episode.question.find(f" {asked} ")
        if at < 0:
            return asked
        return f"{self._episode.question[:at].rpartition(' ')[2]} {asked}"

    def _facts(self, values: Sequence[str]) -> str:
        steps = {step.id: step for step in self._episode.plan}
        told = zip((steps[name] for name in self._episode.facts["item_steps"]), values, strict=True)
        return " ".join(f"{at} {step.question} {value} ." for at, (step, value) in enumerate(told, 1))


@dataclass(frozen=True, slots=True)
class Played:
    """One episode that was played."""

    episode: Episode
    log: Log
    scores: dict[str, float]


def open_wiki(settings: dict[str, Any]) -> World:
    """The world "wiki" in the style that small models are made for. Raises UserError for settings that do not fit."""
    return open_world({"id": "wiki", "style": "plain", **settings}, Path())


async def play(
    world: World, habit: Habit, *, model: Model | None = None, seed: int = 0, sampling: Sampling | None = None
) -> list[Played]:
    """Play all episodes of a world; by the oracle where there is no model. Raises like `Runtime.play`."""
    free = asyncio.Semaphore(_TOGETHER)

    async def one(episode: Episode) -> Played:
        async with free:
            return await _episode(world, episode, habit, model, seed, sampling)

    return list(await asyncio.gather(*(one(episode) for episode in world.episodes())))


async def _episode(
    world: World, episode: Episode, habit: Habit, model: Model | None, seed: int, sampling: Sampling | None
) -> Played:
    clock = SimulatedClock()
    policy, planner = open_policy(habit.policy, Estimate(4.0)), open_planner(habit.planner)
    environment = derive(seed, episode.info.id, 0, "environment")
    tools = [
        Tool(each.name, each.description, each.parameters, each.call)
        for each in world.functions(episode, clock, environment)
    ]
    if model is None:
        oracle = OracleModel([episode], habit.oracle, planner=planner, policy=policy)
        model = Spelling(oracle, episode) if habit.spelled else oracle
    runtime = Runtime(
        model,
        policy,
        planner,
        tools,
        clock,
        budget=Budget(habit.turns, repairs=habit.repairs),
        sampling=sampling or Sampling(temperature=0, max_tokens=habit.reply_tokens),
    )
    log = await runtime.play(runtime.begin(episode.question, seed=derive(seed, episode.info.id, 0, "sampling")))
    return Played(episode, log, dict(world.grade(episode, log.answer, visited(log))))


def play_all(worlds: Sequence[World], habit: Habit, *, seed: int = 0) -> list[Played]:
    """The oracle's runs of several worlds, in order; for use outside of an event loop."""

    async def every() -> list[Played]:
        return [played for world in worlds for played in await play(world, habit, seed=seed)]

    return asyncio.run(every())
