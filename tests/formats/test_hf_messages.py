"""Hugging Face rows lose what Arrow filled in and nothing else; TRL rows train on what may be learned from."""

import json

import pytest
from hypothesis import given, settings
from strategies import rows

from fairtrial.formats.format import Notes, RowError, decode
from fairtrial.formats.hf_messages import HF_MESSAGES, TRL, TRL_PROMPT_COMPLETION


def read(value):
    notes = Notes()
    return decode(HF_MESSAGES, value, notes), notes


def write(row, format=HF_MESSAGES):
    notes = Notes()
    return list(format.encode(row, notes)), notes


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [tool("open", path={"type": "string"}), tool("find", text={"type": ["string", "null"]}, n={"type": "integer"})]
CALLS = [("c1", "open", {"path": "a.py"}), ("c2", "find", {"text": None, "n": 3})]
MESSAGES = [
    {"role": "user", "content": "look"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in CALLS],
    },
    {"role": "tool", "content": "x = 1", "tool_call_id": "c1"},
    {"role": "tool", "content": "none", "tool_call_id": "c2"},
    {"role": "assistant", "content": "done"},
]


def test_what_arrow_filled_in_is_cleared_and_a_real_null_stays():
    pa = pytest.importorskip("pyarrow")
    plain = {"id": "a", "messages": MESSAGES, "tools": [TOOLS[0], tool("find", text={"type": "string"})]}
    plain["messages"] = json.loads(json.dumps(MESSAGES).replace('"text": null, ', ""))
    (filled,) = pa.Table.from_pylist([plain]).to_pylist()
    assert filled != plain and filled["tools"][0]["function"]["parameters"]["properties"]["text"] is None
    row, notes = read(filled)
    assert row["tools"] == plain["tools"]
    assert [item["kwargs"] for item in row["content"] if "kwargs" in item] == [{"path": "a.py"}, {"n": 3}]
    assert row["content"] == read(plain)[0]["content"] and notes.dropped
    assert HF_MESSAGES.likes(filled) >= 78

    allowed, _ = read({"messages": MESSAGES, "tools": TOOLS})
    assert allowed["content"][2]["kwargs"] == {"text": None, "n": 3}


def test_tools_and_arguments_are_written_as_text():
    row, _ = read({"id": "a", "conversations": MESSAGES, "tools": TOOLS, "source": "s"})
    ((value,), _) = write(row)
    assert json.loads(value["tools"]) == TOOLS and value["source"] == "s" and value["id"] == "a"
    calls = value["conversations"][1]["tool_calls"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [arguments for _, _, arguments in CALLS]
    assert read(value)[0]["tools"] == row["tools"]


def test_bare_schemas_are_wrapped_and_broken_tools_kept():
    bare = [tool["function"] for tool in TOOLS]
    row, _ = read({"id": "a", "messages": MESSAGES, "tools": json.dumps(bare)})
    assert row["tools"] == TOOLS
    assert json.loads(write(row)[0][0]["tools"]) == bare
    row, notes = read({"id": "a", "messages": MESSAGES, "tools": "[{"})
    assert [code for code, _ in notes.flaws] == ["malformed tools"] and write(row)[0][0]["tools"] == "[{"


@given(
    rows(
        code=False,
        web=False,
        errors=False,
        timestamps=False,
        model_calls=False,
        rewards=False,
        developer=True,
        shuffled=True,
        consecutive=True,
        loss=True,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_row_that_messages_can_hold_survives(row):
    ((value,), notes) = write(row)
    assert read(json.loads(json.dumps(value)))[0] == row
    assert not notes.dropped and not notes.rewritten


def test_trl_rows_have_text_contents_and_object_arguments():
    content = [
        {"class_": "text_observation", "content": "be brief", "source": "system", "name": "developer"},
        {"class_": "text_observation", "content": "look", "source": "user"},
        {"class_": "image_observation", "content": "https://example.org/a.png", "source": "user", "joined": True},
        {"class_": "api_action", "function": "open", "kwargs": {"path": "a"}, "call_id": "c", "reasoning": "hm"},
        {"class_": "text_observation", "content": "x", "source": "environment", "name": "open", "call_id": "c"},
    ]
    ((value,), notes) = write({"id": "a", "content": content, "tools": TOOLS}, TRL)
    system, user, call, result = value["messages"]
    assert system == {"role": "system", "content": "be brief"} and user == {"role": "user", "content": "look"}
    assert call["content"] == "" and call["reasoning_content"] == "hm"
    assert call["tool_calls"][0]["function"] == {"name": "open", "arguments": {"path": "a"}}
    assert result == {"role": "tool", "tool_call_id": "c", "content": "x"}
    assert json.loads(value["tools"]) == TOOLS
    assert [reason for reason, _ in notes.dropped] == ["no text"]


def said(text, **more):
    return {"class_": "message_action", "content": text, **more}


def asked(text):
    return {"class_": "text_observation", "content": text, "source": "user"}


def test_trl_never_trains_on_what_must_not_be_learned():
    copied = [asked("1"), said("a", loss=False), asked("2"), said("b"), asked("3"), said("c", loss=False)]
    with pytest.raises(RowError, match="prompt and completion"):
        write({"id": "x", "content": copied}, TRL)
    with pytest.raises(RowError, match="nothing to learn"):
        write({"id": "x", "content": copied[:2]}, TRL)
    ((value,), notes) = write({"id": "x", "content": copied[2:]}, TRL)
    assert [message["content"] for message in value["messages"]] == ["2", "b"] and len(notes.dropped) == 2

    values, notes = write({"id": "x", "content": [*copied, asked("4"), said("d"), asked("5")]}, TRL_PROMPT_COMPLETION)
    shown = [
        ("".join(m["content"] for m in v["prompt"]), "".join(m["content"] for m in v["completion"])) for v in values
    ]
    assert shown == [("1a2", "b"), ("1a2b3c4", "d")] and len(notes.dropped) == 1


@given(rows(all_on=False, system=True, apis=True, parallel=True, call_ids=True, names=True, loss=True, unanswered=True))
@settings(max_examples=60, deadline=None)
def test_every_response_that_may_be_learned_is_in_one_completion(row):
    wanted = [item for item in row["content"] if item["class_"].endswith("action") and not item.get("joined")]
    wanted = [item for item in wanted if item.get("loss") is not False]
    try:
        values, _ = write(row, TRL_PROMPT_COMPLETION)
    except RowError:
        assert not wanted
        return
    learned = [message for value in values for message in value["completion"] if message["role"] == "assistant"]
    assert len(learned) == len(wanted) and all("weight" not in message for message in learned)


def test_detection():
    assert HF_MESSAGES.likes({"messages": MESSAGES}) > 75 > HF_MESSAGES.likes({"messages": MESSAGES[:1]})
    assert HF_MESSAGES.likes({"messages": MESSAGES[:1], "tools": "[]"}) > 80
    assert HF_MESSAGES.likes({"conversations": [{"from": "human", "value": "x"}]}) == 0
    assert 0 < HF_MESSAGES.likes({"messages": [{"role": "user", "content": "x", "tool_calls": 5}]}) < 50
    assert HF_MESSAGES.likes([1]) == HF_MESSAGES.likes({"messages": [3]}) == 0
