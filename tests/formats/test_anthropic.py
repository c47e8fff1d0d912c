"""Anthropic Messages: what is read is written again exactly; rows of other formats survive as far as it holds them."""

import copy

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.formats.anthropic import ANTHROPIC
from fairtrial.formats.format import Notes, RowError, check, decode

TEXT = {"type": "text", "text": "Look at the file."}
THINKING = {"type": "thinking", "thinking": "The bug is in the parser.", "signature": "c2ln"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
TOOL = {
    "name": "read_file",
    "description": "Reads a file.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
}


def call(id, name="read_file", **given):
    return {"type": "tool_use", "id": id, "name": name, "input": given}


def result(id, content, **rest):
    return {"type": "tool_result", "tool_use_id": id, "content": content, **rest}


def user(content, **rest):
    return {"role": "user", "content": content, **rest}


def assistant(content, **rest):
    return {"role": "assistant", "content": content, **rest}


def session(**rest):
    return {
        "model": "claude-x",
        "system": "Be brief.",
        "max_tokens": 1000,
        "tools": [TOOL],
        "messages": [
            user("Fix the bug."),
            assistant([THINKING, TEXT, call("a", path="x.py"), call("b", path="y.py")]),
            user([result("a", "def f(): ..."), result("b", "no such file", is_error=True), TEXT]),
            assistant([{"type": "text", "text": "Done."}]),
        ],
        **rest,
    }


def read(value, faults=False):
    notes = Notes()
    row = decode(ANTHROPIC, copy.deepcopy(value), notes)
    assert faults or not notes.flaws
    return row


def written(row):
    check(row)
    (value,) = ANTHROPIC.encode(row, Notes())
    return value


def test_a_conversation_with_tools_becomes_calls_and_results():
    row = read(session())
    first, call_a, call_b, result_a, result_b, asked, done = row["content"][1:]
    assert first["content"] == "Fix the bug." and first["source"] == "user"
    assert call_a["description"] == "Look at the file." and call_a["reasoning"] == "The bug is in the parser."
    assert (call_a["function"], call_a["kwargs"], call_a["call_id"]) == ("read_file", {"path": "x.py"}, "a")
    assert "joined" not in call_a and call_b["joined"] and "description" not in call_b
    assert (result_a["call_id"], result_a["name"], result_a["source"]) == ("a", "read_file", "environment")
    assert "is_error" not in result_a and result_b["is_error"] is True and result_b["joined"]
    assert asked["source"] == "user" and asked["joined"]
    assert done["class_"] == "message_action" and done["content"] == "Done."
    assert row["tools"][0]["function"]["parameters"] == TOOL["input_schema"]
    assert row["content"][0]["source"] == "system" and row["content"][0]["content"] == "Be brief."


USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 7}
ANSWER = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-1"}
ANSWER |= {"content": [TEXT, call("c", path="z")], "stop_reason": "tool_use", "usage": USAGE}


def test_the_response_counts_cached_tokens_as_input():
    row = read({"request": session(), "response": ANSWER, "started": 1})
    assert row["model_calls"] == [
        {
            "model": "claude-x-1",
            "finish_reason": "tool_use",
            "usage": {"calls": 1, "input_tokens": 115, "output_tokens": 7, "cached_tokens": 100},
        }
    ]
    assert row["content"][-1]["model_call"] == 0 and row["content"][-1]["description"] == TEXT["text"]


SHAPES = {
    "session": session(),
    "pair": {"request": session(), "response": ANSWER, "id": "r1"},
    "pair without an answer": {"request": session()},
    "answer beside": session(**{k: v for k, v in ANSWER.items() if k not in ("model", "id")}),
    "answer beside without a role": session(content=[TEXT], stop_reason="end_turn", usage=USAGE),
    "system blocks": session(system=[{**TEXT, "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]),
    "one system block": session(system=[TEXT]),
    "odd system": session(system=None),
    "empty system": session(system=[]),
    "string answers": {"messages": [user("a"), assistant("b"), user([TEXT]), assistant("")]},
    "nothing said": {"messages": [user(""), assistant([]), user([]), assistant(None), user(None), {"role": "user"}]},
    "server tools": {
        "messages": [
            user("Who won?"),
            assistant(
                [
                    TEXT,
                    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "who won"}},
                    {
                        "type": "web_search_tool_result",
                        "tool_use_id": "s1",
                        "content": [{"type": "web_search_result", "title": "News", "url": "https://e.org"}],
                    },
                    {"type": "text", "text": "It was "},
                    {"type": "text", "text": "X.", "citations": [{"cited_text": "X won", "url": "https://e.org"}]},
                ]
            ),
        ],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, {**TOOL, "cache_control": {}}],
    },
    "thinking": {
        "messages": [
            user("?"),
            assistant(
                [
                    THINKING,
                    {"type": "redacted_thinking", "data": "abc"},
                    {"type": "thinking", "thinking": "", "signature": "x"},
                    TEXT,
                    {"type": "text", "text": ""},
                    call("a"),
                    THINKING,
                    call("b"),
                    THINKING,
                ]
            ),
            assistant([THINKING]),
        ]
    },
    "results": {
        "messages": [
            assistant([call("a"), call("b"), call("c"), {"type": "tool_use", "id": "d", "name": "n"}]),
            user([result("a", [TEXT, IMAGE, {**TEXT, "cache_control": {}}]), result("b", [TEXT], is_error=False)]),
            user([{"type": "tool_result", "tool_use_id": "c"}, result("d", [], cache_control={"type": "ephemeral"})]),
            user([result("a", "again"), result("a", "and again"), result("a", None)]),
        ]
    },
    "user blocks": {
        "messages": [
            user(
                [
                    IMAGE,
                    {"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}, "cache_control": {}},
                    {"type": "image", "source": {"type": "file", "file_id": "f"}},
                    {"type": "document", "title": "T", "source": {"type": "text", "media_type": "a", "data": "doc"}},
                    {"type": "of the future", "x": 1},
                    {**TEXT, "cache_control": {"type": "ephemeral"}},
                ],
                id="m1",
            ),
            {"role": "system", "content": "mind the step"},
        ]
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_read_is_written_again(name):
    row = read(SHAPES[name], faults=True)
    assert written(row) == SHAPES[name]


def test_citations_and_server_tools_read_as_one_response():
    content = read(SHAPES["server tools"])["content"]
    assert [item["class_"] for item in content] == [
        "text_observation",
        "api_action",
        "text_observation",
        "message_action",
    ]
    assert content[3]["content"] == "It was X." and content[3]["joined"]
    assert content[2]["content"] == "News\nhttps://e.org" and content[2]["call_id"] == "s1"


def test_a_document_shows_its_text():
    content = read(SHAPES["user blocks"], faults=True)["content"]
    assert content[3]["content"] == "T\ndoc" and content[0]["content"] == "data:image/png;base64,iVBORw0KGgo="


def test_changed_text_is_what_is_written():
    row = read(session(messages=[user([{"type": "document", "title": "key", "source": {}}]), assistant([TEXT, TEXT])]))
    row["content"][1]["content"] = "[secret]"
    row["content"][2]["content"] = "other words"
    value = written(row)
    assert value["messages"][0]["content"] == [{"type": "text", "text": "[secret]"}]
    assert value["messages"][1]["content"] == [{"type": "text", "text": "other words"}]


def test_a_result_without_its_call_is_kept_and_told():
    notes = Notes()
    row = decode(ANTHROPIC, {"messages": [user([result("zz", "out")])]}, notes)
    assert [code for code, _ in notes.flaws] == ["result without a call"]
    assert row["content"][0]["content"] == "out"


def test_results_of_parallel_calls_share_one_turn_and_calls_get_ids():
    row = {
        "id": "r",
        "content": [
            {"class_": "api_action", "function": "f", "kwargs": {}},
            {"class_": "code_action", "language": "bash", "content": "ls"},
            {"class_": "text_observation", "content": "1", "source": "environment"},
            {"class_": "text_observation", "content": "2", "source": "environment"},
        ],
    }
    first, second, answers = written(row)["messages"]
    ids = [first["content"][0]["id"], second["content"][0]["id"]]
    assert second["content"][0]["input"] == {"command": "ls"}
    assert [(b["tool_use_id"], b["content"]) for b in answers["content"]] == [(ids[0], "1"), (ids[1], "2")]


def test_what_it_has_no_place_for_is_told():
    notes = Notes()
    row = read(session())
    row |= {"extra": {"other": {"x": 1}}, "reward": 1.0}
    row["content"][0]["timestamp"] = "2026-01-01"
    list(ANTHROPIC.encode(row, notes))
    assert {reason.split(":")[0] for reason, _ in notes.dropped} == {"reward", "timestamp of items", "what other keeps"}


def bare(row):
    """The row without what the format notes for itself, and without who shares a turn with whom among results."""
    row = {k: v for k, v in row.items() if k not in ("extra", "id")}
    row["content"] = [
        {
            k: v
            for k, v in item.items()
            if k != "extra" and not (k == "joined" and "source" in item and "call_id" in item)
        }
        for item in row["content"]
    ]
    return row


HELD = strategies.rows(
    code=False,
    web=False,
    empty=False,
    timestamps=False,
    model_calls=False,
    rewards=False,
    reward=False,
    details=False,
    malformed=False,
    joined_text=True,
    result_images=True,
    shuffled=True,
    consecutive=True,
)


@given(HELD)
@settings(max_examples=150)
def test_rows_survive_writing_and_reading(row):
    (value,) = ANTHROPIC.encode(copy.deepcopy(row), Notes())
    again = decode(ANTHROPIC, value, Notes())
    assert again["id"] == row["id"]
    assert bare(again) == bare(row)
    assert list(ANTHROPIC.encode(again, Notes())) == [value]


blocks = st.lists(
    st.one_of(
        st.sampled_from(
            [TEXT, THINKING, IMAGE, call("a"), call("b", path="x"), result("a", "r"), result("a", [IMAGE])]
        ),
        st.dictionaries(
            st.sampled_from(["type", "text", "id", "name", "input", "tool_use_id", "content", "thinking", "is_error"]),
            st.sampled_from(["text", "tool_use", "tool_result", "thinking", "a", None, 1, [], {}, [TEXT], True]),
        ),
        strategies.json_values,
    ),
    max_size=5,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", None, 3])},
        optional={"content": st.one_of(blocks, strategies.any_text, strategies.json_values), "id": st.just("m")},
    ),
    max_size=5,
)


@given(messages, strategies.json_values)
@settings(max_examples=300)
def test_any_blocks_are_written_again(drawn, system):
    value = {"messages": drawn, "system": system}
    assert written(decode(ANTHROPIC, copy.deepcopy(value), Notes())) == value


@given(strategies.json_values)
def test_anything_is_looked_at_without_an_error(value):
    for wrapped in (value, {"messages": value}, {"messages": [value]}, {"request": {"messages": value}}):
        assert 0 <= ANTHROPIC.likes(wrapped) <= 100


UNMARKED = {"string answers", "nothing said", "user blocks"}


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - UNMARKED))
def test_it_knows_its_own(name):
    assert ANTHROPIC.likes(SHAPES[name]) >= 84


def test_it_leaves_plain_messages_to_others():
    assert ANTHROPIC.likes({"messages": [{"role": "user", "content": "hi"}]}) < 50


@pytest.mark.parametrize("value", [[], {}, {"messages": 1}, {"messages": [1]}, {"messages": [{}]}, {"request": {}}])
def test_what_is_no_conversation_is_refused(value):
    with pytest.raises(RowError):
        decode(ANTHROPIC, value, Notes())
