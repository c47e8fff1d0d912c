"""One trial: what each agent scores, what the record keeps, and how limits end an agent."""

import json

import pytest

from fairtrial.core.errors import InfraError, UserError
from fairtrial.core.limits import Limits
from fairtrial.core.record import Outcome
from fairtrial.core.trajectory import Trajectory

SOLVE = "n = int(open('/app/number.txt').read())\nopen('/app/answer.txt', 'w').write(str(2 * n))\n"


def test_the_oracle_scores_one_in_every_arm_and_nop_zero(lab):
    lab.task()
    for skills in ("none", "curated"):
        record = lab.run("oracle", skills=skills)
        assert record.scores == {"reward": 1.0, "strict": 1.0}
        assert record.outcome is Outcome.SCORED
        assert record.flags == ()
    assert lab.run("nop").scores == {"reward": 0.0, "strict": 0.0}


def test_a_command_gets_the_instruction_on_standard_input_and_in_a_file(lab, script):
    lab.task()
    agent = script(
        "import os, sys\nassert sys.stdin.read() == open(os.environ['FAIRTRIAL_INSTRUCTION']).read()\n"
        "print('thinking')\nprint('careful', file=sys.stderr)\n" + SOLVE + "sys.exit(3)\n"
    )
    record = lab.run(agent)
    assert record.scores["reward"] == 1.0
    assert record.outcome is Outcome.SCORED
    assert record.details["agent"]["exit_code"] == 3
    assert lab.out(record) == "thinking\n"
    assert lab.out(record, "agent_stderr.txt") == "careful\n"
    first, action, seen = record.trajectory.content
    assert (first.source, first.content) == ("user", "Write twice the number in /app/number.txt to /app/answer.txt.\n")
    assert action.content == "python3 /agent/solver.py"
    assert seen.content == "thinking\n\ncareful\n"


def test_usage_and_trajectory_that_a_command_leaves_are_taken(lab, script):
    lab.task()
    mine = Trajectory(id="mine").model_dump_json()
    agent = script(
        "import os, json\nused = dict(calls=2, input_tokens=30, cost_usd=0.5)\n"
        "json.dump(used, open(os.environ['FAIRTRIAL_USAGE'], 'w'))\n"
        f"open(os.environ['FAIRTRIAL_TRAJECTORY'], 'w').write('''{mine}''')\n" + SOLVE
    )
    record = lab.run(agent)
    assert (record.usage.calls, record.usage.input_tokens, record.usage.cost_usd) == (2, 30, 0.5)
    assert record.trajectory.id == "mine"
    assert record.scores["reward"] == 1.0


def test_a_trajectory_in_another_format_is_read_and_the_original_is_kept(lab, script):
    lab.task()
    call = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    talk = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "I look.", "tool_calls": [call]}]
    theirs = json.dumps({"messages": [*talk, {"role": "tool", "tool_call_id": "c1", "content": "a.txt"}]})
    record = lab.run(script(f"import os\nopen(os.environ['FAIRTRIAL_TRAJECTORY'], 'w').write({theirs!r})\n" + SOLVE))
    assert record.flags == () and record.scores["reward"] == 1.0
    assert [item.class_ for item in record.trajectory.content] == ["text_observation", "api_action", "text_observation"]
    assert record.trajectory.content[1].kwargs == {"command": "ls"}
    assert "read as openai-chat" in record.details["agent"]["trajectory"]
    assert lab.out(record, "agent_trajectory.json") == theirs


def test_usage_over_a_limit_fails_the_trial_and_keeps_what_was_spent(lab, script):
    lab.task()
    agent = script("import os\nopen(os.environ['FAIRTRIAL_USAGE'], 'w').write('{\"input_tokens\": 3000}')\n" + SOLVE)
    record = lab.run(agent, limits=Limits(tokens=1000))
    assert (record.outcome, record.cause) == (Outcome.FAILED, "tokens_limit")
    assert record.usage.input_tokens == 3000


@pytest.mark.parametrize(("name", "flag"), [("USAGE", "unusable_usage"), ("TRAJECTORY", "foreign_trajectory")])
def test_unreadable_reports_of_a_command_are_noted_and_change_no_score(lab, script, name, flag):
    lab.task()
    record = lab.run(
        script(f"import os\nopen(os.environ['FAIRTRIAL_{name}'], 'w').write('{{\"steps\": 1}}')\n" + SOLVE)
    )
    assert record.flags == (flag,)
    assert record.scores["reward"] == 1.0
    assert "agent_stdout.txt" not in record.artifacts
    if name == "TRAJECTORY":
        assert lab.out(record, "agent_trajectory.json") == '{"steps": 1}'


def test_an_agent_out_of_time_is_failed_and_what_it_did_is_still_judged(lab, script):
    lab.task(agent_s=1.0)
    record = lab.run(script(SOLVE + "import time\ntime.sleep(60)\n"))
    assert (record.outcome, record.cause) == (Outcome.FAILED, "wall_limit")
    assert record.scores["reward"] == 1.0
    record = lab.run(script("import time\ntime.sleep(60)\n" + SOLVE))
    assert (record.outcome, record.cause, record.scores["reward"]) == (Outcome.FAILED, "wall_limit", 0.0)


def test_the_studys_limit_on_seconds_ends_the_agent_before_the_engine_has_to(lab, script):
    lab.task()
    record = lab.run(script("import time\ntime.sleep(60)\n"), limits=Limits(seconds=2.0))
    assert (record.outcome, record.cause) == (Outcome.FAILED, "wall_limit")
    assert record.timings.working_s < 2.0


def test_an_agent_out_of_memory_is_failed_not_errored(lab, script):
    toml = 'schema_version = "1.4"\n[environment]\nmemory_mb = 128\n'
    lab.task(**{"task.toml": toml})
    record = lab.run(script("blocks = [b'x' * (1 << 20) for _ in range(600)]\n"))
    assert (record.outcome, record.cause) == (Outcome.FAILED, "out_of_memory")
    assert record.scores == {"reward": 0.0, "strict": 0.0}


def test_declared_artifacts_are_kept_and_links_are_not_followed(lab, script, tmp_path):
    (tmp_path / "private.txt").write_text("host secret")
    lab.task(
        **{"task.toml": 'schema_version = "1.4"\nartifacts = ["/app/answer.txt", "/app/link.txt", "/app/none.txt"]\n'}
    )
    record = lab.run(script(SOLVE + f"import os\nos.symlink('{tmp_path}/private.txt', '/app/link.txt')\n"))
    assert lab.out(record, "artifacts/app/answer.txt") == "42"
    assert "artifacts/app/link.txt" not in record.artifacts
    assert len(record.details["agent"]["artifacts_missing"]) == 2


def test_secrets_reach_the_agent_and_no_record(lab, script, monkeypatch):
    monkeypatch.setenv("MY_ACCESS", "hush-hush-4711-value")
    lab.task()
    text = (
        "import os\nmine = os.environ['MY_ACCESS']\nprint(mine, len(mine))\n"
        "open('/logs/artifacts/a', 'w').write(mine)\n"
    )
    record = lab.run(script(text, secrets=["MY_ACCESS"]))
    assert lab.out(record) == "[redacted MY_ACCESS] 20\n"
    assert lab.out(record, "artifacts/logs/artifacts/a") == "[redacted MY_ACCESS]"
    assert "hush-hush" not in record.model_dump_json()
    assert not any(b"hush-hush" in blob for blob in lab.blobs.kept.values())


STEPS = {
    "task.toml": 'schema_version = "1.4"\n[[steps]]\nname = "first"\nmin_reward = 1.0\n[[steps]]\nname = "second"\n',
    "steps/first/instruction.md": "Write 1 to /app/one.\n",
    "steps/first/tests/test.sh": "test -f /app/one && r=1 || r=0\necho $r > /logs/verifier/reward.txt\n",
    "steps/first/solution/solve.sh": "echo 1 > /app/one\n",
    "steps/second/instruction.md": "Write 2 to /app/two.\n",
    "steps/second/tests/test.sh": "cat /app/one /app/two | wc -l | awk '{print $1/2}' > /logs/verifier/reward.txt\n",
    "steps/second/solution/solve.sh": "echo 2 > /app/two\n",
}


def test_steps_run_in_one_environment_and_stop_below_the_minimum(lab, script):
    lab.task(**STEPS)
    record = lab.run("oracle")
    assert record.scores["reward"] == 1.0
    assert [step["step"] for step in record.details["steps"]] == ["first", "second"]
    record = lab.run(script("open('/app/two', 'w').write('2\\n')\n"))
    assert record.scores["reward"] == 0.0
    assert len(record.details["steps"]) == 1
    record = lab.run(script("open('/app/one', 'w').write('1\\n')\n"))
    assert record.scores["reward"] == 0.75


def test_a_broken_verifier_is_errored_whatever_the_agent_did(lab):
    lab.task(**{"tests/test.sh": "exit 1\n"})
    with pytest.raises(InfraError) as error:
        lab.run("oracle")
    assert error.value.cause == "verifier"


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("orcale", 'did you mean "oracle"'),
        ({"command": ["x"]}, "say which agent"),
        ({"id": "command"}, '"command" is required'),
        ({"id": "command", "command": ["python3", "/agent/solver.py"]}, r'add files = \["solver.py"\]'),
        ({"id": "command", "command": ["true"], "files": ["missing.py"]}, "no such file"),
        ({"id": "command", "command": ["true"], "secrets": ["NOT_SET_ANYWHERE"]}, "export it first"),
        ({"id": "command", "command": ["true"], "enviroment": {}}, "unknown key"),
    ],
)
def test_an_unusable_agent_is_refused_in_one_line_before_anything_runs(lab, agent, words):
    lab.task()
    with pytest.raises(UserError, match=words) as error:
        lab.run(agent)
    assert "\n" not in str(error.value)


def test_an_oracle_without_a_solution_is_refused(lab):
    (lab.task() / "solution" / "solve.sh").unlink()
    with pytest.raises(UserError, match=r"no solution/solve\.sh to run in: double"):
        lab.run("oracle")


def test_nothing_stays_behind(lab, script, tmp_path, monkeypatch):
    from fairtrial.tasks.scratch import scratch_parent

    lab.task()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lab.run(script("import os\nos.makedirs('/app/locked/in')\nos.chmod('/app/locked', 0)\n"))
    assert scratch_parent().is_relative_to(tmp_path) and scratch_parent().is_dir()
    assert list(scratch_parent().glob("run-*")) == []


def test_visible_names_every_task_file_by_hash_and_is_the_same_for_equal_arms(lab):
    import hashlib

    lab.task()
    bare, again, curated = lab.run("nop"), lab.run("nop"), lab.run("nop", skills="curated")
    assert bare.visible == again.visible != curated.visible
    listing = json.loads(lab.blobs.text(bare.visible))
    number = next(row for row in listing["files"] if row["path"] == "/app/number.txt")
    assert number == {"path": "/app/number.txt", "size": 3, "sha256": hashlib.sha256(b"21\n").hexdigest()}
    assert not [row for row in listing["files"] if "skill" in row["path"]]
    more = {row["path"] for row in json.loads(lab.blobs.text(curated.visible))["files"]}
    assert "/root/.claude/skills/doubling/SKILL.md" in more


def test_an_opened_network_is_flagged_and_a_difference_between_arms_reported(lab, script, caplog):
    from fairtrial.agents.trial import AgentTrial

    lab.task()
    agent = script("import socket\nprint(len(socket.if_nameindex()) > 0)\n", network="public")
    record = lab.run(agent)
    assert record.flags == ("network_opened",)
    assert json.loads(lab.blobs.text(record.visible))["network"] == "public"
    kind = AgentTrial()
    kind.check(lab.suite(), {"a": lab.arm("nop"), "b": lab.arm(agent)}, lab.root)
    assert "do not have the same network (a: as the task, b: public)" in caplog.text
    assert kind.describe(lab.suite(), lab.arm(agent), lab.root)["network"] == "public, whatever the task says"
    told = kind.describe(lab.suite(), lab.arm("nop", skills="curated"), lab.root)
    assert told["skills"] == "curated: the task's own folder, read-only"
