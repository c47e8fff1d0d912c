"""Making `tiny`: play, write down the lessons, train each habit in a process of its own, store a folder that serves.

A habit's training has two parts: first the scripts' runs; then also runs that it played itself, sampled at temperature
1 in further worlds, of which the right ones are kept (rejection sampling, as in AgentFold's Fold-Generator). Steps
and tokens of both parts together are the same for every habit.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import torch

from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.models.embedded.index import Habit as Entry
from fairtrial.models.embedded.index import write_index
from fairtrial.models.native.kind import NativeSettings
from fairtrial.models.native.model import NativeModel
from fairtrial.nn import hub
from fairtrial.nn.model import Model
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.training.tiny.learning import Learner
from fairtrial.training.tiny.lessons import Renamer
from fairtrial.training.tiny.recipe import (
    Habit,
    Recipe,
    Run,
    lessons_of,
    own,
    played,
    rules_of,
    untrained,
    vocabulary_of,
)

CONTEXT = 8192
"""Tokens that prompt and reply of a habit may have together."""
_SAMPLE = 200
"""Runs of each habit that the vocabulary is made of."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What the training of one habit came to."""

    habit: str
    episodes: int
    """Runs of scripts that it learned from."""
    own: int
    """Runs of its own that it learned from."""
    own_tried: int
    tokens: int
    """Read in training, context included."""
    loss: float
    """Nats per token of what it is to say, mean over the last hundred steps."""
    cpu_s: float


def make(recipe: Recipe, folder: Path, *, jobs: int = 2, say: Say = lambda text: None) -> list[Trained]:
    """Make all habits of a recipe in a new folder.

    Args:
        recipe: What to make.
        folder: Is created; may be there empty.
        jobs: Habits that are trained at once, each with one thread.
        say: Told what happens.

    Raises:
        UserError: The folder holds something; worlds or model that cannot be made; a loss that is not finite.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    small = recipe.model_copy(update={"episodes": min(_SAMPLE, recipe.episodes)})
    samples = {habit.name: played(small, habit) for habit in recipe.habits}
    tokenizer = vocabulary_of([run for runs in samples.values() for run in runs], recipe.stretches)
    tokenizer.save(folder / "tokenizer.json")
    untrained(recipe, tokenizer)
    say(f"vocabulary of {tokenizer.vocab_size}; {len(recipe.habits)} habits, {recipe.steps} steps each")
    done: list[Trained] = []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(train, recipe, habit.name, folder) for habit in recipe.habits]
        for future in as_completed(waiting):
            done.append(future.result())
            say(_told(done[-1]))
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1) + "\n", "utf-8")
    order = [habit.name for habit in recipe.habits]
    done.sort(key=lambda one: order.index(one.habit))
    (folder / "training.json").write_bytes(orjson.dumps([asdict(one) for one in done], option=orjson.OPT_INDENT_2))
    entries = {
        habit.name: Entry(
            folder=habit.name,
            rules=rules_of(samples[habit.name]),
            default=habit.name == recipe.default,
            context=CONTEXT,
        )
        for habit in recipe.habits
    }
    write_index(folder, entries)
    return done


def train(recipe: Recipe, name: str, folder: Path) -> Trained:
    """Train one habit with one thread and store it beneath the folder, which holds the tokenizer. Raises UserError."""
    torch.set_num_threads(1)
    began, habit = time.process_time(), recipe.habit(name)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model = untrained(recipe, tokenizer)
    runs = played(recipe, habit)
    learner = Learner(model, Renamer(tokenizer), recipe)
    first = recipe.steps if not recipe.own_episodes else round(recipe.own_after * recipe.steps)
    log = folder / f"{name}.log"
    learner.learn(lessons_of(recipe, runs, tokenizer), first, watch=_watched(log, began))
    mine: list[Run] = []
    if recipe.own_episodes:
        mine = asyncio.run(_own(recipe, habit, model, tokenizer))
        learner.learn(lessons_of(recipe, [*runs, *mine], tokenizer), recipe.steps - first, watch=_watched(log, began))
    store(model, folder / name)
    return Trained(
        habit=name,
        episodes=len(runs),
        own=len(mine),
        own_tried=recipe.own_episodes,
        tokens=learner.tokens,
        loss=learner.loss,
        cpu_s=round(time.process_time() - began, 1),
    )


def store(model: Model, folder: Path) -> None:
    """Save weights rounded to bf16, which are read back as fp32 (decay rates stay fp32). Raises UserError."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in hub.FULL:
            parameter.data = parameter.data.to(torch.bfloat16)
    hub.save(model, folder)


async def _own(recipe: Recipe, habit: Habit, model: Model, tokenizer: Tokenizer) -> list[Run]:
    model.eval()
    settings = parse(NativeSettings, {"path": "unused", "threads": 1, "context": CONTEXT}, where="recipe")
    player = NativeModel(model, tokenizer, settings, name=habit.name, weights_version=None)
    try:
        return await own(recipe, habit, player)
    finally:
        await player.close()


def _watched(log: Path, began: float) -> Callable[[int, float, int], None]:
    def watch(step: int, loss: float, tokens: int) -> None:
        if step % 100 == 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"step {step} loss {loss:.4f} tokens {tokens} cpu {time.process_time() - began:.0f} s\n")

    return watch


def _told(one: Trained) -> str:
    mine = f", {one.own} of {one.own_tried} own" if one.own_tried else ""
    return f"{one.habit}: {one.episodes} episodes{mine}, {one.tokens} tokens, loss {one.loss:.4f}, {one.cpu_s} CPU s"
