"""The oracle player: right in every planner's and policy's dialect, as long as the prompt says what it needs."""

import asyncio
import itertools
from pathlib import Path

import pytest

from fairtrial.agents.accounting import Estimate
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.episode import EpisodeArm, EpisodeSuite, EpisodeTrial
from fairtrial.agents.log import Called, Folded, Planned, Rejected
from fairtrial.agents.oracle_player import OracleModel, OraclePlayer, OracleSettings
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.reader import Reader
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.errors import UserError
from fairtrial.models.model import Message, Request, UnsupportedError
from fairtrial.tasks.worlds.wiki import Wiki, WikiSettings

POLICIES = (
    "append",
    {"id": "last-n", "n": 20},
    {"id": "clear-results", "keep": 20},
    {"id": "summarise-at", "trigger": 500},
    "rewrite",
    "fold",
    {"id": "fold", "dialect": "released"},
    {"id": "fold-fixed", "period": 3},
    {"id": "fold-random", "deep": 0.5},
)
PLANNERS = (
    "react",
    {"id": "react", "dialect": "action"},
    "native",
    "graph",
    {"id": "graph", "dialect": "tasks"},
    "compiler",
    "rewoo",
)


def world(**settings):
    return Wiki(WikiSettings(**settings), Path())


def play(wiki, policy="append", planner="react", *, readers=False, turns=40, seed=3, model=None, **oracle):
    """Logs and EM of all episodes."""
    model = model or OracleModel(wiki.episodes(), OracleSettings(**oracle))
    logs, scores = [], []
    for episode in wiki.episodes():
        clock = SimulatedClock()
        tools = [Tool(f.name, f.description, f.parameters, f.call) for f in wiki.functions(episode, clock, 1)]
        runtime = Runtime(
            model,
            open_policy(policy, Estimate()),
            open_planner(planner),
            tools,
            clock,
            budget=Budget(turns=turns),
            reader=Reader(model, 0) if readers else None,
        )
        logs.append(asyncio.run(runtime.play(runtime.begin(episode.question, seed=seed))))
        scores.append(wiki.grade(episode, logs[-1].answer, ()))
    return logs, scores


def events(logs, kind):
    return [event for log in logs for event in log.events if isinstance(event, kind)]


def calls(logs):
    return [(node.tool, node.args) for planned in events(logs, Planned) for node in planned.plan.nodes]


def share(scores, name="em"):
    return sum(score[name] for score in scores) / len(scores)


@pytest.mark.parametrize(
    ("policy", "style"), [*((policy, "text") for policy in POLICIES), ("append", "plain"), ("fold", "plain")], ids=str
)
def test_it_is_right_in_every_dialect(policy, style):
    wiki = world(n=6, style=style, age=2, questions=5, pages=60)
    for planner, readers in itertools.product(PLANNERS, (False, True)):
        if readers and planner in ("react", "native", {"id": "react", "dialect": "action"}):
            continue
        logs, scores = play(wiki, policy, planner, readers=readers)
        assert share(scores) == 1.0, (planner, readers)
        assert not events(logs, Rejected)


def test_the_planner_decides_how_many_turns_it_takes():
    wiki = world(n=3, families=["compare"], hops=3, branches=4)
    turns = {
        (planner, readers): [len(log.steps) for log in play(wiki, "append", planner, readers=readers)[0]]
        for planner, readers in (("react", False), ("native", False), ("graph", False), ("graph", True))
    }
    assert turns["react", False] == [13] * 3
    assert turns["native", False] == turns["graph", False] == [4] * 3
    assert turns["graph", True] == [2] * 3
    assert [len(log.steps) for log in play(wiki, "append", "graph", readers=True, plan="sequential")[0]] == [13] * 3


def test_readers_are_asked_within_the_graph():
    wiki = world(n=1, families=["chain"], hops=4)
    logs, scores = play(wiki, "append", "graph", readers=True)
    assert share(scores) == 1.0
    read = [called.reply.text for called in events(logs, Called) if called.purpose == "reader"]
    assert sorted(read) == sorted(step.value for step in wiki.episodes()[0].plan[:-1])


def test_what_a_policy_dropped_is_looked_up_again_and_again():
    wiki = world(n=2, families=["multi"], questions=4, hops=1)
    logs, scores = play(wiki, {"id": "last-n", "n": 2}, "react", turns=20)
    visits = [args["title"] for _, args in calls(logs[:1])]
    assert len(visits) > len(set(visits))
    assert share(scores) == 0.0
    assert all("unknown" in log.answer for log in logs)
    assert share(play(wiki, {"id": "last-n", "n": 4}, "react")[1]) == 1.0


def test_a_fact_that_is_needed_late_is_kept_by_folds_and_not_by_a_window_of_the_same_size():
    wiki = world(n=2, families=["multi"], questions=10, hops=1, age=5, page_words=60)
    logs, scores = play(wiki, {"id": "fold", "window": 1100}, "react")
    assert share(scores) == 1.0
    assert len(logs[0].steps) == 11
    assert share(play(wiki, {"id": "append", "window": 1100}, "react")[1], "items") < 1.0


def test_it_consolidates_when_there_are_many_blocks_and_notes_only_what_is_needed():
    wiki = world(n=1, families=["chain"], hops=12, pages=120)
    logs, _ = play(wiki, "fold", "react", blocks=3)
    folds = events(logs, Folded)
    assert {fold.start < fold.end for fold in folds} == {True, False}
    assert max(len(log.prefix(at).blocks) for log in logs for at in range(len(log.events))) == 3
    deep = next(fold for fold in folds if fold.start < fold.end)
    assert deep.text.count(".") == 1, "of a chain only the last value is needed"


def test_notes_that_are_rewritten_more_often_survive_less_well():
    wiki = world(n=6, families=["multi"], questions=24, hops=1, style="plain", decoys=0, backlinks=False)
    survived = {
        policy: share(play(wiki, policy, "react", wrong=0.02, blocks=64)[1], "items") for policy in ("fold", "rewrite")
    }
    assert survived["fold"] > 0.9
    assert survived["rewrite"] < survived["fold"] - 0.05


@pytest.mark.parametrize("planner", ["react", "native", "graph", "compiler", "rewoo"])
def test_slips_are_rejected_and_made_good(planner):
    wiki = world(n=24)
    logs, scores = play(wiki, "fold", planner, slip=0.25)
    assert len(events(logs, Rejected)) >= 12
    assert share(scores) >= 0.8
    again, _ = play(wiki, "fold", planner, slip=0.25)
    other, _ = play(wiki, "fold", planner, slip=0.25, seed=4)
    said = [[called.reply.text for called in events(each, Called)] for each in (logs, again, other)]
    assert said[0] == said[1] != said[2]


def test_wrong_values_are_the_models_and_not_the_formats():
    wiki = world(n=12)
    logs, scores = play(wiki, "append", "react", wrong=1.0)
    assert share(scores) == 0.0
    assert not events(logs, Rejected)


@pytest.mark.parametrize(
    ("settings", "oracle"),
    [
        ({"tool_errors": 0.3}, {}),
        ({"chunk_words": 25}, {}),
        ({}, {"look": "search"}),
        ({"tools": ["search"], "families": ["chain", "compare", "multi"]}, {}),
        ({}, {"thinking": True}),
    ],
    ids=str,
)
def test_it_gets_by_with_hard_worlds(settings, oracle):
    wiki = world(n=6, **settings)
    for policy, planner, readers in (("append", "react", False), ("fold", "graph", True), ("rewrite", "native", False)):
        assert share(play(wiki, policy, planner, readers=readers, turns=60, **oracle)[1]) == 1.0


@pytest.mark.parametrize("planner", ["react", "graph"])
def test_it_searches_first_if_told_to_and_visits_what_snippets_do_not_tell(planner):
    for snippet, visits in (("best", 0), ("none", 7)):
        wiki = world(n=1, families=["compare"], hops=2, branches=3, snippet=snippet, pages=60, seed=2)
        logs, scores = play(wiki, "append", planner, look="search")
        assert share(scores) == 1.0
        made = [tool for tool, _ in calls(logs)]
        assert made.count("search") == 6 or (snippet == "best" and 4 <= made.count("search") < 6), (
            "snippets may tell two"
        )
        assert made.count("visit") <= visits
        assert bool(made.count("visit")) == (snippet == "none")


@pytest.mark.parametrize("limit", [{"turns": 40, "tool_calls": 7}, {"turns": 40}], ids=str)
def test_it_plans_fewer_calls_where_many_are_refused(limit):
    wiki = world(n=1, families=["compare"], hops=1, branches=6)
    episode = wiki.episodes()[0]
    clock = SimulatedClock()
    tools = [Tool(f.name, f.description, f.parameters, f.call) for f in wiki.functions(episode, clock, 1)]
    planner = {"id": "native"} if "tool_calls" in limit else {"id": "native", "max_nodes": 2}
    runtime = Runtime(
        OracleModel([episode]),
        open_policy("append", Estimate()),
        open_planner(planner),
        tools,
        clock,
        budget=Budget(**limit),
    )
    log = asyncio.run(runtime.play(runtime.begin(episode.question)))
    assert wiki.grade(episode, log.answer, ())["em"] == 1.0
    assert {event.code for event in events([log], Rejected)} <= {"tool-limit", "too-many-nodes"}
    assert bool(events([log], Rejected)) == ("tool_calls" not in limit)


def test_given_dialects_and_recognised_ones_play_alike():
    wiki = world(n=6)
    given = OracleModel(
        wiki.episodes(), planner=open_planner("compiler"), policy=open_policy({"id": "fold"}, Estimate())
    )
    said = [
        [called.reply.text for called in events(play(wiki, "fold", "compiler", model=model)[0], Called)]
        for model in (given, None)
    ]
    assert said[0] == said[1]


def ask(model, *messages, **more):
    return asyncio.run(model.generate(Request(messages=messages, **more)))


def test_as_a_reader_it_says_only_what_the_document_says():
    wiki = world(n=4, families=["chain"])
    model = OracleModel(wiki.episodes())
    for episode in wiki.episodes():
        step, pages = episode.plan[0], wiki.pages(episode)
        for title in (step.page, next(title for title in pages if title != step.page)):
            text = f"Document:\n{pages[title]}\n\nQuestion: {step.question}"
            said = ask(model, Message(role="system", content="Read."), Message(role="user", content=text)).text
            assert said == (step.value if title == step.page else "UNKNOWN")


def test_bad_input_is_refused_in_one_line():
    wiki = world(n=1)
    model = OracleModel(wiki.episodes())
    with pytest.raises(UserError, match="no question of its world"):
        ask(model, Message(role="system", content="?"), Message(role="user", content="What is love?"))
    with pytest.raises(UserError, match="rules are not known"):
        ask(
            model,
            Message(role="system", content='{"name": "visit", "parameters": {}}\nShout.'),
            Message(role="user", content=wiki.episodes()[0].question),
        )
    with pytest.raises(UnsupportedError, match="conversations"):
        asyncio.run(model.generate(Request(prompt="once upon")))
    with pytest.raises(UserError, match="world"):
        OraclePlayer.open(OracleSettings(), Path())
    with pytest.raises(UserError, match='unknown world "wikki"; did you mean "wiki"'):
        OraclePlayer.open(OracleSettings(world="wikki"), Path())


def test_it_opens_as_a_model_of_a_world():
    model = OraclePlayer.open(OracleSettings(world={"id": "wiki", "n": 2}), Path())
    _, scores = play(world(n=2), "append", "react", model=model)
    assert share(scores) == 1.0


def test_a_world_without_pages_is_refused_before_anything_runs():
    with pytest.raises(UserError, match=r'looks pages up with search or visit.*kind = "follower"'):
        OraclePlayer.open(OracleSettings(world={"id": "recipes", "n": 2}), Path())
    suite = EpisodeSuite(world={"id": "recipes", "n": 2})
    for arm in (
        {"model": "oracle"},
        {"model": {"kind": "follower"}, "reader": {"kind": "oracle"}, "differs": ("reader",)},
    ):
        with pytest.raises(UserError, match=r'arm "a": (model|reader) = "oracle": it looks pages up'):
            EpisodeTrial().check(suite, {"a": EpisodeArm(**arm)}, Path())
