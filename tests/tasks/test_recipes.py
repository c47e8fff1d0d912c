"""Recipes: the text alone defines the answer, splits share nothing, and what other texts would give is known."""

import asyncio
import random
import re
from pathlib import Path

import pytest

from fairtrial.core.clock import SystemClock
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.tasks.skill import check_fields
from fairtrial.tasks.worlds.leaks import holds, leaks
from fairtrial.tasks.worlds.recipes import Recipes, RecipesSettings
from fairtrial.tasks.worlds.recipes_steps import KINDS, behaviour, draw_step, read_step, run_steps
from fairtrial.tasks.worlds.recipes_texts import read_recipe


def world(**settings):
    return Recipes(parse(RecipesSettings, settings, where="world"), Path())


def follow(world, episode, names, texts):
    """The list that comes out when these texts are followed to the letter, with the episode's own tool."""
    tools = {tool.name: tool for tool in world.functions(episode, SystemClock(), 0)}

    def ask(item):
        return asyncio.run(tools["lookup"].call({"item": item})).removeprefix(f"{item} is ")

    state = tuple(episode.facts["input"])
    for name in names:
        steps = read_recipe("\n\n".join(texts[name]), name)
        assert steps, f"the text of {name} gives no steps"
        state = run_steps(steps, state, ask)[-1]
    return " ".join(state)


@pytest.mark.parametrize("in_file", [False, True])
def test_the_text_alone_defines_the_answer_also_under_other_texts(in_file):
    made = world(n=48, steps=(1, 4), skills=(1, 3), length=["compact", "comprehensive", "detailed"], in_file=in_file)
    texts = {skill.name: skill.texts for skill in made.library()}
    for episode in made.episodes():
        names = [skill.name for skill in episode.skills]
        assert all(name in episode.question for name in names)
        answer = follow(made, episode, names, texts)
        assert made.grade(episode, answer, ()) == {"em": 1.0, "items": 1.0, "swapped": 0.0}
        assert episode.plan[-1].value == answer and episode.critical_path == episode.steps
        other = follow(made, episode, episode.facts["swapped_with"], texts)
        assert made.grade(episode, other, ())["em"] == 0.0 and made.grade(episode, other, ())["swapped"] == 1.0
        assert not set(episode.facts["swapped_with"]) & {n for e in made.episodes() for n in e.facts["recipes"]}
        assert made.grade(episode, None, ()) == {"em": 0.0, "items": 0.0, "swapped": 0.0}
        assert made.grade(episode, f"[{answer.upper().replace(' ', ', ')}].", ())["em"] == 1.0


def test_training_and_evaluation_have_no_name_and_no_procedure_in_common_whatever_the_seeds():
    drawn = {"train": (set(), set()), "evaluation": (set(), set())}
    for split, (names, behaviours) in drawn.items():
        for seed in range(3):
            made = world(n=60, split=split, seed=seed, steps=(1, 3))
            for skill in made.library():
                domain = skill.description.split(" with a list of ")[1].rstrip(".")
                steps = read_recipe(skill.body, skill.name)
                for room in ("items", "codes") if domain == "items" else (domain,):
                    behaviours.add((room, behaviour(room, steps)))
                names.add(skill.name)
    assert not drawn["train"][0] & drawn["evaluation"][0]
    assert not drawn["train"][1] & drawn["evaluation"][1]
    assert min(len(names) for names, _ in drawn.values()) > 200


def test_the_same_procedure_in_another_domain_is_in_the_same_split():
    letters = [read_step(line) for line in ("reverse", "put e at the end", "sort down")]
    items = [read_step(line) for line in ("reverse", "put bell at the end", "sort down")]
    assert behaviour("letters", letters) == behaviour("items", items) != behaviour("letters", letters[:2])


def test_no_recipe_has_an_idle_step():
    made = world(n=40, domains=["letters", "numbers"], steps=(2, 4), length=["compact"])
    for episode in made.episodes():
        steps = read_recipe(episode.skills[0].body, episode.skills[0].name)
        domain = episode.facts["domain"]
        whole = behaviour(domain, steps)
        assert all(behaviour(domain, steps[:at] + steps[at + 1 :]) != whole for at in range(len(steps)))


def test_no_skill_holds_an_answer_and_a_planted_one_is_found():
    for episode in world(n=60, steps=(1, 4), length=["comprehensive", "detailed"]).episodes():
        assert not leaks(episode)
    assert holds("so it is\nT, a r. K then", "t a r k") and not holds("t a r kk", "t a r k")


def test_settings_decide_everything_and_more_episodes_or_longer_texts_leave_the_questions_alone():
    few, many = world(n=12, each=3, seed=5), world(n=24, each=3, seed=5)
    assert list(few.episodes()) == list(many.episodes())[:12]
    longer = world(n=12, each=3, seed=5, length=["comprehensive"]).episodes()
    for short, long in zip(few.episodes(), longer, strict=True):
        assert (short.question, short.answers) == (long.question, long.answers)
        assert len(long.skills[0].body) > 3 * len(short.skills[0].body)
    assert [e.question for e in few.episodes()] != [e.question for e in world(n=12, each=3, seed=6).episodes()]
    families = [episode.info.family for episode in few.episodes()]
    assert families[0] == families[2] != families[3]
    assert len({episode.question for episode in few.episodes()}) == 12


def test_practice_is_the_same_recipes_with_lists_that_are_not_asked():
    made = world(n=8, each=2)
    asked = {episode.question for episode in made.episodes()}
    for episode in made.episodes():
        found = made.practice(episode, 4)
        assert len({each.question for each in found}) == 4 and not asked & {each.question for each in found}
        assert all(each.skills == episode.skills and each.answers != episode.answers for each in found)


def test_what_an_item_stands_for_is_not_to_be_known():
    tables = set()
    made = world(n=6, domains=["codes"])
    for episode in made.episodes():
        (tool,) = made.functions(episode, SystemClock(), 0)
        said = asyncio.run(tool.call({"item": "apple"}))
        tables.add(said)
        assert said.startswith("apple is ") and said != "apple is apple"
        with pytest.raises(LookupError, match='no item "pear"'):
            asyncio.run(tool.call({"item": "pear"}))
    assert len(tables) > 2
    assert not made.functions(world(n=1, domains=["items"]).episodes()[0], SystemClock(), 0)


def test_skills_are_valid_by_the_specification():
    for skill in world(n=8).library():
        assert not list(check_fields({"name": skill.name, "description": skill.description}, skill.name))
        assert "step" not in skill.description


def test_every_kind_of_step_is_read_back_from_its_line():
    rng = random.Random(3)
    seen = set()
    for domain in ("letters", "numbers", "items", "codes"):
        for asks in (False, True) if domain == "codes" else (False,):
            for _ in range(400):
                step = draw_step(domain, rng, asks=asks)
                assert read_step(step.line) == step
                seen.add(step.kind.line)
    assert seen == {kind.line for kind in KINDS}
    for other in ("", "revers", "drop the second", "keep the first 0", "add x to each", "put the mean at the end"):
        assert read_step(other) is None
    for kind in KINDS:
        step = read_step(re.sub(r"\b(w\d|k)\b", "4", kind.line))
        assert step.run((), str) in ((), ("4",), ("0",)), "total also on nothing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 5000, "steps": 1}, "raise steps or each"),
        ({"steps": [3, 2]}, "put the smaller number first"),
        ({"items": 2}, "at least 3"),
        ({"skills": 9}, "at most 8"),
        ({"domains": ["words"]}, "domains"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as error:
        world(**settings).episodes()
    assert "\n" not in str(error.value)
