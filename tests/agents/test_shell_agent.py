"""The agent `shell` on real tasks in real boxes: what a model earns, and what the record says when things go wrong."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import running

from fairtrial.agents.recording import load_log
from fairtrial.core.errors import InfraError, UserError
from fairtrial.core.limits import Limits
from fairtrial.core.record import Outcome

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).parent / "mcp_server.py"
SOLVE = "echo $((2 * $(cat number.txt))) > answer.txt"
DONE = "<answer>twice the number is in answer.txt</answer>"

HANGING, SLEEPING, ENDLESS = (f"3133{n}.{os.getpid()}" for n in range(3))
"""Seconds that no other process sleeps."""


def bash(*commands, text=""):
    """A reply that calls the shell."""
    return {"text": text, "tool_calls": [{"name": "bash", "arguments": {"command": one}} for one in commands]}


def shell(*replies, after="error", faults=(), **settings):
    model = {"kind": "scripted", "replies": list(replies), "after": after, "faults": list(faults)}
    return {"id": "shell", "model": model, **settings}


def mcp_server(folder, *more):
    """A server whose processes can be told from those of other tests."""
    command = [sys.executable, str(SERVER), str(folder / "notes"), *more]
    return {"command": command, "env": {"TESTED_IN": str(folder)}}


def heard(record):
    """What came back to the model: (text, is_error)."""
    return [
        (item.content, bool(item.is_error)) for item in record.trajectory.content if item.class_ == "text_observation"
    ][2:]


def test_the_recipe_goes_from_model_to_verdict(tmp_path):
    command = [sys.executable, "-m", "fairtrial.app.cli", "run", ROOT / "recipes" / "shell.toml", "--no-report"]
    environ = {**os.environ, "FAIRTRIAL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--out", tmp_path / "run", "--json", "--quiet", "--gate", "shell >= nop + 0.9"],
        capture_output=True,
        text=True,
        env=environ,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    arms = {arm["name"]: arm for arm in json.loads(done.stdout)["arms"]}
    assert (arms["nop"]["mean"], arms["shell"]["mean"]) == (0.0, 1.0)


def test_a_solved_task_keeps_what_was_said_done_and_spent(lab):
    lab.task()
    record = lab.run(shell(bash("cat number.txt", text="I look."), bash(SOLVE, "echo checked"), DONE))
    assert (record.outcome, record.scores["reward"], record.flags) == (Outcome.SCORED, 1.0, ())
    assert heard(record) == [("21", False), ("[it printed nothing]", False), ("checked", False)]
    calls = [item for item in record.trajectory.content if item.class_ == "api_action"]
    assert [call.kwargs["command"] for call in calls] == ["cat number.txt", SOLVE, "echo checked"]
    assert [call.model_call for call in calls] == [0, 1, 1]
    assert record.usage.calls == len(record.trajectory.model_calls) == 3
    assert record.details["agent"]["answer"] == "twice the number is in answer.txt"
    assert record.details["agent"]["accounting"]["turns"] == 3
    log = load_log(lab.out(record, "agent_log.jsonl").encode())
    assert log.answer == record.details["agent"]["answer"] and len(log.steps) == 3


def test_commands_of_one_turn_run_once_each_and_one_after_the_other(lab):
    lab.task()
    commands = [f"echo {name}- >> order; sleep 0.05; echo -{name} >> order" for name in "abc"]
    record = lab.run(shell(bash(*commands), bash("tr -d '\\n' < order", SOLVE), DONE))
    assert heard(record)[3][0] == "a--ab--bc--c"
    assert record.scores["reward"] == 1.0


@pytest.mark.parametrize("policy", ["append", "last-n", "fold-fixed"])
@pytest.mark.parametrize("planner", ["react", "graph"])
def test_any_policy_and_planner_drive_the_same_shell(lab, policy, planner):
    lab.task()
    call = '<tool_call>{"name": "bash", "arguments": {"command": "%s"}}</tool_call>'
    if planner == "graph":
        call = '<graph><node id="s1">bash("%s")</node></graph>'
    record = lab.run(shell(call % SOLVE, DONE, policy=policy, planner=planner))
    assert (record.outcome, record.scores["reward"]) == (Outcome.SCORED, 1.0), record.message


def test_trap_2_a_turn_with_broken_json_runs_nothing_and_the_model_tries_again(lab):
    lab.task()
    broken = {"name": "bash", "arguments": '{"command": "echo 1 > answer.txt'}
    side = {"name": "bash", "arguments": {"command": "echo x >> beside"}}
    record = lab.run(shell({"tool_calls": [side, broken]}, bash("wc -l < beside", SOLVE), DONE))
    assert record.scores["reward"] == 1.0
    said = heard(record)
    assert any(error and "JSON" in text for text, error in said), said
    log = load_log(lab.out(record, "agent_log.jsonl").encode())
    ran = [result.text for step in log.steps for result in step.results if result.status == "ok"]
    # Either the whole turn was refused, or the sound call ran once; a second run of it would be the trap.
    assert "2" not in ran


def test_a_model_that_never_keeps_the_format_ends_as_failed_and_is_still_judged(lab):
    lab.task()
    record = lab.run(shell(bash(SOLVE), "I am done, I think.", after="last", repairs=2))
    assert (record.outcome, record.cause, record.scores["reward"]) == (Outcome.FAILED, "format", 1.0)
    assert record.details["agent"]["accounting"]["turns"] == 1
    assert record.usage.calls == 4


def test_trap_14_a_command_that_hangs_is_a_timeout_and_the_run_goes_on(lab):
    lab.task()
    hang = f"echo started; (setsid sleep {HANGING} &); sleep {HANGING}"
    record = lab.run(shell(bash(hang), bash(SOLVE), DONE, command_s=0.5))
    assert (record.outcome, record.scores["reward"]) == (Outcome.SCORED, 1.0)
    (text, error), *_ = heard(record)
    assert error and "started" in text and "longer than" in text
    assert running(HANGING) == []


def test_an_agent_whose_time_is_up_is_failed_and_what_it_did_is_still_judged(lab):
    lab.task(agent_s=1.5)
    record = lab.run(shell(bash(SOLVE), bash(f"sleep {SLEEPING}"), bash(f"sleep {SLEEPING}"), after="last"))
    assert record.outcome is Outcome.FAILED and record.cause in ("wall_limit", "seconds_limit")
    assert record.scores["reward"] == 1.0
    assert heard(record)[0] == ("[it printed nothing]", False)
    assert running(SLEEPING) == []


def test_limits_on_turns_and_tokens_end_a_run(lab):
    lab.task()
    record = lab.run(shell(bash("true"), after="last", turns=4))
    assert (record.outcome, record.cause, record.scores["reward"]) == (Outcome.FAILED, "turns_limit", 0.0)
    assert record.details["agent"]["accounting"]["turns"] == 3
    record = lab.run(shell(bash(SOLVE), bash("true"), after="last"), limits=Limits(tokens=6000))
    assert (record.outcome, record.cause, record.scores["reward"]) == (Outcome.FAILED, "tokens_limit", 1.0)
    assert record.usage.tokens > 0


def test_an_mcp_server_killed_in_the_middle_of_a_call_is_recorded_and_the_run_goes_on(lab, tmp_path):
    lab.task()
    server = {
        "command": [sys.executable, str(SERVER), str(tmp_path / "notes")],
        "env": {"TESTED_IN": str(tmp_path)},
        "prefix": "lab_",
    }
    die = {"tool_calls": [{"name": "lab_die"}, {"name": "lab_slow", "arguments": {"seconds": 60}}]}
    add = {"tool_calls": [{"name": "lab_add", "arguments": {"a": 20, "b": 22}}]}
    record = lab.run(shell(die, add, bash(SOLVE), DONE, mcp={"lab": server}))
    assert (record.outcome, record.scores["reward"], record.flags) == (Outcome.SCORED, 1.0, ("tools_outside_the_box",))
    died, cut, added, solved = heard(record)
    assert died[1] and "lab ended" in died[0] and "started again" in died[0]
    assert cut[1] and "lab ended" in cut[0]
    assert (added, solved) == (("42", False), ("[it printed nothing]", False))
    assert (tmp_path / "notes").read_text().count("dying") == 1
    assert running(f"TESTED_IN={tmp_path}") == []


def test_a_provider_that_fails_is_the_infrastructures_fault(lab):
    lab.task()
    with pytest.raises(InfraError, match="injected"):
        lab.run(shell(bash(SOLVE), DONE, faults=[{"kind": "server_error", "calls": [2]}]))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"policy": "foldd"}, 'context policy "foldd"'),
        ({"planner": {"id": "native", "answers": "x"}}, "answers"),
        ({"model": "scripted"}, 'agent "shell": model'),
        ({"tools": ["zsh"]}, "tools"),
        ({"turns": 0}, "turns"),
        ({"mcp": {"lab": {"command": ["x"], "secrets": ["FAIRTRIAL_NOWHERE"]}}}, "FAIRTRIAL_NOWHERE"),
        (
            {"model": {"kind": "scripted", "replies": ["x"], "context": 9}},
            "the model takes 9 tokens, and",
        ),
        (
            {"policy": {"id": "append", "window": 20}},
            "the window 20, with the rules and the",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(lab, wrong, said):
    lab.task()
    with pytest.raises(UserError) as caught:
        lab.run({**shell(DONE), **wrong})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_two_tools_of_one_name_are_refused(lab, tmp_path):
    lab.task()
    server = {
        "command": [sys.executable, str(SERVER), str(tmp_path / "notes"), "bash"],
        "env": {"TESTED_IN": str(tmp_path)},
    }
    with pytest.raises(UserError, match="two tools are called bash"):
        lab.run(shell(DONE, mcp={"one": server}))
    assert running(f"TESTED_IN={tmp_path}") == []


def test_trap_14_a_cancelled_trial_leaves_no_command_and_no_server(lab, tmp_path):
    lab.task()
    server = {
        "command": [sys.executable, str(SERVER), str(tmp_path / "notes")],
        "env": {"TESTED_IN": str(tmp_path)},
        "tools": ["slow", "spawn"],
    }
    calls = [{"name": "spawn"}, {"name": "slow", "arguments": {"seconds": 600}}]
    hang = {"name": "bash", "arguments": {"command": f"setsid sleep {ENDLESS} & sleep {ENDLESS}"}}
    agent = shell({"tool_calls": [*calls, hang]}, mcp={"lab": {**server, "read_only": ["*"]}})

    async def cancelled():
        trial = asyncio.create_task(lab.arun(agent, "double", Limits()))
        while not ((tmp_path / "notes").exists() and running(ENDLESS)):
            await asyncio.sleep(0.02)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial

    asyncio.run(cancelled())
    assert running(ENDLESS) == running(f"TESTED_IN={tmp_path}") == []
