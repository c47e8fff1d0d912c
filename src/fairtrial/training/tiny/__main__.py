"""`python -m fairtrial.training.tiny FOLDER`: make `tiny` from nothing and test it beside its untrained self."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

from fairtrial.training.threads import wait_passively


def main(arguments: list[str] | None = None) -> int:
    """Make the model, save it, print the table. Returns the exit code."""
    parser = argparse.ArgumentParser("python -m fairtrial.training.tiny", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for the model, or one to test again")
    parser.add_argument("--recipe", type=Path, help="a recipe.json; default: the one that ships")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--episodes", type=int, default=64, help="of each test")
    parser.add_argument("--test-only", action="store_true", help="test the model that is in the folder")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    wait_passively(os.environ)
    from fairtrial.core.errors import UserError

    try:
        _run(given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _run(given: argparse.Namespace) -> None:
    import torch

    from fairtrial.core.config import parse
    from fairtrial.core.errors import UserError
    from fairtrial.training.tiny import shipped
    from fairtrial.training.tiny.recipe import Recipe, make, untrained
    from fairtrial.training.tiny.testing import table

    torch.set_num_threads(given.threads)
    recipe = shipped.RECIPE
    if given.recipe is not None:
        try:
            data = json.loads(given.recipe.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{given.recipe}: no recipe: {error}") from None
        recipe = parse(Recipe, data, where=str(given.recipe))
    if given.steps is not None:
        recipe = recipe.model_copy(update={"steps": given.steps})
    began = time.process_time()

    def watch(step: int, loss: float, tokens: int) -> None:
        if step % 50 == 0:
            _say(f"step {step}/{recipe.steps} loss {loss:.3f} tokens {tokens} cpu {time.process_time() - began:.0f} s")

    if not given.test_only:
        material = make(recipe, given.folder, watch)
        _say(f"{material.episodes} episodes, {len(material.lessons)} lessons, {material.tokens} tokens")
    from fairtrial.models.native.kind import NativeSettings
    from fairtrial.models.native.model import NativeModel
    from fairtrial.training.tiny.testing import test

    async def tested(model: NativeModel, episodes: int) -> str:
        try:
            return table(await test(model, recipe.habits, shipped.TESTS, episodes=episodes))
        finally:
            await model.close()

    settings = NativeSettings(path=str(given.folder), threads=given.threads)
    model = NativeModel.load(given.folder, settings)
    _say(asyncio.run(tested(model, given.episodes)))
    nothing = untrained(recipe, model.tokenizer)
    blank = NativeModel(nothing, model.tokenizer, settings, name="untrained", weights_version=None)
    _say(f"untrained:\n{asyncio.run(tested(blank, min(8, given.episodes)))}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
