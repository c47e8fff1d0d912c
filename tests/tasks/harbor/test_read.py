import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.core.config import read_toml
from fairtrial.core.errors import UserError
from fairtrial.tasks.harbor.files import folder_digest
from fairtrial.tasks.harbor.front import task_md_tables
from fairtrial.tasks.harbor.read import read_suite, read_task
from fairtrial.tasks.harbor.schema import parse_task_toml

CASES = Path(__file__).parents[4] / "shared" / "cases" / "skillsbench"


def make(root, name="demo", toml='version = "1.0"\n', **files):
    folder = root / name
    content = {
        "task.toml": toml,
        "instruction.md": "Do it.\n",
        "environment/Dockerfile": "FROM ubuntu:24.04\n",
        "tests/test.sh": "#!/bin/bash\npip install pytest==8.4.1\n",
        "solution/solve.sh": "true\n",
        **files,
    }
    for path, text in content.items():
        if text is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return folder


@pytest.mark.skipif(not CASES.is_dir(), reason="the genuine SkillsBench cases are not beside this checkout")
def test_every_genuine_task_toml_is_read():
    found = {path.parent.name: parse_task_toml(read_toml(path), where=str(path)) for path in CASES.glob("*/task.toml")}
    assert len(found) == 5
    assert found["hvac-control"].environment.memory_limit_mb == 2048
    assert found["3d-scan-calc"].environment.memory_limit_mb == 4096
    assert found["manufacturing-fjsp-optimization"].verifier.timeout_sec == 450


@pytest.mark.skipif(not CASES.is_dir(), reason="the genuine SkillsBench cases are not beside this checkout")
def test_a_genuine_folder_with_a_verifier_put_in_becomes_a_task(tmp_path):
    folder = tmp_path / "hvac-control"
    shutil.copytree(CASES / "hvac-control", folder)
    with pytest.raises(UserError, match=r"test\.sh: no such file; a task without a verifier cannot be scored"):
        read_task(folder)
    (folder / "tests" / "test.sh").write_text("uvx --with pytest==8.4.1 pytest /tests/x.py\n")
    task = read_task(folder)
    assert task.info.family is None, "a category is a subject, not a family"
    assert task.info.tags[0] == "control-systems" and "pid" in task.info.tags
    assert len(task.skills) == 5
    assert (task.limits.memory_mb, task.limits.cpus, task.limits.disk_mb) == (2048, 2, 5120)
    assert task.network == "none"
    assert task.steps[0].verifier.packages == ("pytest==8.4.1",)
    assert task.steps[0].verifier.timeout_s == 1800


def test_a_task_is_read_with_its_instruction_verifier_and_oracle(tmp_path):
    folder = make(
        tmp_path, toml='version = "1.0"\n[metadata]\ncategory = "logs"\ntags = ["a"]\n[agent]\ntimeout_sec = 30.0\n'
    )
    task = read_task(folder)
    assert task.id == "demo"
    assert task.steps[0].instruction == "Do it.\n"
    assert task.steps[0].solution == folder / "solution"
    assert task.agent_timeout_s == 30
    assert task.warnings == ()


def test_steps_have_their_own_instructions_and_tests_and_share_what_they_lack(tmp_path):
    toml = """
multi_step_reward_strategy = "final"
[[steps]]
name = "first"
min_reward = 0.5
artifacts = ["/app/one.txt"]
[steps.agent]
timeout_sec = 9.0
user = "dev"
[steps.verifier]
timeout_sec = 7.0
[[steps]]
name = "second"
min_reward = {accuracy = 0.9}
"""
    folder = make(tmp_path, toml=toml, **{
        "instruction.md": None,
        "steps/first/instruction.md": "One.",
        "steps/first/tests/test.sh": "true",
        "steps/first/solution/solve.sh": "true",
        "steps/second/instruction.md": "Two.",
    })  # fmt: skip
    task = read_task(folder)
    assert [step.instruction for step in task.steps] == ["One.", "Two."]
    assert task.steps[0].verifier.tests == folder / "steps" / "first" / "tests"
    assert task.steps[0].verifier.timeout_s == 7
    assert task.steps[0].min_reward == 0.5
    assert task.steps[1].verifier.tests == folder / "tests"
    assert task.steps[1].solution == folder / "solution"
    assert task.steps[1].min_reward == {"accuracy": 0.9}
    assert task.step_reward == "final"
    assert [step.agent_timeout_s for step in task.steps] == [9, None]
    assert task.artifacts == ("/app/one.txt",)
    assert any("steps.first.user dev" in line for line in task.warnings)


def test_an_oracle_that_installs_packages_is_reported(tmp_path):
    task = read_task(make(tmp_path, **{"solution/solve.sh": "pip3 install cvxpy==1.4\n"}))
    assert task.warnings == ("solution/solve.sh installs cvxpy==1.4, which no agent could do without network",)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text() | st.text("-\n: []{}agentmo_w.0123e"))
def test_any_single_file_task_is_tables_or_a_user_error(text):
    try:
        tables, instruction = task_md_tables(text, where="task.md")
        parse_task_toml(tables, where="task.md")
    except UserError as error:
        assert str(error).startswith("task.md: ")
    else:
        assert instruction


def test_the_single_file_form_is_the_same_task(tmp_path):
    folder = tmp_path / "single"
    for path, text in {
        "task.md": "---\nschema_version: '1.3'\nmetadata: {category: text, family: texts}\nagent:\n  timeout_sec: 40\n"
        "environment:\n  cpus: 2\n  memory_mb: 512\n  network_mode: public\n---\n# Do it\n\n---\nend\n",
        "environment/Dockerfile": "FROM debian\n",
        "oracle/solve.sh": "true\n",
        "verifier/test.sh": "true\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    task = read_task(folder)
    assert task.steps[0].instruction == "# Do it\n\n---\nend"
    assert task.steps[0].solution == folder / "oracle"
    assert (task.agent_timeout_s, task.limits.memory_mb, task.network, task.info.family) == (40, 512, "public", "texts")


def test_the_hosts_variables_never_reach_a_task(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    toml = '[verifier]\nenv = {T = "${SECRET_TOKEN}", D = "${SECRET_TOKEN:-none}"}\n'
    toml += '[solution]\nenv = {S = "${SECRET_TOKEN}"}\n'
    folder = make(tmp_path, toml=toml)
    task = read_task(folder)
    assert dict(task.steps[0].verifier.env) == {"D": "none"}
    assert dict(task.solution_env) == {}
    assert sum("${SECRET_TOKEN}" in line for line in task.warnings) == 2
    given = read_task(folder, environ={"SECRET_TOKEN": "mine"})
    assert dict(given.steps[0].verifier.env) == {"T": "mine", "D": "mine"}


def test_legacy_and_stray_keys_are_reported_and_the_network_stays_cut(tmp_path):
    toml = '[environment]\nallow_internet = true\nmemory = "4G"\n[reward]\nx = 1\n'
    task = read_task(make(tmp_path, toml=toml))
    assert task.network == "none"
    assert task.limits.memory_mb == 4096
    assert any("allow_internet" in line for line in task.warnings)
    assert any('"reward"' in line for line in task.warnings)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tests/test.sh": None}, "without a verifier"),
        ({"instruction.md": None}, "needs its instruction"),
        ({"instruction.md": "  \n"}, "is empty"),
        ({"task.toml": "version = "}, "not valid TOML"),
        ({"task.toml": None}, "neither task.toml nor task.md"),
        ({"task.toml": '[[steps]]\nname = "one"\n'}, "no such folder; the step"),
    ],
)
def test_broken_tasks_are_refused_in_one_line(tmp_path, files, message):
    with pytest.raises(UserError) as error:
        read_task(make(tmp_path, **files))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_links_that_leave_the_folder_are_refused(tmp_path):
    folder = make(tmp_path)
    (tmp_path / "secret").write_text("x")
    link = folder / "environment" / "data"
    for target in (tmp_path / "secret", Path("../../secret")):
        link.symlink_to(target)
        with pytest.raises(UserError, match="leaves the task's folder"):
            read_task(folder)
        link.unlink()
    link.symlink_to("Dockerfile")
    assert read_task(folder).id == "demo"


def test_pipes_and_link_loops_are_refused(tmp_path):
    folder = make(tmp_path)
    os.mkfifo(folder / "environment" / "pipe")
    with pytest.raises(UserError, match="neither a file"):
        read_task(folder)
    (folder / "environment" / "pipe").unlink()
    (folder / "environment" / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="link"):
        read_task(folder)


def test_the_digest_follows_content_name_and_executable_bit_and_nothing_else(tmp_path):
    folder = make(tmp_path)
    first = folder_digest(folder)
    os.utime(folder / "instruction.md", (1, 1))
    (folder / "tests" / "__pycache__").mkdir()
    (folder / "tests" / "__pycache__" / "x.pyc").write_bytes(b"x")
    shutil.copytree(folder, tmp_path / "copy" / "demo")
    assert folder_digest(folder) == folder_digest(tmp_path / "copy" / "demo") == first
    seen = {first}
    (folder / "solution" / "solve.sh").chmod(0o755)
    seen.add(folder_digest(folder))
    (folder / "tests" / "test.sh").write_text("true\n")
    seen.add(folder_digest(folder))
    (folder / "tests" / "test.sh").rename(folder / "tests" / "tests.sh")
    seen.add(folder_digest(folder))
    assert len(seen) == 4


def test_all_broken_tasks_of_a_suite_are_named_at_once(tmp_path):
    make(tmp_path, "good")
    make(tmp_path, "bad-one", **{"tests/test.sh": None})
    make(tmp_path, "bad-two", toml="[agent]\ntimeout_sec = nan\n")
    with pytest.raises(UserError, match="2 of 3 tasks cannot be read") as error:
        read_suite(tmp_path)
    assert "bad-one" in str(error.value) and "bad-two" in str(error.value)
