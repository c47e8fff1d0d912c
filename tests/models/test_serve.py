"""The server, end to end: the openai SDK and raw sockets against a real server of a scripted and of a native model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest
from model_server import served

from fairtrial.models import byte_chat
from fairtrial.models.model import Message, Request, Sampling
from fairtrial.models.opening import open_model
from fairtrial.models.serving import listening
from fairtrial.nn import hub
from fairtrial.nn.tokenizer import Tokenizer


def client(url, **kwargs):
    return openai.OpenAI(base_url=f"{url}/v1", **{"api_key": "unused", "max_retries": 0, "timeout": 120, **kwargs})


def async_client(url, **kwargs):
    return openai.AsyncOpenAI(base_url=f"{url}/v1", **{"api_key": "unused", "max_retries": 0, "timeout": 120, **kwargs})


def metrics(url):
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(fairtrial_\S+) (\S+)$", text, re.M)}


def metrics_when(url, holds, within_s=20.0):
    """The metrics as soon as `holds(metrics)`; fails where that takes too long."""
    deadline = time.monotonic() + within_s
    while not holds(seen := metrics(url)):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen


def scripted(**table):
    return open_model({"kind": "scripted", **table}, Path())


def native(folder, **table):
    return open_model({"kind": "native", "path": str(folder), "context": 512, **table}, Path())


def post(url, body, route="chat/completions", **headers):
    """Status, decoded body and headers of a raw request; `body` is bytes, or JSON to be."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/v1/{route}", data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


USER = [{"role": "user", "content": "hi"}]
CALL = {"text": "I call.", "reasoning": "why not", "tool_calls": [{"name": "add", "arguments": {"a": 1, "b": "é"}}]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def two_turns():
    """A server whose model calls a tool, and then says so."""
    with served(scripted(replies=[CALL, "It is dône."], context=2_000_000)) as url:
        yield url


def test_models_are_listed(two_turns):
    api = client(two_turns)
    assert [model.id for model in api.models.list()] == ["scripted"]
    assert api.models.retrieve("scripted").id == "scripted"
    with pytest.raises(openai.NotFoundError, match="no such model"):
        api.models.retrieve("other")
    with urllib.request.urlopen(f"{two_turns}/health") as response:
        assert json.load(response) == {"status": "ok", "model": "scripted"}


def test_tools_ids_and_logprobs_over_two_turns(two_turns):
    api, messages = client(two_turns), list(USER)
    extra = {"return_token_ids": True}
    first = api.chat.completions.create(
        model="scripted", messages=messages, tools=TOOLS, logprobs=True, extra_body=extra
    )
    choice = first.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I call.")
    assert choice.message.reasoning_content == "why not"
    call = choice.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1, "b": "é"})
    tokens = choice.logprobs.content
    assert len(tokens) == len(choice.token_ids) == first.usage.completion_tokens
    assert bytes(b for token in tokens for b in token.bytes) == bytes(i for i in choice.token_ids if i < 256)
    assert byte_chat.read_turn(choice.token_ids).text == choice.message.content
    # the message goes back as the SDK gives it: its ids come along, so nothing is tokenised again
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "3"}]
    second = api.chat.completions.create(model="scripted", messages=messages, tools=TOOLS, extra_body=extra)
    assert second.choices[0].message.content == "It is dône."
    before = first.prompt_token_ids + choice.token_ids
    assert second.prompt_token_ids[: len(before)] == before


def test_streaming_gives_the_same_as_not_streaming(two_turns):
    api = client(two_turns)
    asked = {"model": "scripted", "messages": USER, "tools": TOOLS, "logprobs": True}
    whole = api.chat.completions.create(**asked, extra_body={"return_token_ids": True})
    chunks = list(
        api.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}, extra_body={"return_token_ids": True}
        )
    )
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert len(deltas) > 2
    assert "".join(d.delta.content or "" for d in deltas) == whole.choices[0].message.content
    assert "".join(getattr(d.delta, "reasoning_content", "") or "" for d in deltas) == "why not"
    assert [i for d in deltas for i in d.token_ids] == whole.choices[0].token_ids
    assert len([t for d in deltas if d.logprobs for t in d.logprobs.content]) == len(whole.choices[0].token_ids)
    assert deltas[-1].finish_reason == "tool_calls"
    function = deltas[-1].delta.tool_calls[0].function
    assert function.arguments == whole.choices[0].message.tool_calls[0].function.arguments
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    with api.chat.completions.stream(model="scripted", messages=USER, tools=TOOLS) as stream:
        final = stream.get_final_completion().choices[0]  # the SDK's own accumulator agrees
    assert final.message.content == "I call." and final.message.tool_calls[0].function.name == "add"


def test_completions_take_text_and_ids(two_turns):
    api = client(two_turns)
    text = api.completions.create(model="scripted", prompt="x", max_tokens=1000, logprobs=1, temperature=0)
    assert (text.choices[0].text, text.choices[0].finish_reason) == ("I call.", "tool_calls")
    logprobs = text.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)
    ids = api.completions.create(model="scripted", prompt=[120], max_tokens=5, extra_body={"return_token_ids": True})
    assert ids.choices[0].prompt_token_ids == [120] and len(ids.choices[0].token_ids) == 5
    pieces = api.completions.create(model="scripted", prompt="x", max_tokens=1000, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == "I call."


def test_stop_and_max_tokens(two_turns):
    api, asked = client(two_turns), {"model": "scripted", "messages": USER}
    assert api.chat.completions.create(**asked, stop="all").choices[0].message.content == "I c"
    assert api.chat.completions.create(**asked, stop=["zz", "."]).choices[0].message.content == "I call"
    assert api.chat.completions.create(**asked, max_completion_tokens=3).choices[0].finish_reason == "length"
    assert not api.chat.completions.create(**asked, tools=TOOLS, tool_choice="none").choices[0].message.refusal


def wrong(**fields):
    return {"model": "scripted", "messages": USER, **fields}


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        (b"{", 400, "not valid JSON"),
        (b"", 400, "not valid JSON"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b'{"messages": "\xff"}', 400, "not valid JSON"),
        ([], 400, "must be a JSON object"),
        ({"model": "scripted"}, 400, '"messages" is required'),
        (wrong(messages=[]), 400, "messages: is empty"),
        (wrong(messages=["hi"]), 400, "messages.0"),
        (wrong(messages=[{"role": "wizard", "content": "x"}]), 400, r"messages\[0\].role"),
        (wrong(messages=[{"role": "user", "content": 3}]), 400, r"messages\[0\].content"),
        (wrong(messages=[{"role": "tool", "content": "x"}]), 400, "tool_call_id"),
        (wrong(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), 400, "text"),
        (wrong(temperature="hot"), 400, "temperature"),
        (wrong(temperature=-1), 400, "temperature"),
        (wrong(temperature=1e999), 400, "valid JSON|temperature"),
        (wrong(max_tokens=0), 400, "max_tokens"),
        (wrong(max_tokens=True), 400, "max_tokens"),
        (wrong(stop=[3]), 400, "stop"),
        (wrong(seed=-1), 400, "seed"),
        (wrong(stream="yes"), 400, "stream"),
        (wrong(n=2), 400, "n: not supported here: one reply"),
        (wrong(logit_bias={"1": 5}), 400, "logit_bias"),
        (wrong(top_logprobs=5, logprobs=True), 400, "top_logprobs"),
        (wrong(tools=[{"type": "function"}]), 400, r"tools\[0\]"),
        (wrong(tools=TOOLS, tool_choice="required"), 400, "tool_choice"),
        (wrong(response_format={"type": "json_object"}), 400, "json_schema"),
        (wrong(max_token=5), 400, 'did you mean "max_tokens"'),
        (wrong(model=7), 400, "model"),
        (wrong(model="gpt"), 404, '"gpt" is not served here; "scripted" is'),
    ],
)
def test_bad_requests_get_one_clear_line(two_turns, body, status, names):
    got, answer, _ = post(two_turns, body)
    error = answer["error"]
    assert got == status and re.search(names, error["message"]), answer
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert "\n" not in error["message"] and len(error["message"]) < 400


def test_other_bad_requests(two_turns):
    assert post(two_turns, wrong(), **{"content-type": "text/plain"})[0] == 415
    assert post(two_turns, wrong(), Host="attacker.example")[0] == 403
    assert post(two_turns, {"prompt": ["a", "b"]}, "completions")[1]["error"]["param"] == "prompt"
    assert post(two_turns, {"prompt": "a", "echo": True}, "completions")[1]["error"]["param"] == "echo"
    assert post(two_turns, {"prompt": [999]}, "completions")[0] == 400
    status, body, _ = post(two_turns, {}, "embeddings")
    assert status == 404 and body["error"]["message"]


def test_a_prompt_of_a_megabyte_is_answered(two_turns):
    reply = client(two_turns).chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "é" * 500_000}]
    )
    assert reply.usage.prompt_tokens == 1_000_003 and reply.choices[0].message.content == "I call."


def test_a_prompt_beyond_the_context_and_a_body_beyond_the_limit_are_refused():
    with served(scripted(replies=["x"], context=100), max_body=10_000) as url:
        with pytest.raises(openai.BadRequestError) as caught:
            client(url).chat.completions.create(model="scripted", messages=[{"role": "user", "content": "y" * 200}])
        assert caught.value.code == "context_length_exceeded" and "takes 100" in str(caught.value)
        with pytest.raises(openai.APIStatusError) as caught:
            client(url).chat.completions.create(model="scripted", messages=[{"role": "user", "content": "y" * 20_000}])
        assert caught.value.status_code == 413 and "10000 bytes" in str(caught.value)
        assert client(url).chat.completions.create(model="scripted", messages=USER).choices[0].message.content == "x"


def test_the_key_is_needed_and_never_shown(capfd):
    key = "sk-correct-horse"
    with served(scripted(replies=["x"]), api_key=key) as url:
        seen = []
        for headers in ({}, {"Authorization": f"Bearer {key}x"}, {"Authorization": f"Basic {key}"}):
            status, body, answered = post(url, wrong(), **headers)
            assert status == 401
            seen += [body, answered.items()]
        for path in ("v1/models", "metrics"):
            with pytest.raises(urllib.error.HTTPError, match="401") as caught:
                urllib.request.urlopen(f"{url}/{path}")
            seen.append(caught.value.read())
        assert client(url, api_key=key).chat.completions.create(model="scripted", messages=USER).choices
    assert "horse" not in f"{seen} {capfd.readouterr()}"


SLOW = {"replies": ["slow " * 100], "seconds_per_token": 0.1}


def raw(url, body):
    """A connection on which a request has been sent."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_slot_and_its_place_in_the_queue(stream):
    running, waiting = "fairtrial_requests_running", "fairtrial_requests_waiting"
    gone = 'fairtrial_requests_total{route="chat",status="499"}'
    with served(scripted(**SLOW), concurrency=1, queue=1) as url:
        first = raw(url, wrong(stream=stream))
        metrics_when(url, lambda seen: seen[running] == 1)
        second = raw(url, wrong(stream=stream))
        metrics_when(url, lambda seen: seen[waiting] == 1)
        status, body, headers = post(url, wrong())
        assert (status, body["error"]["code"], headers["retry-after"]) == (429, "queue_full", "1")
        second.close()
        metrics_when(url, lambda seen: seen[waiting] == 0 and seen.get(gone) == 1)
        first.close()
        seen = metrics_when(url, lambda seen: seen[running] == 0 and seen.get(gone) == 2)
        assert seen['fairtrial_tokens_total{kind="completion"}'] == 0
        reply = client(url).chat.completions.create(model="scripted", messages=USER, max_tokens=2)
        assert reply.choices[0].message.content == "sl"


async def fifty(url, name, asked, extra):
    """The token ids and texts of fifty requests at once, every other one streamed."""
    async with async_client(url) as api:

        async def one(index):
            create = api.chat.completions.create
            fields = {"model": name, "messages": asked[index], "seed": index, "extra_body": extra, "max_tokens": 40}
            if index % 2:
                choice = (await create(**fields)).choices[0]
                return choice.token_ids, choice.message.content
            ids, text = [], ""
            async for chunk in await create(**fields, stream=True):
                ids += chunk.choices[0].token_ids
                text += chunk.choices[0].delta.content or ""
            return ids, text

        return await asyncio.gather(*(one(index) for index in range(50)))


def test_fifty_requests_at_once_each_get_their_own_tokens():
    rules = [{"matches": r"number (\d+)", "text": "this is for {1}, {1} and {1}"}]
    with served(scripted(rules=rules, seconds_per_token=0.005), concurrency=20) as url:
        asked = [[{"role": "user", "content": f"number {index}"}] for index in range(50)]
        replies = asyncio.run(fifty(url, "scripted", asked, {"return_token_ids": True}))
        assert metrics(url)["fairtrial_requests_running"] == 0
    for index, (ids, text) in enumerate(replies):
        assert text == f"this is for {index}, {index} and {index}"
        assert byte_chat.decode(ids) == text


def test_a_native_model_gives_fifty_clients_what_each_would_get_alone(native_folder):
    contents = [f"question {index}" + "?" * (index % 7) for index in range(50)]
    alone, sampling = native(native_folder, exact=True), Sampling(max_tokens=40)
    with served(native(native_folder, exact=True)) as url:
        asked = [[{"role": "user", "content": content}] for content in contents]
        replies = asyncio.run(fifty(url, native_folder.name, asked, {"return_token_ids": True}))

    async def one_by_one():
        for index in range(0, 50, 7):
            message = Message(role="user", content=contents[index])
            reply = await alone.generate(
                Request(messages=(message,), sampling=sampling.model_copy(update={"seed": index}))
            )
            assert tuple(replies[index][0]) == reply.completion_ids, index
            assert replies[index][1] == reply.text, index
        await alone.close()

    asyncio.run(one_by_one())
    assert len({tuple(ids) for ids, _ in replies}) > 40


def test_a_native_conversation_over_http_is_never_tokenised_again(native_folder):
    with served(native(native_folder)) as url:
        messages, before = list(USER), []
        for turn in range(4):
            reply = client(url).chat.completions.create(
                model=native_folder.name,
                messages=messages,
                max_tokens=20,
                seed=turn,
                extra_body={"return_token_ids": True},
            )
            assert reply.prompt_token_ids[: len(before)] == before
            before = reply.prompt_token_ids + reply.choices[0].token_ids
            messages += [reply.choices[0].message, {"role": "user", "content": "and then?"}]


def endless(folder, to):
    """The model whose likeliest token is never the one that ends a reply."""
    model, tokenizer = hub.load(folder), Tokenizer.load(folder / "tokenizer.json")
    head = model.model.embed_tokens if model.lm_head is None else model.lm_head
    head.weight.data[tokenizer.special("<|end|>")] = 0
    hub.save(model, to)
    tokenizer.save(to / "tokenizer.json")
    return to


def test_a_native_model_refuses_a_megabyte_and_cancels(native_folder, tmp_path):
    running = "fairtrial_requests_running"
    native_folder = endless(native_folder, tmp_path / "endless")
    with served(native(native_folder, context=100_000), concurrency=1) as url:
        with pytest.raises(openai.BadRequestError) as caught:
            client(url).chat.completions.create(
                model=native_folder.name, messages=[{"role": "user", "content": "words " * 170_000}]
            )
        assert caught.value.code == "context_length_exceeded"
        long = raw(
            url, {"model": native_folder.name, "messages": USER, "stream": True, "max_tokens": 90_000, "temperature": 0}
        )
        metrics_when(url, lambda seen: seen[running] == 1)
        long.close()
        metrics_when(url, lambda seen: seen[running] == 0)
        reply = client(url).chat.completions.create(
            model=native_folder.name, messages=USER, max_tokens=3, logprobs=True, temperature=0.7
        )
        tokens = reply.choices[0].logprobs.content
        assert 1 <= len(tokens) <= 3 and all(token.logprob <= 0 for token in tokens)


def test_failures_of_the_model_are_told_as_what_they_are():
    faults = [
        {"kind": "rate_limit", "calls": [1], "seconds": 7},
        {"kind": "server_error", "calls": [2]},
        {"kind": "truncated", "calls": [3, 4]},
    ]
    with served(scripted(replies=["a long enough reply"], faults=faults)) as url:
        ask = client(url).chat.completions.create
        with pytest.raises(openai.RateLimitError) as limited:
            ask(model="scripted", messages=USER)
        assert limited.value.response.headers["retry-after"] == "7"
        with pytest.raises(openai.InternalServerError, match="the provider failed"):
            ask(model="scripted", messages=USER, stream=True)
        with pytest.raises(openai.InternalServerError, match="broke off"):
            ask(model="scripted", messages=USER)
        with pytest.raises(openai.APIError, match="broke off"):
            list(ask(model="scripted", messages=USER, stream=True))
        patient = client(url, max_retries=2)
        assert patient.chat.completions.create(model="scripted", messages=USER).choices[0].finish_reason == "stop"
        assert metrics(url)['fairtrial_requests_total{route="chat",status="503"}'] == 3


def test_a_server_of_an_endpoint_that_is_a_server_gives_the_same_reply(monkeypatch):
    monkeypatch.setenv("RELAY_KEY", "k")
    asked = wrong(tools=TOOLS, logprobs=True, return_token_ids=True)
    with served(scripted(replies=[CALL])) as near:
        endpoint = {"name": "scripted", "base_url": f"{near}/v1", "api_key_env": "RELAY_KEY"}
        relay = open_model({"kind": "openai", **endpoint, "logprobs": "ask", "ids": "ask"}, Path())
        with served(relay) as far:
            (_, first, _), (status, second, _) = post(near, asked), post(far, asked)
            assert status == 200
            assert second["choices"] == first["choices"] and second["usage"] == first["usage"]
            assert second["prompt_token_ids"] == first["prompt_token_ids"]


class Broken:
    """A model with a bug."""

    name, features, context = "broken", frozenset(), None

    async def generate(self, request, *, on_delta=None, timer=None):
        raise KeyError("what the user said")

    async def close(self):
        pass


def test_a_bug_is_told_by_its_class_and_the_server_goes_on():
    with served(Broken()) as url:
        for _ in range(2):
            status, body, _ = post(url, wrong(model="broken"))
            assert (status, body["error"]["code"]) == (500, "internal_error")
            assert "KeyError" in body["error"]["message"] and "user said" not in body["error"]["message"]
        assert "return_token_ids" in post(url, wrong(model="broken", return_token_ids=True))[1]["error"]["message"]


VERB = """
import sys, typer
from fairtrial.app import serving
from fairtrial.core.errors import FairtrialError
app = typer.Typer()
app.callback()(lambda: None)
serving.register(app)
try:
    app(["serve", *sys.argv[1:]], standalone_mode=False)
except FairtrialError as error:
    sys.exit(str(error))
"""


def verb(*args, **env):
    return subprocess.Popen(
        [sys.executable, "-c", VERB, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env}
    )


def test_the_verb_serves_and_a_signal_lets_requests_end(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"replies": ["word " * 8], "seconds_per_token": 0.03}))
    process = verb(
        f"scripted:{tmp_path / 's.json'}",
        "--port",
        "0",
        "--json",
        "--name",
        "mine",
        "--api-key-env",
        "K",
        "--set",
        "context=500",
        K="k1",
    )
    told = json.loads(process.stdout.readline())
    api = client(told["url"].removesuffix("/v1"), api_key="k1")
    stream = api.chat.completions.create(model="mine", messages=USER, stream=True)
    next(stream)
    with pytest.raises(openai.BadRequestError, match="takes 500"):
        api.chat.completions.create(model="mine", messages=[{"role": "user", "content": "x" * 600}])
    process.send_signal(signal.SIGTERM)
    rest = [chunk.choices[0] for chunk in stream]
    assert rest[-1].finish_reason == "stop"
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, b"k1" in errors, b"Traceback" in errors) == (0, False, False), errors


def test_the_verb_refuses_in_one_line(tmp_path):
    taken = listening.listen("127.0.0.1", 0)
    port = str(taken.getsockname()[1])
    (tmp_path / "s.json").write_text('["x"]')
    model = f"scripted:{tmp_path / 's.json'}"
    cases = [
        ((model, "--port", port), "choose another --port"),
        ((model, "--port", "0", "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        ((model, "--port", "0", "--host", "no.such.host.invalid"), "--host"),
        (("scrpted:x", "--port", "0"), 'did you mean "scripted"'),
        (("scripted:nowhere.toml", "--port", "0"), "no such file"),
        ((model, "--port", "0", "--set", "contxt=5"), 'did you mean "context"'),
    ]
    running = [(verb(*args), message) for args, message in cases]
    for process, message in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1 and message in errors.decode() and b"Traceback" not in errors, errors
    taken.close()
