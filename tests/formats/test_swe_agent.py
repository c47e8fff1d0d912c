"""SWE-agent trajectories: three ways to write a call, history and steps put together, demonstrations left out."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import CHAT, lost, mutated

from fairtrial.formats.format import Notes, RowError, decode
from fairtrial.formats.swe_agent import NAME, SWE_AGENT


def step(thought, action, observation, response, **more):
    return {
        "action": action,
        "observation": observation,
        "response": response,
        "state": {"open_file": "n/a", "working_dir": "/w"},
        "thought": thought,
        **more,
    }


def said(thought, action, style):
    if style == "xml":
        return f"{thought}<command>\n{action}\n</command>"
    return f"DISCUSSION\n{thought}```\n{action}\n```\nThat is all."


def text_run(style="fenced"):
    """A 0.x run: the last step's result and the automatic submission are in the steps only."""
    first, second = ("Look around.\n", "ls -F"), ("Edit it.\n", "edit 1:1\nx = 1\nend_of_edit")
    return {
        "environment": "swe_main",
        "trajectory": [
            step(*first, "a.py\n", said(*first, style), execution_time=0.5),
            step("Hm.\n", "", "Format error", "Hm.\n"),
            step(*second, "File updated", said(*second, style)),
            step("", "submit", "diff --git", ""),
        ],
        "history": [
            {"role": "system", "content": "You are in a shell.", "agent": "primary"},
            {"role": "user", "content": "Here is how it is done: ...", "agent": "primary", "is_demo": True},
            {"role": "user", "content": "Fix issue 7.", "agent": "primary"},
            {
                "role": "assistant",
                "content": said(*first, style),
                "thought": first[0],
                "action": first[1],
                "agent": "primary",
            },
            {"role": "user", "content": "a.py\n\n(Open file: n/a)\nbash-$", "agent": "primary"},
            {
                "role": "assistant",
                "content": said(*second, style),
                "thought": second[0],
                "action": second[1],
                "agent": "primary",
            },
        ],
        "info": {"exit_status": "submitted (exit_cost)", "submission": "diff", "model_stats": {"api_calls": 3}},
    }


def call_run():
    call = {
        "index": 1,
        "id": "call_1",
        "type": "function",
        "function": {"name": "edit", "arguments": '{"search": "1", "replace": "2"}'},
    }
    history = [
        {"role": "system", "content": "Use tools.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": [{"type": "text", "text": "Fix issue 8."}], "message_type": "observation"},
        {
            "role": "assistant",
            "content": "Edit it.",
            "thought": "Edit it.",
            "action": "edit 1 2",
            "tool_calls": [call],
            "thinking_blocks": [{"type": "thinking", "thinking": "which line?", "signature": "sig"}],
            "message_type": "action",
        },
        {
            "role": "tool",
            "content": [{"type": "text", "text": "OBSERVATION:\nDone", "cache_control": {"type": "ephemeral"}}],
            "tool_call_ids": ["call_1"],
            "message_type": "observation",
        },
    ]
    shown = [history[0], {"role": "user", "content": "Old output omitted"}]
    return {
        "trajectory": [
            step("Edit it.", "edit 1 2", "Done", "Edit it.", execution_time=0.1, query=shown, extra_info={})
        ],
        "history": history,
        "info": {"exit_status": "submitted", "swe_agent_version": "1.1.0"},
        "replay_config": json.dumps({"problem_statement": {"id": "lab__repo-8"}, "agent": {"model": {"name": "m"}}}),
    }


def read(value, notes=None):
    row = decode(SWE_AGENT, value, notes or Notes())
    assert isinstance(row, dict)
    return row


@pytest.mark.parametrize("style", ["fenced", "xml"])
def test_actions_in_text(style):
    notes = Notes()
    row = read(text_run(style), notes)
    assert [(item["class_"], item.get("source"), item["content"]) for item in row["content"]] == [
        ("text_observation", "system", "You are in a shell."),
        ("text_observation", "user", "Fix issue 7."),
        ("code_action", None, "ls -F"),
        ("text_observation", "environment", "a.py\n\n(Open file: n/a)\nbash-$"),
        ("code_action", None, "edit 1:1\nx = 1\nend_of_edit"),
        ("text_observation", "environment", "File updated"),
        ("code_action", None, "submit"),
        ("text_observation", "environment", "diff --git"),
    ]
    first = row["content"][2]
    assert (first["language"], first["description"]) == ("bash", "Look around.\n")
    assert first["extra"][NAME]["content"] == said("Look around.\n", "ls -F", style)
    assert first["extra"][NAME]["step"]["execution_time"] == 0.5
    assert notes.dropped == [("demonstration", "Here is how it is done: ...")]
    assert row["details"]["exit_status"] == "submitted (exit_cost)"


def test_an_attempt_that_the_history_forgot_is_kept_beside():
    beside = read(text_run())["extra"][NAME]["beside"]
    assert [entry["event"]["step"]["observation"] for entry in beside if "step" in entry["event"]] == ["Format error"]


def test_function_calls():
    row = read(call_run())
    system, user, call, result = row["content"]
    assert (system["source"], user["source"], user["content"]) == ("system", "user", "Fix issue 8.")
    assert (call["function"], call["kwargs"], call["call_id"]) == ("edit", {"search": "1", "replace": "2"}, "call_1")
    assert (call["description"], call["reasoning"]) == ("Edit it.", "which line?")
    assert (result["source"], result["name"], result["call_id"]) == ("environment", "edit", "call_1")
    assert result["content"] == "OBSERVATION:\nDone"
    assert row["id"] == "lab__repo-8"


def test_prompts_repeated_in_the_steps_are_kept_only_where_they_differ():
    call = read(call_run())["content"][2]
    query = call["extra"][NAME]["step"]["query"]
    assert query == {
        "messages": 2,
        "otherwise": [{"at": 1, "message": {"role": "user", "content": "Old output omitted"}}],
    }


def test_steps_alone_are_a_trajectory():
    value = text_run()
    del value["history"]
    content = read(value)["content"]
    assert [item["content"] for item in content if item["class_"] == "code_action"] == [
        "ls -F",
        "edit 1:1\nx = 1\nend_of_edit",
        "submit",
    ]
    assert [item["content"] for item in content if item["class_"] == "text_observation"] == [
        "a.py\n",
        "Format error",
        "File updated",
        "diff --git",
    ]


@pytest.mark.parametrize("value", [None, 1, [], {}, {"history": 3}, {"info": {}}])
def test_what_is_no_trajectory_is_refused(value):
    with pytest.raises(RowError):
        read(value)


def test_detection():
    assert SWE_AGENT.likes(text_run()) == SWE_AGENT.likes(call_run()) == 95
    assert SWE_AGENT.likes({"history": text_run()["history"]}) == 90
    for value in (None, [], {"history": []}, {"trajectory": [{"action": "run", "args": {}}]}, {"history": [None]}):
        assert SWE_AGENT.likes(value) == 0


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([text_run(), text_run("xml"), call_run()]).flatmap(mutated))
def test_broken_trajectories_never_crash_and_lose_nothing(value):
    assert not lost(SWE_AGENT, value, CHAT)
