"""The scripted reader of real questions scores what the decomposition allows, whatever the policy and the planner."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fairtrial.agents.accounting import Estimate, visited
from fairtrial.agents.context.fold import Fold, FoldSettings
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.gold_reader import UNKNOWN, Gold, GoldReader, GoldSettings
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.reader import Reader
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.models.model import Message, Request
from fairtrial.tasks.worlds.real_text import Documents, DocumentsSettings

RECIPE = Path(__file__).parents[2] / "recipes" / "real_text"
POLICIES = [
    "append",
    {"id": "last-n", "n": 1},
    {"id": "clear-results", "keep": 1},
    "rewrite",
    {"id": "summarise-at", "trigger": 400, "keep_last": 1},
    "fold",
    {"id": "fold", "dialect": "released"},
    {"id": "fold-fixed", "period": 2},
    {"id": "fold-random", "deep": 0.5},
]
PLANNERS = [
    "react",
    {"id": "react", "dialect": "action"},
    "native",
    "graph",
    {"id": "graph", "dialect": "tasks"},
    {"id": "graph", "dialect": "joined"},
    "compiler",
    "rewoo",
]


def opened(**settings):
    given = {"questions": "questions.jsonl", "documents": "pages", "top_k": 3} | settings
    return Documents(parse(DocumentsSettings, given, where="world"), RECIPE)


WORLD = opened()
MODEL = GoldReader(WORLD)


def name(spec):
    return spec if isinstance(spec, str) else "-".join(str(value) for value in spec.values())


def play(world, episode, policy, planner, *, model=MODEL, reader=False, turns=30):
    clock = SimulatedClock()
    tools = [
        Tool(each.name, each.description, each.parameters, each.call) for each in world.functions(episode, clock, 1)
    ]
    reading = Reader(model, 1, clock=clock) if reader else None
    runtime = Runtime(
        model,
        open_policy(policy, Estimate(4.0)) if isinstance(policy, str | dict) else policy,
        open_planner(planner),
        tools,
        clock,
        budget=Budget(turns),
        reader=reading,
    )
    log = runtime.begin(episode.question, seed=2)
    asyncio.run(runtime.play(log))
    return log


@pytest.mark.parametrize("planner", PLANNERS, ids=name)
@pytest.mark.parametrize("policy", POLICIES, ids=name)
def test_every_policy_and_planner_reaches_what_the_decomposition_allows(policy, planner):
    for reader in (False, True):
        for episode in WORLD.episodes():
            log = play(WORLD, episode, policy, planner, reader=reader)
            followed = WORLD.follow(episode)
            assert log.answer == (followed.answer or UNKNOWN)
            found = [step.page for step in episode.plan if step.page and step.id in followed.values]
            assert set(visited(log)) == set(found), "a value is known only from an opened page"


def test_one_of_the_recipes_questions_cannot_be_found_and_five_can():
    answers = [WORLD.follow(episode).answer for episode in WORLD.episodes()]
    assert answers.count(None) == 1 and len(answers) == 6


def test_readers_in_the_graph_save_the_turns_between_its_levels():
    chain = next(episode for episode in WORLD.episodes() if episode.critical_path == 4)
    turns = [len(play(WORLD, chain, "append", "graph", reader=reader).steps) for reader in (False, True)]
    assert turns == [9, 2]


def test_a_tool_that_fails_now_and_then_is_called_again():
    shaky = opened(errors=0.3)
    model = GoldReader(shaky)
    for episode in shaky.episodes():
        log = play(shaky, episode, "fold", "react", model=model)
        assert log.answer == (shaky.follow(episode).answer or UNKNOWN)


def test_at_the_last_turn_it_answers_with_what_it_has():
    chain = next(episode for episode in WORLD.episodes() if episode.critical_path == 4)
    assert play(WORLD, chain, "append", "react", turns=3).answer == UNKNOWN


def test_a_page_that_the_prompt_does_not_show_is_not_known(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.md").write_text("Orm is a town. " * 30)
    question = {
        "question": "What is Orm?",
        "answers": ["town"],
        "decomposition": [{"question": "What is Orm?", "answer": "town", "page": "a.md"}],
    }
    (tmp_path / "q.json").write_text(json.dumps([question]))
    world = Documents(DocumentsSettings(questions=("q.json",), documents="pages"), tmp_path)
    (episode,) = world.episodes()
    model = GoldReader(world)
    assert play(world, episode, "append", "react", model=model).answer == "town"
    narrow = {"id": "append", "window": 300}
    assert play(world, episode, narrow, "react", model=model).answer == UNKNOWN


class Forgetful(Fold):
    """A fold that keeps no word."""

    def read(self, text, log):
        turn = super().read(text, log)
        return turn if turn.fold is None else replace(turn, fold=replace(turn.fold, text="(lost)"))


def test_under_a_policy_that_folds_the_folds_are_its_memory():
    chain = next(episode for episode in WORLD.episodes() if episode.critical_path == 4)
    steps = len(play(WORLD, chain, "fold", "react").steps)
    forgetful = Forgetful(FoldSettings(), Estimate(4.0))
    log = play(WORLD, chain, forgetful, "react")
    assert steps == 9 and log.answer == UNKNOWN


def test_it_says_what_it_does_not_know():
    model = Gold.open(GoldSettings(questions=("questions.jsonl",), documents="pages"), RECIPE)
    asked = Request(messages=(Message(role="user", content="What is the time?"),))
    with pytest.raises(UserError, match="is asked what is no question of its files"):
        asyncio.run(model.generate(asked))
    with pytest.raises(UserError, match="continues no text"):
        asyncio.run(model.generate(Request(prompt="Once")))
    with pytest.raises(UserError, match="cannot be read"):
        Gold.open(GoldSettings(questions=("none.json",)), RECIPE)
