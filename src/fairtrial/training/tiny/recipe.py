"""The recipe of `tiny` as data, and its making: oracle runs, vocabulary, lessons, training, a folder that serves it.

Everything follows from the recipe: the same one gives the same lessons, and on the same machine the same weights.
Worlds to learn from and worlds to be tested on have seeds of their own that never overlap, and names are drawn anew in
every episode, so nothing of a test can have been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator

from fairtrial.agents.context import rendering
from fairtrial.agents.log import Log
from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError
from fairtrial.nn import hub
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.nn.schedule import OptimConfig, Schedule
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.training.tiny import vocabulary
from fairtrial.training.tiny.learning import learn
from fairtrial.training.tiny.lessons import Lesson, Renamer, Writer
from fairtrial.training.tiny.playing import Habit, open_wiki, play_all

TEST_SEEDS = 1_000_000
"""Seeds of worlds that are learned from lie below, of those for tests at or above."""


class Course(Config):
    """What is learned: runs of the habits in worlds of one kind."""

    world: dict[str, Any]
    """Settings of the world "wiki", without n and seed."""
    episodes: int = Field(ge=1)
    """For each habit."""
    habits: tuple[str, ...] = Field(min_length=1)
    """Names from the recipe."""


class Recipe(Config):
    """How a `tiny` is made."""

    model: dict[str, Any]
    """Fields of the model's configuration, without vocab."""
    habits: tuple[Habit, ...] = Field(min_length=1)
    courses: tuple[Course, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=1000)
    """Of the weights, of the worlds that are learned from, and of the order of lessons."""
    value_weight: float = Field(default=5.0, gt=0)
    """Weight of a token of a name or a number, where others weigh 1."""
    again_weight: float = Field(default=1.0, ge=0)
    """Weight of a token of a name that is read again; all other context weighs 0."""
    stretches: int = Field(default=600, ge=0)
    """Constant stretches that become tokens, at most."""
    steps: int = Field(ge=1)
    batch_tokens: int = Field(default=1500, ge=64)
    optim: OptimConfig = OptimConfig(lr=4e-3, weight_decay=0.01)
    embedding_rate: float = Field(default=0.1, gt=0, le=1)
    """Learning rate of the embedding, as a share of `optim.lr`."""
    schedule: Schedule = Schedule(warmup=30)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = [habit.name for habit in self.habits]
        if len(set(known)) < len(known):
            raise ValueError("habits: each has a name of its own")
        for course in self.courses:
            if missing := [name for name in course.habits if name not in known]:
                raise ValueError(f'courses: there is no habit "{missing[0]}"')
            if taken := [name for name in ("n", "seed") if name in course.world]:
                raise ValueError(f'courses: world: leave out "{taken[0]}", it follows from the recipe')
        return self

    def habit(self, name: str) -> Habit:
        """The habit of a name."""
        return next(habit for habit in self.habits if habit.name == name)


@dataclass(frozen=True, slots=True)
class Material:
    """What is learned from."""

    tokenizer: Tokenizer
    lessons: tuple[Lesson, ...]
    episodes: int
    """Runs that the lessons were made of."""

    @property
    def tokens(self) -> int:
        """Of all lessons, context included."""
        return sum(len(lesson.ids) for lesson in self.lessons)


def gather(recipe: Recipe) -> Material:
    """Play the courses and write down the lessons. Raises UserError for worlds that cannot be made."""
    logs: list[Log] = []
    for number, course in enumerate(recipe.courses):
        world_seed = recipe.seed * 1000 + number
        world = open_wiki({**course.world, "n": course.episodes, "seed": world_seed})
        for name in course.habits:
            played = play_all([world], recipe.habit(name), seed=world_seed)
            logs += [one.log for one in played if one.scores["em"] == 1]
    tokenizer = vocabulary_of(logs, recipe.stretches)
    writer = Writer(tokenizer, recipe.value_weight, recipe.again_weight)
    lessons = [lesson for log in logs for lesson in writer.lessons(log)]
    return Material(tokenizer, tuple(lessons), len(logs))


def vocabulary_of(logs: Sequence[Log], most: int) -> Tokenizer:
    """The tokenizer for runs like these: the lines of their rules, and what stays the same in their other messages."""
    calls = [called for log in logs for called in log.calls()]
    asked = [message for called in calls for message in called.request.messages or ()]
    rules = {message.content for message in asked if message.role == "system"}
    texts = [message.content for message in asked if message.role != "system"]
    texts += [called.reply.text for called in calls]
    return vocabulary.make(texts, constant=[rendering.LAST_TURN, *vocabulary.lines(rules)], most=most)


def untrained(recipe: Recipe, tokenizer: Tokenizer) -> Model:
    """The model with the weights that it starts from: of the same shape, it knows nothing. Raises UserError."""
    config = parse(ModelConfig, {**recipe.model, "vocab": tokenizer.vocab_size}, where="recipe: model")
    return Model(config, recipe.seed).eval()


def make(
    recipe: Recipe, folder: Path, watch: Callable[[int, float, int], None] = lambda step, loss, tokens: None
) -> Material:
    """Make the model and save it to a new folder, as bf16 that is read back as fp32. Raises UserError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; name a new folder")
    material = gather(recipe)
    model = untrained(recipe, material.tokenizer)
    learn(
        model,
        material.lessons,
        renamer=Renamer(material.tokenizer),
        optim=recipe.optim,
        embedding_rate=recipe.embedding_rate,
        schedule=recipe.schedule,
        steps=recipe.steps,
        batch_tokens=recipe.batch_tokens,
        seed=recipe.seed,
        watch=watch,
    )
    store(model, material.tokenizer, recipe, folder)
    return material


def store(model: Model, tokenizer: Tokenizer, recipe: Recipe, folder: Path) -> None:
    """Weights rounded to bf16 (decay rates stay fp32), tokenizer and recipe in a new folder. Raises UserError."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in hub.FULL:
            parameter.data = parameter.data.to(torch.bfloat16)
    hub.save(model, folder)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", "utf-8")
