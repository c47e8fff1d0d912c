"""The verb train as a user meets it: text files in, a model out, one clear line where something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

SMALL = ["--set", "steps=4", "--set", "batch_tokens=64", "--set", "context=32", "--set", "schedule.decay=1"]
MODEL = (
    "[model]\nhidden = 32\nlayers = 2\npattern = 'KF'\nintermediate = 48\nheads = 2\nhead_dim = 8\n"
    "kda_heads = 2\nkda_key_dim = 8\nkda_gate_rank = 8\n"
)
CONFIG = (
    'steps = 6\ntokenizer = "bytes"\ncontext = 32\nbatch_tokens = 64\nsave_every = 2\nschedule = {decay = 2}\n'
    '[sources.own]\nfiles = ["own.txt"]\n' + MODEL
)
ANSWER = """
import asyncio, sys
from pathlib import Path
from fairtrial.models.model import Request, Sampling
from fairtrial.models.opening import open_model

async def main():
    model = open_model("native:" + sys.argv[1], Path())
    reply = await model.generate(Request(prompt="line", sampling=Sampling(max_tokens=8, seed=1)))
    print(len(reply.completion_ids), reply.model)
    await model.close()

asyncio.run(main())
"""
ENVIRON = os.environ | {"OMP_NUM_THREADS": "1"}


def fairtrial(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fairtrial.app.cli", "train", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=ENVIRON)


def complaint(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("fairtrial: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.txt").write_text("".join(f"line {n} of my own text\n" for n in range(80)))
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path


def test_own_text_files_become_a_model_and_the_same_command_continues(folder: Path) -> None:
    (folder / "more.jsonl").write_text('{"text": "one more document"}\n' * 3)
    command = ["--text", "own.txt", "more.jsonl", "--out", "mine", *SMALL]
    first = fairtrial(*command, cwd=folder)
    assert first.returncode == 0, first.stderr
    assert "4 steps of a model with" in first.stdout and "bits per byte" in first.stdout
    assert "tokens/s  ETA" in first.stderr, "progress is shown without a terminal too"
    assert (folder / "mine/tokenizer.json").exists()
    assert (folder / "mine/checkpoints/step-00000004/model.safetensors").exists()
    assert "fairtrial serve native:mine/model" in first.stdout
    answered = subprocess.run(
        [sys.executable, "-c", ANSWER, "mine/model"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=True,
    )
    sampled, name = answered.stdout.split()
    assert int(sampled) >= 1 and name == "model", "the trained model answers"
    again = fairtrial(*command, "--json", cwd=folder)
    found = json.loads(again.stdout)
    assert again.returncode == 0 and again.stderr == ""
    assert found["finished"] and found["step"] == found["steps"] == 4 and found["layers"] == "KKKD"
    assert found["held_out"]["text"]["bits_per_byte"] > 0 and found["loss"] is None


def test_ctrl_c_saves_and_says_how_to_continue(folder: Path) -> None:
    command = [sys.executable, "-m", "fairtrial.app.cli", "train", "run.toml", "--out", "out"]
    process = subprocess.Popen(
        [*command, "--set", "steps=100000", "--set", "save_every=50000"],
        cwd=folder, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics, deadline = folder / "out/metrics.jsonl", time.monotonic() + 100
    while time.monotonic() < deadline and not (metrics.exists() and b'"kind":"step"' in metrics.read_bytes()):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=100)
    assert process.returncode == 130, shown
    assert "Traceback" not in shown and "Continue with: fairtrial train --resume --out out" in shown
    steps = [path.name for path in (folder / "out/checkpoints").iterdir()]
    assert len(steps) == 1
    halted = int(steps[0][5:])
    resumed = fairtrial("--resume", "--out", "out", "--set", f"steps={halted + 3}", "--json", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["step"] == halted + 3


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    assert 'unknown letter "X" at position 2' in complaint(
        fairtrial("run.toml", "--set", "model.pattern=KX", cwd=folder)
    )
    for change, said in (
        ("model.pattern=KX", 'unknown letter "X" at position 2'),
        ("model.kda_value_heads=4", "kda_value_heads 4 is not a multiple of kda_heads 3"),
        ("vocabulary=256", '"vocabulary"'),
        ("device=cuda:9", '"device" is "cuda:9"'),
    ):
        done = fairtrial("--text", "own.txt", "--out", "t", "--set", change, cwd=folder)
        assert said in complaint(done) and "required" not in done.stderr
        assert "reading the text" not in done.stderr, "the configuration is looked at before a long text is"
        assert not (folder / "t").exists(), "what is refused leaves nothing"
    (folder / "empty.txt").write_text("\n")
    (folder / "e").mkdir()
    said = complaint(fairtrial("--text", "empty.txt", "--out", "e", cwd=folder))
    assert (folder / "e").is_dir(), "a folder of the user's stays"
    assert "there is no text in" in said and "empty.txt" in said
    said = complaint(fairtrial("run.toml", "--out", "n", "--set", "optim.lr=1e30", "--set", "save_every=1", cwd=folder))
    assert "step " in said and "training stopped" in said and "optim.lr" in said
    assert "there is no checkpoint to resume" in complaint(fairtrial("run.toml", "--resume", "--out", "x", cwd=folder))
    assert "fairtrial train --text own.txt" in complaint(fairtrial("own.txt", cwd=folder))
    assert 'did you mean "steps"' in complaint(fairtrial("run.toml", "--set", "stepz=3", cwd=folder))


def test_without_torch_it_says_what_to_install(folder: Path) -> None:
    program = "import sys; sys.modules['torch'] = None\nfrom fairtrial.app.cli import main\nmain(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, "train", "run.toml"], capture_output=True, text=True, cwd=folder, env=ENVIRON
    )
    assert 'train needs torch, which is not installed: pip install "fairtrial[local]"' in complaint(done)


def test_a_tokenizer_of_its_own_is_shared_by_runs(folder: Path) -> None:
    def verb(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fairtrial.app.cli", "tokenizer", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=ENVIRON)

    made = verb("own.txt", "--out", "words.json", "--vocabulary", "300", "--json")
    found = json.loads(made.stdout)
    assert found["vocabulary"] <= 300 and found["bytes"] / found["tokens"] > 1
    run = ["--text", "own.txt", *SMALL, "--set", "tokenizer=words.json", "--quiet"]
    assert fairtrial(*run, "--out", "a", cwd=folder).returncode == 0
    assert (folder / "a/model/tokenizer.json").read_bytes() == (folder / "words.json").read_bytes()
    assert "words.json: is there already" in complaint(verb("own.txt", "--out", "words.json"))
    assert "266 is the least" in complaint(verb("own.txt", "--out", "w2.json", "--vocabulary", "260"))
    assert "nowhere: no such file or folder" in complaint(verb("nowhere", "--out", "w2.json"))
    assert "no such folder" in complaint(verb("own.txt", "--out", "far/w2.json"))
