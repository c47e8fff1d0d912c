"""The Anthropic kind against a real local server that speaks its API and fails on request."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

pytest.importorskip("anthropic")

from fault_server import TEXT, fault_server

from fairtrial.core.errors import UserError
from fairtrial.models.endpoints.anthropic_api import Anthropic, AnthropicModel, AnthropicSettings
from fairtrial.models.endpoints.retrying import ProviderError
from fairtrial.models.model import ContextTooLongError, Message, Pair, Request, Sampling, ToolCall, UnsupportedError
from fairtrial.models.opening import open_model

KEY = "sk-ant-test-77aa0c"
HELLO = Request(messages=(Message(role="user", content="hello"),))
QUICK = {"base_s": 0.01}


@pytest.fixture(scope="module")
def server():
    with fault_server() as faults:
        yield faults


def ask(server, *plan, requests=(HELLO,), deltas=None, **settings):
    """One generate for each request, on one model, against the plan: the last reply, or the error."""

    async def main():
        server.plan[:] = plan
        server.seen.clear()
        options = {"name": "claude", "base_url": server.url, "retry": QUICK} | settings
        model = AnthropicModel(AnthropicSettings(**options), KEY, rng=random.Random(0))
        try:
            for request in requests:
                reply = await model.generate(request, on_delta=None if deltas is None else deltas.append)
            return reply
        except (ProviderError, UserError) as error:
            return error
        finally:
            await model.close()

    return asyncio.run(main())


@pytest.mark.parametrize("deltas", [None, []])
def test_text_usage_and_price(server, deltas):
    price = {"input": 3.0, "output": 15.0, "cached": 0.3, "cache_write": 3.75}
    reply = ask(server, deltas=deltas, price=price)
    assert (reply.text, reply.finish, reply.attempts) == (TEXT, "stop", ())
    assert (reply.usage.input_tokens, reply.usage.cached_tokens, reply.usage.output_tokens) == (13, 4, 3)
    assert reply.usage.cost_usd == pytest.approx((7 * 3 + 4 * 0.3 + 2 * 3.75 + 3 * 15) / 1e6)
    assert (reply.completion_ids, reply.logprobs) == (None, None)
    if deltas is not None:
        assert "".join(delta.text for delta in deltas) == TEXT
    assert KEY in str(server.seen[0].headers)
    assert server.seen[0].body["max_tokens"] == 4096


@pytest.mark.parametrize("deltas", [None, []])
def test_tool_calls(server, deltas):
    reply = ask(server, "tools", deltas=deltas)
    (call,) = reply.message.tool_calls
    assert (reply.finish, reply.text, call.id, call.name) == ("tool_calls", "adding", "toolu_1", "add")
    assert json.loads(call.arguments) == {"a": 1, "b": "☃"}


@pytest.mark.parametrize("deltas", [None, []])
def test_signed_thinking_goes_back_before_its_tool_call(server, deltas):
    call = ToolCall(id="toolu_1", name="add", arguments='{"a": 1}')
    second = Request(
        messages=(
            *HELLO.messages,
            Message(role="assistant", reasoning="let me add", tool_calls=(call,)),
            Message(role="tool", tool_call_id="toolu_1", content="2"),
        )
    )
    ask(server, "thinking", "ok", requests=(HELLO, second), deltas=deltas)
    assert server.seen[1].body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "let me add", "signature": "c2ln"},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
    ]
    reply = ask(server, "thinking", deltas=deltas)
    assert reply.message.reasoning == "let me add"


def test_a_conversation_is_sent_as_the_api_wants_it(server):
    calls = (ToolCall(id="a", name="f", arguments='{"x": 1}'), ToolCall(id="b", name="f", arguments="{broken"))
    request = Request(
        messages=(
            Message(role="system", content="one"),
            Message(role="system", content="two"),
            Message(role="user", content="go"),
            Message(role="assistant", content="calling", tool_calls=calls),
            Message(role="tool", tool_call_id="a", content="1"),
            Message(role="tool", tool_call_id="b", content="2"),
            Message(role="user", content="and?"),
        ),
        tools=({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},),
        sampling=Sampling(max_tokens=9, temperature=0.0, stop=("END",), top_k=5, json_schema={"type": "object"}),
    )
    ask(server, requests=(request,))
    body = server.seen[0].body
    assert body["system"] == "one\n\ntwo"
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "calling"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "f", "input": {"malformed_arguments": "{broken"}},
    ]
    assert [block["type"] for block in body["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]
    assert body["tools"] == [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    assert (body["max_tokens"], body["temperature"], body["stop_sequences"], body["top_k"]) == (9, 0.0, ["END"], 5)
    assert "top_p" not in body


@pytest.mark.parametrize(
    ("fault", "deltas", "cause"),
    [
        ("429:0", None, "rate_limit"),
        ("overloaded", None, "server_error"),
        ("html", None, "server_error"),
        ("malformed", None, "bad_response"),
        ("text", [], "bad_response"),
        ("cut", [], "truncated"),
        ("end-early", [], "truncated"),
        ("error-event", [], "server_error"),
    ],
)
def test_a_passing_fault_is_retried_and_recorded(server, fault, deltas, cause):
    deltas = None if deltas is None else []
    reply = ask(server, fault, "ok", deltas=deltas)
    assert reply.text == TEXT
    assert [attempt.cause for attempt in reply.attempts] == [cause]
    if deltas is not None:
        assert "".join(delta.text for delta in deltas) == TEXT


@pytest.mark.parametrize(("fault", "finish"), [("refusal", "content_filter"), ("length", "length")])
def test_ends_are_mapped(server, fault, finish):
    assert ask(server, fault).finish == finish


def test_a_context_that_is_too_long_names_the_numbers(server):
    error = ask(server, "too-long")
    assert isinstance(error, ContextTooLongError)
    assert (error.tokens, error.limit) == (210000, 200000)


def test_a_refused_key_is_named_by_its_variable_only(server, caplog):
    caplog.set_level("DEBUG")
    error = ask(server, "401")
    assert (error.cause, error.retryable) == ("auth", False)
    assert "ANTHROPIC_API_KEY" in str(error)
    assert KEY not in str(error) + repr(error.__dict__) + caplog.text


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt="x"),
        Request(prompt_ids=(1,)),
        Request(messages=HELLO.messages, sampling=Sampling(seed=1)),
        Request(messages=HELLO.messages, sampling=Sampling(regex="a")),
        Request(messages=(*HELLO.messages, Message(role="system", content="late"))),
    ],
)
def test_what_the_api_does_not_take_is_refused_before_anything_is_sent(server, request_):
    assert isinstance(ask(server, requests=(request_,)), UnsupportedError)
    assert server.seen == []


def test_scores_are_unsupported():
    model = AnthropicModel(AnthropicSettings(name="c"), KEY)
    with pytest.raises(UnsupportedError):
        asyncio.run(model.score([Pair("a", "b")]))


def test_a_missing_key_is_named_and_a_server_nearby_gets_none(server, monkeypatch, tmp_path):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY"):
        open_model("anthropic:claude-x", tmp_path)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "stray-token")

    async def main():
        server.plan.clear()
        server.seen.clear()
        model = Anthropic.open(AnthropicSettings(name="c", base_url=server.url), tmp_path)
        reply = await model.generate(HELLO)
        await model.close()
        return reply

    assert asyncio.run(main()).text == TEXT
    headers = server.seen[0].headers
    assert not {"x-api-key", "authorization"} & set(headers)
    assert "stray-token" not in str(headers)
