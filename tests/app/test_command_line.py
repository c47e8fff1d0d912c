"""The command line as a user meets it: one clear line, the documented exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairtrial.store import RunDir

STUDY = """
title = "planted"
kind = "planted"
repeats = 2
seed = 3
[suite]
n = 30
[arms.base]
control = true
[arms.more]
effect = 0.3
[engine]
backoff_s = 0.001
"""
HEAVY = {"torch", "ray", "transformers", "scipy", "pandas", "matplotlib"}


def fairtrial(*args: str | Path, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fairtrial.app.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **environ},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "study.toml").write_text(STUDY)
    done = fairtrial("run", folder / "study.toml", "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("fairtrial: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("code", ["import fairtrial", "import fairtrial.app.cli"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(sorted({HEAVY!r} & set(sys.modules)))"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fairtrial.app.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]")
    for verb in ("run", "resume", "report", "compare", "show", "calibrate", "doctor", "verify", "reindex", "export"):
        assert verb in done.stdout


def test_json_on_every_verb(run: Path, tmp_path: Path) -> None:
    verbs = {
        "resume": ["resume", run],
        "report": ["report", run],
        "show": ["show", run, "base/sum-000001#0"],
        "show list": ["show", run],
        "verify": ["verify", run],
        "reindex": ["reindex", run],
        "export": ["export", run, tmp_path / "out.jsonl"],
        "compare": ["compare", f"{run}:more", f"{run}:base"],
        "calibrate": ["calibrate", run, "--studies", "100"],
        "doctor": ["doctor"],
    }
    for name, args in verbs.items():
        done = fairtrial(*args, "--json")
        assert done.returncode == 0, (name, done.stderr)
        assert isinstance(json.loads(done.stdout), dict), name


def test_gates_decide_the_exit_code(run: Path) -> None:
    assert fairtrial("report", run, "--gate", "more >= control + 0.1").returncode == 0
    failed = fairtrial("report", run, "--gate", "more >= base + 0.9", "--gate", "base >= 0")
    assert failed.returncode == 1 and "gate FAILED: more >= base + 0.9" in failed.stderr
    assert "did you mean" in complaint(fairtrial("report", run, "--gate", "mor >= 0.1"), 2)
    assert "write ARM" in complaint(fairtrial("report", run, "--gate", "more is better"), 2)


def test_too_many_errors_exit_3(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(STUDY.replace("effect = 0.3", "errors = 0.9") + "attempts = 1\n")
    done = fairtrial("run", tmp_path / "s.toml", "--out", tmp_path / "run")
    assert done.returncode == 3 and "--retry-errored" in done.stderr
    tolerant = fairtrial("resume", tmp_path / "run", "--max-errored", "1")
    assert tolerant.returncode == 0
    before = json.loads(fairtrial("report", tmp_path / "run", "--json").stdout)["arms"][1]["mix"]["errored"]
    fairtrial("resume", tmp_path / "run", "--retry-errored", "--set", "engine.attempts=9")
    after = json.loads(fairtrial("report", tmp_path / "run", "--json").stdout)["arms"][1]["mix"]["errored"]
    assert 0 < after < before


def test_usage_and_configuration_errors_exit_2(tmp_path: Path, run: Path) -> None:
    (tmp_path / "bad.toml").write_text(STUDY.replace("control = true", ""))
    assert "control = true" in complaint(fairtrial("run", tmp_path / "bad.toml"), 2)
    assert "no such file" in complaint(fairtrial("run", tmp_path / "none.toml"), 2)
    assert "did you mean" in complaint(fairtrial("run", tmp_path / "bad.toml", "--set", "repeat=1"), 2)
    assert "no such run directory" in complaint(fairtrial("show", tmp_path / "nowhere"), 2)
    assert "ARM/TASK#REPEAT" in complaint(fairtrial("show", run, "nonsense"), 2)
    assert "did you mean" in complaint(fairtrial("show", run, "bsae/sum-000001#0"), 2)
    assert "did you mean" in complaint(fairtrial("show", run, "--outcome", "scord"), 2)
    assert 'no artifact "visible"' in complaint(fairtrial("show", run, "base/sum-000001#0", "--open", "visible"), 2)
    assert ".parquet" in complaint(fairtrial("export", run, tmp_path / "out.csv"), 2)
    assert not (tmp_path / "runs").exists()
    unknown = fairtrial("rum")
    assert unknown.returncode == 2 and "Traceback" not in unknown.stderr


def test_another_study_in_the_directory_is_refused_with_the_difference(tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (tmp_path / "s.toml").write_text(STUDY)
    said = complaint(fairtrial("run", tmp_path / "s.toml", "--out", copy, "--set", "arms.more.effect=0.4"), 2)
    assert "arms.more.effect: 0.3 -> 0.4" in said


def test_locked_and_corrupt_directories_exit_4(tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    writer = RunDir.open_writer(copy)
    try:
        complaint(fairtrial("resume", copy), 4)
    finally:
        writer.close()
    segment = next((copy / "segments").glob("*.zst"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0x40
    segment.write_bytes(content)
    done = fairtrial("verify", copy)
    assert done.returncode == 4 and segment.name in done.stdout and "Traceback" not in done.stderr


def test_a_disk_that_refuses_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A cap on file sizes stands in for a full disk: the segment cannot grow any more."""
    (tmp_path / "s.toml").write_text(STUDY.replace("n = 30", "n = 600\nfiller = 3000"))
    command = [sys.executable, "-m", "fairtrial.app.cli", "run", str(tmp_path / "s.toml"), "-o", str(tmp_path / "run")]
    limit = ["prlimit", "--fsize=400000", "--"]
    full = subprocess.run([*limit, *command, "-q"], capture_output=True, text=True, timeout=120)
    said = complaint(full, 4)
    assert "cannot be written" in said and "resume" in said and full.stderr.count("\n") == 1
    with RunDir.open(tmp_path / "run") as run:
        kept = {str(record.key): record for record in run.records()}
    assert 0 < len(kept) < 2400
    again = fairtrial("resume", tmp_path / "run", "-q", "--no-report")
    assert again.returncode == 0, again.stderr
    with RunDir.open(tmp_path / "run") as run:
        after = {str(record.key): record for record in run.records()}
    assert len(after) == 2400 and all(after[key] == record for key, record in kept.items())
    assert fairtrial("verify", tmp_path / "run").returncode == 0


def test_a_secret_in_the_environment_never_reaches_the_directory(tmp_path: Path) -> None:
    secret = "canary-9f2c7e51b0aa"
    (tmp_path / "s.toml").write_text(STUDY.replace('title = "planted"', f'title = "leaks {secret}"'))
    done = fairtrial("run", tmp_path / "s.toml", "--out", tmp_path / "run", PLANTED_API_KEY=secret)
    assert done.returncode == 0, done.stderr
    again = fairtrial("resume", tmp_path / "run", "-q", PLANTED_API_KEY=secret)
    assert again.returncode == 0, again.stderr
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_showing_a_record_makes_control_characters_visible(tmp_path: Path) -> None:
    from fairtrial.app.showing import printable

    assert printable("a\x1b[31mb\u202ec\x00") == "a␛[31mb<U+202E>c␀"
    assert printable("x" * 20, 5) == "xxxx…"


def test_the_stored_study_reproduces_the_run(run: Path, tmp_path: Path) -> None:
    done = fairtrial("run", run / "study.toml", "--out", tmp_path / "again", "--json")
    first = json.loads(fairtrial("report", run, "--json").stdout)
    second = json.loads(done.stdout)
    assert [arm["values"] for arm in first["arms"]] == [arm["values"] for arm in second["arms"]]
    assert first["effects"] == second["effects"]
