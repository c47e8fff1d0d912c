"""Making `tiny`: play, write down the lessons, train each habit in a process of its own, store a folder that serves.

All habits begin with the same weights, which have learned from a few runs of each, the shortest first: there copying is
learned, which long runs alone do not teach in a reasonable time. A habit's training has two parts: first the scripts'
runs; then also runs that it played itself, sampled in further worlds, of which the right ones are kept (rejection
sampling, as in AgentFold's Fold-Generator). Steps and tokens of both parts together are the same for every habit.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
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
from fairtrial.nn.schedule import Schedule
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.training.precision import usable_device
from fairtrial.training.tiny.learning import Learner
from fairtrial.training.tiny.lessons import Lesson, Renamer
from fairtrial.training.tiny.recipe import (
    Habit,
    Recipe,
    Run,
    lessons_of,
    own,
    played,
    reads,
    rules_of,
    untrained,
    vocabulary_of,
)

TOKENIZER, RECIPE, BASE = "tokenizer.json", "recipe.json", "base"
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
    """Runs of scripts, or texts, that it learned from."""
    own: int
    """Runs of its own that it learned from."""
    own_tried: int
    tokens: int
    """Read in training, context included."""
    loss: float
    """Nats per token of what it is to say and of names that it reads again, mean over the last hundred steps."""
    cpu_s: float


def make(
    recipe: Recipe, folder: Path, *, jobs: int = 2, device: str = "cpu", say: Say = lambda text: None
) -> list[Trained]:
    """Make all habits of a recipe in a new folder; in one that was begun with the same recipe, those that are missing.

    Args:
        recipe: What to make.
        folder: Is created; may be there empty.
        jobs: Habits that are trained at once, each with one thread.
        device: Where they are trained, such as "cuda"; they play on the CPU in any case.
        say: Told what happens.

    Raises:
        UserError: The folder holds something else; a device that is not there; worlds or model that cannot be made; a
            loss that is not finite.
    """
    usable_device(device)
    tokenizer = _begun(recipe, folder)
    small = recipe.model_copy(update={"episodes": min(_SAMPLE, recipe.episodes)})
    samples = {habit.name: played(small, habit) for habit in recipe.habits}
    read = [text for habit in recipe.habits for text in reads(small, habit)]
    if tokenizer is None:
        tokenizer = vocabulary_of(list(samples.values()), recipe.stretches, read)
        untrained(recipe, tokenizer)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / TOKENIZER)
        (folder / RECIPE).write_text(recipe.model_dump_json(indent=1) + "\n", "utf-8")
    say(f"vocabulary of {tokenizer.vocab_size}; {len(recipe.habits)} habits, {recipe.steps} steps each")
    if recipe.base_steps and not (folder / BASE).exists():
        runs = [run for of_habit in samples.values() for run in of_habit]
        lessons = lessons_of(recipe, tokenizer, runs, read)
        say(_based(recipe, lessons, tokenizer, folder, device))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=end_with_asker) as pool:
        missing = [habit.name for habit in recipe.habits if not (folder / f"{habit.name}.json").exists()]
        for future in as_completed([pool.submit(train, recipe, name, folder, device) for name in missing]):
            say(_told(future.result()))
    done = [Trained(**orjson.loads((folder / f"{habit.name}.json").read_bytes())) for habit in recipe.habits]
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


def end_with_asker() -> None:
    """Let this process end when the one that started it does, which may be asked again and share the folder with it."""
    asker = multiprocessing.parent_process()
    assert asker is not None

    def wait() -> None:
        asker.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _begun(recipe: Recipe, folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder that was begun with this recipe; None: the folder is new. Raises UserError."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        same = parse(Recipe, orjson.loads((folder / RECIPE).read_bytes()), where=str(folder / RECIPE)) == recipe
    except (OSError, orjson.JSONDecodeError):
        same = False
    if not same:
        raise UserError(f"{folder}: is there already and was not begun with this recipe; name a new folder")
    return Tokenizer.load(folder / TOKENIZER)


def _based(recipe: Recipe, lessons: Sequence[Lesson], tokenizer: Tokenizer, folder: Path, device: str) -> str:
    """Train and store what all habits begin with. Raises UserError."""
    began, before = time.process_time(), torch.get_num_threads()
    torch.set_num_threads(1)
    model = untrained(recipe, tokenizer).to(device)
    held = Schedule(kind="constant", warmup=recipe.schedule.warmup)
    learner = Learner(model, Renamer(tokenizer), recipe, recipe.base_optim, held)
    try:
        learner.learn(lessons, recipe.base_steps, watch=_watched(folder / f"{BASE}.log", began))
    finally:
        torch.set_num_threads(before)
    store(model.cpu(), folder / BASE)
    return f"{BASE}: {learner.tokens} tokens, loss {learner.loss:.4f}, {time.process_time() - began:.0f} CPU s"


def train(recipe: Recipe, name: str, folder: Path, device: str = "cpu") -> Trained:
    """Train one habit with one thread and store it beneath the folder, which holds the tokenizer. Raises UserError."""
    torch.set_num_threads(1)
    began, habit = time.process_time(), recipe.habit(name)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    model = hub.load(folder / BASE) if recipe.base_steps else untrained(recipe, tokenizer)
    runs, read = played(recipe, habit), reads(recipe, habit)
    model.to(device)
    learner = Learner(model, Renamer(tokenizer), recipe)
    tried = recipe.own_episodes if habit.plays else 0
    first = round(recipe.own_after * recipe.steps) if tried else recipe.steps
    log = folder / f"{name}.log"
    learner.learn(lessons_of(recipe, tokenizer, runs, read), first, watch=_watched(log, began))
    mine: list[Run] = []
    if tried:
        mine = asyncio.run(_own(recipe, habit, model.cpu(), tokenizer))
        model.to(device)
        learner.learn(lessons_of(recipe, tokenizer, [*runs, *mine]), recipe.steps - first, watch=_watched(log, began))
    shutil.rmtree(folder / name, ignore_errors=True)
    store(model.cpu(), folder / name)
    done = Trained(
        habit=name,
        episodes=len(runs) + len(read),
        own=len(mine),
        own_tried=tried,
        tokens=learner.tokens,
        loss=learner.loss,
        cpu_s=round(time.process_time() - began, 1),
    )
    (folder / f"{name}.json").write_bytes(orjson.dumps(asdict(done), option=orjson.OPT_INDENT_2) + b"\n")
    return done


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
