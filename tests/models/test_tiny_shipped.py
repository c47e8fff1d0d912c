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
from fairtrial.training.tiny.reading import hear, texts  # noqa: E402
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
    assert set(found.habits) == {habit.name for habit in RECIPE.habits}
    assert (found.default, found.scoring) == (RECIPE.default, "text")
    assert "without training" in (WEIGHTS / "CARD.md").read_text("utf-8")
    assert json.loads((WEIGHTS / "recipe.json").read_text("utf-8")) == RECIPE.model_dump(mode="json")


@pytest.mark.parametrize(
    ("habit", "world", "least"),
    [
        ("append", {**RECIPE.worlds["steps"], "questions": 3}, 0.7),
        ("rewrite", {**RECIPE.worlds["steps"], "questions": 3}, 0.7),
        ("fold", {**RECIPE.worlds["steps"], "questions": 3}, 0.7),
        ("native", {**RECIPE.worlds["branches"], "questions": 2}, 0.6),
        ("graph", {**RECIPE.worlds["branches"], "questions": 2}, 0.6),
        ("graph-read", {**RECIPE.worlds["branches"], "questions": 2}, 0.4),
        ("texts", {**RECIPE.worlds["texts"], "steps": 2}, 0.5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_acts_in_worlds_that_it_has_never_seen(habit, world, least):
    """The seed is drawn for this test; chance of a right answer is none."""
    (how, *_) = RECIPE.habit(habit).plays

    async def played():
        model = open_model({"kind": "tiny", "habit": habit} if habit == "texts" else "tiny", Path())
        try:
            return await play(open_plain({**world, "n": 12, "seed": TEST_SEEDS + 77}), how, model=model, seed=1)
        finally:
            await model.close()

    runs = asyncio.run(played())
    assert {called.reply.model for one in runs for called in one.log.calls()} == {f"tiny:{habit}"}
    assert sum(one.scores["items"] for one in runs) / len(runs) >= least


def test_it_knows_how_plain_texts_of_its_worlds_go_on_and_what_they_say():
    found = texts({**RECIPE.worlds["prose"], "n": 8, "seed": TEST_SEEDS + 77})

    async def heard():
        model = open_model("tiny", Path())
        try:
            return await hear(model, found)
        finally:
            await model.close()

    found_out = asyncio.run(heard())
    assert found_out.bits <= 1.0, "bits per byte"
    assert found_out.questions >= 20
    assert found_out.right >= 0.8, "of two values that the same text gives"


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
