"""`python -m fairtrial.training.tiny FOLDER`: make `tiny` from nothing and test it beside its untrained self."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from fairtrial.models.model import Model
from fairtrial.training.threads import wait_passively
from fairtrial.training.tiny.recipe import Recipe

_BLANK = 8
"""Episodes that an untrained model plays of each test; it ends few of them."""


def main(arguments: list[str] | None = None) -> int:
    """Make the habits, save them, print the table. Returns the exit code."""
    parser = argparse.ArgumentParser("python -m fairtrial.training.tiny", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for the habits, or one to test again")
    parser.add_argument("--recipe", type=Path, help="a recipe.json; default: the one that ships")
    parser.add_argument("--habits", nargs="+", default=[], help="only these")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--episodes", type=int, default=100, help="of each test")
    parser.add_argument("--test-only", action="store_true", help="test what is in the folder")
    parser.add_argument("--jobs", type=int, default=2, help="habits that are trained at once, a thread each")
    parser.add_argument("--device", default="cpu", help='to train on, such as "cuda"; runs are played on the CPU')
    given = parser.parse_args(arguments)
    wait_passively(os.environ)
    from fairtrial.core.errors import UserError

    try:
        _run(given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _recipe(given: argparse.Namespace) -> Recipe:
    from fairtrial.core.config import parse
    from fairtrial.core.errors import UserError
    from fairtrial.training.tiny import shipped

    recipe = shipped.RECIPE
    path = given.folder / "recipe.json" if given.test_only and given.recipe is None else given.recipe
    if path is not None:
        try:
            data = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no recipe: {error}") from None
        recipe = parse(Recipe, data, where=str(path))
    changes = {name: getattr(given, name) for name in ("steps", "seed") if getattr(given, name) is not None}
    data = {**recipe.model_dump(), **changes}
    wanted: list[str] = given.habits
    if given.test_only and not wanted:
        wanted = [habit.name for habit in recipe.habits if (given.folder / habit.name).is_dir()]
    if wanted:
        data["habits"] = [recipe.habit(name).model_dump() for name in wanted]
        data["default"] = recipe.default if recipe.default in wanted else wanted[0]
        tests = {name: (test, [each for each in test.habits if each in wanted]) for name, test in recipe.tests.items()}
        data["tests"] = {name: {"world": test.world, "habits": kept} for name, (test, kept) in tests.items() if kept}
    return parse(Recipe, data, where="recipe")


def _run(given: argparse.Namespace) -> None:
    import torch

    from fairtrial.models.native.kind import NativeSettings
    from fairtrial.models.native.model import NativeModel
    from fairtrial.nn import hub
    from fairtrial.nn.tokenizer import Tokenizer
    from fairtrial.training.tiny import card
    from fairtrial.training.tiny.making import CONTEXT, make
    from fairtrial.training.tiny.recipe import untrained
    from fairtrial.training.tiny.testing import hear_tests, table, test

    torch.set_num_threads(1)
    recipe = _recipe(given)
    done = [] if given.test_only else make(recipe, given.folder, jobs=given.jobs, device=given.device, say=_say)
    tokenizer = Tokenizer.load(given.folder / "tokenizer.json")
    settings = NativeSettings(path=str(given.folder), threads=1, context=CONTEXT)

    async def tested(models: Callable[[str], NativeModel], episodes: int) -> str:
        opened: dict[str, NativeModel] = {}

        def player(habit: str) -> Model:
            if habit not in opened:
                opened[habit] = models(habit)
            return opened[habit]

        try:
            played = await test(recipe, player, episodes=episodes)
            return table(played, await hear_tests(recipe, player, texts=given.episodes))
        finally:
            for model in opened.values():
                await model.close()

    def trained(habit: str) -> NativeModel:
        return NativeModel(hub.load(given.folder / habit), tokenizer, settings, name=habit, weights_version=None)

    def blank(habit: str) -> NativeModel:
        return NativeModel(untrained(recipe, tokenizer), tokenizer, settings, name=habit, weights_version=None)

    _say(known := asyncio.run(tested(trained, given.episodes)))
    nothing = asyncio.run(tested(blank, min(_BLANK, given.episodes)))
    _say(f"untrained:\n{nothing}")
    if done:
        (given.folder / card.FILE).write_text(card.card(recipe, done, known, nothing), "utf-8")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
