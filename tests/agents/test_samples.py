"""Training samples: what was said under exactly that prompt is learned, once each, and every drop has a reason."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from fairtrial import Study
from fairtrial.agents.accounting import Estimate
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.log import Called, Folded, Log, Rejected
from fairtrial.agents.oracle_player import OracleModel, OracleSettings
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.recording import dump_log, load_log, trajectory_of
from fairtrial.agents.runtime import Runtime
from fairtrial.agents.samples.filters import Filters, balanced, read_filters
from fairtrial.agents.samples.hindsight import strangers
from fairtrial.agents.samples.runs import Act, Call, Run, run_of_log
from fairtrial.agents.samples.sample import Weights, ids_hash, part_text, sample_of
from fairtrial.agents.samples.segmenting import MismatchError, spans_of, token_spans
from fairtrial.agents.samples.stretches import samples_of
from fairtrial.agents.samples.writing import Options, read_samples, write_samples
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.app import sampling
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.models import byte_chat
from fairtrial.models.model import Message, ToolCall
from fairtrial.store import RunDir
from fairtrial.tasks.worlds.decomposition import fill
from fairtrial.tasks.worlds.real_text import Documents
from fairtrial.tasks.worlds.wiki import Wiki

LAST = {"id": "last-n", "n": 1}
CASES = Path(__file__).parents[3] / "shared" / "cases"
ARMS = {
    "append": {"model": "oracle"},
    "slips": {"model": {"kind": "oracle", "slip": 0.3}},
    "thinks": {"model": {"kind": "oracle", "thinking": True}},
    "wrong": {"model": {"kind": "oracle", "wrong": 0.5}},
    "fold": {"model": {"kind": "oracle", "thinking": True}, "policy": "fold"},
    "released": {"model": "oracle", "policy": {"id": "fold", "dialect": "released"}},
    "fold-fixed": {"model": "oracle", "policy": {"id": "fold-fixed", "period": 2}},
    "rewrite": {"model": "oracle", "policy": "rewrite"},
    "summaries": {"model": "oracle", "policy": {"id": "summarise-at", "trigger": 600}},
    "graph": {"model": "oracle", "planner": "graph"},
    "native": {"model": "oracle", "planner": "native"},
    "searches": {"model": {"kind": "oracle", "look": "search"}, "planner": "graph"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory: four episodes in every arm."""
    path = tmp_path_factory.mktemp("samples") / "run"
    world = {"id": "wiki", "n": 4, "families": ["chain", "compare"], "hops": 3, "pages": 60}
    study = {"title": "t", "question": "q", "kind": "episode", "suite": {"world": world, "turns": 40}, "seed": 3}
    study["arms"] = {name: {"planner": "react", **arm} for name, arm in ARMS.items()}
    study["arms"]["append"]["control"] = True
    Study(**study).run(path)
    return path


def made(run, tmp_path, arm, **options):
    """(samples, summary, logs by run) of an arm."""
    summary = write_samples(run, tmp_path / "s.jsonl", Options(arm=arm, **options))
    with RunDir.open(run) as opened:
        logs = {
            f"{arm}/{record.key.task}#{record.key.repeat}": load_log(opened.blobs.get(record.artifacts["log.jsonl"]))
            for record in opened.records(latest=True, arm=arm)
        }
    return list(read_samples(tmp_path / "s.jsonl")), summary, logs


def learned(sample):
    return {turn.call for turn in sample.turns if any(s.weight for s in sample.segments if s.message == turn.message)}


def kinds(sample):
    return [segment.kind for segment in sample.segments]


@pytest.mark.parametrize("arm", ARMS)
def test_every_accepted_turn_is_learned_once_under_the_prompt_that_it_was_said_under(run, tmp_path, arm):
    samples, summary, logs = made(run, tmp_path, arm)
    assert summary.kept_runs == len(logs) == 4
    for id, log in logs.items():
        calls = list(log.calls())
        mine = [sample for sample in samples if sample.run == id]
        broken = sum(isinstance(event, Rejected) for event in log.events)
        assert sorted(call for sample in mine for call in learned(sample)) == [
            number for number, call in enumerate(calls) if not _was_rejected(log, number)
        ]
        assert broken == sum(_was_rejected(log, number) for number in range(len(calls)))
        for sample in mine:
            for turn in sample.turns:
                asked, said = calls[turn.call].request.messages, calls[turn.call].reply.message
                assert [_words(message) for message in sample.messages[: turn.message]] == [*map(_words, asked)]
                assert _words(sample.messages[turn.message]) == _words(said)
                spans = [segment for segment in sample.segments if segment.message == turn.message]
                for part in ("reasoning", "content", "calls"):
                    told = "".join(sample.text(segment) for segment in spans if segment.part == part)
                    assert told == part_text(said, part)


def _was_rejected(log, number):
    calls = [index for index, event in enumerate(log.events) if isinstance(event, Called)]
    behind = log.events[calls[number] + 1 :]
    return bool(behind) and isinstance(behind[0], Rejected)


def _words(message):
    return (
        message.role,
        message.content,
        message.reasoning,
        [(call.name, call.arguments) for call in message.tool_calls],
    )


def test_a_run_that_appends_is_one_sample_and_a_fold_one_for_each_step(run, tmp_path):
    for arm, each in (("append", 1), ("native", 1), ("graph", 1), ("fold", 0), ("rewrite", 0), ("thinks", 0)):
        samples, _, logs = made(run, tmp_path, arm)
        steps = sum(len(log.steps) for log in logs.values())
        assert len(samples) == (4 * each or steps), arm
        assert sum(len(sample.turns) for sample in samples) == steps
    samples, _, logs = made(run, tmp_path, "summaries")
    folds = sum(isinstance(event, Folded) for log in logs.values() for event in log.events)
    told = [sample for sample in samples if sample.purpose == "summary"]
    assert folds == len(told) > 0
    assert {kind for sample in told for kind in kinds(sample)} == {"summary"}
    assert 4 < len(samples) - len(told) < sum(len(log.steps) for log in logs.values()), "a new stretch for each summary"


@pytest.mark.parametrize(
    ("arm", "tag", "order"),
    [
        ("fold", "folding", ["think", "fold", "explain", "act"]),
        ("released", "compress", ["fold", "explain", "act"]),
        ("fold-fixed", "folding", ["fold", "explain", "act"]),
        ("rewrite", "memory", ["fold", "explain", "act"]),
    ],
)
def test_kinds_of_a_step_with_a_fold(run, tmp_path, arm, tag, order):
    samples, _, logs = made(run, tmp_path, arm, weights=Weights(think=0, fold=0.5))
    folds = [event.text for log in logs.values() for event in log.events if isinstance(event, Folded)]
    found = [(sample, segment) for sample in samples for segment in sample.segments if segment.kind == "fold"]
    assert len(found) == len(folds) > 4
    for sample, segment in found:
        text = sample.text(segment).strip()
        assert text.startswith(f"<{tag}>") and text.endswith(f"</{tag}>")
        assert segment.weight == 0.5 and kinds(sample) == order
    assert all(segment.weight == 0 for sample in samples for segment in sample.segments if segment.kind == "think")
    assert sum(kinds(sample)[-1] == "answer" for sample in samples) == 4
    act = next(s for sample in samples for s in sample.segments if s.kind == "act")
    assert act.weight == 1


def test_native_calls_are_acts_and_the_prose_beside_them_explains(run, tmp_path):
    samples, _, _ = made(run, tmp_path, "native")
    for sample in samples:
        assert sample.tools and set(kinds(sample)) == {"explain", "act", "answer"}
        assert all((segment.part == "calls") == (segment.kind == "act") for segment in sample.segments)


def test_turns_that_broke_the_format_are_context_at_most(run, tmp_path):
    samples, summary, logs = made(run, tmp_path, "slips")
    rejected = Counter(f"format: {e.code}" for log in logs.values() for e in log.events if isinstance(e, Rejected))
    assert summary.dropped_turns == rejected and rejected.total() >= 3
    assert len(samples) > 4, "a rejected turn is a branch"
    strict, dropped, _ = made(run, tmp_path, "slips", filters=read_filters(["fold-generator"]))
    assert dropped.dropped_turns["repair"] >= 3
    shown = [message.content for sample in strict for message in sample.messages[:-1]]
    assert not any("[rejected:" in text for text in shown), "what was said to repair a turn is learned nowhere"


def test_answers_that_are_wrong_and_runs_of_broken_tools_are_left_out(run, tmp_path):
    with RunDir.open(run) as opened:
        right = sum(record.scores["em"] == 1 for record in opened.records(latest=True, arm="wrong"))
    samples, summary, _ = made(run, tmp_path, "wrong", filters=read_filters(["right"]))
    assert summary.kept_runs == right < 4 and summary.dropped_runs == {"em below 1": 4 - right}
    assert {sample.score for sample in samples} <= {1.0}
    _, summary, _ = made(run, tmp_path, "append", filters=Filters(min_score=0.5, score="style"))
    assert summary.dropped_runs == {'no score "style"': 4}
    log, _ = played("append", tool_errors=0.5)
    failed = [result.status for step in log.steps for result in step.results]
    graded = run_of_log(log, "r")
    assert (graded.ran, graded.failed) == (len(failed), failed.count("error"))
    assert graded.failed >= 0.3 * graded.ran


def test_filters_of_gap_keep_runs_with_three_searches_at_six_to_four(run, tmp_path):
    _, summary, logs = made(run, tmp_path, "searches", filters=Filters(min_searches=4))
    few = sum(
        sum(node.tool == "search" for step in log.steps for node in step.planned.plan.nodes) < 4
        for log in logs.values()
    )
    assert summary.dropped_runs == ({"fewer than 4 searches": few} if few else {})
    _, summary, _ = made(run, tmp_path, "append", filters=read_filters(["gap"]))
    assert summary.dropped_runs == {"fewer than 3 searches": 4}
    _, summary, _ = made(run, tmp_path, "graph", filters=read_filters(["gap", "min_searches=0", "max_tokens=none"]))
    assert (summary.parallel_runs, summary.kept_runs) == (2, 3)
    assert summary.dropped_runs == {"not drawn for the share of parallel runs": 1}
    samples, summary, _ = made(run, tmp_path, "fold", filters=Filters(max_tokens=700))
    assert summary.dropped_samples["more than 700 tokens"] > 0 and samples


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([0.6, 0.5, 0.25]), st.integers(0, 5))
def test_the_draw_keeps_the_share_and_depends_on_no_order(flags, share, seed):
    runs = [(f"run{index}", flag) for index, flag in enumerate(flags)]
    kept = {id for (id, _), keep in zip(runs, balanced(runs, share, seed), strict=True) if keep}
    back = {id for (id, _), keep in zip(runs[::-1], balanced(runs[::-1], share, seed), strict=True) if keep}
    assert kept == back
    among = [flag for id, flag in runs if id in kept]
    assert abs(sum(among) - share * len(among)) <= 1
    assert sum(among) >= sum(flags) - 1 or len(among) - sum(among) >= len(flags) - sum(flags) - 1, "as many as can be"


def test_trap_12_plans_with_planted_hindsight_are_found_and_honest_ones_pass():
    if not (CASES / "runtime" / "musique.json").exists():
        pytest.skip("genuine sample musique.json is not here (expected under ../shared/cases/runtime)")
    world = Documents(
        parse(Documents.settings_type, {"questions": str(CASES / "runtime" / "musique.json")}, where="world"), CASES
    )
    honest = hindsight = 0
    for episode in world.episodes():
        values = {step.id: step.value for step in episode.plan}
        plans = [
            [Call("search", (step.question,), free=not step.deps, after=len(step.deps)) for step in episode.plan],
            [Call("search", (fill(step, values),), free=True) for step in episode.plan],
        ]
        honest, hindsight = (
            count + any(words for _, words in strangers(_planned(episode.question, plan), ("search",)))
            for count, plan in zip((honest, hindsight), plans, strict=True)
        )
    assert len(world.episodes()) == 50
    assert honest <= 1 and hindsight >= 47


def _planned(question, calls):
    return Run("r", (), question, (Act(tuple(calls), ()),))


def test_trap_12_a_name_is_no_hindsight_once_a_result_has_said_it(run, tmp_path):
    acts = (
        Act((Call("search", ("who wrote Emma",), True),), ("Emma is a novel by Jane Austen of 1815.",)),
        Act((Call("search", ("where was Jane Austen's sister born",), True), Call("bash", ("cat Kafka",), True)), ()),
        Act((Call("search", ("Steventon population 1801",), True), Call("search", ("of Bath",), False)), ()),
    )
    told = list(strangers(Run("r", (), "Where was the sister of the author of Emma born?", acts), ("search",)))
    assert told == [(0, ()), (1, ()), (2, ("1801",))], "a first word alone is no name"
    _, summary, _ = made(run, tmp_path, None)
    assert summary.hindsight == 0 and summary.plans > 100


class Bytes:
    """A model with token ids: the oracle's words as bytes and marks. `hashes` are those of its ids, at rollout."""

    name, context = "bytes", None
    features = frozenset({"token-ids", "seed", "tools"})

    def __init__(self, oracle):
        self.oracle, self.hashes = oracle, []

    async def generate(self, request, *, on_delta=None, timer=None):
        reply = await self.oracle.generate(request)
        said = reply.message
        prompt = byte_chat.conversation_ids(request.messages, request.tools)
        calls = tuple((call.name, call.arguments) for call in said.tool_calls)
        ids = (*byte_chat.turn_ids(byte_chat.Turn(said.content, said.reasoning, calls)), byte_chat.END)
        self.hashes.append(ids_hash(prompt + ids))
        return replace(
            reply,
            message=said.model_copy(update={"token_ids": ids}),
            prompt_ids=prompt,
            completion_ids=ids,
            token_bytes=byte_chat.token_bytes(ids),
        )


def played(policy, planner="react", *, tool_errors=0.0, thinking=False):
    """(log, model) of one run with token ids."""
    settings = parse(Wiki.settings_type, {"n": 1, "families": ["chain"], "tool_errors": tool_errors}, where="world")
    wiki, clock = Wiki(settings, Path()), SimulatedClock()
    episode = wiki.episodes()[0]
    count = Estimate()
    parts = open_policy(policy, count), open_planner(planner)
    oracle = OracleModel([episode], OracleSettings(thinking=thinking), policy=parts[0], planner=parts[1])
    model = Bytes(oracle)
    tools = [Tool(f.name, f.description, f.parameters, f.call) for f in wiki.functions(episode, clock, 1)]
    runtime = Runtime(model, *parts, tools, clock)
    log = asyncio.run(runtime.play(runtime.begin(episode.question, seed=1)))
    return log, model


@pytest.mark.parametrize("policy", ["append", "fold", "rewrite", LAST], ids=str)
@pytest.mark.parametrize("planner", ["react", "native"])
def test_trap_15_the_ids_of_a_row_are_those_of_the_rollout_and_spell_its_text(policy, planner):
    log, model = played(policy, planner, thinking=planner == "react")
    record = trajectory_of(log, "t")
    back = load_log(dump_log(log))
    prompts = [record.prompt_ids(index) for index in range(len(record.model_calls))]
    weights, dropped = Weights(act=2, fold=3, explain=4, think=5, answer=6), Counter()
    now = list(samples_of(run_of_log(log, "r"), weights, dropped))
    later = list(samples_of(run_of_log(back, "r", prompts=prompts), weights, dropped, bytes_of=byte_chat.token_bytes))
    assert now == later and not dropped
    for sample in now:
        row = json.loads(json.dumps(sample.to_json()))
        assert row["ids_sha256"] == model.hashes[sample.turns[-1].call], "of the last call's prompt and completion"
        assert sample_of(row).ids == sample.ids
        per_token = sample.token_weights()
        sampled = [index for turn in sample.turns for index in range(*turn.tokens)]
        assert [index for index, weight in enumerate(per_token) if weight] == sampled, "all that was sampled, no more"
        for segment in sample.segments:
            part = sample.ids[slice(*segment.tokens)]
            told = sample.text(segment)
            assert byte_chat.decode(part) == told
            assert {per_token[index] for index in range(*segment.tokens)} == {segment.weight}
    linear = {"append": 1, "last-n": len(log.steps) - 1} if planner == "native" else {}
    name = policy if isinstance(policy, str) else policy["id"]
    assert len(now) == linear.get(name, len(log.steps)), "a thought that later prompts drop makes each step a sample"


SCRIPT = """
[[replies]]
text = 'Café first. <tool_call>{"name": "search", "arguments": {"query": "café"}}</tool_call>'
[[replies]]
text = "So: <answer>none</answer>"
"""


def test_trap_15_ids_come_through_the_store_as_they_were_sampled(tmp_path, capsys):
    (tmp_path / "said.toml").write_text(SCRIPT)
    arms = {"a": {"model": "scripted:said.toml", "control": True}, "b": {"model": "oracle"}}
    suite = {"world": {"id": "wiki", "n": 2, "families": ["chain"], "pages": 40}}
    study = Study(title="t", kind="episode", suite=suite, arms=arms)
    study.run(tmp_path / "run", base=tmp_path)
    out = str(tmp_path / "s.jsonl")
    verb(tmp_path / "run", ["RUN", "-o", out, "--arm", "a", "--weight", "explain=0", "--tokenizer", "bytes", "--json"])
    assert json.loads(capsys.readouterr().out)["with_ids"] == 2
    with RunDir.open(tmp_path / "run") as opened:
        records = {f"a/{r.key.task}#0": r.trajectory for r in opened.records(latest=True, arm="a")}
    for sample in read_samples(Path(out)):
        trajectory = records[sample.run]
        rollout = [trajectory.prompt_ids(n) + call.completion_ids for n, call in enumerate(trajectory.model_calls)]
        assert ids_hash(sample.ids) == ids_hash(rollout[-1]) and sample.ids[: len(rollout[0])] == rollout[0]
        told = [(s.kind, s.weight, byte_chat.decode(sample.ids[slice(*s.tokens)])) for s in sample.segments]
        assert [each[:2] for each in told] == [("explain", 0.0), ("act", 1.0), ("explain", 0.0), ("answer", 1.0)]
        assert told[0][2] == "Café first. " and "café" in told[1][2] and told[3][2] == "<answer>none</answer>"


def test_a_reply_that_was_cut_off_is_not_learned():
    log, _ = played("fold")
    shown = Log(log.asked)
    for event in log.events[1:]:
        first = isinstance(event, Called) and not list(shown.calls())
        shown.add(replace(event, reply=replace(event.reply, finish="length")) if first else event)
    dropped = Counter()
    rows = list(samples_of(run_of_log(shown, "r"), Weights(), dropped))
    assert dropped == {"cut off": 1} and [row.turns[0].call for row in rows] == [*range(1, len(log.steps))]


def test_trap_15_ids_that_do_not_spell_the_text_or_were_changed_are_refused():
    log, _ = played("append", "native")
    sample = next(samples_of(run_of_log(log, "r"), Weights(), Counter()))
    row = sample.to_json()
    row["ids"][5] += 1
    with pytest.raises(UserError, match="not the ones of the rollout"):
        sample_of(row)
    told = run_of_log(log, "r")
    forged = replace(told.exchanges[0], pieces=tuple(b"x" for _ in told.exchanges[0].completion_ids))
    dropped = Counter()
    rows = list(samples_of(replace(told, exchanges=(forged, *told.exchanges[1:])), Weights(), dropped))
    assert dropped == {"ids do not spell the text": 1}
    assert all(0 not in learned(row) for row in rows)


def test_without_bytes_ids_are_masked_by_turns_and_kinds_of_different_weight_are_refused():
    log, _ = played("append", "native")
    back, record = load_log(dump_log(log)), trajectory_of(log, "t")
    told = run_of_log(back, "r", prompts=[record.prompt_ids(n) for n in range(len(record.model_calls))])
    (even,) = samples_of(told, Weights(), Counter())
    assert sum(even.token_weights()) == sum(end - start for start, end in (turn.tokens for turn in even.turns))
    (odd,) = samples_of(told, Weights(explain=0), Counter())
    with pytest.raises(UserError, match="name the tokenizer"):
        odd.token_weights()


TAGS = [f"<{end}{tag}>" for tag in ("think", "folding", "motivation", "answer") for end in ("", "/")]
WORDS = st.sampled_from([*TAGS, "<tool_call>{}</tool_call>", " ", "\n", "é", "word", "<", ">"])


@given(st.lists(WORDS, max_size=12), st.none() | st.text(max_size=4), st.integers(0, 2), st.randoms())
def test_spans_partition_any_turn_and_any_tokens(words, reasoning, calls, rng):
    text = "".join(words)
    made_calls = tuple(ToolCall(id=str(n), name="look", arguments='{"a": 1}') for n in range(calls))
    message = Message(role="assistant", content=text, reasoning=reasoning, tool_calls=made_calls)
    spans = spans_of(message, action="<tool_call>{}</tool_call>")
    for part in ("reasoning", "content", "calls"):
        mine = [span for span in spans if span.part == part]
        assert "".join(part_text(message, part)[s.start : s.end] for s in mine) == part_text(message, part)
        assert all(span.start < span.end for span in mine)
    whole = "".join([reasoning or "", text, *(f"{call.name}\n{call.arguments}" for call in made_calls)]).encode()
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(6))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    tokens = token_spans(message, spans, pieces)
    assert tokens is not None
    assert [index for start, end in tokens for index in range(start, end)] == (list(range(7)) if spans else [])
    if spans and text.strip():
        with pytest.raises(MismatchError):
            token_spans(message, spans, [b"no such text at all"])


def test_runs_can_be_shown_again_under_policies_that_need_no_words_of_the_models(run, tmp_path):
    samples, _, logs = made(run, tmp_path, "append", policy={"id": "last-n", "n": 1})
    assert len(samples) > 4
    policy = open_policy({"id": "last-n", "n": 1}, Estimate())
    for id, log in logs.items():
        last = [sample for sample in samples if sample.run == id][-1]
        calls = [index for index, event in enumerate(log.events) if isinstance(event, Called)]
        assert last.messages[:-1] == policy.render(log.prefix(calls[-1]))
        assert last.ids is None
    _, summary, _ = made(run, tmp_path, "fold", policy="append")
    assert summary.dropped_runs == {"cannot be shown under another policy: its turns were said under folds": 4}
    with pytest.raises(UserError, match="take append, last-n or clear-results"):
        made(run, tmp_path, "append", policy="fold")


def test_trajectories_of_other_programs_are_chats_whose_turns_are_learned(tmp_path):
    chat = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How warm is Oslo?"},
            _asks("I look.", "1", "2"),
            {"role": "tool", "tool_call_id": "1", "content": "4 degrees"},
            {"role": "tool", "tool_call_id": "2", "content": "5 degrees"},
            {"role": "assistant", "content": "Never mind.", "weight": 0},
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": "4 to 5 degrees."},
        ]
    }
    (tmp_path / "chat.jsonl").write_text(json.dumps(chat) + "\n")
    summary = write_samples(tmp_path / "chat.jsonl", tmp_path / "out.jsonl")
    (sample,) = read_samples(tmp_path / "out.jsonl")
    told = [(segment.kind, sample.text(segment), segment.weight) for segment in sample.segments]
    assert told[0] == ("explain", "I look.", 1.0) and told[1][0] == "act"
    assert told[2:] == [("answer", "Never mind.", 0.0), ("answer", "4 to 5 degrees.", 1.0)]
    assert [message.role for message in sample.messages] == [message["role"] for message in chat["messages"]]
    assert summary.parallel_runs == 1 and summary.dropped_turns == {"marked as not to be learned": 1}


def _asks(text, *ids):
    calls = [
        {"id": id, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}} for id in ids
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


@pytest.mark.parametrize(
    "path", ["runtime/mini_swe_agent.traj.json", "adp/swe-smith/sample_std.json", "adp/go-browse-wa/sample_std.json"]
)
def test_genuine_runs_of_other_agents_become_samples(tmp_path, path):
    if not (CASES / path).exists():
        pytest.skip(f"genuine sample {path} is not here (expected under ../shared/cases)")
    summary = write_samples(CASES / path, tmp_path / "out.jsonl")
    samples = list(read_samples(tmp_path / "out.jsonl"))
    assert len(samples) == summary.kept_runs == summary.runs > 0 and summary.learned_turns >= 10
    for sample in samples:
        for turn in sample.turns:
            assert sample.messages[turn.message].role == "assistant"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": 3}\n')
    (tmp_path / "out.jsonl").write_text("old\n")
    with pytest.raises(UserError):
        write_samples(tmp_path / "chat.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "-o", "x.jsonl"], "no such file or folder"),
        (["RUN", "-o", "x.csv"], "name it .jsonl"),
        (["RUN", "-o", "x.jsonl", "--arm", "fodl"], 'did you mean "fold"'),
        (["RUN", "-o", "x.jsonl", "--filter", "gpa"], 'did you mean "gap"'),
        (["RUN", "-o", "x.jsonl", "--filter", "min_scor=1"], "min_score"),
        (["RUN", "-o", "x.jsonl", "--weight", "thnk=0"], "think"),
        (["RUN", "-o", "x.jsonl", "--policy", "last-n,n"], "write NAME=VALUE"),
        (["RUN", "-o", "x.jsonl", "--tokenizer", "nowhere"], "no tokenizer there"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        verb(run, arguments)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_source_without_targets_is_refused_and_an_older_file_stays(tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    (tmp_path / "s.jsonl").write_text("older\n")
    with pytest.raises(UserError, match=r"asked.jsonl: no usable targets to learn from \(1 x the agent did nothing\)"):
        verb(None, [str(tmp_path / "asked.jsonl"), "-o", str(tmp_path / "s.jsonl")])
    assert (tmp_path / "s.jsonl").read_text() == "older\n" and len(list(tmp_path.iterdir())) == 2


def test_the_verb_says_what_was_kept_and_why_the_rest_was_not(run, tmp_path, capsys):
    out = str(tmp_path / "s.jsonl.zst")
    verb(run, ["RUN", "-o", out, "--arm", "wrong", "--filter", "right", "--weight", "think=0", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == len(list(read_samples(Path(out)))) and told["dropped_runs"]
    verb(run, ["RUN", "-o", out, "--arm", "slips"])
    text = capsys.readouterr().out
    assert "from 4 of 4 runs" in text and "x turn: format: malformed" in text


def verb(run, arguments):
    app = typer.Typer()
    sampling.register(app)
    app.command()(_other)
    app(["samples", *(str(run) if word == "RUN" else word for word in arguments)], standalone_mode=False)


def _other():
    """So that the verb has a name."""
