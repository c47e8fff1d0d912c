"""Episodes as trials: equal limits, the same records again, every policy with every planner, and servers that fail."""

import asyncio
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fairtrial import Study
from fairtrial.agents.accounting import Estimate
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.episode import EpisodeTrial, open_worker
from fairtrial.agents.log import Called
from fairtrial.agents.recording import load_log
from fairtrial.core import registry
from fairtrial.core.clock import SystemClock
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.core.ids import seed
from fairtrial.core.limits import Limits
from fairtrial.core.record import BlobRef, Outcome, TrialKey
from fairtrial.core.trial import Job
from fairtrial.engine.attempt import run_attempt
from fairtrial.store import RunDir

WIKI = {"id": "wiki", "n": 2, "families": ["chain", "compare"], "pages": 40}
POLICIES = {
    "append": "append",
    "last-n": {"id": "last-n", "n": 20},
    "clear-results": {"id": "clear-results", "keep": 20},
    "rewrite": "rewrite",
    "summarise-at": {"id": "summarise-at", "trigger": 700},
    "fold": "fold",
    "fold-released": {"id": "fold", "dialect": "released"},
    "fold-fixed": {"id": "fold-fixed", "period": 2},
    "fold-random": "fold-random",
}
PLANNERS = {
    "react": "react",
    "native": "native",
    "graph": "graph",
    "tasks": {"id": "graph", "dialect": "tasks"},
    "compiler": "compiler",
    "rewoo": "rewoo",
}
THIRD_PARTY = "FAIRTRIAL_THIRD_PARTY_PYTHON"
TINY = """
import sys, torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
words = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
words.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\\n{% endfor %}[assistant] "
words.save_pretrained(sys.argv[1])
torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
marks = dict(bos_token_id=0, eos_token_id=1, pad_token_id=1, max_position_embeddings=16384)
LlamaForCausalLM(LlamaConfig(vocab_size=len(letters), **sizes, **marks)).save_pretrained(sys.argv[1])
"""
PLAIN = """
from fairtrial.core.config import Config


class Settings(Config):
    text: str


class Plain:
    settings_type, argument = Settings, "text"
    name, context, features = "plain", None, frozenset()

    @staticmethod
    def check(settings, base):
        pass

    @staticmethod
    def files(settings, base):
        return ()

    @staticmethod
    def open(settings, base):
        return Plain()
"""
VERB = "import sys; from fairtrial.app.cli import app; app(['serve', *sys.argv[1:]], standalone_mode=False)"


class Blobs(dict):
    """A blob store in memory."""

    def put(self, content):
        key = hashlib.sha256(content).hexdigest()
        self[key] = content
        return BlobRef(sha256=key, size=len(content))


class Lab:
    """Arms on the episodes of one suite."""

    def __init__(self, base, arms, **suite):
        kind, self.blobs, self.base = EpisodeTrial(), Blobs(), base
        settings = parse(kind.suite_settings, {"world": WIKI, **suite}, where="suite")
        mine = {name: parse(kind.arm_settings, {"model": "oracle", **arm}, where="arm") for name, arm in arms.items()}
        kind.check(settings, mine, base)
        self.tasks = kind.tasks(settings, base)
        self.work = json.loads(json.dumps(kind.work(settings, mine, base).settings))
        self.refused = asyncio.run(kind.gate(settings, base, self.tasks, base))

    def run(self, limits=None, while_running=None):
        """Records by arm, one for each task."""

        async def main():
            worker, clock = open_worker(self.work), SystemClock()
            other = asyncio.create_task(while_running()) if while_running else None
            try:
                records = {}
                for arm, info in itertools.product(self.work["arms"], self.tasks):
                    job = Job(
                        TrialKey(arm=arm, task=info.id, repeat=0),
                        seed(1, info.id, 0, "sampling"),
                        1,
                        limits or Limits(),
                    )
                    attempt = await run_attempt(worker, job, clock, self.blobs, 1.0)
                    records.setdefault(arm, []).append(attempt.record)
                return records
            finally:
                await worker.close()
                if other is not None:
                    await other

        return asyncio.run(main())

    def log(self, record):
        return load_log(self.blobs[record.artifacts["log.jsonl"].sha256])


def test_every_policy_plays_with_every_planner(tmp_path):
    arms = {f"{a}.{b}": {"policy": POLICIES[a], "planner": PLANNERS[b]} for a in POLICIES for b in PLANNERS}
    lab = Lab(tmp_path, arms, turns=40, reader="oracle", reader_s=0.5)
    assert not lab.refused
    records = lab.run()
    wrong = {arm: (r.outcome, r.cause, r.message) for arm, rs in records.items() for r in rs if r.scores.get("em") != 1}
    assert not wrong and len(records) == 54
    for arm, (chain, compare) in records.items():
        assert chain.details["valid_turns"] == compare.details["valid_turns"] == 1, arm
        assert chain.scores["provenance"] == 1 and not chain.details["tools"]["wasted"], arm
    turns = {arm: sum(record.details["turns"] for record in own) for arm, own in records.items()}
    assert turns["append.graph"] < turns["append.native"] < turns["append.react"]


def test_every_prompt_follows_from_the_log_that_is_stored(tmp_path):
    arms = {f"{a}.{b}": {"policy": POLICIES[a], "planner": b} for a in POLICIES for b in ("react", "native")}
    arms = {name: {"model": {"kind": "oracle", "slip": 0.2}, **arm} for name, arm in arms.items()}
    lab = Lab(tmp_path, arms, world={**WIKI, "tool_errors": 0.2}, window=3000)
    rejected = 0
    for arm, records in lab.run().items():
        table = {"id": arm.split(".")[0]} if isinstance(arms[arm]["policy"], str) else arms[arm]["policy"]
        policy = open_policy({**table, "window": 3000}, Estimate())
        for record in records:
            log = lab.log(record)
            rejected += sum(record.details["rejected"].values())
            for index, event in enumerate(log.events):
                if isinstance(event, Called) and event.purpose == "turn":
                    assert policy.render(log.prefix(index)) == event.request.messages, (arm, index)
    assert rejected > 10


@pytest.mark.parametrize("policy", ["append", "fold"])
def test_thinking_is_kept_or_dropped_as_the_suite_says(tmp_path, policy):
    world, page, answer = one_hop()
    fold = '<folding>{"range": [0, 0], "summary": "s"}</folding>' if policy == "fold" else ""
    rules = [
        {"contains": "Tool", "text": f"{fold}<answer>{answer}</answer>"},
        {"text": f"<think>I wonder</think>{visit(page)}"},
    ]
    for thinking in ("drop", "keep"):
        arms = {"a": {"model": {"kind": "scripted", "rules": rules}, "policy": policy}}
        lab = Lab(tmp_path, arms, world=world, thinking=thinking)
        (record,) = lab.run()["a"]
        last = list(lab.log(record).calls())[-1]
        assert record.scores["em"] == 1
        assert any("I wonder" in message.content for message in last.request.messages) == (thinking == "keep")
        assert record.trajectory.content[2].reasoning == "I wonder", "the record has it in any case"


def test_the_same_study_twice_leaves_the_same_records(tmp_path):
    latency = {"law": "lognormal", "mean_s": 2.0}
    study = Study.model_validate(
        {
            "title": "twice",
            "kind": "episode",
            "suite": {"world": {**WIKI, "latency": latency, "tool_errors": 0.2}, "reader": "oracle"},
            "arms": {
                "append": {"model": {"kind": "oracle", "slip": 0.2}, "control": True},
                "fold": {"model": {"kind": "oracle", "slip": 0.2}, "policy": "fold", "planner": "graph"},
                "levels": {"model": "oracle", "planner": "compiler", "execution": "levels"},
            },
            "seed": 4,
        }
    )

    def records(name, in_flight):
        study.model_copy(update={"engine": study.engine.model_copy(update={"in_flight": in_flight})}).run(
            tmp_path / name
        )
        with RunDir.open(tmp_path / name) as run:
            return sorted(r.model_dump_json(exclude={"timings", "provenance"}) for r in run.records(latest=True))

    first = records("a", 1)
    assert first == records("b", 6) and len(first) == 6
    details = [json.loads(record)["details"] for record in first]
    assert all(each["time"]["makespan_s"] > 1 for each in details)
    assert any(each["rejected"] for each in details) and any(each["tools"]["outcomes"].get("error") for each in details)


def test_a_run_is_not_continued_with_other_files_of_a_model(tmp_path):
    (tmp_path / "says.toml").write_text('replies = ["<answer>Rome"]\nafter = "last"\n')
    for name in ("reads", "writes"):
        (tmp_path / name).write_text(f'replies = ["{name}"]\nafter = "last"\n')
    data = {
        "title": "once",
        "kind": "episode",
        "suite": {"world": WIKI, "model": f"scripted:{tmp_path / 'says.toml'}", "turns": 2},
        "arms": {
            "plain": {"control": True},
            "more": {"reader": f"scripted:{tmp_path / 'reads'}", "differs": ["reader"]},
        },
        "limits": {"calls": 20},
    }
    study = Study.model_validate(data)
    study.run(tmp_path / "run")
    (tmp_path / "reads").write_bytes((tmp_path / "writes").read_bytes())
    told = r'holds another study \(arms.more.files: "model (\w{16}), reader \w{16}" -> "model \1, reader \w{16}"\)'
    with pytest.raises(UserError, match=told):
        study.run(tmp_path / "run")
    (tmp_path / "reads").write_text('replies = ["reads"]\nafter = "last"\n')
    study.run(tmp_path / "run")
    with RunDir.open(tmp_path / "run") as run:
        assert len(list(run.records())) == 4
        assert run.manifest["arms"]["plain"]["files"] == run.manifest["arms"]["more"]["files"].split(",")[0]


def test_limits_are_the_same_in_all_arms_or_the_difference_has_a_name(tmp_path):
    def refused(message, **arm):
        with pytest.raises(UserError, match=message):
            Lab(tmp_path, {"a": {}, "b": arm}, turns=10, window=4000)

    refused("limits are the same in all arms", turns=20)
    refused(r'differs = \["window"\]', window=16000)
    refused("it is 10 as in the suite", turns=10, differs=["turns"])
    refused('did you mean "window"', differs=["windov"])
    refused("set window in", policy={"id": "append", "window": 9})
    refused('unknown context policy "fuld".*did you mean "fold"', policy="fuld")
    refused('unknown planner "graf".*did you mean "graph"', planner="graf")
    refused("unknown kind of model", model="gpt:x")
    refused("limits are the same", reader="oracle")
    Lab(tmp_path, {"a": {}, "wide": {"window": 16000, "differs": ["window"]}}, turns=10, window=4000)
    with pytest.raises(UserError, match="no episode is called"):
        Lab(tmp_path, {"a": {}}, tasks=["none-*"])


def test_an_arm_without_room_for_the_shortest_question_is_refused(tmp_path):
    small = {"kind": "scripted", "replies": ["<answer>x</answer>"], "after": "last"}
    for common, arm, said in (
        ({"window": 20}, {}, r'arm "a": the prompt has \d+ tokens, the window 20, .* question \(wiki-.*raise `window`'),
        ({}, {"window": 150, "differs": ["window"], "policy": "fold"}, 'arm "b": .* the window 150'),
        ({}, {"model": {**small, "context": 40}}, 'arm "b": the model takes 40 tokens.*choose a model with more'),
    ):
        with pytest.raises(UserError, match=said):
            Lab(tmp_path, {"a": {}, "b": arm}, **common)
    Lab(tmp_path, {"a": {}, "b": {"model": {**small, "context": 4000}}})


def test_four_times_the_window_is_a_control_for_folding(tmp_path):
    arms = {
        "append": {},
        "append-4x": {"window": 6400, "differs": ["window"]},
        "fold": {"policy": {"id": "fold"}},
    }
    suite = {"world": {**WIKI, "families": ["chain"], "hops": 8, "page_words": 300, "n": 1}, "window": 1600}
    records = Lab(tmp_path, arms, **suite).run()
    assert [records[arm][0].scores["em"] for arm in arms] == [0.0, 1.0, 1.0]
    small, wide, fold = (records[arm][0].details for arm in arms)
    assert small["limits"] == ["window"] and fold["largest_context"] < 1600 < wide["largest_context"]
    assert fold["tokens"]["prompt"] < wide["tokens"]["prompt"]
    assert wide["tokens"]["uncached"] < fold["tokens"]["uncached"], "what a prefix cache would hold is told apart"
    assert small["blocks"][:3] == [0, 1, 2]


def test_facts_get_lost_with_every_rewriting_and_fold_rewrites_seldom(tmp_path):
    model = {"kind": "oracle", "wrong": 0.05}
    arms = {name: {"model": model, "policy": name} for name in ("append", "fold", "rewrite")}
    world = {**WIKI, "families": ["multi"], "n": 4, "questions": 6, "hops": 2, "pages": 80}
    survived = {}
    for arm, records in Lab(tmp_path, arms, world=world, turns=40).run().items():
        old = [row for record in records for row in record.details["survival"] if row[0] >= 4]
        survived[arm] = sum(present for _, present, _ in old) / sum(needed for _, _, needed in old)
    assert survived["append"] == 1 and survived["rewrite"] < survived["fold"] - 0.05 < 1


def test_limits_of_the_trial(tmp_path):
    lab = Lab(tmp_path, {"a": {}}, world={**WIKI, "families": ["chain"], "n": 1, "hops": 4})
    (record,) = lab.run(Limits(calls=3))["a"]
    assert record.outcome is Outcome.SCORED and record.usage.calls == 3 and record.details["limits"] == ["calls"]
    (record,) = lab.run(Limits(tokens=50))["a"]
    assert record.outcome is Outcome.FAILED and record.cause == "tokens_limit" and record.scores["em"] == 0


@contextmanager
def serving(tmp_path, script):
    """`fairtrial serve scripted:FILE` in a process of its own; yields its URL and the process."""
    (tmp_path / "script.json").write_text(json.dumps(script))
    args = [f"scripted:{tmp_path / 'script.json'}", "--port", "0", "--json", "--name", "mine"]
    process = subprocess.Popen([sys.executable, "-c", VERB, *args], stdout=subprocess.PIPE, env={**os.environ})
    try:
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def endpoint(url, **settings):
    return {"kind": "openai", "name": "mine", "base_url": url, "retry": {"tries": 1}, **settings}


def one_hop():
    """A suite of one question, the page that answers it, and the answer."""
    world = {**WIKI, "families": ["chain"], "n": 1, "hops": 1}
    suite = parse(EpisodeTrial.suite_settings, {"world": world}, where="suite")
    (episode,) = EpisodeTrial()._episodes(suite, None)[1].values()
    return world, episode.plan[0].page, episode.answers[0]


def visit(title):
    return f"<tool_call>{json.dumps({'name': 'visit', 'arguments': {'title': title}})}</tool_call>"


def test_an_episode_against_a_real_server(tmp_path):
    world, page, answer = one_hop()
    script = {"replies": [f"<think>hm</think>{visit(page)[:-20]}", visit(page), f"<answer>{answer}</answer>"]}
    with serving(tmp_path, script) as (url, _):
        arms = {"plain": {"model": endpoint(url)}, "ids": {"model": endpoint(url, ids="ask")}}
        lab = Lab(tmp_path, arms, world=world)
        records = {arm: own for arm, (own,) in lab.run().items()}
    for record in records.values():
        assert record.outcome is Outcome.SCORED and record.scores == {"em": 1, "f1": 1, "provenance": 1}
        assert record.details["rejected"] == {"malformed": 1} and record.details["turns"] == 3
        assert record.details["tools"]["repeated"] == record.details["tools"]["wasted"] == 1
        log = lab.log(record)
        assert "hm" not in "".join(m.content for m in list(log.calls())[-1].request.messages), "trap 4: thinking drops"
        assert record.trajectory.content[-1].content == answer
    assert records["plain"].details["tokens"]["counted_by"] == "usage"
    own = records["ids"]
    assert own.details["tokens"]["counted_by"] == "ids"
    assert own.details["tokens"]["prompt"] == records["plain"].details["tokens"]["prompt"]
    assert own.trajectory.prompt_ids(2)[:50] == own.trajectory.prompt_ids(0)[:50]


def test_a_model_that_breaks_its_json_for_ever_fails_by_its_format(tmp_path):
    world, page, _ = one_hop()
    with serving(tmp_path, {"replies": [visit(page)[:-20]], "after": "last"}) as (url, _):
        (record,) = Lab(tmp_path, {"a": {"model": endpoint(url)}}, world=world, repairs=2).run()["a"]
    assert (record.outcome, record.cause) == (Outcome.FAILED, "format_limit")
    assert record.details["rejected"] == {"malformed": 3} and record.scores["em"] == 0
    assert record.details["tools"]["calls"] == 0


def test_a_server_that_stalls_is_an_error_and_never_a_zero(tmp_path):
    world, page, answer = one_hop()
    script = {
        "replies": [visit(page), f"<answer>{answer}</answer>"],
        "faults": [{"kind": "stall", "calls": [2], "seconds": 30}],
    }
    with serving(tmp_path, script) as (url, _):
        lab = Lab(tmp_path, {"a": {"model": endpoint(url, timeout_s=0.4)}}, world=world)
        (record,) = lab.run()["a"]
        assert record.outcome is Outcome.ERRORED and record.cause == "timeout" and not record.scores
        (again,) = lab.run()["a"]
        assert again.scores["em"] == 1, "the next attempt is a new one"


def test_a_server_that_is_killed_in_the_middle(tmp_path):
    world, page, answer = one_hop()
    script = {"replies": [visit(page), f"<answer>{answer}</answer>"], "seconds_per_token": 0.02}
    with serving(tmp_path, script) as (url, process):

        async def kill():
            await asyncio.sleep(1.0)
            process.send_signal(signal.SIGKILL)

        (record,) = Lab(tmp_path, {"a": {"model": endpoint(url)}}, world=world).run(while_running=kill)["a"]
    assert record.outcome is Outcome.ERRORED and record.cause == "connection" and not record.scores


def test_a_trial_that_runs_out_of_seconds_keeps_what_it_did(tmp_path):
    world, page, _ = one_hop()
    script = {"replies": [visit(page)], "after": "last", "seconds_per_token": 0.004}
    lab = Lab(tmp_path, {"a": {"model": {"kind": "scripted", **script}}}, world=world, turns=1000)
    (record,) = lab.run(Limits(seconds=1.0))["a"]
    assert (record.outcome, record.cause) == (Outcome.FAILED, "seconds") and record.scores["em"] == 0
    assert record.trajectory is not None and record.details["turns"] >= 1
    assert record.details["limits"][0] == "seconds", "it was asked for its answer while there was time"


def test_streamed_plans_finish_sooner_over_a_real_server_and_leave_the_same_log(tmp_path):
    """The world's tools really sleep, the model really writes slowly: calls begin before the reply has ended."""
    world = {**WIKI, "families": ["compare"], "n": 1, "hops": 1, "latency": {"law": "constant", "mean_s": 0.5}}
    suite = parse(EpisodeTrial.suite_settings, {"world": world}, where="suite")
    (episode,) = EpisodeTrial()._episodes(suite, None)[1].values()
    pages = list(dict.fromkeys(step.page for step in episode.plan if step.page))
    nodes = [f'<node id="s{i}">visit({json.dumps(page)})</node>' for i, page in enumerate(pages)]
    graph = "<graph>\n" + "\n".join(nodes) + "\n</graph>\n" + "(these are all that I need)" * 3
    script = {"replies": [graph, f"<answer>{episode.answers[0]}</answer>"], "seconds_per_token": 0.005}
    with serving(tmp_path, script) as (url, _):
        model, common = endpoint(url, live=True), {"world": world, "time": "real", "model": endpoint(url)}
        arms = {"plain": {}, "streamed": {"model": model, "streaming": True}}
        arms = {name: {"model": None, "planner": "graph", **arm} for name, arm in arms.items()}
        lab = Lab(tmp_path, arms, **common)
        plain, streamed = (own for (own,) in lab.run().values())
    assert plain.scores["em"] == streamed.scores["em"] == 1
    assert lab.blobs[plain.artifacts["log.jsonl"].sha256] == lab.blobs[streamed.artifacts["log.jsonl"].sha256]
    before, now = plain.details["time"], streamed.details["time"]
    assert before["ahead_s"] == 0 and before["makespan_s"] >= 0.5
    assert now["ahead_s"] > 0.2 and now["makespan_s"] < before["makespan_s"] - 0.2
    assert streamed.timings.wall_s < plain.timings.wall_s


def test_streaming_that_would_do_nothing_is_refused(tmp_path):
    def refused(message, suite=None, **arm):
        model = {"kind": "scripted", "replies": ["x"]}
        with pytest.raises(UserError, match=message):
            Lab(tmp_path, {"a": {"model": model, "planner": "graph", "streaming": True, **arm}}, **(suite or {}))

    refused("gains nothing in simulated time")
    real = {"time": "real"}
    refused("graph, compiler or rewoo", real, planner="react")
    refused('needs execution = "ready"', real, execution="levels")
    refused("the oracle replies at once", real, model="oracle")
    refused("needs live = true", real, model=endpoint("http://127.0.0.1:1/v1"))


def test_the_suite_names_the_model_of_arms_that_name_none(tmp_path):
    arms = {"common": {"model": None}, "own": {"model": {"kind": "oracle", "wrong": 1.0}}}
    records = Lab(tmp_path, arms, model="oracle", world={**WIKI, "n": 1}).run()
    assert [record.scores["em"] for record in records["common"]] == [1.0]
    assert [record.scores["em"] for record in records["own"]] == [0.0]
    with pytest.raises(UserError, match='arm "common": "model" is required'):
        Lab(tmp_path, arms)


def test_a_model_of_plain_text_gets_no_native_calls_and_no_streaming(tmp_path, monkeypatch):
    """A kind of model from another package, which says what it can."""
    (tmp_path / "plain_texts.py").write_text(PLAIN)
    (info := tmp_path / "plain_texts-1.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-texts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fairtrial.models]\nplain = plain_texts:Plain\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entries.cache_clear()
    try:
        lab = Lab(tmp_path, {"a": {"planner": "native", "model": "plain:x"}})
        with pytest.raises(UserError, match='arm "a": planner = "native" needs a model that calls tools'):
            open_worker(lab.work)
        lab = Lab(tmp_path, {"a": {"planner": "graph", "model": "plain:x", "streaming": True}}, time="real")
        with pytest.raises(UserError, match='arm "a": streaming = true needs a model that streams'):
            open_worker(lab.work)
    finally:
        registry._entries.cache_clear()


@pytest.fixture(scope="module")
def third_party(tmp_path_factory):
    """A server from the package index, `transformers serve`, with a random model; yields (URL, the model's name)."""
    python = os.environ.get(THIRD_PARTY)
    if not python:
        pytest.skip(f"{THIRD_PARTY} names no Python with transformers[serving] and torch")
    folder = tmp_path_factory.mktemp("third")
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([python, "-c", TINY, str(folder / "model")], check=True, capture_output=True, env=quiet)
    start = "from transformers.cli.transformers import main; main()"
    args = ["serve", str(folder / "model"), "--device", "cpu", "--host", "127.0.0.1", "--port", "0"]
    args = [python, "-c", start, *args, "--log-level", "info"]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=quiet)
    try:
        told = []
        for line in process.stdout:
            told.append(line)
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(told[-20:]))
        yield f"{found[1]}/v1", str(folder / "model")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_episode_against_a_server_of_others(tmp_path, third_party):
    """A random model breaks every format, in every dialect: trials fail by their format, and nothing else does."""
    url, name = third_party
    model = {"kind": "openai", "name": name, "base_url": url, "retry": {"tries": 1}}
    arms = {
        "react": {"model": model},
        "native": {"model": model, "planner": "native"},
        "fold": {"model": model, "planner": "compiler", "policy": "fold"},
        "streamed": {"model": {**model, "live": True}, "planner": "graph", "streaming": True},
    }
    world, _, _ = one_hop()
    lab = Lab(tmp_path, arms, world=world, repairs=2, time="real", sampling={"max_tokens": 24})
    for arm, (record,) in lab.run().items():
        assert (record.outcome, record.cause, record.scores["em"]) == (Outcome.FAILED, "format_limit", 0), arm
        told = record.details
        assert sum(told["rejected"].values()) == told["model_calls"]["turn"] == 3 and told["tools"]["calls"] == 0
        assert (
            told["tokens"]["counted_by"] == "usage" and told["tokens"]["turn"]["output"] == record.usage.output_tokens
        )
        assert 3 <= record.usage.output_tokens <= 72 and record.usage.input_tokens > 500
        assert [call.reply.finish for call in lab.log(record).calls()].count("length") >= 1
