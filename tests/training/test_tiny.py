"""Tests of how `tiny` is made: vocabulary, lessons, renaming, and the way from a recipe to a model that is served."""

import asyncio
import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.agents.context import rendering
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.models.native.kind import NativeSettings
from fairtrial.models.native.model import NativeModel
from fairtrial.nn.schedule import Schedule
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.tasks.worlds.wiki_graph import RELATIONS
from fairtrial.training.tiny.learning import learn
from fairtrial.training.tiny.lessons import Lesson, Renamer, Writer
from fairtrial.training.tiny.playing import Habit, Played, open_wiki, play_all
from fairtrial.training.tiny.recipe import TEST_SEEDS, Course, Recipe, make, untrained, vocabulary_of
from fairtrial.training.tiny.testing import test as run_tests
from fairtrial.training.tiny.vocabulary import syllable_pairs

WORLD = {"families": ["multi"], "hops": 1, "decoys": 1, "tools": ["visit"], "backlinks": False, "page_words": 1}
HABITS = (Habit(name="append"), Habit(name="fold", policy="fold"))


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Played]]:
    world = open_wiki({**WORLD, "pages": 40, "questions": [2, 6], "n": 16, "seed": 5})
    return {habit.name: play_all([world], habit) for habit in HABITS}


@pytest.fixture(scope="module")
def tokenizer(runs: dict[str, list[Played]]) -> Tokenizer:
    return vocabulary_of([one.log for played in runs.values() for one in played], 600)


def test_the_oracle_s_runs_are_right(runs: dict[str, list[Played]]) -> None:
    assert all(one.scores["em"] == 1 for played in runs.values() for one in played)


def test_vocabulary_keeps_every_text(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    for played in runs.values():
        for one in played:
            for called in one.log.calls():
                for message in (*(called.request.messages or ()), called.reply.message):
                    assert tokenizer.decode(tokenizer.encode(message.content)) == message.content


@settings(max_examples=100, deadline=None)
@given(st.text(), st.integers(0, 2**32))
def test_vocabulary_keeps_text_around_its_stretches(tokenizer: Tokenizer, text: str, seed: int) -> None:
    rng = random.Random(seed)
    known = [tokenizer.decode([index]) for index in range(tokenizer.vocab_size - 300, tokenizer.vocab_size)]
    mixed = "".join(rng.choice([*known, text, "Before", "Muzepe", " Muzepes", "12345"]) for _ in range(6))
    assert tokenizer.decode(tokenizer.encode(mixed)) == mixed


def test_prompts_cost_few_ids(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    """A prompt of a thousand bytes and more costs 40 to 420 ids, and a name three."""
    writer = Writer(tokenizer, 1.0)
    sizes = [len(lesson.ids) for played in runs.values() for one in played for lesson in writer.lessons(one.log)]
    assert max(sizes) <= 420
    rules = runs["fold"][0].log.asked.rules
    assert len(tokenizer.encode(rules)) * 40 < len(rules)
    assert len(tokenizer.encode(rendering.LAST_TURN)) == 1
    name = tokenizer.encode("Muzepe")
    assert len(name) == 3
    assert [index for index in tokenizer.encode(" Muzepe .") if index in name] == name


def test_only_replies_are_learned(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    writer = Writer(tokenizer, 4.0)
    for name, played in runs.items():
        for one in played:
            lessons, calls = list(writer.lessons(one.log)), list(one.log.calls())
            assert len(lessons) == (1 if name == "append" else len(calls))
            learned = "".join(tokenizer.decode(lesson.ids[lesson.weights > 0].tolist()) for lesson in lessons)
            assert learned == "".join(f"{called.reply.text}<|end|>" for called in calls)
            assert {0.0, 1.0, 4.0} == set(np.concatenate([lesson.weights for lesson in lessons]).tolist())


def test_renaming_changes_names_and_relations_alike_and_nothing_else(
    runs: dict[str, list[Played]], tokenizer: Tokenizer
) -> None:
    renamer = Renamer(tokenizer)
    relations = {relation.name for kind in RELATIONS.values() for relation in kind}
    name = re.compile(rf"\b(?:[A-Z][aeiou](?:[a-z][aeiou]){{2}}|{'|'.join(relations)})\b")
    for one in runs["append"]:
        lesson = next(Writer(tokenizer, 1.0).lessons(one.log))
        before = tokenizer.decode(lesson.ids.tolist())
        after = tokenizer.decode(renamer.renamed(lesson.ids, random.Random(1)).tolist())
        assert before != after
        pairs = set(
            zip(name.findall(before.split("<|user|>", 1)[1]), name.findall(after.split("<|user|>", 1)[1]), strict=True)
        )
        assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs) > 5
        assert before.split("<|user|>")[0] == after.split("<|user|>")[0]
        renamed = dict(pairs)
        assert name.sub(lambda found, new=renamed: new.get(found[0], found[0]), before) == after


def test_names_that_are_read_again_can_be_learned_too(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    first = next(Writer(tokenizer, 4.0, 2.0).lessons(runs["append"][0].log))
    told = [tokenizer.decode([index]) for index in first.ids[first.weights == 2].tolist()]
    names = {"".join(told[at : at + 3]) for at in range(0, len(told), 3)}
    page = next(iter(runs["append"][0].log.steps[0].results)).text
    assert page.split()[0] in names
    assert sum(told[at : at + 3] == told[:3] for at in range(0, len(told), 3)) >= page.count("".join(told[:3])) - 1


def test_copying_is_learned_within_seconds(tokenizer: Tokenizer) -> None:
    """Names of two syllables, new in every lesson, told and said again in another order; chance is 1 in 70."""
    rng = random.Random(3)
    made = recipe(300)
    pairs = syllable_pairs(tokenizer)
    agent = tokenizer.special("<|agent|>")

    def lesson() -> Lesson:
        names = [(rng.choice(pairs)[0], rng.choice(pairs)[1]) for _ in range(8)]
        again = rng.sample(names, len(names))
        told, said = (list(itertools.chain(*each)) for each in (names, again))
        ids = np.asarray([*told, agent, *said], np.int32)
        weights = np.zeros(len(ids), np.float32)
        weights[18::2] = 1
        return Lesson(ids, weights)

    model = untrained(made, tokenizer)
    learn(
        model,
        [lesson() for _ in range(400)],
        renamer=Renamer(tokenizer),
        optim=made.optim,
        embedding_rate=made.embedding_rate,
        schedule=Schedule(warmup=30),
        steps=made.steps,
        batch_tokens=made.batch_tokens,
        seed=0,
    )
    right = []
    for one in (lesson() for _ in range(20)):
        said = model(torch.from_numpy(one.ids[None, :-1].astype(np.int64))).logits[0].argmax(-1).numpy()
        right += (said == one.ids[1:])[one.weights[1:] > 0].tolist()
    assert np.mean(right) > 0.6


def recipe(steps: int) -> Recipe:
    return Recipe(
        model={
            "hidden": 64, "layers": 2, "pattern": "WF", "intermediate": 64, "tied": True, "heads": 2, "head_dim": 32,
            "window": 2, "init_std": 0.06,
        },
        habits=HABITS,
        courses=(Course(world={**WORLD, "pages": 30, "questions": 2}, episodes=24, habits=("append", "fold")),),
        steps=steps,
        batch_tokens=512,
    )  # fmt: skip


def test_from_recipe_to_a_model_that_plays(tmp_path: Path) -> None:
    seen: list[float] = []
    material = make(recipe(40), tmp_path / "a", lambda step, loss, tokens: seen.append(loss))
    assert material.episodes == 48
    assert np.mean(seen[-5:]) < np.mean(seen[:5]) - 0.4
    make(recipe(40), tmp_path / "b")
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in "ab"]
    assert weights[0] == weights[1]
    model = NativeModel.load(tmp_path / "a", NativeSettings(path="a"))

    async def played() -> None:
        try:
            world = {"multi": {**WORLD, "pages": 30, "questions": 2}}
            cells = await run_tests(model, HABITS, world, episodes=2)
            assert [(cell.habit, cell.episodes, cell.em) for cell in cells] == [("append", 2, 0.0), ("fold", 2, 0.0)]
            with pytest.raises(UserError, match="seed: 7 may be a world that was learned from"):
                await run_tests(model, HABITS, world, seed=TEST_SEEDS - 999_993)
        finally:
            await model.close()

    asyncio.run(played())
    with pytest.raises(UserError, match="is there already"):
        make(recipe(1), tmp_path / "a")


def test_a_recipe_names_what_is_wrong_with_it() -> None:
    good = recipe(1).model_dump(mode="json")
    course = good["courses"][0]
    for courses, message in (
        ([course | {"habits": ["fly"]}], 'there is no habit "fly"'),
        ([course | {"world": {"seed": 1}}], 'leave out "seed"'),
    ):
        with pytest.raises(UserError, match=message):
            parse(Recipe, good | {"courses": courses}, where="recipe")


def test_a_spelled_run_is_as_right_and_says_what_it_goes_by() -> None:
    world = open_wiki({**WORLD, "pages": 40, "questions": 3, "n": 2, "seed": 5})
    for habit in HABITS:
        for one in play_all([world], habit.model_copy(update={"spelled": True})):
            said = [called.reply.text for called in one.log.calls()]
            assert one.scores["em"] == 1
            for number, (step, text) in enumerate(zip(one.episode.plan, said, strict=False), 1):
                assert f"I look up {number} {step.question} ?" in text
                assert f"{number} {step.question} {step.value} ." in said[-1]
