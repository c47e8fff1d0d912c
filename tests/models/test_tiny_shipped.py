"""The weights that ship: what their page says of them, on worlds that nobody has seen."""

import asyncio
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fairtrial.models.embedded import index  # noqa: E402
from fairtrial.models.embedded.kind import WEIGHTS  # noqa: E402
from fairtrial.models.native.kind import NativeSettings  # noqa: E402
from fairtrial.models.native.model import NativeModel  # noqa: E402
from fairtrial.models.opening import open_model  # noqa: E402
from fairtrial.nn.tokenizer import Tokenizer  # noqa: E402
from fairtrial.training.tiny.playing import open_plain, play  # noqa: E402
from fairtrial.training.tiny.recipe import TEST_SEEDS, untrained  # noqa: E402
from fairtrial.training.tiny.shipped import RECIPE  # noqa: E402

MOST_BYTES = 12_000_000


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_ships_is_what_the_recipe_says_and_small():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= MOST_BYTES
    found = index.load(WEIGHTS)
    assert set(found.habits) == {"append", "rewrite", "fold", "fold-imposed", "summarise-at"}
    assert found.default == RECIPE.default
    assert json.loads((WEIGHTS / "recipe.json").read_text("utf-8")) == RECIPE.model_dump(mode="json")


@pytest.mark.parametrize("habit", ["append", "rewrite", "fold"])
def test_it_acts_in_worlds_that_it_has_never_seen(habit):
    """The seed is drawn for this test; chance of a right answer is none."""
    world = open_plain({**RECIPE.worlds["steps"], "questions": 3, "n": 12, "seed": TEST_SEEDS + 77})
    (how, *_) = RECIPE.habit(habit).plays

    async def played():
        model = open_model("tiny", Path())
        try:
            return await play(world, how, model=model, seed=1)
        finally:
            await model.close()

    runs = asyncio.run(played())
    assert {called.reply.model for one in runs for called in one.log.calls()} == {f"tiny:{habit}"}
    assert sum(one.scores["items"] for one in runs) / len(runs) >= 0.75
    assert sum(one.scores["em"] for one in runs) / len(runs) >= 0.5


def test_without_training_it_does_nothing_right():
    tokenizer = Tokenizer.load(WEIGHTS / "tokenizer.json")
    blank = NativeModel(
        untrained(RECIPE, tokenizer), tokenizer, NativeSettings(path="none"), name="untrained", weights_version=None
    )
    world = open_plain({**RECIPE.worlds["steps"], "questions": 3, "n": 3, "seed": TEST_SEEDS + 77})

    async def played():
        try:
            return await play(world, RECIPE.habit("append").plays[0], model=blank, seed=1)
        finally:
            await blank.close()

    assert all(one.scores["items"] == 0.0 for one in asyncio.run(played()))
