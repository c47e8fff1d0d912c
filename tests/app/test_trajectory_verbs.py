"""import, show and export of trajectories, as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CALL = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
TALK = [
    {"role": "system", "content": "You are careful."},
    {"role": "user", "content": "What is here?"},
    {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
    {"role": "assistant", "content": "One file: a.txt"},
]


def fairtrial(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fairtrial.app.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
    )


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    rows = [{"id": "one", "messages": TALK}, {"id": "two", "messages": TALK[:2] + TALK[-1:]}]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_import_show_export(traces: Path) -> None:
    done = fairtrial("import", "traces.jsonl", cwd=traces)
    assert done.returncode == 0, done.stderr
    assert "traces.jsonl: openai-chat (detected)" in done.stdout
    assert "imported/traces: 2 trajectories, 8 items, from 2 values" in done.stdout
    listed = fairtrial("show", "imported/traces", cwd=traces)
    assert "What is here?" in listed.stdout and "one" in listed.stdout
    one = fairtrial("show", "imported/traces", "one", cwd=traces)
    assert "agent thinks: I look." in one.stdout and "agent calls bash(command='ls')" in one.stdout
    exported = fairtrial("export", "imported/traces", "back.jsonl", "--to", "openai-chat", cwd=traces)
    assert exported.returncode == 0, exported.stderr
    back = [json.loads(line) for line in (traces / "back.jsonl").read_text().splitlines()]
    arguments = back[0]["messages"][2]["tool_calls"][0]["function"].pop("arguments")
    assert json.loads(arguments) == {"command": "ls"}
    talk = json.loads(json.dumps(TALK))
    del talk[2]["tool_calls"][0]["function"]["arguments"]
    assert [row["messages"] for row in back] == [talk, TALK[:2] + TALK[-1:]]


def test_errors_above_the_budget_are_exit_code_3(traces: Path) -> None:
    with (traces / "traces.jsonl").open("a") as file:
        file.write('{"messages": [{"role"\n')
    done = fairtrial("import", "traces.jsonl", cwd=traces)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "traces.jsonl:3: not valid JSON" in done.stdout
    assert "1 of 3 values had an error, more than --max-errored 0.05 allows" in done.stderr
    again = fairtrial("import", "traces.jsonl", "--replace", "--max-errored", "0.5", "--json", cwd=traces)
    assert again.returncode == 0
    said = json.loads(again.stdout)
    assert (said["ok"], said["trajectories"], said["rejected"]) == (True, 2, 1)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["import", "missing.jsonl"], 2, "missing.jsonl: no such file"),
        (["import"], 2, "name what to import"),
        (["import", "traces.jsonl", "--as", "opanai-chat"], 2, 'did you mean "openai-chat"'),
        (["export", "traces.jsonl", "x.jsonl"], 2, "say as what: --to FORMAT"),
        (["export", "traces.jsonl", "x.jsonl", "--to", "langfuse"], 2, "langfuse can be read only"),
        (["export", "traces.jsonl", "x.jsonl", "--to", "codex"], 2, "name a new folder"),
        (["export", "nothing.jsonl", "x.jsonl", "--to", "adp"], 2, "no such file"),
        (["show", "traces.jsonl"], 2, ""),
    ],
)
def test_mistakes_are_one_line(traces: Path, args: list[str], code: int, says: str) -> None:
    done = fairtrial(*args, cwd=traces)
    assert done.returncode == code and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fairtrial: ")]
    assert says in line


def test_show_of_an_unknown_trajectory(traces: Path) -> None:
    assert fairtrial("import", "traces.jsonl", cwd=traces).returncode == 0
    done = fairtrial("show", "imported/traces", "ome", cwd=traces)
    assert done.returncode == 2 and 'did you mean "one"' in done.stderr
    wrong = fairtrial("show", "imported/traces", "--arm", "x", cwd=traces)
    assert wrong.returncode == 2 and "are for runs" in wrong.stderr


def test_the_formats_are_listed(traces: Path) -> None:
    done = fairtrial("import", "--formats", cwd=traces)
    assert done.returncode == 0
    for name in ("openai-chat", "claude-code", "sft-openhands", "swe-smith"):
        assert any(line.strip().startswith(name) for line in done.stdout.splitlines()), name


STUDY = """
title = "t"
repeats = 1
[suite]
id = "core-tasks"
tasks = ["csv-sales-rollup", "markdown-toc"]
[arms.nop]
control = true
agent = "nop"
[arms.oracle]
agent = "oracle"
"""


def test_trajectories_of_a_run_are_exported_for_training(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    done = fairtrial("run", "study.toml", "--out", "run", "--no-report", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = ("--to", "openai-chat", "--min-reward", "1")
    exported = fairtrial("export", "run", "sft.jsonl", *wanted, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    rows = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["messages"] for row in rows), "those that solved their task, and no others"
    wrong = fairtrial("export", "run", "x.jsonl", *wanted, "--arm", "oracel", cwd=tmp_path)
    assert wrong.returncode == 2 and 'did you mean "oracle"' in wrong.stderr
