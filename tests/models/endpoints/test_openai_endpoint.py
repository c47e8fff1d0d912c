"""The OpenAI kind against a real local server that fails on request."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("openai")

from fault_server import PIECES, TEXT, fault_server, resetting_server
from pydantic import ValidationError

from fairtrial.core.clock import SystemClock, Timer
from fairtrial.core.errors import UserError
from fairtrial.models.endpoints.openai_api import OpenAI, OpenAIModel, OpenAISettings
from fairtrial.models.endpoints.retrying import ProviderError
from fairtrial.models.model import (
    ContextTooLongError,
    Message,
    Pair,
    Request,
    Sampling,
    ToolCall,
    UnsupportedError,
)
from fairtrial.models.opening import open_model

KEY = "sk-test-3f9a77c1e2"
HELLO = Request(messages=(Message(role="user", content="hello"),))


class SkippingClock(SystemClock):
    """The machine's clock, whose sleeps take no real time."""

    def __init__(self):
        self.skipped = 0.0
        self.pauses = []

    def monotonic(self):
        return super().monotonic() + self.skipped

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.skipped += seconds
        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def server():
    with fault_server() as faults:
        yield faults


@pytest.fixture(autouse=True)
def _fresh(request):
    if "server" in request.fixturenames:
        faults = request.getfixturevalue("server")
        faults.plan.clear()
        faults.seen.clear()
        faults.most_inside = 0


@contextmanager
def model_at(url, clock=None, key=KEY, **settings):
    settings = {"name": "m", "base_url": f"{url}/v1"} | settings
    yield OpenAIModel(OpenAISettings(**settings), key, clock=clock or SkippingClock(), rng=random.Random(0))


def ask(url, *plan, request=HELLO, deltas=None, clock=None, timer=None, faults=None, **settings):
    """One generate against the plan: the reply, or the error."""

    async def main():
        with model_at(url, clock, **settings) as model:
            try:
                return await model.generate(request, on_delta=None if deltas is None else deltas.append, timer=timer)
            except (ProviderError, UserError) as error:
                return error
            finally:
                await model.close()

    if faults is not None:
        faults.plan[:] = plan
    return asyncio.run(main())


def causes(reply):
    return [(attempt.cause, attempt.status) for attempt in reply.attempts]


RETRIED = [
    ("429", "rate_limit", 429),
    ("429:0", "rate_limit", 429),
    ("status:500", "server_error", 500),
    ("status:503", "server_error", 503),
    ("status:529", "server_error", 529),
    ("status:408", "timeout", 408),
    ("status:504", "timeout", 504),
    ("status:409", "conflict", 409),
    ("html", "server_error", 502),
    ("html-200", "bad_response", 200),
    ("text", "bad_response", 200),
    ("malformed", "bad_response", 200),
    ("array", "bad_response", 200),
    ("no-choices", "bad_response", 200),
    ("error-200", "server_error", None),
    ("finish:error", "server_error", 200),
    ("cut-body", "truncated", 200),
]


@pytest.mark.parametrize(("fault", "cause", "status"), RETRIED)
def test_a_passing_fault_is_retried_and_recorded_as_what_it_was(server, fault, cause, status):
    reply = ask(server.url, fault, fault, "ok", faults=server)
    assert reply.text == TEXT
    assert causes(reply) == [(cause, status)] * 2
    assert len(server.seen) == 3


STREAMED = [
    ("stall-first:1", "stalled"),
    ("stall-middle:1", "stalled"),
    ("cut", "truncated"),
    ("end-early", "truncated"),
    ("malformed-event", "bad_response"),
    ("error-event", "server_error"),
    ("html-200", "bad_response"),
    ("status:500", "server_error"),
    ("429", "rate_limit"),
]


@pytest.mark.parametrize(("fault", "cause"), STREAMED)
def test_a_broken_stream_is_repeated_whole_and_its_pieces_are_not_passed_on(server, fault, cause):
    deltas = []
    reply = ask(server.url, fault, "ok", faults=server, deltas=deltas, stall_s=0.3)
    assert reply.text == TEXT
    assert [delta.text for delta in deltas if delta.text] == list(PIECES)
    assert [attempt.cause for attempt in reply.attempts] == [cause]
    assert reply.usage.output_tokens == 3


@pytest.mark.parametrize(("fault", "cause"), [case for case in STREAMED if case[0] in ("cut", "stall-middle:1")])
def test_live_pieces_come_at_once_and_are_never_followed_by_another_tries(server, fault, cause):
    deltas = []
    error = ask(server.url, fault, "ok", faults=server, deltas=deltas, stall_s=0.3, live=True)
    assert isinstance(error, ProviderError)
    assert (error.cause, error.retryable) == (cause, False)
    assert "".join(delta.text for delta in deltas) == "four and"
    assert len(server.seen) == 1


def test_live_streams_that_break_before_their_first_piece_are_repeated(server):
    deltas = []
    reply = ask(server.url, "status:500", "ok", faults=server, deltas=deltas, live=True)
    assert "".join(delta.text for delta in deltas) == TEXT == reply.text


def test_live_pieces_arrive_while_the_stream_goes_on(server):
    times = []

    async def main():
        server.plan[:] = ["slow:0.15"]
        with model_at(server.url, live=True) as model:
            await model.generate(HELLO, on_delta=lambda delta: times.append(time.monotonic()))
            await model.close()

    asyncio.run(main())
    assert times[-1] - times[0] > 0.2


def test_a_stream_that_breaks_behind_its_end_is_whole(server):
    reply = ask(server.url, "cut-behind", faults=server, deltas=[])
    assert (reply.text, reply.finish, reply.attempts) == (TEXT, "stop", ())
    assert any("usage" in note for note in reply.sampling["notes"])


def test_a_slow_drip_is_no_stall_but_ends_at_the_total_timeout(server):
    reply = ask(server.url, "slow:0.2", faults=server, deltas=[], stall_s=0.5)
    assert (reply.text, reply.attempts) == (TEXT, ())
    error = ask(server.url, "slow:0.3", faults=server, deltas=[], timeout_s=0.5, retry={"tries": 1})
    assert (error.cause, error.retryable) == ("timeout", True)


def test_a_silent_server_times_out(server):
    reply = ask(server.url, "silent:3", "ok", faults=server, timeout_s=0.4)
    assert causes(reply) == [("timeout", None)]
    assert 0.4 < reply.waited_s < 3


def test_a_reset_connection_and_a_closed_port_are_connection_faults():
    with resetting_server() as url:
        error = ask(url, retry={"tries": 3})
    assert (error.cause, error.retryable, len(error.attempts)) == ("connection", True, 3)
    error = ask(url, retry={"tries": 2})
    assert (error.cause, len(error.attempts)) == ("connection", 2)


def test_a_reply_beyond_the_size_limit_fails_once(server):
    error = ask(server.url, "huge:3000000", faults=server, max_reply_mb=1)
    assert (error.cause, error.retryable, len(server.seen)) == ("too_large", False, 1)


def test_retry_after_is_waited_for_and_counts_as_waiting(server):
    clock = SkippingClock()
    timer = Timer(clock)
    reply = ask(server.url, "429:7", "429ms:1500", "ok", faults=server, clock=clock, timer=timer)
    first, second = clock.pauses
    assert 7.0 <= first <= 7.5
    assert 1.5 <= second <= 2.0
    assert reply.waited_s >= 8.5
    assert timer.waiting_s == pytest.approx(reply.waited_s, abs=0.01)
    assert timer.working_s < 3


def test_a_retry_after_beyond_the_budget_is_handed_on(server):
    error = ask(server.url, "429:4000", faults=server)
    assert (error.cause, error.status, error.retryable, error.retry_after_s) == ("rate_limit", 429, True, 4000)
    assert "asks to wait 4000 s" in str(error)
    back = pickle.loads(pickle.dumps(error))
    assert (back.cause, back.retry_after_s, back.attempts) == (error.cause, 4000, error.attempts)


def test_the_listeners_own_time_is_not_waiting(server):
    clock = SystemClock()
    timer = Timer(clock)

    async def main():
        with model_at(server.url, clock, live=True) as model:
            await model.generate(HELLO, on_delta=lambda delta: time.sleep(0.1), timer=timer)
            await model.close()

    asyncio.run(main())
    assert timer.working_s > 0.3
    assert not timer.is_waiting


@pytest.mark.parametrize(
    ("fault", "cause", "status"),
    [
        ("status:400", "bad_request", 400),
        ("401", "auth", 401),
        ("status:403", "auth", 403),
        ("status:404", "not_found", 404),
        ("status:422", "bad_request", 422),
        ("quota", "quota", 429),
    ],
)
def test_what_another_try_cannot_help_is_asked_once(server, fault, cause, status):
    error = ask(server.url, fault, faults=server)
    assert (error.cause, error.status, error.retryable) == (cause, status, False)
    assert len(server.seen) == 1


def test_redirects_are_not_followed_with_the_key(server):
    error = ask(server.url, f"redirect:{server.url}/v1/elsewhere", faults=server)
    assert isinstance(error, ProviderError)
    assert (error.status, error.retryable, len(server.seen)) == (307, False, 1)


def test_a_context_that_is_too_long_names_the_numbers(server):
    error = ask(server.url, "too-long", faults=server)
    assert isinstance(error, ContextTooLongError)
    assert (error.tokens, error.limit) == (5003, 4096)


def test_a_refused_parameter_is_unsupported(server):
    error = ask(server.url, "unsupported", faults=server)
    assert isinstance(error, UnsupportedError)
    assert "top_p" in str(error)
    assert "omit" in str(error)
    ask(server.url, faults=server, omit=["top_p", "temperature"])
    assert not {"top_p", "temperature"} & set(server.seen[-1].body)


def test_filters_and_refusals_end_a_reply_by_the_content_filter(server):
    assert ask(server.url, "filtered", faults=server).finish == "content_filter"
    assert ask(server.url, "finish:content_filter", faults=server).finish == "content_filter"
    refusal = ask(server.url, "refusal", faults=server)
    assert (refusal.finish, refusal.text) == ("content_filter", "I cannot help with that.")


@pytest.mark.parametrize("deltas", [None, []])
def test_ids_logprobs_bytes_and_usage_are_kept(server, deltas):
    price = {"input": 2.0, "output": 10.0, "cached": 0.5}
    reply = ask(server.url, faults=server, deltas=deltas, logprobs="require", ids="require", price=price)
    assert (reply.prompt_ids, reply.completion_ids) == ((1, 2, 3), (7, 8, 9))
    assert reply.logprobs == (-0.1, -0.2, -0.3)
    assert reply.token_bytes == (b"x",) * 3
    assert reply.message.token_ids == (7, 8, 9)
    assert (reply.usage.input_tokens, reply.usage.cached_tokens, reply.usage.output_tokens) == (11, 4, 3)
    assert reply.usage.cost_usd == pytest.approx((7 * 2 + 4 * 0.5 + 3 * 10) / 1e6)
    assert reply.call().completion_ids == (7, 8, 9)
    assert "notes" not in reply.sampling
    if deltas is not None:
        assert sum((delta.token_ids for delta in deltas), ()) == (7, 8, 9)


def test_ignored_logprobs_and_ids_are_none_unless_demanded(server):
    reply = ask(server.url, "no-logprobs", faults=server, logprobs="ask")
    assert (reply.text, reply.logprobs) == (TEXT, None)
    assert ask(server.url, "no-ids", faults=server, ids="ask").completion_ids is None
    error = ask(server.url, "no-logprobs", faults=server, logprobs="require")
    assert isinstance(error, UnsupportedError)
    assert 'logprobs = "ask"' in str(error)
    assert isinstance(ask(server.url, "no-ids", faults=server, ids="require"), UnsupportedError)


def test_logprobs_that_do_not_fit_the_ids_are_not_used(server):
    reply = ask(server.url, "short-logprobs", faults=server, logprobs="ask", ids="ask")
    assert (reply.completion_ids, reply.logprobs, reply.token_bytes) == ((7, 8, 9), None, None)
    reply = ask(server.url, faults=server, logprobs="ask")
    assert reply.logprobs == (-0.1, -0.2, -0.3)
    assert reply.call().logprobs is None  # the table of calls keeps log-probabilities of ids only


def test_missing_usage_is_said(server):
    reply = ask(server.url, "no-usage", faults=server)
    assert (reply.usage.calls, reply.usage.tokens) == (1, 0)
    assert any("reported no usage" in note for note in reply.sampling["notes"])
    counted = ask(server.url, "no-usage", faults=server, ids="ask")
    assert (counted.usage.input_tokens, counted.usage.output_tokens) == (3, 3)


def test_a_server_that_does_not_stream_is_heard_all_the_same(server):
    deltas = []
    reply = ask(server.url, "no-stream", faults=server, deltas=deltas)
    assert "".join(delta.text for delta in deltas) == TEXT == reply.text
    assert reply.message.reasoning == "counting"


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_fragments_of_parallel_tool_calls_are_put_together(server):
    request = Request(messages=HELLO.messages, tools=(TOOL,))
    reply = ask(server.url, "tools", request=request, faults=server, deltas=[])
    assert reply.finish == "tool_calls"
    arguments = '{"a": 1, "b": "é☃"}'
    assert reply.message.tool_calls == (
        ToolCall(id="id0", name="add", arguments=arguments),
        ToolCall(id="id1", name="multiply", arguments=arguments),
    )
    whole = ask(server.url, "tools", request=request, faults=server)
    assert (whole.finish, whole.message.tool_calls[0].arguments) == ("tool_calls", '{"a": 1}')


def test_a_conversation_with_tools_is_sent_as_the_api_wants_it(server):
    messages = (
        Message(role="system", content="be brief"),
        Message(role="user", content="1+1?"),
        Message(role="assistant", reasoning="secret", tool_calls=(ToolCall(id="c", name="add", arguments="{"),)),
        Message(role="tool", tool_call_id="c", content="2"),
    )
    sampling = Sampling(max_tokens=5, temperature=0.5, top_p=0.9, stop=("END",), seed=3, json_schema={"type": "object"})
    request = Request(messages=messages, tools=(TOOL,), sampling=sampling)
    reply = ask(server.url, request=request, faults=server, extra_body={"top_p": 0.8, "user": "u"})
    body = server.seen[-1].body
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{"}}
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
    ]
    assert (body["tools"], body["stop"], body["seed"], body["max_tokens"]) == ([TOOL], ["END"], 3, 5)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (body["top_p"], body["user"]) == (0.8, "u")
    assert reply.sampling["top_p"] == 0.8
    assert reply.sampling["seed"] == 3


def test_texts_and_ids_are_continued(server):
    assert ask(server.url, request=Request(prompt="once"), faults=server).text == TEXT
    assert server.seen[-1].path == "/v1/completions"
    reply = ask(server.url, request=Request(prompt_ids=(5, 6)), faults=server)
    assert (server.seen[-1].body["prompt"], reply.finish) == ([5, 6], "length")


def test_many_at_once_stay_apart_and_within_the_cap(server):
    async def main():
        server.plan[:] = ["echo-model"] * 40
        with model_at(server.url, max_concurrent=4) as model:
            requests = [Request(messages=(Message(role="user", content=f"item {n}"),)) for n in range(40)]
            replies = await asyncio.gather(*(model.generate(request) for request in requests))
            await model.close()
            return replies

    replies = asyncio.run(main())
    assert [json.loads(reply.text)[0]["content"] for reply in replies] == [f"item {n}" for n in range(40)]
    assert 1 < server.most_inside <= 4


def test_a_cancelled_request_hangs_up_and_frees_its_slot(server):
    async def main():
        server.plan[:] = ["silent:20", "ok"]
        with model_at(server.url, max_concurrent=1, requests_per_minute=100) as model:
            work = asyncio.ensure_future(model.generate(HELLO))
            while not server.seen:
                await asyncio.sleep(0.01)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            reply = await model.generate(HELLO)
            await model.close()
            return reply

    assert asyncio.run(main()).text == TEXT
    assert server.seen[0].gone.wait(5)


def score_all(server, plan, pairs, **settings):
    async def main():
        server.plan[:] = plan
        with model_at(server.url, **({"score": True} | settings)) as model:
            try:
                return await model.score(pairs)
            finally:
                await model.close()

    return asyncio.run(main())


def test_score_sums_the_continuations_tokens_of_the_echo(server):
    pair = Pair("abcdef", "ghijk é")  # tokens abc|def|ghi|jk |é, log-probabilities -1 ... -4
    for fault in ("ok", "begin-mark"):
        (score,) = score_all(server, [fault], [pair])
        assert score.token_logprobs == (-2.0, -3.0, -4.0)
        assert (score.logprob, score.characters, score.bytes, score.greedy) == (-9.0, 7, 8, True)
    (score,) = score_all(server, ["not-greedy"], [pair])
    assert (score.logprob, score.greedy) == (-9.0, False)


def test_a_token_across_the_border_belongs_to_the_continuation(server):
    (score,) = score_all(server, ["ok"], [Pair("abcd", "efghi")])
    assert score.token_logprobs == (-1.0, -2.0)


@pytest.mark.parametrize(
    ("plan", "pair", "settings"),
    [
        (["no-echo"], Pair("abc", "def"), {}),
        (["ok"], Pair("", "def"), {}),
        (["ok"], Pair("abc", ""), {}),
        (["ok"], Pair("abc", "def"), {"score": False}),
    ],
)
def test_scores_that_cannot_be_are_unsupported(server, plan, pair, settings):
    with pytest.raises(UnsupportedError):
        score_all(server, plan, [pair], **settings)


def test_unsupported_requests_say_so_before_anything_is_sent(server):
    error = ask(server.url, request=Request(prompt="x", sampling=Sampling(regex="a+")), faults=server)
    assert isinstance(error, UnsupportedError)
    assert server.seen == []


def test_the_key_is_in_the_header_and_nowhere_else(server, caplog):
    caplog.set_level("DEBUG")
    reply = ask(server.url, "429:0", faults=server)
    error = ask(server.url, "401", faults=server)
    assert [seen.headers["authorization"] for seen in server.seen] == [f"Bearer {KEY}"] * 3
    assert "***" in str(error)
    with model_at(server.url) as model:
        shown = [
            str(error),
            repr(error),
            repr(error.__dict__),
            repr(reply),
            repr(model),
            repr(OpenAISettings(name="m")),
        ]
        asyncio.run(model.close())
    assert not [text for text in [*shown, caplog.text] if KEY in text]
    assert pickle.dumps(error).find(KEY.encode()) == -1


def test_a_missing_key_is_named_by_its_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        open_model("openai:gpt-x", tmp_path)
    with pytest.raises(UserError, match="MY_KEY"):
        open_model(
            {"kind": "openai", "name": "x", "base_url": "http://127.0.0.1:1/v1", "api_key_env": "MY_KEY"}, tmp_path
        )
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        open_model({"kind": "openai", "name": "x", "base_url": "https://far.example/v1"}, tmp_path)


def test_a_key_written_into_the_settings_is_refused_without_being_shown(tmp_path):
    for table in (
        {"api_key_env": KEY},
        {"api_key": KEY},
        {"base_url": f"https://user:{KEY}@far.example/v1"},
    ):
        with pytest.raises(UserError) as caught:
            open_model({"kind": "openai", "name": "x"} | table, tmp_path)
        assert KEY not in str(caught.value)


def test_a_server_nearby_needs_no_key_and_gets_none(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def main():
        model = OpenAI.open(OpenAISettings(name="m", base_url=f"{server.url}/v1"), None)
        reply = await model.generate(HELLO)
        await model.close()
        return reply

    assert asyncio.run(main()).text == TEXT
    assert "authorization" not in server.seen[0].headers


def test_settings_that_make_no_sense_are_refused():
    for bad in ({"timeout_s": 0}, {"max_concurrent": 0}, {"base_url": "host/v1"}, {"retry": {"tries": 0}}):
        with pytest.raises(ValidationError):
            OpenAISettings(name="m", **bad)
