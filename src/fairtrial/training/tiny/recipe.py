"""The recipe of `tiny` as data, and what it says is learned from: scripts' runs as lessons, one vocabulary for all.

Everything follows from the recipe: the same one gives the same lessons, and on the same machine the same weights.
Each habit is a model of its own, and all have the same number of episodes, of steps and of tokens, so what an arm can
do does not hang on what another one had to learn. Worlds to learn from and worlds to be tested on have seeds of their
own that never overlap, and names are drawn anew in every episode, so nothing of a test can have been seen.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fairtrial.agents.context import rendering
from fairtrial.agents.log import Called, Log
from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError
from fairtrial.models.embedded.routing import rule_lines
from fairtrial.models.model import Model as Player
from fairtrial.models.model import Sampling
from fairtrial.models.native.chat import described, spelled
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.nn.schedule import OptimConfig, Schedule
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.training.tiny import vocabulary
from fairtrial.training.tiny.lessons import Lesson, Writer
from fairtrial.training.tiny.playing import Play, Played, open_plain, play
from fairtrial.training.tiny.reading import Text, texts

TEST_SEEDS = 1_000_000
"""Seeds of worlds that are learned from lie below, of those for tests at or above."""
Purpose = Literal["turn", "summary", "reader"]


class Habit(Config):
    """A way of working that is learned by a model of its own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    plays: tuple[Play, ...] = ()
    """Ways of playing that give its lessons; episodes are divided among them. None: it learns the worlds' texts."""
    worlds: tuple[str, ...] = Field(min_length=1)
    """Names of the recipe's worlds; each play's episodes are divided among them."""
    purposes: tuple[Purpose, ...] = ("turn", "summary")
    """Calls that it answers."""


class Worlds(Config):
    """Worlds that habits are tested in: nothing of them is learned from."""

    world: dict[str, Any]
    """Settings, without n, seed and split: names and procedures are those for evaluation."""
    habits: tuple[str, ...] = Field(min_length=1)


class Recipe(Config):
    """How a `tiny` is made and what it is tested on."""

    model: dict[str, Any]
    """Fields of the model's configuration, without vocab."""
    worlds: dict[str, dict[str, Any]]
    """Name -> settings of a world that has splits, without n, seed and split."""
    habits: tuple[Habit, ...] = Field(min_length=1)
    tests: dict[str, Worlds] = Field(default_factory=dict[str, Worlds])
    """Name -> test."""
    default: str
    """The habit of prompts whose rules are no habit's."""
    episodes: int = Field(ge=1)
    """That a script plays for each habit."""
    own_episodes: int = Field(default=0, ge=0)
    """That each habit plays by itself once it can, sampled; of these the right ones are learned from too."""
    own_after: float = Field(default=0.8, gt=0, lt=1)
    """Share of the steps before it plays by itself."""
    own_temperature: float = Field(default=0.5, gt=0)
    """At which it does."""
    seed: int = Field(default=0, ge=0, lt=1000)
    """Of the weights, of the worlds that are learned from, and of the order of lessons."""
    value_weight: float = Field(default=5.0, gt=0)
    """Weight of a token of a name or a number, where others weigh 1."""
    again_weight: float = Field(default=1.0, ge=0)
    """Weight of a token of a name that is read again; all other context weighs 0."""
    told_weight: float = Field(default=0.1, gt=0)
    """Weight of a token of a text's passages and questions, where the answers' tokens weigh as what is said."""
    stretches: int = Field(default=900, ge=0)
    """Constant stretches that become tokens, at most."""
    base_steps: int = Field(default=0, ge=0)
    """Of the weights that all habits begin with, which learn from a few runs of every habit; 0: random ones."""
    base_optim: OptimConfig = OptimConfig(lr=4e-3, weight_decay=0.01)
    """Of those steps; the rate stays at its peak."""
    steps: int = Field(ge=1)
    """Of each habit's training."""
    batch_tokens: int = Field(default=1500, ge=64)
    optim: OptimConfig = OptimConfig(lr=4e-3, weight_decay=0.01)
    embedding_rate: float = Field(default=0.1, gt=0, le=1)
    """Learning rate of the embedding, as a share of `optim.lr`."""
    schedule: Schedule = Schedule(warmup=30)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [habit.name for habit in self.habits]
        if len(set(names)) < len(names):
            raise ValueError("habits: each has a name of its own")
        if self.default not in names:
            raise ValueError(f'default: there is no habit "{self.default}"')
        for habit in self.habits:
            if missing := [name for name in habit.worlds if name not in self.worlds]:
                raise ValueError(f'habits: {habit.name}: there is no world "{missing[0]}"')
        for name, test in self.tests.items():
            if missing := [habit for habit in test.habits if habit not in names]:
                raise ValueError(f'tests: {name}: there is no habit "{missing[0]}"')
        worlds = {**self.worlds, **{name: test.world for name, test in self.tests.items()}}
        for name, world in worlds.items():
            if taken := [key for key in ("n", "seed", "split") if key in world]:
                raise ValueError(f'worlds: {name}: leave out "{taken[0]}", it follows from the recipe')
        return self

    def habit(self, name: str) -> Habit:
        """The habit of a name. Raises UserError."""
        for habit in self.habits:
            if habit.name == name:
                return habit
        raise UserError(f'recipe: there is no habit "{name}"; there are {", ".join(each.name for each in self.habits)}')


@dataclass(frozen=True, slots=True)
class Run:
    """A run to learn from, and the calls of it that a habit answers."""

    log: Log
    purposes: tuple[Purpose, ...]

    def calls(self) -> Iterator[Called]:
        """In order."""
        return (called for called in self.log.calls() if called.purpose in self.purposes)


def played(recipe: Recipe, habit: Habit) -> list[Run]:
    """The scripts' runs for a habit: the right ones, and those that a limit ended.

    Raises UserError for worlds that cannot be made.
    """

    async def every() -> list[Run]:
        return [run for how, world, seed in _share(recipe, habit) for run in await _runs(habit, world, how, seed)]

    return asyncio.run(every())


async def own(recipe: Recipe, habit: Habit, model: Player) -> list[Run]:
    """The right ones of runs that a model plays by itself, sampled, in worlds of their own."""
    runs: list[Run] = []
    for how, world, seed in _share(recipe, habit, own=True):
        sampling = Sampling(temperature=recipe.own_temperature, max_tokens=how.reply_tokens)
        runs += await _runs(habit, world, how, seed, model=model, sampling=sampling)
    return runs


async def _runs(habit: Habit, world: dict[str, Any], how: Play, seed: int, **by: Any) -> list[Run]:
    found: list[Played] = await play(open_plain(world), how, seed=seed, **by)
    scripted = "model" not in by  # a script that a limit ends says what it knows, and that the rest is unknown
    return [
        Run(one.log, habit.purposes)
        for one in found
        if one.scores["em"] == 1 or (scripted and one.log.limited is not None and one.log.answer is not None)
    ]


def _share(recipe: Recipe, habit: Habit, *, own: bool = False) -> Iterator[tuple[Play, dict[str, Any], int]]:
    """(play, world, seed) of a habit; habits that share a world share its episodes."""
    episodes = recipe.own_episodes if own else recipe.episodes
    parts = [(how, name) for how in habit.plays for name in habit.worlds]
    each = -(-episodes // max(len(parts), 1))
    for at, (how, name) in enumerate(parts):
        seed = recipe.seed * 1000 + 2 * (100 * list(recipe.worlds).index(name) + at) + own
        yield how, {**recipe.worlds[name], "n": each, "seed": seed, "split": "train"}, seed


def reads(recipe: Recipe, habit: Habit) -> list[Text]:
    """The texts of a habit that does not play; none for others. Raises UserError for worlds without pages."""
    if habit.plays:
        return []
    names = list(recipe.worlds)
    each, begin = -(-recipe.episodes // len(habit.worlds)), recipe.seed * 1000
    return [
        text
        for name in habit.worlds
        for text in texts({**recipe.worlds[name], "n": each, "seed": begin + 200 * names.index(name), "split": "train"})
    ]


def vocabulary_of(habits: Sequence[Sequence[Run]], most: int, read: Sequence[Text] = ()) -> Tokenizer:
    """The tokenizer for runs like each habit's: the lines of their rules and tools, what never changes in other texts.

    `read`: texts whose words are to be short.
    """
    constant, said = {rendering.LAST_TURN}, list[str]()
    for runs in habits:
        counts: Counter[str] = Counter()
        for run in runs:
            told: set[str] = set()
            for called in run.calls():
                messages = called.request.messages or ()
                told.update(message.content for message in messages if message.role == "system")
                told.add(described("", called.request.tools) if called.request.tools else "")
                said += [message.content for message in messages if message.role != "system"]
                said += [called.reply.text, *map(spelled, called.reply.message.tool_calls)]
            counts.update(vocabulary.lines(told))
        rules = {line for line, count in counts.items() if _is_rule(count, runs)}
        constant |= rules
        said += [line for line, count in counts.items() if line not in rules for _ in range(count)]
    return vocabulary.make(said, constant=sorted(constant), most=most, words=[text.whole for text in read])


def _is_rule(count: int, runs: Sequence[Run]) -> bool:
    """Whether a line stands in a fifth of the runs or more; what stands in fewer belongs to one episode, as a skill."""
    return count * 5 >= len(runs)


def lessons_of(recipe: Recipe, tokenizer: Tokenizer, runs: Sequence[Run], read: Sequence[Text] = ()) -> list[Lesson]:
    """What a habit learns from."""
    writer = Writer(tokenizer, recipe.value_weight, recipe.again_weight, recipe.told_weight)
    lessons = [lesson for run in runs for lesson in writer.lessons(run.calls())]
    return [*lessons, *map(writer.read, read)]


def rules_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """The lines by which a habit is recognised: those of the system messages of a fifth of its runs or more."""
    found: Counter[str] = Counter()
    for run in runs:
        asked = [message for called in run.calls() for message in called.request.messages or ()]
        found.update(rule_lines(message.content for message in asked if message.role == "system"))
    return tuple(line for line, count in found.items() if _is_rule(count, runs))


def untrained(recipe: Recipe, tokenizer: Tokenizer) -> Model:
    """The model with the weights that it starts from: of the same shape, it knows nothing. Raises UserError."""
    config = parse(ModelConfig, {**recipe.model, "vocab": tokenizer.vocab_size}, where="recipe: model")
    return Model(config, recipe.seed).eval()
