"""Responses rows are written as they were read, item types of any kind included."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import any_text, json_values, rows

from fairtrial.formats.format import Notes, RowError, check, decode
from fairtrial.formats.openai_responses import OPENAI_RESPONSES
from fairtrial.formats.responses_items import SPECIAL


def read(value):
    notes = Notes()
    return decode(OPENAI_RESPONSES, value, notes), notes


def write(row):
    notes = Notes()
    (value,) = OPENAI_RESPONSES.encode(row, notes)
    return value, notes


def parsed(value):
    """The value with the arguments of function calls parsed, so that white space in them does not count."""
    if isinstance(value, list):
        return [parsed(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    value = {key: parsed(inner) for key, inner in value.items()}
    if isinstance(value.get("arguments"), str):
        try:
            return {**value, "arguments": ["parsed", json.loads(value["arguments"])]}
        except ValueError:
            return value
    return value


def thought(*texts, **more):
    return {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": t} for t in texts], **more}


def said(text, **more):
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part], **more}


def call(call_id, name="ls", arguments='{"path": "/"}'):
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": name, "arguments": arguments}


def result(call_id, output="a.txt"):
    return {"type": "function_call_output", "call_id": call_id, "output": output}


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "model": "m-1",
    "status": "completed",
    "instructions": "Be brief.",
    "tools": [
        {"type": "function", "name": "ls", "parameters": {"type": "object"}, "strict": True},
        {"type": "web_search"},
    ],
    "metadata": {"run": "7"},
    "input": [
        {"role": "user", "content": "List."},
        thought("I look.", encrypted_content="gAAA"),
        said("Looking."),
        call("c1"),
        call("c2"),
        result("c2", "b"),
        result("c1"),
    ],
    "output": [thought(), said("Two files.")],
    "usage": {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}},
    "previous_response_id": None,
}


def test_a_response_reads_as_a_trajectory():
    row, notes = read(RESPONSE)
    system, user, first, second, b, a, answer = row["content"]
    assert system["content"] == "Be brief." and user["content"] == "List."
    assert first["description"] == "Looking." and first["reasoning"] == "I look." and first["kwargs"] == {"path": "/"}
    assert second["joined"] and "description" not in second
    assert (b["call_id"], b["content"], b["name"]) == ("c2", "b", "ls") and a["call_id"] == "c1"
    assert answer["content"] == "Two files." and answer["model_call"] == 0 and "model_call" not in first
    assert row["id"] == "resp_1" and row["details"] == {"run": "7"} and not notes.flaws
    assert row["tools"][0]["function"]["name"] == "ls" and row["tools"][1] == {"type": "web_search"}
    usage = {"calls": 1, "input_tokens": 9, "output_tokens": 3, "cached_tokens": 4}
    assert row["model_calls"] == [{"model": "m-1", "usage": usage, "finish_reason": "completed"}]


ITEMS = {
    "parts": [
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
                {"type": "input_file", "file_id": "f"},
            ],
        },
        {"role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        {"role": "assistant", "content": "easy"},
        said("a", content=[{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}]),
    ],
    "reasoning": [
        thought("a", "b"),
        thought(content=[{"type": "reasoning_text", "text": "c"}]),
        call("c"),
        result("c", [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": "https://x.org/a.png"}]),
        said("x"),
        thought("between"),
        call("d", arguments=""),
        thought("last"),
    ],
    "custom": [
        {"type": "custom_tool_call", "call_id": "p", "name": "apply_patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "p", "output": "Done"},
        {
            "type": "local_shell_call",
            "call_id": "s",
            "action": {"type": "exec", "command": ["ls"]},
            "status": "completed",
        },
        {"type": "local_shell_call_output", "id": "s", "output": '{"stdout": ""}'},
        {"type": "computer_call", "call_id": "k", "action": {"type": "click", "x": 1}},
        {
            "type": "computer_call_output",
            "call_id": "k",
            "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AA=="},
        },
    ],
    "provider's own": [
        {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "file_search_call", "id": "fs", "queries": ["q"], "results": [{"text": "found"}]},
        {"type": "mcp_list_tools", "server_label": "s", "tools": []},
        {"type": "mcp_call", "id": "m", "name": "roll", "arguments": '{"n": 2}', "server_label": "s", "output": "7"},
        {"type": "image_generation_call", "id": "ig", "status": "completed", "result": "AAAA"},
        {"type": "code_interpreter_call", "id": "ci", "code": "1+1", "outputs": None},
        said("done"),
    ],
    "others": [{"type": "compaction", "encrypted_content": "x"}, {"type": "hologram", "z": 1}, {"id": "i"}],
    "odd": [
        {"type": "function_call", "name": None, "arguments": None},
        {"type": "function_call", "call_id": 4, "name": "f", "arguments": "{bad"},
        {"type": "function_call_output", "call_id": "none"},
        said("", content=[]),
        {"role": "user", "content": {"type": "input_text", "text": "one"}},
    ],
}


@pytest.mark.parametrize("items", ITEMS.values(), ids=ITEMS.keys())
def test_items_of_every_kind_are_written_as_they_were_read(items):
    for value in ({"input": items, "id": "x"}, items, {"object": "response", "id": "x", "output": items, "model": "m"}):
        assert parsed(write(read(value)[0])[0]) == parsed(value)


def test_what_the_provider_ran_is_seen_as_call_and_result():
    row, _ = read(ITEMS["provider's own"])
    functions = [item["function"] for item in row["content"] if item["class_"] == "api_action"]
    assert functions == ["web_search", "file_search", "roll", "image_generation", "code_interpreter"]
    roll = next(item for item in row["content"] if item.get("function") == "roll")
    assert roll["kwargs"] == {"n": 2} and row["content"][row["content"].index(roll) + 1]["content"] == "7"
    (image,) = [item for item in row["content"] if item["class_"] == "image_observation"]
    assert image["content"] == "data:image/png;base64,AAAA"


SHAPES = {
    "response": RESPONSE,
    "text input": {"input": "hello", "model": "m", "instructions": None},
    "empty": {"id": "r", "input": [], "output": [], "tools": []},
    "null input": {"input": None, "output": [said("x")]},
    "log": {"request": {"input": "hi", "model": "m", "instructions": "s"}, "response": RESPONSE, "ms": 3},
    "failed": {"request": {"input": "hi"}, "response": {"error": "e"}},
    "unanswered": {"request": {"input": [call("c")]}, "response": None},
}


@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES.keys())
def test_rows_of_every_shape_are_written_as_they_were_read(value):
    assert parsed(write(read(value)[0])[0]) == parsed(value)


def test_defects_are_named_and_survived():
    _, notes = read([call("a", arguments="{'x'"), call("a"), result("b"), {"type": "hologram"}])
    codes = [code for code, _ in notes.flaws]
    assert codes == ["malformed arguments", "repeated call id", "result without a call", "unknown item"]
    for value in (3, {"messages": []}, {"input": 4}, {"input": [4]}):
        with pytest.raises(RowError):
            read(value)


@given(
    rows(
        code=False,
        web=False,
        errors=False,
        timestamps=False,
        model_calls=False,
        rewards=False,
        reward=False,
        developer=True,
        shuffled=True,
        result_images=True,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_row_that_items_can_hold_survives(row):
    value, notes = write(row)
    back, told = read(json.loads(json.dumps(value)))
    assert back == row
    assert not notes.dropped and not notes.rewritten and not notes.invented
    assert {code for code, _ in told.flaws} <= {"malformed arguments"}


_text = st.one_of(any_text, json_values)
_parts = st.one_of(
    st.builds(
        lambda kind, text, rest: {"type": kind[0], kind[1]: text, **rest},
        st.sampled_from(
            [("output_text", "text"), ("input_text", "text"), ("refusal", "refusal"), ("input_image", "image_url")]
        ),
        _text,
        st.dictionaries(st.sampled_from(["annotations", "detail"]), json_values, max_size=1),
    ),
    json_values,
)
_values = st.builds(
    lambda kind, fields: kind | fields,
    st.one_of(
        st.sampled_from(["function_call", "function_call_output", "reasoning", "message", "x", *sorted(SPECIAL)]).map(
            lambda kind: {"type": kind}
        ),
        st.sampled_from(["user", "assistant", "assistant", "system", "developer", "z"]).map(
            lambda role: {"role": role, "type": "message"}
        ),
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "id": any_text,
            "call_id": st.one_of(st.sampled_from(["a", "b"]), json_values),
            "name": _text,
            "arguments": st.one_of(_text, st.just("{}")),
            "output": st.one_of(_text, st.lists(_parts, max_size=3)),
            "content": st.one_of(_text, st.lists(_parts, max_size=3)),
            "summary": st.one_of(_text, st.lists(_text.map(lambda t: {"type": "summary_text", "text": t}), max_size=2)),
            "result": _text,
            "input": _text,
            "action": _text,
            "status": st.just("completed"),
        },
    ),
)


@given(st.lists(_values, max_size=5))
@settings(max_examples=400, deadline=None)
def test_any_list_of_items_is_written_as_it_was_read(items):
    row, _ = read({"id": "x", "input": items})
    check(row)
    assert parsed(write(row)[0]) == parsed({"id": "x", "input": items})


def test_detection():
    assert OPENAI_RESPONSES.likes(RESPONSE) > 95 and OPENAI_RESPONSES.likes(SHAPES["log"]) > 85
    assert OPENAI_RESPONSES.likes({"input": ITEMS["custom"]}) > 80
    assert OPENAI_RESPONSES.likes({"messages": [{"role": "user", "content": "x"}]}) == 0
    assert OPENAI_RESPONSES.likes([]) == OPENAI_RESPONSES.likes(None) == OPENAI_RESPONSES.likes({"input": 3}) == 0
    assert OPENAI_RESPONSES.likes({"input": {"question": "x"}, "output": {"answer": "y"}}) == 0
