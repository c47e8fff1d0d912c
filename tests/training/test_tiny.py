"""Tests of how `tiny` is made: vocabulary, lessons, renaming, and the way from a recipe to a model that is served."""

import asyncio
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import running

from fairtrial.agents.context import rendering
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.models.model import Model as Player
from fairtrial.models.model import Pair, Score
from fairtrial.models.native.kind import NativeSettings
from fairtrial.models.native.model import NativeModel
from fairtrial.models.opening import open_model
from fairtrial.nn import hub
from fairtrial.nn.tokenizer import Tokenizer
from fairtrial.tasks.worlds.names import split_of
from fairtrial.tasks.worlds.wiki_graph import RELATIONS
from fairtrial.training.tiny import card
from fairtrial.training.tiny.learning import Learner
from fairtrial.training.tiny.lessons import Lesson, Renamer, Writer
from fairtrial.training.tiny.making import make
from fairtrial.training.tiny.playing import Play, Played, open_plain, play
from fairtrial.training.tiny.reading import hear, texts
from fairtrial.training.tiny.recipe import TEST_SEEDS, Habit, Recipe, Run, Worlds, untrained, vocabulary_of
from fairtrial.training.tiny.testing import test as run_tests
from fairtrial.training.tiny.vocabulary import syllable_pairs

WORLD = {"families": ["multi"], "hops": 1, "decoys": 1, "tools": ["visit"], "backlinks": False, "page_words": 1}
PLAYS = {"append": Play(), "fold": Play(policy="fold")}
IDLE = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor

from fairtrial.training.tiny.making import end_with_asker

if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=end_with_asker) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""
HABITS = tuple(Habit(name=name, plays=(how,), worlds=("multi",)) for name, how in PLAYS.items())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Played]]:
    world = open_plain({**WORLD, "pages": 40, "questions": [2, 6], "n": 16, "seed": 5})
    return {name: asyncio.run(play(world, how)) for name, how in PLAYS.items()}


@pytest.fixture(scope="module")
def tokenizer(runs: dict[str, list[Played]]) -> Tokenizer:
    return vocabulary_of([[Run(one.log, ("turn",)) for one in played] for played in runs.values()], 600)


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
    """A whole run costs an id for each four bytes or more, rules one for each forty, and a name three."""
    writer = Writer(tokenizer, 1.0)
    for played in runs.values():
        for lesson in (lesson for one in played for lesson in writer.lessons(one.log.calls())):
            assert len(lesson.ids) * 4 < len(tokenizer.decode(lesson.ids.tolist()).encode())
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
            lessons, calls = list(writer.lessons(one.log.calls())), list(one.log.calls())
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
        lesson = next(Writer(tokenizer, 1.0).lessons(one.log.calls()))
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


def test_no_lesson_has_a_name_for_evaluation(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    """Even where the run itself was played in a world for evaluation."""
    renamer, rng, names = Renamer(tokenizer), random.Random(5), Counter[str]()
    name = re.compile(r"\b[A-Z][aeiou](?:[a-z][aeiou]){2}\b")
    for one in runs["append"]:
        lesson = next(Writer(tokenizer, 1.0).lessons(one.log.calls()))
        before = name.findall(tokenizer.decode(lesson.ids.tolist()))
        assert {split_of(found.lower()) for found in before} == {"evaluation"}
        for _ in range(20):
            after = name.findall(tokenizer.decode(renamer.renamed(lesson.ids, rng).tolist()))
            assert {split_of(found.lower()) for found in after} == {"train"}
            assert len(set(zip(before, after, strict=True))) == len(set(before)) == len(set(after))
            names.update(after)
    assert len(names) > 1000


def test_names_of_half_of_the_lessons_begin_alike(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    renamer, rng = Renamer(tokenizer), random.Random(7)
    lesson = next(Writer(tokenizer, 1.0).lessons(runs["append"][0].log.calls()))
    name = re.compile(r"\b[A-Z][aeiou](?:[a-z][aeiou]){2}\b")
    drawn = [set(name.findall(tokenizer.decode(renamer.renamed(lesson.ids, rng).tolist()))) for _ in range(400)]
    sizes = [len(names) for names in drawn]
    assert min(sizes) == max(sizes) > 12
    few = [[len({each[at : at + 2].lower() for each in names}) <= 8 for at in (0, 2, 4)] for names in drawn]
    shares = np.mean(few, axis=0)
    assert 0.4 < shares[0] < 0.6 and 0.4 < shares[1] < 0.6 and shares[2] == 0
    assert 0.15 < np.mean([first and second for first, second, _ in few]) < 0.35


def test_names_that_are_read_again_can_be_learned_too(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    first = next(Writer(tokenizer, 4.0, 2.0).lessons(runs["append"][0].log.calls()))
    told = [tokenizer.decode([index]) for index in first.ids[first.weights == 2].tolist()]
    names = {"".join(told[at : at + 3]) for at in range(0, len(told), 3)}
    page = next(iter(runs["append"][0].log.steps[0].results)).text
    assert page.split()[0] in names
    assert sum(told[at : at + 3] == told[:3] for at in range(0, len(told), 3)) >= page.count("".join(told[:3])) - 1


def test_steps_and_words_of_lists_are_the_same_tokens_wherever_they_stand() -> None:
    world = open_plain({"id": "recipes", "split": "train", "domains": ["letters", "items"], "n": 40, "seed": 3})
    plays = (Play(skills="forced"), Play(skills="curated"))
    runs = [Run(one.log, ("turn",)) for how in plays for one in asyncio.run(play(world, how))]
    tokenizer = vocabulary_of([runs], 600)
    for run in runs:
        said = [list(called.reply.text.splitlines()) for called in run.calls()][-1]
        asked = "\n".join(message.content for message in [*run.calls()][-1].request.messages or ())
        read = tokenizer.encode(asked)
        for line in said[1 : said.index("</think>")]:
            step, _, state = line.partition(" :")
            ids = tokenizer.encode(f"\n{step}\n")[2:-1]
            assert any(read[at : at + len(ids)] == ids for at in range(len(read))), step
            words = state.split()
            told = tokenizer.encode(f"{line}\n")[-1 - len(words) : -1]
            assert [tokenizer.decode([index]) for index in told] == [f" {word}" for word in words]
    name = tokenizer.encode("pitoma")
    assert len(name) == 3
    for text in ("Steps of pitoma:", "<name>pitoma</name>", "pitoma : a e ?"):
        assert [index for index in tokenizer.encode(text) if index in name] == name
    renamed = Renamer(tokenizer).renamed(np.asarray(tokenizer.encode("Steps of pitoma:"), np.int32), random.Random(1))
    said = tokenizer.decode(renamed.tolist())
    assert re.fullmatch(r"Steps of [a-z]{6}:", said)
    assert "pitoma" not in said


def test_texts_are_learned_whole_and_scored_by_what_they_answer() -> None:
    prose = {"families": ["multi"], "hops": 1, "questions": [3, 5], "page_words": 30, "pages": 40, "backlinks": False}
    found = texts({**prose, "n": 6, "seed": 2})
    assert sum(len(text.asked) for text in found) > 6
    for text in found:
        for question, value, other in text.asked:
            assert value.strip() in text.told
            assert value != other
            assert question.startswith("Question: What is the ")
            assert f"{question}{value}\n" in text.whole
            assert other is None or value.strip()[0].isdigit() == other.strip()[0].isdigit()
    tokenizer = vocabulary_of([], 600, found)
    lesson = Writer(tokenizer, 5.0).read(found[0])
    assert tokenizer.decode(lesson.ids[1:].tolist()) == found[0].whole
    assert (lesson.weights[1:] >= 1).all()
    assert set(lesson.weights.tolist()) == {0.0, 1.0, 5.0}

    async def score(pairs: Sequence[Pair]) -> list[Score]:
        """As a model that finds likely what the pages say of the asked subject."""

        def likely(pair: Pair) -> float:
            asked = re.search(r"the (\w+) of ([\w ]+)\?\n[^?]*$", pair.context)
            told = asked and f"{asked[1]} of {asked[2]} (?:is|has been|is given as){pair.continuation}"
            return -1.0 if told and re.search(told, pair.context) else -9.0

        return [Score(likely(pair), (likely(pair),), 1, 1, True) for pair in pairs]

    knows = cast(Player, SimpleNamespace(score=score))
    heard = asyncio.run(hear(knows, found))
    assert (heard.right, heard.questions) == (1.0, sum(other is not None for text in found for *_, other in text.asked))
    with pytest.raises(UserError, match='worlds of the kind "wiki"'):
        texts({"id": "recipes"})


def test_a_card_has_one_table_of_a_second_training() -> None:
    first = card.with_again("# tiny\n", "fold 1")
    assert first.startswith("# tiny\n\n## Trained again") and "fold 1" in first
    second = card.with_again(first, "fold 2")
    assert second == first.replace("fold 1", "fold 2")


def test_copying_is_learned_within_seconds(tokenizer: Tokenizer) -> None:
    """Names of three syllables, new in every lesson, told and said again in another order; chance is 1 in 70."""
    rng = random.Random(3)
    made = recipe(300)
    pairs = syllable_pairs(tokenizer)
    agent = tokenizer.special("<|agent|>")

    def lesson() -> Lesson:
        names = [(rng.choice(pairs)[0], rng.choice(pairs)[1], rng.choice(pairs)[1]) for _ in range(6)]
        again = rng.sample(names, len(names))
        told, said = (list(itertools.chain(*each)) for each in (names, again))
        ids = np.asarray([*told, agent, *said], np.int32)
        weights = np.zeros(len(ids), np.float32)
        for syllable in (1, 2):
            weights[19 + syllable :: 3] = 1
        return Lesson(ids, weights)

    model = untrained(made, tokenizer)
    Learner(model, Renamer(tokenizer), made).learn([lesson() for _ in range(400)], made.steps)
    right = []
    for one in (lesson() for _ in range(20)):
        said = model(torch.from_numpy(one.ids[None, :-1].astype(np.int64))).logits[0].argmax(-1).numpy()
        right += (said == one.ids[1:])[one.weights[1:] > 0].tolist()
    assert np.mean(right) > 0.6


def recipe(steps: int, **more: object) -> Recipe:
    return Recipe(
        model={
            "hidden": 64, "layers": 2, "pattern": "FK", "softmax_conv": True, "intermediate": 64, "tied": True,
            "heads": 2, "head_dim": 32, "kda_heads": 2, "kda_key_dim": 32, "kda_gate_rank": 8, "init_std": 0.06,
        },
        worlds={"multi": {**WORLD, "pages": 30, "questions": 2}},
        habits=HABITS,
        tests={"multi 2": Worlds(world={**WORLD, "pages": 30, "questions": 2}, habits=tuple(PLAYS))},
        default="append",
        episodes=24,
        steps=steps,
        batch_tokens=512,
    ).model_copy(update=more)  # fmt: skip


def test_from_a_recipe_to_a_folder_that_plays(tmp_path: Path) -> None:
    told: list[str] = []
    made = recipe(40, own_episodes=4)
    done = make(made, tmp_path / "a", jobs=2, say=told.append)
    assert [(one.habit, one.episodes, one.own_tried) for one in done] == [("append", 24, 4), ("fold", 24, 4)]
    assert abs(done[0].tokens - done[1].tokens) < 0.25 * done[0].tokens
    assert "vocabulary" in told[0]
    assert {"append", "fold"} == {line.split(":")[0] for line in told[1:]}
    make(made, tmp_path / "b", jobs=1)
    weights = [(tmp_path / folder / "fold" / "model.safetensors").read_bytes() for folder in "ab"]
    assert weights[0] == weights[1]
    tokenizer = Tokenizer.load(tmp_path / "a" / "tokenizer.json")
    before = untrained(made, tokenizer)
    assert not torch.equal(
        before.model.embed_tokens.weight, hub.load(tmp_path / "a" / "fold").model.embed_tokens.weight
    )
    blank = NativeModel(before, tokenizer, NativeSettings(path="a"), name="untrained", weights_version=None)

    async def played() -> None:
        try:
            cells = await run_tests(made, lambda habit: blank, episodes=2)
            assert [(cell.habit, cell.episodes, cell.em) for cell in cells] == [("append", 2, 0.0), ("fold", 2, 0.0)]
            with pytest.raises(UserError, match="seed: 7 may be a world that was learned from"):
                await run_tests(made, lambda habit: blank, seed=TEST_SEEDS - 999_993)
        finally:
            await blank.close()
        tiny = open_model({"kind": "tiny", "path": str(tmp_path / "a")}, Path())
        try:
            world = open_plain({**WORLD, "pages": 30, "questions": 2, "n": 1, "seed": TEST_SEEDS})
            for name, how in PLAYS.items():
                (one,) = await play(world, how, model=tiny)
                assert {called.reply.model for called in one.log.calls()} == {f"tiny:{name}"}
        finally:
            await tiny.close()

    asyncio.run(played())
    shutil.rmtree(tmp_path / "b" / "append")
    (tmp_path / "b" / "append.json").unlink()
    make(made, tmp_path / "b", jobs=1)
    again = [(tmp_path / folder / "append" / "model.safetensors").read_bytes() for folder in "ab"]
    assert again[0] == again[1], "what is missing is made, as if it had been made at once"
    with pytest.raises(UserError, match="was not begun with this recipe"):
        make(recipe(41), tmp_path / "a")
    with pytest.raises(UserError, match='"device" is "abacus", which this machine cannot use'):
        make(made, tmp_path / "c", device="abacus")
    assert not (tmp_path / "c").exists()


def test_trainings_end_with_the_process_that_asked_for_them(tmp_path: Path) -> None:
    asked = tmp_path / "recipe.json"
    asked.write_text(recipe(1_000_000).model_dump_json(), "utf-8")
    folder = tmp_path / "made"
    command = [sys.executable, "-m", "fairtrial.training.tiny", str(folder), "--recipe", str(asked)]
    marked = {**os.environ, "FAIRTRIAL_TEST": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=marked) as made:
        while not all((folder / f"{name}.log").exists() for name in PLAYS):
            assert made.poll() is None
            time.sleep(0.1)
        before = running(tmp_path)
        made.kill()
    assert len(before) > len(PLAYS)
    ends = time.monotonic() + 60
    while left := running(tmp_path):
        assert time.monotonic() < ends, left
        time.sleep(0.1)


def test_workers_that_have_nothing_to_do_end_too(tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(IDLE)
    marked = {**os.environ, "FAIRTRIAL_TEST": str(tmp_path)}
    with subprocess.Popen([sys.executable, str(tmp_path / "asks.py")], stdout=subprocess.PIPE, env=marked) as asks:
        assert asks.stdout is not None
        worker = int(asks.stdout.readline())
        assert worker in running(tmp_path)
        asks.kill()
    ends = time.monotonic() + 60
    while left := running(tmp_path):
        assert time.monotonic() < ends, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"worlds": {"multi": {"seed": 1}}}, 'leave out "seed"'),
        ({"worlds": {}}, 'there is no world "multi"'),
        ({"default": "fly"}, 'default: there is no habit "fly"'),
        ({"tests": {"a": {"world": {}, "habits": ["fly"]}}}, 'tests: a: there is no habit "fly"'),
    ],
)
def test_a_recipe_names_what_is_wrong_with_it(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(Recipe, recipe(1).model_dump(mode="json") | changes, where="recipe")


def test_what_is_said_can_be_copied(runs: dict[str, list[Played]]) -> None:
    """Before the next question the last one is said again, and every answer has its question before it."""
    for played in runs.values():
        for one in played:
            said = [called.reply.text for called in one.log.calls()]
            lines = re.findall(r"(?:last )?\d+ [^?]+\?", one.episode.question)
            assert f"{lines[0]}" in said[0]
            for at, (last, following) in enumerate(itertools.pairwise(lines), 1):
                assert f"{last} {following}" in said[at]
            assert f"{lines[-1]} done" in said[-1]
            told = zip(lines, one.episode.plan, strict=True)
            facts = [f"{line.removesuffix(' ?')} {step.value}" for line, step in told]
            assert f"<answer>{' ; '.join(facts)}</answer>" in said[-1]


@pytest.mark.parametrize(
    ("how", "turns"),
    [
        (Play(planner="native", plan="parallel"), 3),
        (Play(planner="graph", plan="parallel"), 3),
        (Play(planner="graph", plan="parallel", reader=True), 2),
    ],
)
def test_two_hops_are_played_in_as_many_turns_as_the_planner_needs(how: Play, turns: int) -> None:
    world = open_plain({**WORLD, "pages": 60, "hops": 2, "questions": 3, "n": 4, "seed": 5})
    for one in asyncio.run(play(world, how)):
        assert one.scores["em"] == 1
        assert sum(called.purpose == "turn" for called in one.log.calls()) == turns


@pytest.mark.parametrize("planner", ["native", "graph"])
def test_a_name_of_a_later_hop_stands_behind_its_letter_before(planner: str) -> None:
    """So that each name of the list of calls can be copied from a few words earlier."""
    world = open_plain({**WORLD, "pages": 60, "hops": 2, "questions": [2, 8], "n": 6, "seed": 7})
    for one in asyncio.run(play(world, Play(planner=planner, plan="parallel"))):
        said = [called.reply.text for called in one.log.calls()][1]
        names = [node.args["title"] for node in one.log.steps[1].planned.plan.nodes]
        marked = [f"{letter} {name}" for letter, name in zip("abcdefgh", names, strict=False)]
        assert said.split("\n")[0].endswith(" ".join([*marked[:-1], f"last {marked[-1]}"]))
        assert all(f" . {each} " in said for each in marked)


@pytest.mark.parametrize("how", [*PLAYS.values(), Play(policy={"id": "summarise-at", "trigger": 300, "window": 560})])
def test_facts_are_noted_behind_the_numbers_of_their_questions(how: Play) -> None:
    world = open_plain({**WORLD, "pages": 60, "questions": [6, 8], "n": 4, "seed": 7})
    for one in asyncio.run(play(world, how)):
        text = "\n".join(called.reply.text for called in one.log.calls())
        lines = re.findall(r"\d+ [^?]+(?= \?)", one.episode.question)
        noted = [f"{line} {step.value} ." for line, step in zip(lines, one.episode.plan, strict=True)]
        assert all(fact in text for fact in noted)


def test_letters_before_names_are_tokens_of_their_own(runs: dict[str, list[Played]], tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("1 Muzepe mayor Balolo . a Balolo founder ? a Balolo last b Muzepe")
    (first, again), (other,) = ([at for at, i in enumerate(ids) if tokenizer.decode([i]) == f"{m} "] for m in "ab")
    assert ids[first : first + 4] == ids[again : again + 4]
    assert tokenizer.decode([ids[other - 1]]) == "last "
    assert tokenizer.decode(tokenizer.encode("a Muzepe is a name ; b c a")) == "a Muzepe is a name ; b c a"
