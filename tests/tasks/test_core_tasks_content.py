"""The suite core-tasks as a reader of its folders finds it: complete, small, no answer in a skill, graded fairly."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fairtrial.tasks.core_tasks import path

TASKS = sorted(folder.name for folder in path().iterdir() if (folder / "task.toml").is_file())
# What an agent has to write, for the tasks whose input a deterministic generate.py makes below any folder.
OUTPUT = {
    "bank-reconciliation": "reconciliation.json",
    "cutting-stock": "cuts.json",
    "dependency-order": "plan.json",
    "json-api-merge": "customers.json",
    "markdown-toc": "docs/README.md",
    "regex-redaction": "redacted/chat-0412.txt",
    "sensor-calibration": "calibration.json",
    "timezone-meetings": "schedule.json",
}
each_task = pytest.mark.parametrize("name", TASKS)
each_output = pytest.mark.parametrize("name", sorted(OUTPUT))


WORD = r"[\w.@+-]{5,}"


def skill_files(name: str) -> list[Path]:
    return [file for file in (path() / name / "environment" / "skills").rglob("*") if file.is_file()]


def context(name: str) -> list[Path]:
    """Files of the environment that are not skills."""
    environment = path() / name / "environment"
    return [f for f in environment.rglob("*") if f.is_file() and environment / "skills" not in f.parents]


def test_the_suite_is_large_and_varied_enough() -> None:
    manifests = [tomllib.loads((path() / name / "task.toml").read_text("utf-8")) for name in TASKS]
    assert len(TASKS) >= 16
    assert len({manifest["metadata"]["category"] for manifest in manifests}) >= 8


@each_task
def test_a_task_has_all_its_parts(name: str) -> None:
    folder = path() / name
    for part in ("instruction.md", "environment/Dockerfile", "solution/solve.sh", "tests/test.sh", "tests/verify.py"):
        assert (folder / part).is_file(), part
    manifest = tomllib.loads((folder / "task.toml").read_text("utf-8"))
    assert manifest["schema_version"] == "1.4"
    assert manifest["task"]["name"] == f"fairtrial/{name}"
    assert {"category", "difficulty", "tags"} <= set(manifest["metadata"])
    assert manifest["environment"]["network_mode"] == "no-network"
    assert manifest["environment"]["memory_mb"] <= 512
    assert 60 <= manifest["agent"]["timeout_sec"] <= 120
    assert manifest["verifier"]["timeout_sec"] <= 60


@each_task
def test_the_environment_is_small_and_does_not_copy_skills(name: str) -> None:
    dockerfile = (path() / name / "environment" / "Dockerfile").read_text("utf-8")
    assert "skills" not in dockerfile
    assert re.search(r"^COPY ", dockerfile, re.MULTILINE)
    assert not re.search(r"^COPY \.(/| )", dockerfile, re.MULTILINE)
    assert sum(file.stat().st_size for file in context(name)) < 64_000


@each_task
def test_exactly_one_skill_with_a_valid_front_matter(name: str) -> None:
    skills = [file for file in skill_files(name) if file.name == "SKILL.md"]
    assert len(skills) == 1
    text = skills[0].read_text("utf-8")
    front = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert set(front) <= {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
    assert front["name"] == skills[0].parent.name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", front["name"])
    assert 40 <= len(front["description"]) <= 1024
    assert 30 <= len(text.splitlines()) <= 110


@each_task
def test_the_instruction_names_no_skill(name: str) -> None:
    instruction = (path() / name / "instruction.md").read_text("utf-8")
    skill = next(file for file in skill_files(name) if file.name == "SKILL.md").parent.name
    assert "skill" not in instruction.lower()
    assert skill not in instruction.lower().replace(" ", "-")
    assert "/app" in instruction


@each_task
def test_a_skill_names_no_file_of_its_task(name: str) -> None:
    instruction = (path() / name / "instruction.md").read_text("utf-8")
    names = {file.name for file in context(name) if "." in file.name}
    names |= {Path(word).name for word in re.findall(r"/app/[\w./-]+\.\w+", instruction)}
    for file in skill_files(name):
        text = file.read_text("utf-8")
        assert "/app" not in text
        found = [word for word in names if re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text)]
        assert not found, f"{file.name} names {found}"


@pytest.mark.parametrize("name", [*sorted(OUTPUT), "bugfix-csv-parser"])
def test_generated_input_is_what_is_committed(name: str, tmp_path: Path) -> None:
    script = path() / name / "generate.py"
    subprocess.run([sys.executable, "-B", script, tmp_path], check=True, env={**os.environ, "LC_ALL": "C"})
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        committed = path() / name / file.relative_to(tmp_path)
        assert committed.read_bytes() == file.read_bytes(), file.relative_to(tmp_path)


FOLDERS = ("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")
LINKS = ("--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64")
BOX = (
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    *FOLDERS,
    *LINKS,
    "--clearenv",
    "--setenv",
    "PATH",
    "/usr/bin:/bin",
)


def boxed(root: Path, argv: list[str], *mounts: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    variables = [word for key, value in (env or {}).items() for word in ("--setenv", key, value)]
    return subprocess.run(
        [*BOX, *variables, "--bind", str(root / "app"), "/app", "--chdir", "/app", *mounts, *argv],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def judged(name: str, root: Path, act: Callable[[Path], None] | None, env: dict[str, str] | None = None) -> float:
    """Reward after the oracle (act is None) or after `act(folder of the agent)`."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed, and the tasks use absolute paths")
    task = path() / name
    (root / "app").mkdir()
    (root / "logs").mkdir()
    for source, target in re.findall(
        r"^COPY (\S+) (/app\S*)", (task / "environment/Dockerfile").read_text(), re.MULTILINE
    ):
        place = root / target.removeprefix("/")
        shutil.copytree(task / "environment" / source, place, dirs_exist_ok=True)
    if act is None:
        done = boxed(root, ["bash", "/solution/solve.sh"], "--ro-bind", str(task / "solution"), "/solution", env=env)
        assert done.returncode == 0, done.stderr
    else:
        act(root / "app")
    mounts = ["--ro-bind", str(task / "tests"), "/tests", "--bind", str(root / "logs"), "/logs"]
    done = boxed(root, ["bash", "/tests/test.sh"], *mounts, env=env)
    verdict = root / "logs" / "verifier" / "reward.json"
    assert verdict.is_file(), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return json.loads(verdict.read_text("utf-8"))["reward"]


@each_task
def test_the_oracle_earns_everything_and_the_skill_holds_none_of_its_answers(name: str, tmp_path: Path) -> None:
    env = {"LC_ALL": "C", "TZ": "Asia/Kathmandu"}
    assert judged(name, tmp_path, None, env) == 1.0
    shown = b"".join(file.read_bytes() for file in context(name)).decode("utf-8", "replace")
    known = re.findall(WORD, shown + (path() / name / "instruction.md").read_text("utf-8"))
    skills = "\n".join(file.read_text("utf-8") for file in skill_files(name))
    old = {file.read_bytes() for file in context(name)}
    for file in (file for file in (tmp_path / "app").rglob("*") if file.is_file()):
        if "__pycache__" in file.parts or file.suffix in (".py", ".sql") or file.read_bytes() in old:
            continue
        answers = {word for word in re.findall(WORD, file.read_text("utf-8")) if re.search(r"\d", word)}
        leaked = {
            word for word in answers if word not in known and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", skills)
        }
        assert not leaked


@each_task
def test_doing_nothing_earns_nothing(name: str, tmp_path: Path) -> None:
    assert judged(name, tmp_path, lambda app: None, {"TZ": "America/Los_Angeles"}) == 0.0


HOSTILE = {
    "a link to a device": lambda file: file.symlink_to("/dev/zero"),
    "a link to the tests": lambda file: file.symlink_to("/tests/verify.py"),
    "a pipe": os.mkfifo,
    "a folder": lambda file: file.mkdir(),
    "a huge file": lambda file: file.write_bytes(b"[" + b"0," * 4_000_000 + b"0]"),
    "no text": lambda file: file.write_bytes(bytes(range(256))),
    "not a number": lambda file: file.write_text('{"T1": NaN, "order": [Infinity]}'),
    "deep nesting": lambda file: file.write_text("[" * 100_000 + "]" * 100_000),
    "wrong types": lambda file: file.write_text(
        '[{"id": [], "bar": {}, "pieces": 3, "entries": null}, 1, "x", null, [1e999]]'
    ),
    "a wrong object": lambda file: file.write_text(
        '{"matches": [{"entries": [{}], "line": true}], "order": {}, "T1": []}'
    ),
}


@each_output
@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_output_earns_nothing_and_leaves_a_verdict(name: str, kind: str, tmp_path: Path) -> None:
    def act(app: Path) -> None:
        file = app / OUTPUT[name]
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        HOSTILE[kind](file)

    assert judged(name, tmp_path, act) == 0.0
    details = json.loads((tmp_path / "logs" / "verifier" / "details.json").read_text("utf-8"))
    assert details["reason"]


@pytest.mark.parametrize(
    "forgery",
    [
        "import sys; sys.exit(0)",
        "import os; print('OK'); os._exit(0)",
        "import atexit; atexit.register(print, 'all tests passed')\ndef parse(*a, **k): return []",
        "class Yes(list):\n    def __eq__(self, other): return True\ndef parse(*a, **k): return Yes()",
        "import sys\nfor m in list(sys.modules.values()): setattr(m, 'dumps', lambda *a, **k: '[]')",
        "def parse(",
    ],
)
def test_a_forged_parser_earns_nothing(forgery: str, tmp_path: Path) -> None:
    assert judged("bugfix-csv-parser", tmp_path, lambda app: (app / "csvstate.py").write_text(forgery) and None) == 0.0
