"""OpenHands 0.x: every event is accounted for, whatever generation of the format it is in."""

import json

import pytest
from casefiles import case
from hypothesis import given, settings
from mutations import lost, mutated

from fairtrial.formats.format import Notes, Numbered, RowError, decode
from fairtrial.formats.openhands import NAME, OPENHANDS_V0


def response(id, *calls, said=""):
    return {
        "id": id,
        "model": "small-1",
        "choices": [
            {
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": said,
                    "tool_calls": [
                        {"id": call, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                        for call, name, arguments in calls
                    ],
                },
            }
        ],
        "usage": {"prompt_tokens": 900, "completion_tokens": 40, "prompt_tokens_details": {"cached_tokens": 512}},
    }


def metadata(response, call, name):
    return {
        "function_name": name,
        "tool_call_id": call,
        "model_response": response,
        "total_calls_in_response": len(response["choices"][0]["message"]["tool_calls"]),
    }


def events():
    both = response(
        "r1", ("c1", "execute_bash", {"command": "ls /w"}), ("c2", "think", {"thought": "two files"}), said="Look."
    )
    return [
        {
            "id": 0,
            "source": "agent",
            "action": "system",
            "args": {
                "content": "Be careful.",
                "tools": [{"type": "function", "function": {"name": "execute_bash"}}],
                "openhands_version": "0.62",
            },
        },
        {
            "id": 1,
            "timestamp": "2025-05-01T10:00:00",
            "source": "user",
            "message": "Fix it",
            "action": "message",
            "args": {"content": "Fix it", "image_urls": ["data:image/png;base64,QUJD"], "wait_for_response": False},
        },
        {
            "id": 2,
            "source": "user",
            "action": "recall",
            "args": {"recall_type": "workspace_context", "query": "Fix it"},
        },
        {
            "id": 3,
            "source": "environment",
            "cause": 2,
            "observation": "recall",
            "content": "Added workspace context",
            "extras": {
                "recall_type": "workspace_context",
                "repo_instructions": "Run make.",
                "microagent_knowledge": [{"name": "git", "trigger": "git", "content": "Never force."}],
            },
        },
        {
            "id": 4,
            "source": "environment",
            "observation": "agent_state_changed",
            "content": "",
            "extras": {"agent_state": "running"},
        },
        {
            "id": 5,
            "source": "agent",
            "action": "run",
            "message": "Running command: ls /w",
            "args": {"command": "ls /w", "thought": "Look.", "is_input": False, "hidden": False},
            "tool_call_metadata": metadata(both, "c1", "execute_bash"),
            "llm_metrics": {"accumulated_cost": 0.01},
        },
        {
            "id": 6,
            "source": "agent",
            "cause": 5,
            "observation": "run",
            "content": "ls: no /w",
            "extras": {"command": "ls /w", "metadata": {"exit_code": 2, "working_dir": "/"}},
            "tool_call_metadata": metadata(both, "c1", "execute_bash"),
            "success": False,
        },
        {
            "id": 7,
            "source": "agent",
            "action": "think",
            "args": {"thought": "two files"},
            "tool_call_metadata": metadata(both, "c2", "think"),
        },
        {
            "id": 8,
            "source": "agent",
            "cause": 7,
            "observation": "think",
            "content": "Your thought has been logged.",
            "extras": {},
            "tool_call_metadata": metadata(both, "c2", "think"),
        },
        {"id": 9, "source": "agent", "action": "run_ipython", "args": {"code": "1/0", "thought": "Try."}},
        {
            "id": 10,
            "source": "agent",
            "cause": 9,
            "observation": "run_ipython",
            "content": "ZeroDivisionError",
            "extras": {"code": "1/0", "image_urls": ["plot.png"]},
        },
        {"id": 11, "source": "agent", "action": "browse", "args": {"url": "http://x.test", "thought": ""}},
        {
            "id": 12,
            "source": "agent",
            "cause": 11,
            "observation": "browse",
            "content": "Welcome",
            "extras": {
                "url": "http://x.test",
                "screenshot": "QUJD",
                "error": False,
                "axtree_object": {
                    "nodes": [
                        {
                            "nodeId": "1",
                            "role": {"value": "RootWebArea"},
                            "name": {"value": "X"},
                            "childIds": ["2"],
                            "browsergym_id": "1",
                        },
                        {"nodeId": "2", "role": {"value": "button"}, "name": {"value": "Go"}, "browsergym_id": "12"},
                    ]
                },
            },
        },
        {
            "id": 13,
            "source": "agent",
            "action": "call_tool_mcp",
            "args": {"name": "fetch", "arguments": {"url": "u"}, "thought": "Fetch."},
        },
        {
            "id": 14,
            "source": "agent",
            "cause": 13,
            "observation": "mcp",
            "content": "page",
            "extras": {"name": "fetch"},
        },
        {
            "id": 15,
            "source": "agent",
            "action": "condensation",
            "args": {"summary": "So far: nothing.", "forgotten_events_start_id": 5, "forgotten_events_end_id": 10},
        },
        {"id": 16, "source": "user", "action": "run", "args": {"command": "git status"}},
        {"id": 17, "source": "user", "cause": 16, "observation": "run", "content": "clean", "extras": {"exit_code": 0}},
        {
            "id": 18,
            "source": "agent",
            "action": "delegate",
            "args": {"agent": "BrowsingAgent", "inputs": {"task": "find"}, "thought": "Ask."},
        },
        {"id": 19, "source": "user", "action": "message", "args": {"content": "TASK: find"}},
        {
            "id": 20,
            "source": "agent",
            "action": "finish",
            "args": {"outputs": {"content": "found"}, "thought": "Done there."},
        },
        {
            "id": 21,
            "source": "agent",
            "cause": 18,
            "observation": "delegate",
            "content": "delegate finished",
            "extras": {"outputs": {"content": "found"}},
        },
        {
            "id": 22,
            "source": "agent",
            "observation": "error",
            "content": "Missing argument",
            "extras": {"error_id": "E1"},
        },
        {"id": 23, "source": "agent", "action": "message", "args": {"content": "All done."}},
        {"id": 24, "source": "agent", "observation": "null", "content": "", "extras": {}},
    ]


def read(value):
    row = decode(OPENHANDS_V0, value, Notes())
    assert isinstance(row, dict)
    return row


def count(row):
    own = row.get("extra", {}).get(NAME, {})
    return (
        sum(1 for item in row["content"] if item.get("extra", {}).get(NAME, {}).get("id") is not None)
        + len(own.get("beside", []))
        + sum(map(count, row.get("subagents", [])))
    )


def test_every_event_becomes_an_item_or_is_kept_beside():
    row = read(events())
    assert count(row) == len(events())
    assert lost(OPENHANDS_V0, events()) == []


def test_what_the_agent_did():
    row = read(events())
    actions = [item for item in row["content"] if item["class_"].endswith("action")]
    assert [(item.get("function") or item.get("language") or item["content"]) for item in actions] == [
        "execute_bash",
        "think",
        "python",
        "browse",
        "fetch",
        "delegate",
        "All done.",
    ]
    first, second = actions[:2]
    assert (first["kwargs"], first["description"], first["call_id"]) == ({"command": "ls /w"}, "Look.", "c1")
    assert second["joined"] and "description" not in second
    assert first["model_call"] == second["model_call"] == 0
    assert row["model_calls"] == [
        {
            "model": "small-1",
            "usage": {"calls": 1, "input_tokens": 900, "output_tokens": 40, "cached_tokens": 512},
            "finish_reason": "tool_calls",
        }
    ]
    assert row["tools"] == events()[0]["args"]["tools"]


def test_calls_of_one_response_stand_together_before_their_results():
    content = read(events())["content"]
    ids = [item.get("call_id") for item in content if item.get("call_id") in ("c1", "c2")]
    assert ids == ["c1", "c2", "c1", "c2"]
    result = next(item for item in content if item["class_"] == "text_observation" and item.get("call_id") == "c1")
    assert result["is_error"] is True and result["name"] == "execute_bash"


def test_what_the_agent_saw():
    content = read(events())["content"]
    assert content[0] == {
        "class_": "text_observation",
        "content": "Be careful.",
        "source": "system",
        "extra": {NAME: {"id": 0, "source": "agent", "action": "system", "args": {"openhands_version": "0.62"}}},
    }
    seen = {item["content"]: item for item in content if item["class_"] == "text_observation"}
    assert seen["Fix it"]["source"] == "user" and seen["Fix it"]["timestamp"] == "2025-05-01T10:00:00"
    assert seen["Never force."]["source"] == seen["Run make."]["source"] == "system"
    assert seen["git status"]["source"] == "user"
    assert seen["So far: nothing."]["name"] == "compaction"
    assert seen["Missing argument"]["is_error"] is True
    [page] = [item for item in content if item["class_"] == "web_observation"]
    assert "[12] button 'Go'" in page["axtree"] and page["url"] == "http://x.test" and page["joined"]
    assert page["image_observation"]["content"] == "data:image/png;base64,QUJD"


def test_what_happens_between_a_delegation_and_its_result_is_a_subagents_run():
    row = read({"id": 7, "trajectory": events()})
    [inner] = row["subagents"]
    assert inner["id"] == "7.1"
    assert [item["class_"] for item in inner["content"]] == ["text_observation", "api_action"]
    [report] = [item for item in row["content"] if item.get("subagents")]
    assert report["subagents"] == ["7.1"] and report["content"] == "delegate finished"


def test_the_oldest_lists_have_arguments_on_the_event_no_sources_and_pairs():
    history = [
        [
            {"action": "message", "content": "Fix it", "wait_for_response": False},
            {"observation": "null", "content": ""},
        ],
        [
            {"action": "run", "command": "ls", "thought": "Look", "is_confirmed": "confirmed"},
            {"observation": "run", "content": "a.py", "command": "ls", "exit_code": 0, "command_id": -1},
        ],
        [{"action": "finish", "outputs": {}, "thought": "Done"}, {"observation": "null", "content": ""}],
    ]
    row = read({"instance_id": "a__b-1", "history": history, "test_result": {"git_patch": "diff"}})
    assert row["id"] == "a__b-1" and row["details"] == {"instance_id": "a__b-1", "test_result": {"git_patch": "diff"}}
    user, ran, result, finish = row["content"]
    assert (user["source"], user["content"]) == ("user", "Fix it")
    assert (ran["language"], ran["content"], ran["description"]) == ("bash", "ls", "Look")
    assert (result["content"], result["is_error"]) == ("a.py", False)
    assert (finish["function"], finish["description"]) == ("finish", "Done")
    assert len(row["extra"][NAME]["beside"]) == 2


def test_input_to_a_running_program_is_no_code():
    row = read([{"id": 1, "source": "agent", "action": "run", "args": {"command": "C-c", "is_input": True}}])
    assert row["content"][0]["kwargs"] == {"command": "C-c", "is_input": True}


def test_personal_fields_of_feedback_are_left_out_and_said():
    notes = Notes()
    row = decode(OPENHANDS_V0, {"email": "a@b.test", "token": "t0k", "feedback": "positive", "trajectory": []}, notes)
    assert "a@b.test" not in json.dumps(row) and [text for _, text in notes.dropped] == ["a@b.test", "t0k"]


@pytest.mark.parametrize("value", [None, 3, {}, "x", {"trajectory": {}}, {"history": None}])
def test_what_is_no_event_list_is_refused(value):
    with pytest.raises(RowError):
        read(value)


def test_detection_tells_events_from_rows_and_other_formats():
    assert OPENHANDS_V0.likes(events()) == 90
    assert OPENHANDS_V0.likes(events()[4]) == 85
    assert OPENHANDS_V0.likes({"history": events(), "metadata": {}}) == 88
    assert OPENHANDS_V0.likes({"feedback": "positive", "trajectory": events()}) < 80
    assert OPENHANDS_V0.likes({"trajectory": [{"action": "ls", "observation": "a.py", "thought": ""}]}) == 0
    for value in (None, [], [[]], {"action": 1}, {"trajectory": 3}, [None], {"action": "message", "class_": "x"}):
        assert OPENHANDS_V0.likes(value) == 0


def test_lines_of_events_are_one_trajectory_and_rows_pass():
    numbered = [Numbered(n, event) for n, event in enumerate(events(), 1)]
    broken = Numbered(99, problem="not valid JSON")
    assert OPENHANDS_V0.gather is not None
    assert list(OPENHANDS_V0.gather(iter([*numbered, broken]))) == [broken, Numbered(1, events())]
    row = Numbered(1, {"history": events()})
    assert list(OPENHANDS_V0.gather(iter([row]))) == [row]


def test_a_sessions_folder(tmp_path):
    folder = tmp_path / "s1" / "events"
    folder.mkdir(parents=True)
    for number, event in enumerate(events()):
        (folder / f"{number}.json").write_text(json.dumps(event))
    (folder / "11.json").write_text('{"id": 11, ')
    assert OPENHANDS_V0.claims is not None and OPENHANDS_V0.open is not None
    assert OPENHANDS_V0.claims(tmp_path / "s1") and not OPENHANDS_V0.claims(tmp_path)
    problem, session = OPENHANDS_V0.open(tmp_path / "s1")
    assert "11.json" in (problem.problem or "")
    row = read(session.value)
    assert row["id"] == "s1" and count(row) == len(events()) - 1


@settings(max_examples=300, deadline=None)
@given(mutated({"id": "m", "trajectory": events()}))
def test_broken_events_never_crash_and_lose_nothing(value):
    assert not lost(OPENHANDS_V0, value)


def test_the_published_feedback_rows():
    for value in case("adp/openhands_feedback/sample_raw.json"):
        row = read(value)
        assert count(row) + sum(1 for item in row["content"] if "extra" not in item) <= len(value["trajectory"])
        items = sum(1 for item in row["content"] if not item.get("joined"))
        assert items + len(row["extra"][NAME]["beside"]) == len(value["trajectory"])
        assert lost(OPENHANDS_V0, value) == []
