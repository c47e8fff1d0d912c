"""Calls that begin while the model still writes: sooner, with the same log, and nothing left of a refused turn."""

import asyncio
import json
import random
from contextlib import suppress

import pytest

from fairtrial.agents.accounting import Estimate, account
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.journal import Journal
from fairtrial.agents.log import WASTED, Called, Limited, Noted, Rejected
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.planners.plan import Node
from fairtrial.agents.reader import Reader
from fairtrial.agents.recording import dump_log
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.streaming import Ahead
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import SystemClock, VirtualClock
from fairtrial.core.errors import InfraError
from fairtrial.core.limits import Limits, Meter, Usage
from fairtrial.core.virtual_time import run_virtual
from fairtrial.models.model import Delta, Message, Reply

ANSWER = "<answer>42</answer>"
GRAPH = (
    '<graph>\n<node id="a">look("5 a")</node>\n<node id="b">look("4 b")</node>\n'
    '<node id="c" depends="a">look("1 {a}")</node>\n<node id="w">write("1 w")</node>\n</graph>'
)
COMPILER = '1. look("5 a")\n2. look("4 b")\n3. look("1 $1")\n'
REWOO = '#E1 = look[{"q": "5 a"}]\n#E2 = look[{"q": "4 b"}]\n#E3 = look[{"q": "1 #E1"}]\n'
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


class Streams:
    """A model that writes its replies in pieces, each a while after the one before."""

    name, context = "streams", None
    features = frozenset({"tools", "seed", "stream"})

    def __init__(self, clock, *replies, piece=8, pause=0.5):
        self.clock, self.replies, self.piece, self.pause = clock, replies, piece, pause
        self.requests, self.ended = [], []

    async def generate(self, request, *, on_delta=None, timer=None):
        self.requests.append(request)
        said = self.replies[min(len(self.requests), len(self.replies)) - 1]
        text, error = said if isinstance(said, tuple) else (said, None)
        for start in range(0, len(text), self.piece):
            await self.clock.sleep(self.pause)
            if on_delta is not None:
                on_delta(Delta(text=text[start : start + self.piece]))
        if error is not None:
            raise error
        self.ended.append(self.clock.monotonic())
        usage = Usage(calls=1, input_tokens=10, output_tokens=10)
        return Reply(Message(role="assistant", content=text), "stop", self.name, usage=usage)


class Desk:
    """Two tools, one that reads and one that writes: a call takes as many seconds as its text begins with."""

    def __init__(self, clock):
        self.clock, self.begun, self.ended = clock, [], []
        self.tools = [
            Tool("look", "", SCHEMA, lambda args: self.call("look", args)),
            Tool("write", "", SCHEMA, lambda args: self.call("write", args), effect="write"),
        ]

    async def call(self, tool, args):
        self.begun.append((tool, args["q"], self.clock.monotonic()))
        await self.clock.sleep(float(args["q"].split()[0]))
        self.ended.append((tool, args["q"]))
        return f"0.1 {args['q']}"


def run_of(*replies, streaming=True, planner="graph", policy="append", clock=None, piece=8, pause=0.5, **rest):
    """A runtime in virtual time with a desk, played to its end; returns (log, desk, model, clock)."""
    clock = clock or VirtualClock()
    desk, model = Desk(clock), Streams(clock, *replies, piece=piece, pause=pause)
    run = Runtime(
        model,
        open_policy(policy, Estimate()),
        open_planner(planner),
        desk.tools,
        clock,
        streaming=streaming,
        **rest,
    )
    log = run.begin("q", seed=3)
    run_virtual(run.play(log, run="r"), clock)
    return log, desk, model, clock


def wasted(log):
    return [event.text for event in log.events if isinstance(event, Noted) and event.code == WASTED]


@pytest.mark.parametrize(("planner", "text"), [("graph", GRAPH), ("compiler", COMPILER), ("rewoo", REWOO)])
def test_calls_begin_before_the_reply_ends_and_the_log_stays_the_same(planner, text):
    plain, before, model, clock = run_of(text, ANSWER, planner=planner, streaming=False, pause=1.0)
    streamed, desk, other, sooner = run_of(text, ANSWER, planner=planner, pause=1.0)
    assert dump_log(streamed) == dump_log(plain) and streamed.answer == "42"
    assert [request.messages for request in other.requests] == [request.messages for request in model.requests]
    assert before.begun[0][2] == model.ended[0] and desk.begun[0][2] < other.ended[0] - 2
    times, plainly = (account(log, Estimate())["time"] for log in (streamed, plain))
    assert times["makespan_s"] < plainly["makespan_s"] == plainly["critical_path_s"]
    assert times["ahead_s"] > 0 == plainly["ahead_s"] and times["work_s"] == plainly["work_s"]
    assert clock.monotonic() - sooner.monotonic() == pytest.approx(plainly["makespan_s"] - times["makespan_s"])


def test_a_write_waits_for_the_whole_turn():
    _, desk, model, _ = run_of(GRAPH, ANSWER)
    begun = {tool: at for tool, _, at in desk.begun if tool == "write"}
    assert begun["write"] >= model.ended[0]


@pytest.mark.parametrize("ending", ['<node id="x">lok("1")</node></graph>', ANSWER, "", "<graph>"])
def test_trap_2_a_refused_turn_is_stopped_and_noted_and_never_shown(ending):
    broken = GRAPH.replace("</graph>", "") + ending
    log, desk, model, _ = run_of(broken, GRAPH, ANSWER)
    assert log.answer == "42" and len([e for e in log.events if isinstance(e, Rejected)]) == 1
    assert [(tool, q) for tool, q, _ in desk.begun if tool == "write"] == [("write", "1 w")], "once, by the good turn"
    notes = wasted(log)
    assert len(notes) == len(desk.begun) - 4 > 0 and "look was begun as" in notes[0]
    prompts = [m.content for request in model.requests for m in request.messages]
    assert not any("was begun" in prompt or "cancelled" in prompt for prompt in prompts)
    told = account(log, Estimate())
    assert told["tools"]["in_vain"] == told["tools"]["wasted"] == told["noted"][WASTED] == len(notes)
    plain, _, other, _ = run_of(broken, GRAPH, ANSWER, streaming=False)
    assert [request.messages for request in other.requests] == [request.messages for request in model.requests]
    kept = [event for event in log.events if not isinstance(event, Noted)]
    assert kept == list(plain.events), "beside the notes the log is the one without streaming"


def test_nothing_begins_behind_a_fold_that_cannot_be_read():
    fold = '<folding>{"range": [0, 0], "summary": "s"}</folding>'
    turns = [GRAPH, f"<folding>{{no</folding>{GRAPH}", fold + GRAPH, ANSWER]
    log, desk, model, _ = run_of(*turns, policy="fold")
    assert log.answer == "42" and not wasted(log) and len(desk.begun) == 8
    looks = [at for tool, _, at in desk.begun if tool == "look"]
    assert model.ended[1] < looks[3] < model.ended[2], "the third turn begins early, the broken second not at all"


def test_thinking_begins_nothing():
    think = f"<think>perhaps\n{GRAPH}\nor so</think>\n"
    log, desk, model, _ = run_of(think + GRAPH, ANSWER)
    assert log.answer == "42" and len(desk.begun) == 4 and not wasted(log)
    assert desk.begun[0][2] < model.ended[0]
    # a template that opens the thinking in the prompt: the first turn shows it, the second is spared
    other = GRAPH.replace("5 a", "6 a")
    opened = think.removeprefix("<think>").replace(GRAPH, COMPILER)
    replies = [opened + other, opened + COMPILER.replace("5 a", "6 a"), ANSWER]
    log, desk, _, _ = run_of(*replies, planner="compiler", pause=0.1)
    assert log.answer == "42" and [e.code for e in log.events if isinstance(e, Rejected)] == ["no-action"]
    assert len(wasted(log)) == len(desk.begun) - 3 == 2


def test_what_was_begun_and_is_not_in_the_plan_is_stopped_and_the_plan_is_run():
    think = f"perhaps\n{COMPILER}</think>{COMPILER.replace('5 a', '2 a')}"
    log, desk, _, _ = run_of(think, ANSWER, planner="compiler", pause=0.1)
    assert log.answer == "42" and len(wasted(log)) == 2 and len(desk.begun) == 5
    assert [result.status for result in log.steps[0].results] == ["ok"] * 3


@pytest.mark.parametrize("error", [InfraError("gone", cause="connection"), None])
def test_a_model_that_fails_or_a_run_that_is_cancelled_leaves_nothing(error):
    async def main():
        clock = SystemClock()
        desk = Desk(clock)
        model = Streams(clock, (GRAPH.replace("5 a", "500 a"), error), pause=0.002)
        run = Runtime(model, open_policy("append", Estimate()), open_planner("graph"), desk.tools, clock)
        run.streaming = True
        log = run.begin("q")
        playing = asyncio.create_task(run.play(log))
        while not desk.begun:
            await asyncio.sleep(0.001)
        if error is None:
            playing.cancel()
        with suppress(asyncio.CancelledError, InfraError):
            await playing
        assert asyncio.all_tasks() == {asyncio.current_task()} and len(wasted(log)) == len(desk.begun) > 0
        assert not log.steps and not desk.ended

    asyncio.run(main())


def test_trap_8_every_call_has_one_result_wherever_a_streamed_run_is_cut():
    """Random texts, random cuts of the reply, random cancellation: in every prompt each call has exactly one result."""
    cancelled = 0
    for seed in range(100):
        rng = random.Random(seed)
        nodes = "".join(f'<node id="s{i}">look("{rng.randrange(4)} q{i}")</node>\n' for i in range(rng.randrange(1, 6)))
        text = f"<graph>{nodes}</graph>"
        replies = [rng.choice([text, text[: rng.randrange(len(text))], text + ANSWER]) for _ in range(4)]
        clock = VirtualClock()
        desk, model = Desk(clock), Streams(clock, *replies, ANSWER, piece=rng.randrange(1, 30), pause=0.3)
        spec = rng.choice(["append", "clear-results", {"id": "last-n", "n": 2}])
        policy = open_policy(spec, Estimate())
        run = Runtime(model, policy, open_planner("graph"), desk.tools, clock, streaming=True)
        log, stop = run.begin("q", seed=3), rng.choice([1e9, rng.uniform(1, 25)])

        async def play(run=run, log=log, stop=stop, clock=clock):
            playing = asyncio.create_task(run.play(log))
            killer = asyncio.create_task(clock.sleep(stop))
            await asyncio.wait({playing, killer}, return_when=asyncio.FIRST_COMPLETED)
            for task in (playing, killer):
                task.cancel()
            await asyncio.gather(playing, killer, return_exceptions=True)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return playing.cancelled()

        gone = run_virtual(play(), clock)
        cancelled += gone
        if not gone:
            plain, *_ = run_of(*replies, ANSWER, streaming=False, policy=spec)
            assert [event for event in log.events if not isinstance(event, Noted)] == list(plain.events), seed
        for step in log.steps[:-1]:
            assert [result.node for result in step.results] == [node.id for node in step.planned.plan.nodes]
        shown = sum(bool(result.attempts) for step in log.steps for result in step.results)
        cut = [step for step in log.steps[-1:] if len(step.results) != len(step.planned.plan.nodes)]
        assert cut or len(desk.begun) == shown + len(wasted(log)), seed
        for index in range(1, len(log.events) + 1):
            prompt = "\n".join(message.content for message in policy.render(log.prefix(index)))
            assert prompt.count("<result id=") == prompt.count("</result>")
        assert "was begun" not in prompt
    assert 20 < cancelled < 80


def test_readers_that_run_ahead_are_charged_behind_the_turn():
    graph = GRAPH.replace('<node id="w">write("1 w")</node>', '<node id="r" depends="b">read("who?", "{b}")</node>')

    def play(streaming, limit):
        clock = VirtualClock()
        meter = Meter(Limits(tokens=limit))
        reader = Reader(Streams(clock, "Ada", pause=0.1), 1, meter=meter)
        log, *_ = run_of(graph, graph + ANSWER, ANSWER, streaming=streaming, clock=clock, reader=reader, meter=meter)
        return log

    for limit in (1000, 35, 25):
        log = play(True, limit)
        kept = [event for event in log.events if not isinstance(event, Noted)]
        if limit == 1000:
            assert [call.purpose for call in log.calls()] == ["turn", "reader", "turn", "reader", "turn"]
            assert wasted(log), "the second turn was refused, its reader had been paid"
        else:
            assert kept == list(play(False, limit).events), limit


def test_a_simulated_clock_stands_still_while_the_model_writes():
    """Streaming wins nothing there, and loses nothing: makespans stay exact."""

    def play(streaming):
        clock = SimulatedClock()
        desk = Desk(clock)
        model = Streams(SystemClock(), GRAPH, ANSWER, pause=0.0)
        run = Runtime(model, open_policy("append", Estimate()), open_planner("graph"), desk.tools, clock)
        run.streaming = streaming
        log = asyncio.run(run.play(run.begin("q")))
        return dump_log(log), account(log, Estimate())["time"]

    assert play(True) == play(False)
    assert play(True)[1]["makespan_s"] == 6.0


def test_a_journal_of_a_streamed_run_replays_without_streaming(tmp_path):
    broken = GRAPH + "<graph>"
    with Journal(tmp_path / "j") as journal:
        recorded, desk, _, _ = run_of(broken, GRAPH, ANSWER, journal=journal)
    for streaming in (False, True):
        with Journal(tmp_path / "j", "replay") as journal:
            again, idle, _, _ = run_of(broken, GRAPH, ANSWER, journal=journal, streaming=streaming)
        assert not idle.begun and again.steps == recorded.steps and again.answer == "42"
    with Journal(tmp_path / "j", "hybrid") as journal:
        run_of(broken, GRAPH, ANSWER, journal=journal)
    assert desk.begun


def test_no_more_calls_begin_than_are_left():
    log, desk, *_ = run_of(GRAPH, ANSWER, budget=Budget(tool_calls=1))
    assert len(desk.begun) == 1 and len(wasted(log)) == 1
    assert [event.code for event in log.events if isinstance(event, Rejected)] == ["tool-limit"]
    log, desk, *_ = run_of(GRAPH, GRAPH, ANSWER, budget=Budget(turns=2))
    assert log.events[-1] != Limited("turns") and len(desk.begun) == 4, "the last turn begins nothing"


def test_the_time_for_tools_counts_from_the_turn_on():
    """What the model's provider takes is no working time, so it must not time out tools that began meanwhile."""

    class Timer:
        working_s = 0.0

    log, *_ = run_of(GRAPH, ANSWER, pause=2.0, timer=Timer(), budget=Budget(seconds=9.0))
    assert [result.status for result in log.steps[0].results] == ["ok"] * 4


@pytest.mark.parametrize("thought", ["", "<think>", "<folding>"])
def test_reading_a_long_text_again_and_again_stays_linear(thought):
    planner, tools = open_planner("graph"), [Tool("look", "", SCHEMA, None).schema]
    lines = "".join(f'<node id="s{i}">look("{i} query")</node>\n' for i in range(200))

    def read_in_all(length):
        text = f"{thought}{'words and more of them ' * (length // 23)}<graph>{lines}</graph>"
        read = 0

        def nodes(so_far) -> tuple[Node, ...]:
            nonlocal read
            read += len(so_far)
            return planner.nodes_so_far(so_far, tools)

        async def main():
            ahead = Ahead(nodes, lambda stream, told: asyncio.sleep(0))
            for start in range(0, len(text), 8):
                ahead.hear(Delta(text=text[start : start + 8]))
            await ahead.stop()

        asyncio.run(main())
        return read / len(text)

    assert max(read_in_all(length) for length in (100, 20_000, 160_000)) <= 36


def test_a_tool_of_a_streamed_turn_sees_json_of_its_own():
    log, desk, *_ = run_of(GRAPH, ANSWER)
    assert json.dumps([q for _, q, _ in desk.begun]) and log.steps[0].results[2].text == "0.1 1 0.1 5 a"
    assert [type(event) for event in log.events[1:2]] == [Called]
