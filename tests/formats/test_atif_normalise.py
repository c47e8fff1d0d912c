"""Normalising: thoughts out of tags, ids unique, tools by one name; a second pass changes nothing."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import any_text, rows

from fairtrial.formats.atif import ATIF
from fairtrial.formats.atif_normalise import normalise, split_thought
from fairtrial.formats.format import Notes, check, decode


def api(function, kwargs, **rest):
    return {"class_": "api_action", "function": function, "kwargs": kwargs, **rest}


def result(content, call_id, **rest):
    return {"class_": "text_observation", "content": content, "source": "environment", "call_id": call_id, **rest}


def one(item, **row):
    return normalise({"id": "t", "content": [item], **row}, Notes())["content"][0]


@pytest.mark.parametrize(
    ("text", "thought", "rest"),
    [
        ("<think>a</think>b", "a", "b"),
        ("<think>\na\n</think>\n\nb", "a", "b"),
        ("a</think>b", "a", "b"),
        ("b<think>a</think>c", "a", "bc"),
        ("<think>a</think>b<think>c</think>d", "a\nc", "bd"),
        ("<think>never closed", "", "<think>never closed"),
        ("plain", "", "plain"),
        ("<think></think>b", "", "b"),
    ],
)
def test_thoughts_in_tags(text, thought, rest):
    assert split_thought(text) == (thought, rest)


def test_thoughts_of_calls_and_messages_become_reasoning():
    call = one(api("f", {}, description="<think>hm</think>", reasoning="first"))
    assert call == api("f", {}, reasoning="first\nhm")
    notes = Notes()
    said = {"class_": "message_action", "content": "<think>hm</think> Yes."}
    seen = {"class_": "text_observation", "content": "<think>not mine</think>", "source": "user"}
    row = normalise({"id": "t", "content": [said, seen]}, notes)
    assert row["content"] == [{"class_": "message_action", "content": "Yes.", "reasoning": "hm"}, seen]
    assert notes.rewritten == [("text in <think> tags is reasoning", "<think>hm</think> Yes.")]


def test_ids_used_twice_are_renamed_with_their_results():
    row = {
        "id": "t",
        "content": [
            api("f", {}, call_id="a"),
            result("1", "a"),
            api("f", {}, call_id="a"),
            result("2", "a"),
            {"class_": "image_observation", "content": "p", "source": "environment", "call_id": "a", "joined": True},
        ],
    }
    ids = [item["call_id"] for item in normalise(row, Notes())["content"]]
    assert ids == ["a", "a", "call_000001", "call_000001", "call_000001"]


@pytest.mark.parametrize(
    ("call", "same"),
    [
        (("shell", {"cmd": "ls"}), ("bash", {"command": "ls"})),
        (("Terminal", {"command": "ls"}), ("bash", {"command": "ls"})),
        (("ipython", {"code": "1"}), ("python", {"code": "1"})),
        (("execute_code", {"language": "py3", "code": "1"}), ("python", {"code": "1"})),
        (("execute_code", {"language": "sh", "code": "ls"}), ("bash", {"command": "ls"})),
        (("execute_code", {"language": "mysql", "code": "x"}), ("mysql", {"code": "x"})),
        (("final_answer", {"answer": "4"}), ("finish", {"message": "4", "task_completed": True})),
        (("submit", {}), ("finish", {"message": "", "task_completed": True})),
        (
            ("finish", {"message": "4", "task_completed": "false"}),
            ("finish", {"message": "4", "task_completed": False}),
        ),
        (("edit", {"view_range": "[1, -1]"}), ("edit", {"view_range": [1, -1]})),
        (("edit", {"old_str": "1", "insert_line": "7"}), ("edit", {"old_str": "1", "insert_line": 7})),
        (("search", {"query": "bash"}), ("search", {"query": "bash"})),
    ],
)
def test_tools_by_one_name_with_values(call, same):
    assert one(api(*call)) == api(*same)


def test_texts_become_values_only_where_the_tool_says_so():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert one(api("f", {"n": "5", "s": "5"}), tools=tools)["kwargs"] == {"n": 5, "s": "5"}
    assert one(api("f", {"n": "five"}), tools=tools)["kwargs"] == {"n": "five"}


def test_results_and_tools_follow_the_new_name():
    row = {
        "id": "t",
        "content": [api("shell", {"command": "ls"}, call_id="a"), result("x", "a", name="shell")],
        "tools": [{"type": "function", "function": {"name": "shell"}}],
    }
    changed = normalise(row, Notes())
    assert changed["content"][1]["name"] == "bash"
    assert changed["tools"][0]["function"]["name"] == "bash"


def test_an_atif_file_that_was_normalised_is_written_as_it_is_now():
    parts = [{"type": "text", "text": "<think>hm</think>Yes."}]
    steps = [{"step_id": 1, "source": "agent", "message": parts}]
    value = {"schema_version": "ATIF-v1.7", "agent": {"name": "a", "version": "1"}, "steps": steps}
    row = decode(ATIF, value, Notes())
    [written] = ATIF.encode(normalise(row, Notes()), Notes())
    assert written["steps"][0]["message"] == "Yes."
    assert written["steps"][0]["reasoning_content"] == "hm"


tagged = st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "b\n"]), max_size=7).map("".join) | any_text


@settings(max_examples=200)
@given(rows(text=tagged, result_images=True), st.sampled_from(["shell", "final_answer", "execute_code", "f"]))
def test_a_second_pass_changes_nothing(row, function):
    for item in row["content"]:
        if item["class_"] == "api_action":
            item["function"] = function
        if "call_id" in item:
            item["call_id"] = item["call_id"][:6]
    before = copy.deepcopy(row)
    once = normalise(row, Notes())
    check(once)
    notes = Notes()
    assert normalise(once, notes) == once
    assert not notes.rewritten and not notes.invented
    assert row == before
