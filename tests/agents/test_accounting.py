"""What is counted of a run, on logs whose numbers are known; and that a log comes back from its lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.agents.accounting import Estimate, Fact, account, call_tokens, survival, times
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.log import (
    Answered,
    Asked,
    Called,
    Folded,
    Limited,
    Log,
    Noted,
    Planned,
    Rejected,
    Result,
)
from fairtrial.agents.planners.plan import Node, Plan, Ref, Template
from fairtrial.agents.recording import dump_log, load_log, model_calls, trajectory_of
from fairtrial.core.errors import CorruptError
from fairtrial.core.limits import Usage
from fairtrial.models import byte_chat
from fairtrial.models.model import Message, Reply, Request

ONE = Estimate(1.0)


def called(messages, text, *, ids=False, usage=0, purpose="turn", model="m"):
    """A model call as a model with byte tokens answers it."""
    request = Request(messages=tuple(messages))
    prompt = byte_chat.conversation_ids(messages) if ids else None
    said = (*byte_chat.encode(text), byte_chat.END) if ids else None
    reply = Reply(
        message=Message(role="assistant", content=text, token_ids=said),
        finish="stop",
        model=model,
        prompt_ids=prompt,
        completion_ids=said,
        usage=Usage(calls=1, input_tokens=usage, output_tokens=usage),
    )
    return Called(request, reply, purpose)


def play(policy, turns, observation, summary=None, *, ids=True):
    """A log of `turns` calls with results of a given length, under a policy that renders the prompts."""
    log = Log(Asked("q" * 100))
    for step in range(turns):
        prompt = policy.render(log)
        log.add(called(prompt, "a" * 20, ids=ids))
        if step and summary:
            start, text = summary(step)
            log.add(Folded(start, step - 1, text))
        log.add(Planned(step, Plan((Node("1", "look", {"n": step}),)), action="a" * 20))
        log.add(Result(step, "1", "ok", observation(step)))
    return log


def test_trap_5_folding_saves_prompt_tokens_and_not_what_a_cache_does_not_hold():
    turns, each = 100, 90
    observed = lambda step: f"{step:04d}" + "o" * (each - 4)  # noqa: E731
    append = account(play(open_policy("append", ONE), turns, observed), ONE)
    fold = account(play(open_policy("fold", ONE), turns, observed, lambda step: (step - 1, "s" * 6)), ONE)
    deep = account(
        play(open_policy("fold", ONE), turns, observed, lambda step: (0 if step % 10 == 0 else step - 1, "s" * 9)), ONE
    )
    assert append["tokens"]["counted_by"] == "ids"
    assert fold["tokens"]["prompt"] < 0.5 * append["tokens"]["prompt"]
    assert append["tokens"]["uncached"] < fold["tokens"]["uncached"], "appending never leaves the cache"
    assert deep["final_context"] < fold["final_context"] < 0.5 * append["final_context"]
    assert append["blocks"] == list(range(turns)) and fold["blocks"] == [0, *range(1, turns)]
    assert max(deep["blocks"]) <= 11
    grown = append["context"][-1] - append["context"][-2]
    assert append["tokens"]["uncached"] == pytest.approx(append["context"][0] + (grown - 21) * (turns - 1), rel=0.02), (
        "of an appended prompt, all but the new result was there: the model's own words too"
    )


def test_counts_agree_whether_by_ids_usage_or_characters():
    policy, observed = open_policy("append", ONE), lambda step: "o" * 50
    exact = call_tokens(play(policy, 10, observed), ONE)
    rough = call_tokens(play(policy, 10, observed, ids=False), ONE)
    assert (exact[1], rough[1]) == ("ids", "estimate")
    for one, other in zip(exact[0], rough[0], strict=True):
        assert other.prompt == pytest.approx(one.prompt, rel=0.25)
        assert other.uncached == pytest.approx(one.uncached, rel=0.25, abs=12)
    log = Log(Asked("q"))
    log.add(called([Message(role="user", content="q" * 400)], "x", usage=400))
    log.add(called([Message(role="user", content="q" * 400 + "r" * 400)], "x", usage=800))
    tokens, counted = call_tokens(log, ONE)
    assert counted == "usage" and [each.prompt for each in tokens] == [400, 800]
    assert tokens[1].uncached == pytest.approx(400, abs=20), "the share of the characters that are new"


def test_calls_of_another_model_share_no_cache():
    prompt = [Message(role="user", content="same words " * 20)]
    log = Log(Asked("q"))
    for model in ("a", "b", "a"):
        log.add(called(prompt, "x", ids=True, model=model, purpose="reader" if model == "b" else "turn"))
    told = account(log, ONE)["tokens"]
    assert told["reader"]["uncached"] == told["reader"]["prompt"] > 0
    assert told["turn"]["uncached"] == told["turn"]["prompt"] // 2


def test_trap_6_survival_is_read_from_the_prompts():
    log = Log(Asked("Where is Ada?"))
    prompts = ["Where is Ada?", "Ada. Rome, and 12 ships", "Ada: rome", "Ada", "Ada, Rome again; 120 ships"]
    for step, prompt in enumerate(prompts):
        log.add(called([Message(role="user", content=prompt)], "x"))
        log.add(Planned(step, Plan((Node("1", "look", {}),))))
        log.add(Result(step, "1", "ok", "Ada is in  Rome with 12 ships" if step == 0 else "nothing"))
    facts = [Fact("Rome"), Fact("12"), Fact("Ada"), Fact("Oslo")]
    assert survival(log, facts) == [(1, 2, 2), (2, 1, 2), (3, 0, 2), (4, 1, 2)]
    assert survival(log, [Fact("Rome"), Fact("12", leads=(0,))]) == [(1, 1, 1), (2, 1, 1), (3, 0, 1), (4, 1, 1)], (
        "what has led on to another fact may be dropped"
    )
    assert survival(log, [Fact("Rome", page="Italy")]) == [], "it was not that page which said so"


def test_wasted_calls_are_failures_repetitions_and_pages_beside():
    log = Log(Asked("q"))
    plans = [
        (Node("a", "visit", {"title": "Rome"}), Node("b", "visit", {"title": "Oslo"})),
        (Node("a", "search", {"query": "x"}), Node("b", "visit", {"title": Template((Ref("a", (0,)),))}, ("a",))),
        (Node("a", "visit", {"title": "Rome"}), Node("b", "visit", {"title": "Bern"}, ("a",))),
    ]
    values = [["r", "o"], [["Rome"], "r"], [None, None]]
    for step, nodes in enumerate(plans):
        log.add(called([Message(role="user", content="q")], "x"))
        log.add(Planned(step, Plan(nodes)))
        for node, value in zip(nodes, values[step], strict=True):
            status = "ok" if value else "error" if node.id == "a" else "skipped"
            log.add(Result(step, node.id, status, str(value), value))
    tools = account(log, ONE, pages=["Rome"])["tools"]
    assert tools["outcomes"] == {"error": 1, "ok": 4, "skipped": 1} and tools["plans"] == 3
    assert (tools["repeated"], tools["beside"], tools["wasted"]) == (1, 1, 4), "Rome again, Oslo, and two that failed"


def test_the_critical_path_is_that_of_the_measured_durations():
    log = Log(Asked("q"))
    log.add(called([Message(role="user", content="q")], "x"))
    nodes = (Node("c", "t", {}, ("a", "b")), Node("a", "t"), Node("b", "t"), Node("d", "t"))
    log.add(Planned(0, Plan(nodes)))
    for node, began, ended in (("c", 6.0, 7.0), ("a", 0.0, 1.0), ("b", 2.0, 5.0), ("d", 0.0, 2.0)):
        log.add(Result(0, node, "ok", "", started=began, ended=ended))
    spent = times(log.steps)
    assert (spent.makespan_s, spent.critical_path_s, spent.work_s) == (7.0, 4.0, 7.0)


def full_log():
    """A log with every kind of event."""
    log = Log(Asked("q?", ({"type": "function", "function": {"name": "look"}},), "rules", seed=3))
    user = [Message(role="system", content="rules"), Message(role="user", content="q?")]
    log.add(called(user, "nonsense", ids=True))
    log.add(Rejected("malformed", "say it again"))
    log.add(called([*user, Message(role="user", content="again")], "<think>so</think>go", ids=True))
    args = {"q": Template(("of ", Ref("a", ("x", 0)))), "deep": [{"r": Ref("a")}], "n": 1}
    log.add(Planned(0, Plan((Node("a", "look", {"q": "1"}), Node("b", "look", args, ("a",)))), "because", "go"))
    log.add(called([Message(role="user", content="read")], "v", ids=True, purpose="reader"))
    log.add(Result(0, "a", "ok", '{"x": ["v"]}', {"x": ["v"]}, 2, 0.5, 1.0))
    log.add(Result(0, "b", "error", "no", None, 1, 1.0, 2.0))
    log.add(called([Message(role="user", content="sum up")], "", ids=True, purpose="summary"))
    log.add(Noted("summary-failed", "empty"))
    log.add(Folded(0, 0, "cut"))
    log.add(called([*user, Message(role="user", content="more")], "go on", ids=True))
    log.add(Planned(1, Plan((Node("a", "look", {}, malformed='{"q":'),)), "", "go on"))
    log.add(Result(1, "a", "timeout", "late"))
    log.add(Limited("turns"))
    log.add(called([*user, Message(role="user", content="last")], "the end", ids=True))
    log.add(Folded(0, 1, "all of it"))
    log.add(Planned(2, Plan(), "done", "the end"))
    log.add(Answered("42"))
    return log


def test_a_log_comes_back_from_its_lines_at_every_length():
    whole = full_log()
    for length in range(1, len(whole.events) + 1):
        log = whole.prefix(length)
        again = load_log(dump_log(log))
        assert dump_log(again) == dump_log(log) and again.blocks == log.blocks
        for one, other in zip(log.events, again.events, strict=True):
            if not isinstance(one, Called):
                assert one == other
            else:
                assert one.request == other.request and one.reply.message == other.reply.message
                assert one.reply.completion_ids == other.reply.completion_ids


def test_what_models_and_tools_write_is_stored_whatever_it_is():
    log = Log(Asked("q"))
    log.add(called([Message(role="user", content="q \ud800")], "half \udc00 a character"))
    args = {"n": 10**40, "s": "\ud83d"}
    log.add(Planned(0, Plan((Node("a", "look", args), Node("b", "look", args))), "", "\ud800"))
    log.add(Result(0, "a", "ok", "\udfff", [10**40]))
    log.add(Result(0, "b", "ok", "\x00", None))
    again = load_log(dump_log(log))
    assert again.steps[0].planned == log.steps[0].planned and again.steps[0].results == log.steps[0].results
    assert account(log, ONE)["tools"]["repeated"] == 1
    assert trajectory_of(log, "t").content[1].kwargs == args


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 5000))
def test_a_broken_log_is_refused(noise, at):
    content = dump_log(full_log())
    broken = content[:at] + noise + content[at + len(noise) :]
    try:
        load_log(broken)
    except CorruptError as error:
        assert "\n" not in str(error)


def test_trap_16_what_is_stored_of_prompts_grows_with_the_run_and_not_with_its_square():
    def size(turns):
        return len(dump_log(play(open_policy("append", ONE), turns, lambda step: "o" * 500)))

    assert size(80) < 2.2 * size(40)


def test_a_trajectory_tells_the_run():
    log = full_log()
    trajectory = trajectory_of(log, "t")
    kinds = [item.class_ for item in trajectory.content]
    assert kinds[:2] == ["text_observation"] * 2 and kinds[-1] == "message_action"
    first, second = (item for item in trajectory.content if item.class_ == "api_action" and item.call_id[0] == "0")
    assert first.description == "because" and first.reasoning == "so" and first.kwargs == {"q": "1"}
    assert second.joined and second.kwargs == {"q": "of v", "deep": [{"r": {"x": ["v"]}}], "n": 1}
    assert trajectory.content[-1].content == "42"
    assert trajectory.content[-1].extra["fairtrial"]["fold"] == {"start": 0, "end": 1, "text": "all of it"}
    calls = model_calls(log)
    assert [call.sampling["purpose"] for call in calls] == ["turn", "turn", "reader", "summary", "turn", "turn"]
    for index, call in enumerate(log.calls()):
        assert trajectory.prompt_ids(index) == call.reply.prompt_ids, "trap 15: no prompt is tokenised again"
    observed = {item.call_id for item in trajectory.content if item.class_ == "text_observation" and item.call_id}
    assert observed == {"0.a", "0.b", "1.a"}, "trap 8: one result for each call"
