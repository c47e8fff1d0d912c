"""OpenAI chat rows are written as they were read, whatever they hold; what is broken is said and kept."""

import contextlib
import json

import pytest
from casefiles import case
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import any_text, json_values, rows

from fairtrial.formats.chat_messages import items_of_messages, messages_of_items
from fairtrial.formats.format import Notes, RowError, check, decode
from fairtrial.formats.openai_chat import OPENAI_CHAT


def read(value):
    notes = Notes()
    return decode(OPENAI_CHAT, value, notes), notes


def write(row):
    notes = Notes()
    (value,) = OPENAI_CHAT.encode(row, notes)
    return value, notes


def parsed(value):
    """The value with every call's arguments parsed, so that white space inside them does not count."""
    if isinstance(value, list):
        return [parsed(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    value = {key: parsed(inner) for key, inner in value.items()}
    if isinstance(value.get("arguments"), str):
        with contextlib.suppress(ValueError):
            value["arguments"] = ["parsed", json.loads(value["arguments"])]
    return value


def call(id="c1", name="bash", arguments='{"command": "ls"}', **more):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "List the files."},
    {"role": "assistant", "content": "I look.", "tool_calls": [call(), call("c2", "pwd", "{}")]},
    {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
    {"role": "tool", "tool_call_id": "c2", "content": "/tmp"},
    {"role": "assistant", "content": "One file."},
]


def test_a_row_with_parallel_calls_reads_as_a_trajectory():
    tools = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]
    row, notes = read({"id": "t1", "messages": CHAT, "tools": tools, "reward": 1.0, "dataset": "d"})
    system, user, ls, pwd, result, second, answer = row["content"]
    assert (system["source"], user["source"], result["source"]) == ("system", "user", "environment")
    assert ls["description"] == "I look." and ls["kwargs"] == {"command": "ls"} and "joined" not in ls
    assert pwd["joined"] and "description" not in pwd
    assert result["name"] == "bash" and result["call_id"] == "c1" and second["name"] == "pwd"
    assert answer == {"class_": "message_action", "content": "One file."}
    assert row["id"] == "t1" and row["reward"] == 1.0 and row["tools"] == tools
    assert row["extra"]["openai-chat"]["fields"] == {"dataset": "d"} and not notes.flaws


MESSAGES = {
    "parts": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ],
        }
    ],
    "image without one": [{"role": "user", "content": [{"type": "image_url"}]}],
    "one part": [{"role": "user", "content": [{"type": "text", "text": "look"}], "name": "ann"}],
    "image by url only": [{"role": "user", "content": [{"type": "image", "url": "https://example.org/a.png"}]}],
    "marked part": [{"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "x"}}]}],
    "assistant parts": [
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": [call()]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ],
    "refusal": [{"role": "assistant", "content": None, "refusal": "I can not."}],
    "log fields": [{"role": "assistant", "content": "a", "refusal": None, "annotations": [], "audio": None}],
    "audio": [{"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "hello"}}],
    "reasoning": [
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
        {"role": "assistant", "content": "a", "reasoning": "r", "reasoning_details": [{"type": "text"}]},
        {"role": "assistant", "content": None, "reasoning": "r", "reasoning_content": "q", "tool_calls": [call()]},
    ],
    "custom call": [
        {"role": "assistant", "tool_calls": [{"id": "x", "type": "custom", "custom": {"name": "sql", "input": "q"}}]},
        {"role": "tool", "tool_call_id": "x", "content": "1", "name": "sql"},
    ],
    "legacy": [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "f", "content": "1"},
    ],
    "absent and null": [
        {"role": "assistant", "tool_calls": [call(index=0)]},
        {"role": "tool", "tool_call_id": "c1", "content": None},
        {"role": "assistant"},
        {"role": "user", "content": []},
        {"role": "assistant", "content": "x", "tool_calls": []},
        {"role": "assistant", "content": "x", "tool_calls": None, "function_call": None},
    ],
    "odd arguments": [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                call("1", arguments=""),
                call("2", arguments=None),
                call("3", arguments={"a": {"b": None}}),
                call("4", arguments=[1]),
                call("5", arguments='{"a": '),
                {"id": "6", "type": "function", "function": {"name": "f"}},
                {"function": {"name": "f", "arguments": "{}"}},
                {"id": None, "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": 7, "type": "function", "function": {"name": None, "arguments": "{}", "x": 1}},
            ],
        }
    ],
    "weights": [
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "assistant", "content": "a", "weight": 1},
        {"role": "assistant", "content": "a", "weight": 0.5},
    ],
    "unknown roles": [{"role": "ipython", "content": "1"}, {"role": "human", "content": "q"}],
    "speakers": [{"role": "user", "name": "environment", "content": "booted"}, {"role": "developer", "content": "d"}],
    "foreign content": [{"role": "user", "content": {"a": 1}}, {"role": "assistant", "content": 3}],
    "loose results": [{"role": "tool", "content": "x"}, {"role": "tool", "tool_call_id": "zz", "content": "y"}],
}


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES.keys())
def test_unusual_messages_are_written_as_they_were_read(messages):
    row, _ = read({"id": "r", "messages": messages})
    assert parsed(write(row)[0]) == parsed({"id": "r", "messages": messages})


LOG = {
    "request": {"model": "m", "messages": CHAT[:2], "temperature": 0.5, "metadata": {"run": "1"}},
    "response": {
        "id": "chatcmpl-1",
        "model": "m-2026",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "hi"},
                "logprobs": {"content": [{"token": "hi", "logprob": -0.5}]},
                "token_ids": [9],
            }
        ],
        "prompt_token_ids": [1, 2],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    },
    "latency": 0.3,
}
ROWS = {
    "list": CHAT,
    "fine-tune": {"messages": CHAT, "tools": [], "parallel_tool_calls": False},
    "numbered": {"id": 7, "messages": CHAT, "reward": 0, "metadata": {"a": [1]}},
    "functions": {"messages": CHAT, "functions": [{"name": "f", "parameters": {}}]},
    "empty id": {"id": "", "messages": [], "tools": None, "metadata": {}},
    "log": LOG,
    "answered": {"messages": CHAT[:2], **LOG["response"]},
    "failed": {"request": LOG["request"], "response": {"error": {"message": "overloaded"}}},
    "unanswered": {"request": LOG["request"], "response": None},
    "no response": {"request": LOG["request"]},
    "two choices": {"messages": CHAT[:2], "choices": LOG["response"]["choices"] * 2},
}


@pytest.mark.parametrize("value", ROWS.values(), ids=ROWS.keys())
def test_rows_of_every_shape_are_written_as_they_were_read(value):
    row, _ = read(value)
    assert parsed(write(row)[0]) == parsed(value)


def test_a_logged_completion_carries_its_model_call():
    row, notes = read(LOG)
    assert row["id"] == "chatcmpl-1" and row["details"] == {"run": "1"} and not notes.flaws
    answer = row["content"][-1]
    assert answer["content"] == "hi" and answer["model_call"] == 0
    made = row["model_calls"][0]
    assert made["model"] == "m-2026" and made["finish_reason"] == "stop" and made["sampling"] == {"temperature": 0.5}
    assert made["usage"] == {"calls": 1, "input_tokens": 2, "output_tokens": 1, "cached_tokens": 1}
    assert check(row).prompt_ids(0) == (1, 2) and made["completion_ids"] == [9] and made["logprobs"] == [-0.5]


def test_defects_are_named_and_survived():
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call("a", arguments="{'x': 1}"), call("a")]},
        {"role": "tool", "tool_call_id": "b", "content": "lost"},
        {"role": "critic", "content": "hm"},
    ]
    row, notes = read(messages)
    codes = [code for code, _ in notes.flaws]
    assert codes == ["malformed arguments", "repeated call id", "result without a call", "unknown role"]
    assert row["content"][0]["malformed"] == "{'x': 1}" and row["content"][2]["content"] == "lost"
    assert parsed(write(row)[0]) == parsed(messages)


@pytest.mark.parametrize(
    "value",
    [
        3,
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"messages": [{"content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": [3]}]},
        {"prompt": "x"},
    ],
)
def test_what_is_no_chat_is_refused(value):
    with pytest.raises(RowError):
        read(value)


def test_a_row_without_an_id_gets_the_same_one_each_time():
    first, second = read({"messages": CHAT})[0], read({"messages": CHAT})[0]
    assert first["id"] == second["id"] and first["id"].startswith("openai-chat-")
    assert read({"messages": CHAT[:2]})[0]["id"] != first["id"]


def test_weights_are_the_loss():
    row, _ = read([{"role": "assistant", "content": "a", "weight": 0}, {"role": "assistant", "content": "b"}])
    assert [item.get("loss") for item in row["content"]] == [False, None]
    content = [{"class_": "message_action", "content": "copied", "loss": False}]
    assert write({"id": "x", "content": content})[0]["messages"][0]["weight"] == 0


def test_calls_without_ids_get_ids_and_results_answer_them_in_order():
    content = [
        {"class_": "api_action", "function": "f", "kwargs": {}, "description": "go"},
        {"class_": "code_action", "language": "bash", "content": "ls", "joined": True},
        {"class_": "text_observation", "content": "1", "source": "environment"},
        {"class_": "text_observation", "content": "2", "source": "environment"},
        {"class_": "text_observation", "content": "boot", "source": "environment"},
    ]
    value, notes = write({"id": "x", "content": content})
    response, *seen = value["messages"]
    ids = [made["id"] for made in response["tool_calls"]]
    assert len(set(ids)) == 2 and [m.get("tool_call_id") for m in seen] == [*ids, None]
    assert seen[2] == {"role": "user", "name": "environment", "content": "boot"}
    assert json.loads(response["tool_calls"][1]["function"]["arguments"]) == {"code": "ls"}
    assert len(notes.invented) == 2 and ("code as a call", "ls") in notes.rewritten


def test_what_has_no_place_is_told():
    page = {"class_": "web_observation", "html": "<p>", "axtree": "[1] p", "url": "u", "reward": 1.0, "call_id": "c"}
    row = {
        "id": "x",
        "content": [{"class_": "api_action", "function": "go", "kwargs": {}, "call_id": "c", "timestamp": "t"}, page],
        "subagents": [{"id": "y"}],
        "extra": {"codex": {"a": 1}},
    }
    value, notes = write(row)
    assert value["messages"][1] == {"role": "tool", "tool_call_id": "c", "content": "u\n\n[1] p"}
    reasons = {reason for reason, _ in notes.dropped}
    assert reasons >= {"timestamp", "reward", "sub-agent's run", "extra of codex", "html beside the accessibility tree"}


def test_detection():
    assert OPENAI_CHAT.likes({"messages": CHAT}) > 60 and OPENAI_CHAT.likes(CHAT) > 60
    assert OPENAI_CHAT.likes(LOG) > 80
    assert 20 < OPENAI_CHAT.likes({"messages": CHAT[:2]}) <= 50
    blocks = [{"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "f", "input": {}}]}]
    assert OPENAI_CHAT.likes({"messages": blocks}) == 0
    assert OPENAI_CHAT.likes({"messages": [{"role": ["user"], "content": "x"}]}) == 0


@given(
    st.recursive(json_values, lambda inner: st.dictionaries(st.sampled_from(["messages", "role", "request"]), inner))
)
@settings(max_examples=60, deadline=None)
def test_detection_never_raises(value):
    assert 0 <= OPENAI_CHAT.likes(value) <= 100


HELD = rows(
    all_on=False,
    system=True,
    developer=True,
    images=True,
    apis=True,
    reasoning=True,
    parallel=True,
    call_ids=True,
    names=True,
    tools=True,
    reward=True,
    details=True,
    malformed=True,
    unanswered=True,
    empty=True,
    kwargs_nested=True,
    result_images=True,
    shuffled=True,
    consecutive=True,
    loss=True,
)


@given(HELD)
@settings(max_examples=150, deadline=None)
def test_any_row_that_a_chat_can_hold_survives(row):
    value, notes = write(row)
    back, told = read(json.loads(json.dumps(value)))
    assert back == row
    assert not notes.dropped and not notes.rewritten and not notes.invented
    assert {code for code, _ in told.flaws} <= {"malformed arguments"}


_part = st.one_of(
    any_text.map(lambda text: {"type": "text", "text": text}),
    any_text.map(lambda text: {"type": "image_url", "image_url": {"url": text}}),
    any_text.map(lambda text: {"type": "refusal", "refusal": text}),
    st.dictionaries(st.sampled_from(["type", "text", "image_url", "x"]), json_values, max_size=3),
)
_contents = st.one_of(any_text, st.none(), st.lists(_part, max_size=3), json_values)
_calls = st.builds(
    lambda function, rest: {**rest, "function": function},
    st.dictionaries(st.sampled_from(["name", "arguments", "y"]), st.one_of(any_text, st.just("{}"), json_values)),
    st.dictionaries(st.sampled_from(["id", "type", "index"]), st.one_of(st.sampled_from(["a", "b"]), json_values)),
)
_messages = st.builds(
    lambda role, content, rest: {"role": role, **content, **rest},
    st.sampled_from(["system", "user", "assistant", "tool", "function", "developer", "critic"]),
    st.dictionaries(st.just("content"), _contents),
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(any_text, st.just("environment"), st.none()),
            "tool_call_id": st.one_of(st.sampled_from(["a", "b"]), st.none(), st.just(4)),
            "tool_calls": st.one_of(st.lists(_calls, max_size=2), st.none()),
            "refusal": st.one_of(any_text, st.none()),
            "reasoning": st.one_of(any_text, json_values),
            "reasoning_content": st.one_of(any_text, st.none()),
            "weight": st.sampled_from([0, 1, 0.5, None]),
            "function_call": st.none(),
            "z": json_values,
        },
    ),
)


@given(st.lists(_messages, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_list_of_messages_is_written_as_it_was_read(messages):
    items = items_of_messages(messages, Notes())
    check({"id": "x", "content": items})
    assert parsed(messages_of_items(items, Notes())) == parsed(messages)


def test_a_genuine_set_is_written_as_it_was_read():
    for value in case("adp/swe-smith/sample_raw.json"):
        row, notes = read(value)
        assert write(row)[0] == value and not notes.flaws
        assert len(row["content"]) == len(value["messages"])
