"""Waiting threads sleep, unless the user said otherwise, and it is said before torch is loaded."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")


def python(code, **environment):
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


SHOW = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
CALL = "import os; from fairtrial.training.threads import wait_passively; print(wait_passively(os.environ)); "


def test_threads_wait_passively_unless_the_user_chose():
    assert python(CALL + SHOW) == "True\npassive 0"
    assert python(CALL + SHOW, OMP_WAIT_POLICY="active") == "False\nactive None"
    assert python(CALL + SHOW, GOMP_SPINCOUNT="100") == "False\nNone 100"
    assert python("import torch; " + CALL + SHOW) == "False\nNone None"


def test_the_verb_says_it_before_torch_is_loaded(tmp_path):
    (tmp_path / "text.txt").write_text("a few words to learn from, and again " * 40)
    argv = ["train", "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), "--quiet"]
    for setting in (
        "steps=1", "tokenizer=bytes", "context=16", "batch_tokens=16", "model.layers=1", "model.pattern=K",
        "model.hidden=16", "model.intermediate=16",
    ):  # fmt: skip
        argv += ["--set", setting]
    code = f"from fairtrial.app.cli import app; app({argv!r}, standalone_mode=False); "
    assert python(code + SHOW).splitlines()[-1] == "passive 0"
