"""mini-SWE-agent: fenced and called actions, results told from users, nothing of a response lost."""

import json

import pytest
from casefiles import case
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import CHAT, lost, mutated

from fairtrial.formats.format import Notes, RowError, decode
from fairtrial.formats.mini_swe_agent import MINI_SWE_AGENT, NAME

SYSTEM = {"role": "system", "content": "One command in ```mswea_bash_command fences."}
TASK = {"role": "user", "content": "Fix a.py"}


def read(value):
    row = decode(MINI_SWE_AGENT, value, Notes())
    assert isinstance(row, dict)
    return row


def text_run():
    return [
        SYSTEM,
        TASK,
        {"role": "assistant", "content": "THOUGHT: look\n\n```mswea_bash_command\nls\ncat a.py\n```\nNow wait."},
        {"role": "user", "content": "<returncode>1</returncode>\n<output>\nno a.py\n</output>"},
        {"role": "assistant", "content": "Two blocks:\n```bash\nls\n```\n```bash\npwd\n```"},
        {"role": "user", "content": "Please provide EXACTLY ONE action."},
        {"role": "assistant", "content": "```bash\necho DONE\n```"},
        {"role": "user", "content": "diff --git a b"},
    ]


def response(model, content, calls, tokens):
    return {
        "id": "r",
        "model": model,
        "choices": [{"finish_reason": "tool_calls", "message": {"content": content, "tool_calls": calls}}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64}},
    }


def call_run():
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "bash", "arguments": json.dumps({"command": command})}}
        for n, command in ((1, "ls"), (2, "pwd"))
    ]
    return {
        "info": {
            "model_stats": {"instance_cost": 0.02, "api_calls": 1},
            "config": {"model": {"model_name": "lab/small"}, "agent": {"step_limit": 9}},
            "mini_version": "2.4.6",
            "exit_status": "Submitted",
            "submission": "diff",
        },
        "messages": [
            SYSTEM,
            TASK,
            {
                "role": "assistant",
                "content": "Look first.",
                "reasoning_content": "hidden",
                "tool_calls": calls,
                "extra": {
                    "actions": [{"command": "ls", "tool_call_id": "c1"}, {"command": "pwd", "tool_call_id": "c2"}],
                    "response": response("small-1", "Look first.", calls, 700),
                    "cost": 0.02,
                    "timestamp": 1706000000.5,
                },
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a.py", "extra": {"returncode": 0, "raw_output": "a.py"}},
            {"role": "tool", "tool_call_id": "c2", "content": "sh: 1", "extra": {"returncode": 127, "timestamp": 7}},
            {"role": "user", "content": "Try again", "extra": {"interrupt_type": "UserInterruption"}},
            {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted", "submission": "diff"}},
        ],
        "instance_id": "a__b-2",
        "trajectory_format": "mini-swe-agent-1.1",
    }


def test_fenced_actions_and_their_results():
    content = read(text_run())["content"]
    assert [(item["class_"], item.get("source"), item["content"]) for item in content] == [
        ("text_observation", "system", SYSTEM["content"]),
        ("text_observation", "user", "Fix a.py"),
        ("code_action", None, "ls\ncat a.py"),
        ("message_action", None, "\nNow wait."),
        ("text_observation", "environment", "<returncode>1</returncode>\n<output>\nno a.py\n</output>"),
        ("message_action", None, text_run()[4]["content"]),
        ("text_observation", "environment", "Please provide EXACTLY ONE action."),
        ("code_action", None, "echo DONE"),
        ("text_observation", "environment", "diff --git a b"),
    ]
    assert content[2]["description"] == "THOUGHT: look" and content[3]["joined"]
    assert content[4]["is_error"] is True and "is_error" not in content[6]
    assert content[7]["description"] == ""


def test_calls_results_model_calls_and_the_end():
    row = read(call_run())
    first, second, ok, failed, human = row["content"][2:]
    assert (first["function"], first["kwargs"], first["call_id"]) == ("bash", {"command": "ls"}, "c1")
    assert (first["description"], first["reasoning"], first["model_call"]) == ("Look first.", "hidden", 0)
    assert first["timestamp"] == "2024-01-23T08:53:20.500000+00:00"
    assert second["joined"] and second["model_call"] == 0 and "description" not in second
    assert (ok["is_error"], failed["is_error"], failed["call_id"]) == (False, True, "c2")
    assert human["source"] == "user"
    assert row["model_calls"] == [
        {
            "model": "small-1",
            "usage": {"calls": 1, "input_tokens": 700, "output_tokens": 9, "cached_tokens": 64, "cost_usd": 0.02},
            "finish_reason": "tool_calls",
        }
    ]
    assert row["id"] == "a__b-2" and row["details"]["exit_status"] == "Submitted"
    assert row["extra"][NAME]["exit"][0]["at"] == 6


def test_responses_api_messages():
    row = read(
        {
            "info": {"mini_version": "2.4.6", "config": {"model": {"model_name": "m"}}},
            "messages": [
                TASK,
                {
                    "object": "response",
                    "model": "small-2",
                    "output": [
                        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                        {"type": "message", "content": [{"type": "output_text", "text": "List."}]},
                        {"type": "function_call", "call_id": "c9", "name": "bash", "arguments": '{"command": "ls"}'},
                    ],
                    "usage": {"input_tokens": 5, "output_tokens": 6},
                    "extra": {"cost": 0.5},
                },
                {"type": "function_call_output", "call_id": "c9", "output": "a.py", "extra": {"returncode": 0}},
            ],
        }
    )
    _, call, result = row["content"]
    assert (call["function"], call["description"], call["reasoning"], call["call_id"]) == ("bash", "List.", "hm", "c9")
    assert (result["content"], result["call_id"], result["is_error"]) == ("a.py", "c9", False)
    assert row["model_calls"][0]["usage"] == {"calls": 1, "input_tokens": 5, "output_tokens": 6, "cost_usd": 0.5}


def said(content, position):
    """A text response as it was, from its items."""
    item = content[position]
    own = item["extra"][NAME]
    if "content" in own:
        return own["content"]
    fence = own["fence"]
    after = fence.get("after", "")
    if position + 1 < len(content) and content[position + 1].get("joined"):
        after = content[position + 1]["content"]
    return f"{item['description']}{fence['before']}```{fence['word']}\n{item['content']}\n```{after}"


@settings(max_examples=100)
@given(st.text("a \n`", max_size=12), st.text("b \n'", max_size=12), st.text("c \n", max_size=12))
def test_a_response_can_be_put_together_again(before, body, after):
    text = f"{before}\n```bash\n{body}\n```{after}"
    content = read([SYSTEM, TASK, {"role": "assistant", "content": text}])["content"]
    if content[2]["class_"] == "code_action":
        assert said(content, 2) == text
    else:
        assert content[2]["content"] == text


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([call_run(), {"messages": text_run(), "info": {}}]).flatmap(mutated))
def test_broken_runs_never_crash_and_lose_nothing(value):
    # a fenced response is put together in the test above
    assert [text for text in lost(MINI_SWE_AGENT, value, CHAT) or () if "```" not in text] == []


@pytest.mark.parametrize("value", [None, 1, "x", {}, {"messages": "x"}, [1], [{"content": "x"}]])
def test_what_is_no_run_is_refused(value):
    with pytest.raises(RowError):
        read(value)


def test_detection():
    assert MINI_SWE_AGENT.likes(call_run()) == 97
    assert MINI_SWE_AGENT.likes(text_run()) == 90
    assert MINI_SWE_AGENT.likes([{"role": "user", "content": "hi"}]) == 0
    assert MINI_SWE_AGENT.likes({"messages": text_run(), "info": True}) == 60
    for value in (None, [], {}, {"messages": None}, {"messages": [None]}, {"trajectory_format": 3}, {"info": 3}):
        assert MINI_SWE_AGENT.likes(value) == 0


def test_the_recorded_run():
    value = case("runtime/mini_swe_agent.traj.json")
    content = read(value)["content"]
    assert MINI_SWE_AGENT.likes(value) == 90 and len(content) == len(value)
    for position, entry in enumerate(value):
        whole = said(content, position) if entry["role"] == "assistant" else content[position]["content"]
        assert whole == entry["content"]
    assert [item.get("is_error") for item in content[3:-1:2]] == [
        True,
        False,
        False,
        False,
        False,
        False,
        False,
        True,
        False,
    ]
