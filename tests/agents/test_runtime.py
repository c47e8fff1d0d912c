"""The loop: nothing runs before it can be read, limits ask for the answer, no log depends on who came back first."""

import asyncio
import itertools
import json
import random
import tracemalloc
from contextlib import suppress

import pytest

from fairtrial.agents.accounting import Estimate, account
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.context.rendering import LAST_TURN
from fairtrial.agents.dialects import to_read
from fairtrial.agents.log import Answered, Called, Limited, Noted, Planned, Rejected, Result
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.planners.planner import Move
from fairtrial.agents.reader import Reader
from fairtrial.agents.recording import dump_log, trajectory_of
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import SystemClock, Timer, VirtualClock
from fairtrial.core.errors import InfraError, LimitExceeded
from fairtrial.core.limits import Limits, Meter, Usage
from fairtrial.core.virtual_time import run_virtual
from fairtrial.models.model import ContextTooLongError, Message, Reply, Request, ToolCall

ANSWER = "<answer>42</answer>"


class Says:
    """A model that says what it is given, in order; the last again and again. An exception is raised."""

    name, context = "says", None
    features = frozenset({"tools", "seed"})

    def __init__(self, *replies, tokens=10):
        self.replies, self.tokens, self.requests = list(replies), tokens, []

    async def generate(self, request, *, on_delta=None, timer=None):
        self.requests.append(request)
        said = self.replies[min(len(self.requests), len(self.replies)) - 1]
        if callable(said):
            said = await said(request)
        if isinstance(said, Exception):
            raise said
        message = said if isinstance(said, Message) else Message(role="assistant", content=said)
        usage = Usage(calls=1, input_tokens=self.tokens, output_tokens=self.tokens)
        return Reply(message=message, finish="stop", model=self.name, usage=usage)

    def prompt(self, index=-1):
        return "\n".join(message.content for message in self.requests[index].messages)


def call(tool="look", **args):
    return f"<tool_call>{json.dumps({'name': tool, 'arguments': args})}</tool_call>"


def fold(start, end, text="known"):
    return f'<folding>{{"range": [{start}, {end}], "summary": "{text}"}}</folding>'


def tool(function, name="look", effect="read", **fields):
    return Tool(name, "", {"type": "object"}, function, effect=effect, **fields)


async def echo(args):
    return f"seen {json.dumps(args, sort_keys=True)}"


def runtime(model, *, policy="append", planner="react", tools=None, clock=None, **rest):
    return Runtime(
        model,
        open_policy(policy, Estimate(4.0)),
        open_planner(planner),
        tools or [tool(echo)],
        clock or SystemClock(),
        **rest,
    )


def play(run, question="what?", seed=5):
    return asyncio.run(run.play(run.begin(question, seed=seed), run="r"))


def kinds(log, kind):
    return [event for event in log.events if isinstance(event, kind)]


def test_trap_2_a_write_runs_once_although_the_fold_beside_it_was_broken_twice():
    wrote = []

    async def write(args):
        wrote.append(args)
        return "done"

    first = call("write", n=1)
    second = call("write", n=2)
    model = Says(first, f"<folding>{{broken</folding>{second}", second, fold(0, 0) + second, ANSWER)
    log = play(runtime(model, policy="fold", tools=[tool(write, "write", "write")]))
    assert wrote == [{"n": 1}, {"n": 2}] and log.answer == "42"
    assert [event.code for event in kinds(log, Rejected)] == ["fold-json", "fold-missing"]
    assert "fold-json" in model.prompt(2) and [block.text for block in log.blocks] == ["known"]


def test_the_last_turn_asks_for_the_answer_and_takes_it():
    model = Says(call(a=1), call(a=2), ANSWER)
    log = play(runtime(model, budget=Budget(turns=3)))
    assert log.answer == "42" and len(log.steps) == 3 and kinds(log, Limited) == [Limited("turns")]
    assert LAST_TURN not in model.prompt(1) and LAST_TURN in model.prompt(2)


def test_a_model_that_does_not_answer_on_the_last_turn_runs_nothing_more():
    seen = []

    async def look(args):
        seen.append(args)
        return "x"

    log = play(runtime(Says(call(a=1)), tools=[tool(look)], budget=Budget(turns=2, repairs=1)))
    assert len(seen) == 1 and log.answer is None and log.events[-1] == Limited("turns", last=False)
    assert {event.code for event in kinds(log, Rejected)} == {"no-answer"}


def test_a_model_that_cannot_be_read_ends_by_its_format():
    model = Says("I think, therefore I say nothing", "<tool_call>{", call("lok"))
    log = play(runtime(model, budget=Budget(repairs=4)))
    assert log.events[-1] == Limited("format", last=False) and len(model.requests) == 5 and not log.steps
    codes = [event.code for event in kinds(log, Rejected)]
    assert codes == ["no-action", "malformed", "unknown-tool", "unknown-tool", "unknown-tool"]
    assert 'did you mean "look"' in model.prompt(3)


def test_tool_calls_are_counted_and_a_plan_that_is_too_large_is_told_so():
    graph = '<graph><node id="a">look("1")</node><node id="b">look("2")</node><node id="c">look("3")</node></graph>'
    two = '<graph><node id="a">look("1")</node><node id="b">look("2")</node></graph>'
    tools = [Tool("look", "", {"type": "object", "properties": {"q": {"type": "string"}}}, echo)]
    log = play(runtime(Says(graph, two, ANSWER), planner="graph", tools=tools, budget=Budget(tool_calls=2)))
    assert [event.code for event in kinds(log, Rejected)] == ["tool-limit"]
    assert len(kinds(log, Result)) == 2 and log.answer == "42" and kinds(log, Limited) == [Limited("tool_calls")]


def test_limits_of_the_trial_leave_room_for_the_answer():
    meter = Meter(Limits(calls=3))
    model = Says(call(a=1), call(a=2), ANSWER)
    log = play(runtime(model, meter=meter))
    assert meter.usage.calls == 3 and log.answer == "42" and kinds(log, Limited) == [Limited("calls")]
    meter = Meter(Limits(tokens=90))
    log = play(runtime(Says(call(a=1), call(a=2), call(a=3), ANSWER), meter=meter))
    assert meter.usage.tokens <= 90 and len(log.steps) == 4 and log.answer == "42"


def test_a_limit_that_one_call_overruns_lets_the_model_answer_from_what_it_has():
    meter = Meter(Limits(tokens=5))
    log = play(runtime(Says(call(a=1), ANSWER), meter=meter))
    assert not kinds(log, Result) and log.answer == "42" and kinds(log, Limited)[0] == Limited("tokens")
    assert meter.limits.exceeded_by(meter.usage) == "tokens"


def test_a_full_window_asks_for_the_answer():
    model = Says(call(a="x" * 4000), call(a="y"), ANSWER)
    log = play(runtime(model, policy={"id": "append", "window": 700}))
    assert kinds(log, Limited) == [Limited("window")] and LAST_TURN in model.prompt() and "xxxx" not in model.prompt()


def test_a_model_whose_context_is_full_is_asked_for_the_answer_and_then_left():
    full = ContextTooLongError(900, 800, "says")
    log = play(runtime(Says(call(a=1), full, ANSWER)))
    assert log.answer == "42" and kinds(log, Limited) == [Limited("window")]
    log = play(runtime(Says(call(a=1), full)))
    assert log.events[-1] == Limited("window", last=False) and log.answer is None


def test_trap_7_a_summary_that_fails_is_replaced_by_a_trim_and_noted():
    async def turn(request):
        text = "\n".join(message.content for message in request.messages)
        if "Write the notes now." in text:
            return "  "
        return ANSWER if len(model.requests) > 12 else call(a="z" * 800)

    model = Says(turn)
    log = play(runtime(model, policy={"id": "summarise-at", "trigger": 900}))
    notes = kinds(log, Noted)
    assert log.answer == "42" and notes and {note.code for note in notes} == {"summary-failed"}
    purposes = [event.purpose for event in log.calls()]
    assert all(pair != ("summary", "summary") for pair in itertools.pairwise(purposes))


@pytest.mark.parametrize(
    ("said", "why"),
    [("<think>nothing but thoughts", "empty"), (InfraError("overloaded", cause="server_error"), "overloaded")],
)
def test_trap_7_thinking_alone_is_no_summary_and_a_failed_summary_is_no_failed_run(said, why):
    async def turn(request):
        if "Write the notes now." in request.messages[-1].content:
            asked.append(request.sampling.max_tokens)
            return said
        return ANSWER if len(model.requests) > 12 else call(a="z" * 800)

    asked, model = [], Says(turn)
    log = play(runtime(model, policy={"id": "summarise-at", "trigger": 900, "summary_tokens": 77}))
    notes = kinds(log, Noted)
    assert log.answer == "42" and asked == [77] * len(asked) and len(notes) == len(asked) > 0
    assert all(note.code == "summary-failed" and why in note.text for note in notes)
    assert "thoughts" not in log.blocks[0].text and "zzzz" in log.blocks[0].text
    notes = [item for item in trajectory_of(log, "t").content if "fold" in item.extra.get("fairtrial", {})]
    assert notes and {item.source for item in notes} == {"system"}, "no action of the model's carries the trim"


def test_a_provider_that_is_gone_still_raises_in_the_turn_behind_the_summary():
    model = Says(*[call(a="z" * 800)] * 5, InfraError("gone", cause="connection"))
    with pytest.raises(InfraError, match="gone"):
        play(runtime(model, policy={"id": "summarise-at", "trigger": 900}))
    assert "Write the notes now." in model.prompt(-2) and "Write the notes now." not in model.prompt(-1)


@pytest.mark.parametrize("planner", ["react", "graph"])
def test_a_limit_that_a_tool_runs_into_ends_the_run_as_that_limit(planner):
    async def look(args):
        if args.get("q") == "b":
            raise LimitExceeded("cost_usd", "the search is paid up")
        await asyncio.sleep(10 if args.get("q") == "c" else 0)
        return "fine"

    graph = '<graph><node id="a">look("a")</node><node id="b" depends="a">look("b")</node><node id="c">look("c")</node>'
    model = Says(call(q="b") if planner == "react" else f"{graph}</graph>", ANSWER)
    tools = [Tool("look", "", {"type": "object", "properties": {"q": {"type": "string"}}}, look)]
    log = play(runtime(model, planner=planner, tools=tools))
    assert log.events[-1] == Limited("cost_usd", last=False) and log.answer is None and len(model.requests) == 1
    statuses = [result.status for result in log.steps[0].results]
    assert statuses == (["error"] if planner == "react" else ["ok", "error", "cancelled"])


def test_a_call_that_does_not_stop_keeps_its_place_in_later_steps():
    running, most = 0, 0

    async def stubborn(args):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        try:
            while not done.is_set():
                with suppress(asyncio.CancelledError):
                    await done.wait()
        finally:
            running -= 1

    async def main():
        lab = tool(stubborn, timeout_s=0.01, concurrency=1)
        run = runtime(Says(call(a=1), call(a=2), ANSWER), tools=[lab])
        log = await run.play(run.begin("q"))
        assert [result.status for step in log.steps[:2] for result in step.results] == ["timeout", "error"]
        assert "did not stop" in log.steps[1].results[0].text and run.load.busy["look"] == 1 == most
        done.set()
        while running or run.load.busy["look"]:
            await asyncio.sleep(0)
        assert run.load.busy["look"] == run.load.left["look"] == 0

    done = asyncio.Event()
    asyncio.run(main())


@pytest.mark.parametrize("given", [["0", "1"], ["", ""], ["c", "c"], ["call_1", "call_2"]])
def test_trap_15_ids_that_a_server_repeats_are_made_unique_and_what_was_sampled_stays(given):
    def said(turn):
        calls = tuple(ToolCall(id=name, name="look", arguments=f'{{"at": {turn}}}') for name in given)
        return Message(role="assistant", content="", tool_calls=calls, token_ids=(turn, 7, 9))

    model = Says(*(said(turn) for turn in range(4)), ANSWER)
    log = play(runtime(model, planner="native"))
    assert log.answer == "42"
    for request in model.requests:
        shown = [message for message in request.messages if message.role == "assistant"]
        assert [message.token_ids for message in shown] == [(turn, 7, 9) for turn in range(len(shown))]
        ids = [call.id for message in shown for call in message.tool_calls]
        assert len(set(ids)) == len(ids) and all(ids)
        assert ids == [message.tool_call_id for message in request.messages if message.role == "tool"]
    before = [m.model_dump() for m in model.requests[0].messages]
    for request in model.requests:
        now = [m.model_dump() for m in request.messages]
        assert now[: len(before)] == before, "an id that was shown stays what it was"
        before = now


def test_trap_16_a_log_of_many_results_is_put_together_once():
    nodes = tuple(Node(str(i), "look") for i in range(30_000))
    log = runtime(Says(ANSWER)).begin("q")
    log.add(Called(Request(prompt="p"), Reply(Message(role="assistant"), "stop", "m")))
    log.add(Planned(0, Plan(nodes)))
    tracemalloc.start()
    for node in nodes:
        log.add(Result(0, node.id, "ok", "x"))
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < held + 500_000 and [result.node for result in log.steps[0].results] == [node.id for node in nodes]


def test_a_provider_that_fails_raises_and_the_log_holds_what_was_before():
    run = runtime(Says(call(a=1), InfraError("gone", cause="connection")))
    log = run.begin("q")
    with pytest.raises(InfraError, match="gone"):
        asyncio.run(run.play(log))
    assert len(log.steps) == 1 and log.steps[0].results[0].status == "ok"
    continued = asyncio.run(runtime(Says(ANSWER)).play(log))
    assert continued.answer == "42" and len(continued.steps) == 2, "a run goes on from its log"


def test_cancelling_leaves_the_log_and_no_task():
    async def main():
        hang = tool(lambda args: asyncio.sleep(1000))
        run = runtime(Says(call(a=1)), tools=[hang])
        log = run.begin("q")
        task = asyncio.create_task(run.play(log))
        while not log.steps:
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled() and len(log.steps) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}
        prompt = open_policy("append", Estimate()).render(log)
        assert "no result" in prompt[-1].content, "trap 8: a call that was cut off has a result in every prompt"

    asyncio.run(main())


def test_seeds_come_from_the_place_in_the_run():
    def seeds(policy):
        model = Says("nonsense", call(a=1), fold(0, 0) + call(a=2) if policy == "fold" else call(a=2), ANSWER)
        play(runtime(model, policy=policy), seed=9)
        return [request.sampling.seed for request in model.requests]

    assert seeds("append") == seeds("fold") and len(set(seeds("append"))) == 4


def test_trap_9_a_thousand_latencies_leave_prompts_and_log_as_they_are():
    nodes = '<node id="s0">look("q0")</node>' + "".join(
        f'<node id="s{i}" depends="s{i // 2}">look("q{i} {{s{i // 2}}}")</node>' for i in range(1, 8)
    )
    logs, orders = set(), set()
    for seed in range(1000):
        draw = random.Random(seed)
        waits = [draw.expovariate(1) for _ in range(8)]
        clock, ended = VirtualClock(), []

        async def look(args, waits=waits, clock=clock, ended=ended):
            number = int(args["q"][1])
            await clock.sleep(waits[number])
            ended.append(number)
            if number == 5:
                raise ValueError("no five")
            return f"v{number}"

        schema = {"type": "object", "properties": {"q": {"type": "string"}}}
        run = runtime(
            Says(f"<graph>{nodes}</graph>", ANSWER),
            planner="graph",
            tools=[Tool("look", "", schema, look)],
            clock=clock,
        )
        log = run_virtual(run.play(run.begin("q"), run="r"), clock)
        assert log.answer == "42"
        logs.add(dump_log(log))
        orders.add(tuple(ended))
    assert len(orders) > 70 and len(logs) == 1
    assert b'"status":"error"' in next(iter(logs))


def chains(mode, waits, **rest):
    """Three chains of two calls each, and the accounting of the run."""
    clock = SimulatedClock()

    async def look(args):
        await clock.sleep(waits[args["n"]])
        return args["n"]

    nodes = [Node(f"n{i}", "look", {"n": i}, (f"n{i - 1}",) if i % 2 else ()) for i in range(6)]
    plan = Plan(tuple(nodes))

    class Planner:
        native = False

        def rules(self, tools):
            return ""

        def read(self, text, tool_calls, tools):
            return Move(answer="42") if text == ANSWER else Move(plan=plan)

    run = runtime(Says("go", ANSWER), tools=[tool(look)], clock=clock, mode=mode, **rest)
    run.planner = Planner()
    return account(play(run), Estimate())["time"]


def test_simulated_time_is_exact():
    waits = [5.0, 0.1, 0.2, 7.0, 1.0, 1.0]
    ready = chains("ready", waits)
    assert ready["makespan_s"] == ready["critical_path_s"] == 0.2 + 7.0 and ready["ratio"] == 1
    assert ready["work_s"] == pytest.approx(sum(waits))
    assert chains("levels", waits)["makespan_s"] == 12.0, "trap 10: a barrier waits for the slowest of each level"
    assert chains("sequential", waits)["makespan_s"] == pytest.approx(sum(waits))


def test_readers_are_nodes_and_their_calls_are_logged_in_an_order_of_their_own():
    graph = (
        '<graph><node id="a">look("a")</node><node id="b">look("b")</node>'
        '<node id="c" depends="a">read(question="who?", document="{a}")</node>'
        '<node id="d" depends="b">read(question="who?", document="{b}")</node>'
        '<node id="e" depends="c,d">look("{c} {d}")</node></graph>'
    )
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}

    async def look(args):
        return args["q"]

    def one(slow):
        async def read(request):
            question, document = to_read(request.messages[-1].content)
            assert question == "who?"
            for _ in range(200 if document == slow else 1):
                await asyncio.sleep(0)
            return f"name of {document}"

        clock = SimulatedClock()
        reader = Reader(Says(read), 1, clock=clock, seconds=2.0)
        run = runtime(
            Says(graph, ANSWER), planner="graph", tools=[Tool("look", "", schema, look)], clock=clock, reader=reader
        )
        log = play(run)
        assert log.steps[0].results[-1].text == "name of a name of b"
        assert [event.purpose for event in kinds(log, Called)] == ["turn", "reader", "reader", "turn"]
        return dump_log(log), account(log, Estimate())

    (first, told), (second, _) = one("a"), one("b")
    assert first == second and isinstance(first, bytes)
    assert told["time"]["makespan_s"] == 2.0 and told["time"]["ratio"] == 1, "both readings take their time at once"


def test_the_clock_of_the_tools_and_the_time_of_the_model_are_two_things():
    clock = SimulatedClock()
    timer = Timer(SystemClock())

    async def slow(args):
        await clock.sleep(3600)
        return "late"

    run = runtime(Says(call(a=1), ANSWER), tools=[tool(slow)], clock=clock, timer=timer, budget=Budget(seconds=30))
    log = play(run)
    assert log.answer == "42" and log.steps[0].results[0].status == "ok" and clock.monotonic() == 3600


def test_a_tool_that_stalls_times_out_and_the_run_goes_on():
    clock = SimulatedClock()
    run = runtime(Says(call(a=1), ANSWER), tools=[tool(lambda args: clock.sleep(1e9), timeout_s=20.0)], clock=clock)
    log = play(run)
    assert [result.status for result in log.steps[0].results] == ["timeout"] and log.answer == "42"
    assert clock.monotonic() == pytest.approx(20)
    assert isinstance(log.events[-1], Answered)


@pytest.mark.parametrize("half", ["\ud800", "\\ud800"])
def test_halves_of_characters_end_at_the_border(half):
    async def look(args):
        return {"page": f"half \udc00 {len(args)}"}

    model = Says(
        Message(role="assistant", content=call(a=1) + half, reasoning=half),
        f'<folding>{{"range": [0, 0], "summary": "so {half}"}}</folding>{call(a=2)}',
        f"<answer>{half}</answer>",
    )
    log = play(runtime(model, policy="fold", tools=[tool(look)]))
    assert log.answer is not None and len(log.steps) == 3
    trajectory_of(log, "t").model_dump_json()
    for request in model.requests:
        request.model_dump_json()
