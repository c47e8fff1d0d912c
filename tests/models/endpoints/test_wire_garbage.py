"""Whatever JSON a server sends, a reader makes a reply of it or says that the try failed; it never breaks."""

from __future__ import annotations

import contextlib
import copy
import json
from datetime import UTC, datetime

from fault_server import anthropic_blocks, chunk, echoed, logprob_content, openai_whole, tool_fragments
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.models.endpoints.anthropic_wire import AnthropicReader
from fairtrial.models.endpoints.echo import echo_score
from fairtrial.models.endpoints.failures import FilteredError, Whose, from_error_object, from_status
from fairtrial.models.endpoints.openai_wire import OpenAIReader
from fairtrial.models.endpoints.retrying import TryFailedError
from fairtrial.models.endpoints.transport import Events
from fairtrial.models.model import Pair, UnsupportedError

JUNK = st.sampled_from(
    [None, 0, -1, 2.5, True, "", "x", [], [None], [1, "a"], {}, {"a": 1}, float("nan"), 10**30, 10**400]
).map(copy.deepcopy)
FULL = {"logprobs": 1, "return_token_ids": True}
WHOLES = [openai_whole("ok", FULL), openai_whole("tools", {}), openai_whole("refusal", {})]
WHOLES += [{"choices": [echoed("ok", "some text to score")]}]
CHUNKS = [*tool_fragments(), chunk({"content": "a"}, choice={"token_ids": [1], "logprobs": logprob_content((-1.0,))})]
USAGE = {"input_tokens": 3, "cache_read_input_tokens": 1, "output_tokens": 1}
ANTHROPIC = [{"content": anthropic_blocks(n), "usage": USAGE, "stop_reason": "x"} for n in ("ok", "tools", "thinking")]
EVENTS = [
    {"type": "message_start", "message": {"usage": USAGE, "model": "m"}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "i", "name": "n"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
]


def places(value, path=()):
    """Every place inside a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def spoiled(draw, samples):
    """One of the samples, with junk at one or two of its places."""
    value = json.loads(json.dumps(draw(st.sampled_from(samples))))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from([place for place in places(value) if place]))
        target = value
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = draw(JUNK)
    return value


def finish(reader):
    reader.message()
    reader.finish()
    assert reader.usage(None)[0].tokens >= 0
    reader.tokens()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spoiled_replies(data):
    for make, samples in ((OpenAIReader, WHOLES), (AnthropicReader, ANTHROPIC)):
        reader = make()
        try:
            reader.whole(spoiled(data.draw, samples))
        except TryFailedError as error:
            assert error.cause in ("bad_response", "server_error")
            continue
        finish(reader)
        if isinstance(reader, OpenAIReader):
            assert reader.logprobs is None or reader.ids is None or len(reader.ids) == len(reader.logprobs)
            with contextlib.suppress(UnsupportedError):
                echo_score(reader.echoed, Pair("some text", " to score"), "m")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spoiled_streams(data):
    for make, samples in ((OpenAIReader, CHUNKS), (AnthropicReader, EVENTS)):
        reader = make()
        try:
            for _ in range(3):
                reader.piece(spoiled(data.draw, samples))
        except TryFailedError:
            continue
        finish(reader)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([400, 401, 404, 409, 413, 429, 500, 529]), JUNK, JUNK, JUNK)
def test_spoiled_errors(status, error, code, message):
    known = Whose("m", None, "key", "KEY")
    for body in (error, {"error": error}, {"error": {"code": code, "type": code, "message": message}}):
        found = from_status(status, {}, json.dumps(body), now=datetime.now(UTC), whose=known)
        assert isinstance(found, TryFailedError | FilteredError | UserError)
    assert isinstance(from_error_object(error, whose=known), TryFailedError | UserError)


@given(st.lists(st.text(max_size=20), max_size=8), st.data())
def test_events_are_cut_alike_wherever_the_network_cuts(texts, data):
    wanted = [json.dumps({"t": text}, ensure_ascii=False) for text in texts]
    raw = b"".join(b": ping\r\n\r\nevent: x\ndata: " + text.encode() + b"\n\n" for text in wanted)
    events, found, at = Events(), [], 0
    while at < len(raw):
        size = data.draw(st.integers(1, 40))
        found += events.feed(raw[at : at + size])
        at += size
    assert found == wanted
