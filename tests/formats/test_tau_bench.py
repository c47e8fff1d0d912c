"""tau-bench and tau2: one trajectory a run, and the simulated user's own tools never become the agent's."""

import json

import pytest
from hypothesis import given, settings
from mutations import CHAT, lost, mutated

from fairtrial.formats.format import Notes, Numbered, RowError, Skip, decode
from fairtrial.formats.tau_bench import NAME, TAU_BENCH


def first_generation():
    return {
        "task_id": 3,
        "trial": 1,
        "reward": 1.0,
        "info": {"task": {"user_id": "ann_1", "actions": []}, "reward_info": {"r_actions": 1.0}},
        "traj": [
            {"role": "system", "content": "Airline policy"},
            {"role": "user", "content": "Cancel my flight"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "get_user", "arguments": '{"id": "ann_1"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "get_user", "content": '{"name": "Ann"}'},
            {"role": "assistant", "content": "Done, Ann."},
            {"role": "user", "content": "###STOP###"},
        ],
    }


def call(id, name, requestor="assistant", **arguments):
    return {"id": id, "name": name, "arguments": arguments, "requestor": requestor}


def simulation():
    return {
        "id": "7c1e",
        "task_id": "12",
        "trial": 0,
        "seed": 5,
        "termination_reason": "user_stop",
        "duration": 31.5,
        "reward_info": {"reward": 0.0, "db_check": {"db_match": False}},
        "messages": [
            {"role": "assistant", "content": "Hi! How can I help?", "tool_calls": None, "turn_idx": 0, "cost": 0.0},
            {"role": "user", "content": "No data", "timestamp": "2026-01-01T10:00:00", "turn_idx": 1, "cost": 0.001},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call("a1", "get_line", number="555"), call("a2", "get_bill", month=3)],
                "turn_idx": 2,
                "timestamp": "2026-01-01T10:00:01",
                "cost": 0.02,
                "usage": {"prompt_tokens": 800, "completion_tokens": 30},
            },
            {
                "role": "tool",
                "tool_messages": [
                    {"id": "a1", "role": "tool", "content": "line", "requestor": "assistant", "error": False},
                    {"id": "a2", "role": "tool", "content": "no bill", "requestor": "assistant", "error": True},
                ],
            },
            {"role": "assistant", "content": "Toggle roaming.", "turn_idx": 4},
            {"role": "user", "content": None, "tool_calls": [call("u1", "toggle_roaming", "user")], "turn_idx": 5},
            {"id": "u1", "role": "tool", "content": "Roaming is on", "requestor": "user", "error": False},
            {"role": "user", "content": "It works", "turn_idx": 7},
        ],
    }


def results():
    return {
        "timestamp": "2026-01-01T09:00:00",
        "info": {"agent_info": {"implementation": "llm_agent", "llm": "small-1"}, "num_trials": 1},
        "tasks": [{"id": "12", "description": {"purpose": "no data"}}, {"id": "13"}],
        "simulations": [simulation(), {**simulation(), "id": "8d2f", "task_id": "13"}],
    }


def gathered(value):
    assert TAU_BENCH.gather is not None
    return [numbered.value for numbered in TAU_BENCH.gather(iter([Numbered(1, value)]))]


def read(value):
    row = decode(TAU_BENCH, value, Notes())
    assert isinstance(row, dict)
    return row


def test_a_row_of_the_first_generation():
    row = read(first_generation())
    assert (row["id"], row["reward"], row["details"]) == ("3-1", 1.0, {"task_id": 3, "trial": 1})
    system, user, asked, result, said, stop = row["content"]
    assert (system["source"], user["source"], stop["content"]) == ("system", "user", "###STOP###")
    assert (asked["function"], asked["kwargs"], asked["call_id"]) == ("get_user", {"id": "ann_1"}, "c1")
    assert (result["source"], result["call_id"], said["content"]) == ("environment", "c1", "Done, Ann.")
    assert row["extra"][NAME]["run"] == {"info": first_generation()["info"]}


def test_one_file_many_simulations_each_with_its_task():
    first, second = gathered(results())
    assert (read(first)["id"], read(second)["id"]) == ("7c1e", "8d2f")
    assert read(first)["extra"][NAME]["task"] == results()["tasks"][0]
    assert read(second)["extra"][NAME]["file"]["info"]["num_trials"] == 1


def test_the_users_own_tools_are_beside():
    row = read(gathered(results())[0])
    actions = [item for item in row["content"] if item["class_"].endswith("action")]
    assert [item.get("function", item.get("content")) for item in actions] == [
        "Hi! How can I help?",
        "get_line",
        "get_bill",
        "Toggle roaming.",
    ]
    assert "Roaming is on" not in [item.get("content") for item in row["content"]]
    assert [entry["message"] for entry in row["extra"][NAME]["beside"]] == simulation()["messages"][5:7]
    assert row["content"][-1]["content"] == "It works"


def test_calls_results_times_and_costs():
    row = read(gathered(results())[0])
    line, bill, got, failed = row["content"][2:6]
    assert (line["kwargs"], bill["kwargs"], bill["joined"]) == ({"number": "555"}, {"month": 3}, True)
    assert (got["call_id"], got["name"], got["is_error"]) == ("a1", "get_line", False)
    assert (failed["call_id"], failed["is_error"]) == ("a2", True)
    assert line["timestamp"] == "2026-01-01T10:00:01"
    paid = row["model_calls"][line["model_call"]]
    assert paid == {
        "model": "small-1",
        "usage": {"calls": 1, "input_tokens": 800, "output_tokens": 30, "cost_usd": 0.02},
    }
    assert bill["model_call"] == line["model_call"]
    assert row["reward"] == 0.0 and row["details"]["termination_reason"] == "user_stop"


def test_a_single_simulation_and_a_voice_run():
    assert read(simulation())["id"] == "7c1e"
    voice = {**simulation(), "messages": None, "ticks": []}
    assert isinstance(decode(TAU_BENCH, voice, Notes()), Skip)


@pytest.mark.parametrize("value", [None, 1, [], {}, {"traj": "x"}, {"simulation": 3}, {"traj": [1]}])
def test_what_is_no_run_is_refused(value):
    with pytest.raises(RowError):
        read(value)


def test_detection():
    assert TAU_BENCH.likes(first_generation()) == 92
    assert TAU_BENCH.likes(results()) == 95
    assert TAU_BENCH.likes(simulation()) == 92
    for value in (None, [], {}, {"messages": []}, {"task_id": 1}, {"simulation": 1}, {"task_id": 1, "messages": []}):
        assert TAU_BENCH.likes(value) == 0


@settings(max_examples=200, deadline=None)
@given(mutated(first_generation()))
def test_a_broken_first_generation_never_crashes_and_loses_nothing(value):
    assert not lost(TAU_BENCH, value, CHAT)


@settings(max_examples=300, deadline=None)
@given(mutated(results()))
def test_a_broken_result_file_never_crashes_and_loses_nothing(value):
    for part in gathered(value):
        assert not lost(TAU_BENCH, part, CHAT)


def test_numbers_of_arguments_stay_numbers():
    text = json.dumps(read(gathered(results())[0]))
    assert '"month": 3' in text
