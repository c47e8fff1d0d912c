"""OpenAI's JSON, read and written: whatever comes in, a request or one clear line; what goes out adds up."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import InfraError, UserError
from fairtrial.core.limits import Usage
from fairtrial.models.model import Delta, Message, Reply
from fairtrial.models.serving import answers
from fairtrial.models.serving.wire import Asked, WireError, read_chat, read_completion

FIELDS = [
    *("model", "messages", "prompt", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k", "stop"),
    *("seed", "logprobs", "top_logprobs", "response_format", "stream", "stream_options", "n", "logit_bias", "echo"),
]
INNER = [
    *("role", "content", "tool_calls", "function", "name", "arguments", "id", "type", "text", "token_ids"),
    "schema",
]
WORDS = ["system", "user", "assistant", "tool", "auto", "none", "function", "text", "json_schema", "json_object", "x"]
leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=4)
)
value = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(INNER), inner, max_size=6),
    max_leaves=12,
)
body = st.dictionaries(st.sampled_from(FIELDS), value, max_size=6)


@settings(max_examples=400, deadline=None)
@given(body=body, messages=st.lists(st.dictionaries(st.sampled_from(INNER), value, max_size=5), max_size=3))
def test_any_json_is_a_request_or_a_refusal_that_names_a_field(body, messages):
    for read, given_ in ((read_chat, {**body, "messages": messages}), (read_completion, {"prompt": "x", **body})):
        try:
            assert isinstance(read(given_), Asked)
        except WireError as error:
            assert error.param or "body" in str(error), error
            assert "\n" not in str(error) and answers.failure(error)[0] == 400


@pytest.mark.parametrize("field", ["temperature", "top_p", "n", "stop", "seed", "tools", "logit_bias", "user", "audio"])
def test_null_means_not_given(field):
    plain = {"messages": [{"role": "user", "content": "x"}]}
    assert read_chat({**plain, field: None}) == read_chat(plain)


def test_what_a_conversation_holds_arrives():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "not json"}}
    asked = read_chat(
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "u", "name": "ann", "cache_control": {"type": "ephemeral"}},
                {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "token_ids": [1, 2]},
                {"role": "tool", "content": "", "tool_call_id": "c"},
            ],
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "array"}}},
            "top_k": -1,
            "stop": "\n",
        }
    )
    system, user, assistant, tool = asked.request.messages
    assert (system.role, system.content, user.name) == ("system", "ab", "ann")
    assert (assistant.tool_calls[0].arguments, assistant.token_ids, tool.tool_call_id) == ("not json", (1, 2), "c")
    sampling = asked.request.sampling
    assert (sampling.json_schema, sampling.top_k, sampling.stop) == ({"type": "array"}, 0, ("\n",))


def test_refusals_say_why():
    asked = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(WireError, match="penalties; the log-probabilities"):
        read_chat({**asked, "presence_penalty": 0.5})
    assert read_chat({**asked, "presence_penalty": 0, "n": 1, "logit_bias": {}}) == read_chat(asked)
    with pytest.raises(WireError, match="temperature 0"):
        read_chat({**asked, "logprobs": True, "top_logprobs": 1})
    assert read_chat({**asked, "logprobs": True, "top_logprobs": 1, "temperature": 0}).top == 1


REPLY = Reply(
    message=Message(role="assistant", content="aé!"),
    finish="stop",
    model="m",
    prompt_ids=(1,),
    completion_ids=(5, 6, 7, 8, 9),
    logprobs=(-1.0, -2.0, -3.0, -4.0, -5.0),
    usage=Usage(calls=1, input_tokens=1, output_tokens=5),
    token_bytes=(b"a", b"\xc3", b"\xa9", b"!", b""),
)


@pytest.mark.parametrize("streamed", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_what_was_not_streamed_comes_at_the_end(kind, streamed):
    asked = read_chat({"messages": [{"role": "user", "content": "x"}], "logprobs": True, "return_token_ids": True})
    if kind == "completion":
        asked = read_completion({"prompt": "x", "logprobs": 0, "return_token_ids": True})
    chunks = answers.Chunks(asked, "1", 0, "m")
    out = []
    for index in range(streamed):
        piece = slice(index, index + 1)
        out.append(
            chunks.delta(
                Delta(
                    text=("a", "", "é", "!")[index],
                    token_ids=REPLY.completion_ids[piece],
                    logprobs=REPLY.logprobs[piece],
                    token_bytes=REPLY.token_bytes[piece],
                )
            )
        )
    choices = [chunk["choices"][0] for chunk in json.loads(json.dumps(out + chunks.end(REPLY)))]
    texts = [choice["delta"].get("content", "") if kind == "chat" else choice["text"] for choice in choices]
    assert "".join(texts) == "aé!"
    assert [i for choice in choices for i in choice["token_ids"]] == list(REPLY.completion_ids)
    given_ = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    if kind == "chat":
        assert [entry["logprob"] for part in given_ for entry in part["content"]] == list(REPLY.logprobs)
    else:
        assert [p for part in given_ for p in part["token_logprobs"]] == list(REPLY.logprobs)
        assert [at for part in given_ for at in part["text_offset"]] == [0, 1, 1, 2, 3]


def test_tokens_without_bytes_are_named_by_their_ids():
    reply = Reply(**{f: getattr(REPLY, f) for f in ("message", "finish", "model", "completion_ids", "logprobs")})
    asked = read_chat({"messages": [{"role": "user", "content": "x"}], "logprobs": True})
    entry = answers.answer(reply, asked, "1", 0)["choices"][0]["logprobs"]["content"][0]
    assert (entry["token"], entry["bytes"]) == ("token_id:5", None)


def test_errors_have_their_status():
    limited = InfraError("slow down", cause="rate_limit", retry_after_s=2.5)
    final = InfraError("no such deployment", cause="not_found", retryable=False)
    assert answers.failure(limited)[0::2] == (429, {"retry-after": "2.5"})
    assert answers.failure(final)[0::2] == (503, {"x-should-retry": "false"})
    assert answers.failure(UserError("no"))[0] == 400
    status, told, _ = answers.failure(ValueError("secret"))
    assert status == 500 and "secret" not in json.dumps(told)
