"""OpenHands SDK conversations: batches of parallel calls, results, compaction, token ids; every event accounted for."""

import json

import pytest
from hypothesis import given, settings
from mutations import CHAT, lost, mutated

from fairtrial.formats.format import Notes, Numbered, RowError, check, decode
from fairtrial.formats.openhands_sdk import NAME, OPENHANDS_SDK


def event(kind, source="environment", **fields):
    return {"kind": kind, "timestamp": "2026-06-16T05:39:48", "source": source, **fields}


def part(text):
    return {"cache_prompt": False, "type": "text", "text": text}


def action(id, response, tool, arguments, thought="", **more):
    return event(
        "ActionEvent",
        "agent",
        id=f"event-{id}",
        thought=[part(thought)] if thought else [],
        reasoning_content=None,
        thinking_blocks=[],
        action={"kind": "TerminalAction", "is_input": False, **arguments},
        tool_name=tool,
        tool_call_id=id,
        tool_call={"id": id, "name": tool, "arguments": json.dumps(arguments), "origin": "completion"},
        llm_response_id=response,
        security_risk="LOW",
        **more,
    )


def result(id, tool, text, is_error=False):
    return event(
        "ObservationEvent",
        id=f"result-{id}",
        tool_name=tool,
        tool_call_id=id,
        action_id=f"event-{id}",
        observation={"kind": "TerminalObservation", "content": [part(text)], "is_error": is_error, "exit_code": 0},
    )


def events():
    return [
        event(
            "SystemPromptEvent",
            "agent",
            id="e0",
            system_prompt=part("Be brief."),
            dynamic_context=part("Host: h"),
            tools=[{"type": "function", "function": {"name": "terminal", "parameters": {}}}],
        ),
        event(
            "MessageEvent",
            "user",
            id="e1",
            llm_message={
                "role": "user",
                "content": [part("Fix it"), {"type": "image", "image_urls": ["data:image/png;base64,QUJD"]}],
            },
            activated_skills=["git"],
            extended_content=[part("Skill: never force.")],
        ),
        event("ConversationStateUpdateEvent", id="e2", key="execution_status", value="running"),
        action("c1", "r1", "terminal", {"command": "ls"}, "Look at both.", summary="lists files"),
        action("c2", "r1", "terminal", {"command": "pwd"}),
        result("c1", "terminal", "a.py"),
        event("TokenEvent", "agent", id="t1", prompt_token_ids=[1, 2, 3], response_token_ids=[4, 5]),
        result("c2", "terminal", "sh: no", True),
        action("c3", "r2", "think", {"thought": "so"}),
        event("TokenEvent", "agent", id="t2", prompt_token_ids=[1, 2, 3, 4, 5, 6], response_token_ids=[7]),
        event(
            "UserRejectObservation",
            id="e9",
            tool_name="think",
            tool_call_id="c3",
            action_id="event-c3",
            rejection_reason="Do not.",
        ),
        event(
            "Condensation",
            id="e10",
            forgotten_event_ids=["event-c1"],
            summary="Looked around.",
            summary_offset=2,
            llm_response_id="r9",
        ),
        event("AgentErrorEvent", "agent", id="e11", tool_name="edit", tool_call_id="c4", error="no such tool"),
        event(
            "ACPToolCallEvent", "agent", id="e12", tool_call_id="x1", title="Read", status="pending", raw_input={"p": 1}
        ),
        event(
            "ACPToolCallEvent", "agent", id="e13", tool_call_id="x1", title="Read", status="completed", raw_output="1"
        ),
        event("PauseEvent", "user", id="e14"),
        event(
            "MessageEvent",
            "agent",
            id="e15",
            llm_message={"role": "assistant", "content": [part("Done.")], "reasoning_content": "sure"},
            llm_response_id="r3",
        ),
        event(
            "ConversationStateUpdateEvent",
            id="e16",
            key="stats",
            value={
                "usage_to_metrics": {
                    "default": {
                        "model_name": "lab/small",
                        "token_usages": [
                            {"model": "lab/small", "response_id": "r1", "prompt_tokens": 70, "completion_tokens": 8}
                        ],
                    }
                }
            },
        ),
    ]


def read(value, notes=None):
    row = decode(OPENHANDS_SDK, value, notes or Notes())
    assert isinstance(row, dict)
    return row


def actions(row):
    return [item for item in row["content"] if item["class_"].endswith("action")]


def test_every_event_becomes_an_item_or_is_kept_beside():
    row = read(events())
    ids = [item["extra"][NAME].get("id") for item in row["content"] if NAME in item.get("extra", {})]
    ids += [entry["event"].get("id") for entry in row["extra"][NAME]["beside"]]
    assert sorted(ids) == sorted(one["id"] for one in events())
    assert lost(OPENHANDS_SDK, events(), CHAT) == []


def test_a_batch_of_calls_and_its_results():
    row = read(events())
    first, second, third, foreign, said = actions(row)
    assert (first["function"], first["kwargs"], first["call_id"]) == ("terminal", {"command": "ls"}, "c1")
    assert first["description"] == "Look at both." and first["extra"][NAME]["summary"] == "lists files"
    assert second["joined"] and "description" not in second and first["model_call"] == second["model_call"] == 0
    assert third["function"] == "think" and third["model_call"] == 1
    assert (foreign["function"], foreign["kwargs"]) == ("Read", {"p": 1})
    assert (said["content"], said["reasoning"], said["model_call"]) == ("Done.", "sure", 2)
    results = {item["call_id"]: item for item in row["content"] if "call_id" in item and "source" in item}
    assert (results["c1"]["content"], results["c1"]["is_error"], results["c1"]["name"]) == ("a.py", False, "terminal")
    assert results["c2"]["is_error"] is True
    assert results["c3"]["content"] == "Do not." and results["c4"]["is_error"] is True
    assert results["x1"]["content"] == "1"


def test_calls_come_before_the_results_of_their_batch_even_where_the_events_do_not():
    mixed = events()
    mixed[4], mixed[5] = mixed[5], mixed[4]
    assert [item.get("call_id") for item in read(mixed)["content"]][5:9] == ["c1", "c2", "c1", "c2"]


def test_what_the_agent_saw():
    row = read(events())
    seen = [(item.get("source"), item["content"], item.get("joined", False)) for item in row["content"][:5]]
    assert seen == [
        ("system", "Be brief.", False),
        ("system", "Host: h", True),
        ("user", "Fix it", False),
        ("user", "data:image/png;base64,QUJD", True),
        ("system", "Skill: never force.", True),
    ]
    assert row["tools"] == events()[0]["tools"]
    [compaction] = [item for item in row["content"] if item.get("name") == "compaction"]
    assert (compaction["source"], compaction["content"]) == ("system", "Looked around.")


def test_models_usage_and_token_ids():
    row = read(events())
    first, second, third = row["model_calls"]
    assert first["model"] == "lab/small"
    assert first["usage"] == {"calls": 1, "input_tokens": 70, "output_tokens": 8}
    trajectory = check(row)
    assert trajectory.prompt_ids(0) == (1, 2, 3) and trajectory.prompt_ids(1) == (1, 2, 3, 4, 5, 6)
    assert second["completion_ids"] == [7] and "prompt" not in third


def test_an_unknown_kind_is_kept_and_said():
    notes = Notes()
    row = read([event("HologramEvent", id="h1")], notes)
    assert row["extra"][NAME]["beside"][0]["event"]["id"] == "h1"
    assert [code for code, _ in notes.flaws] == ["unknown event"]


def test_malformed_arguments_stay_as_they_came():
    broken = action("c1", "r1", "terminal", {"command": "ls"})
    broken["tool_call"]["arguments"] = '{"command": "l'
    item = actions(read([broken]))[0]
    assert item["malformed"] == '{"command": "l' and item["extra"][NAME]["action"]["command"] == "ls"


def test_a_conversations_folder(tmp_path):
    folder = tmp_path / "conv"
    (folder / "events").mkdir(parents=True)
    (folder / "base_state.json").write_text(json.dumps({"id": "1111", "agent": {"llm": {"model": "lab/big"}}}))
    for number, one in enumerate(events()):
        (folder / "events" / f"event-{number:05d}-{number:08x}.json").write_text(json.dumps(one))
    (folder / "events" / "event-100000-000000ff.json").write_text('{"kind": ')
    assert OPENHANDS_SDK.claims is not None and OPENHANDS_SDK.open is not None
    assert OPENHANDS_SDK.claims(folder) and not OPENHANDS_SDK.claims(tmp_path)
    problem, conversation = OPENHANDS_SDK.open(folder)
    assert "event-100000" in (problem.problem or "")
    row = read(conversation.value)
    assert row["id"] == "1111" and row["model_calls"][1]["model"] == "lab/big"
    assert row["content"] == read({"base_state": conversation.value["base_state"], "events": events()})["content"]


def test_lines_are_gathered():
    assert OPENHANDS_SDK.gather is not None
    lines = [Numbered(number, one) for number, one in enumerate(events(), 1)]
    assert list(OPENHANDS_SDK.gather(iter(lines))) == [Numbered(1, events())]


@pytest.mark.parametrize("value", [None, 1, {}, "x", {"events": {}}])
def test_what_is_no_conversation_is_refused(value):
    with pytest.raises(RowError):
        read(value)


def test_detection():
    assert OPENHANDS_SDK.likes(events()) == 92
    assert {OPENHANDS_SDK.likes(one) for one in events()} == {90}
    for value in (None, [], [[]], {"kind": 3}, {"kind": "XEvent"}, {"events": [1]}, {"events": {}}):
        assert OPENHANDS_SDK.likes(value) == 0


@settings(max_examples=400, deadline=None)
@given(mutated({"base_state": {"id": "m", "agent": {"llm": {"model": "lab/big"}}}, "events": events()}))
def test_broken_conversations_never_crash_and_lose_nothing(value):
    assert not lost(OPENHANDS_SDK, value, CHAT)
