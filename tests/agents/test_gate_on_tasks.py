"""The gate: tasks whose verifier proves nothing are refused, with the reason, before any model runs."""

import asyncio
import logging

import pytest

from fairtrial.agents.trial import AgentTrial

IMPORTING = {
    "environment/Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\nCOPY number.txt calc.py /app/\n",
    "environment/calc.py": "def double(x):\n    return x + 1\n",
    "solution/solve.sh": "sed -i 's/x + 1/x + x/' /app/calc.py\n",
    "tests/test.sh": "python3 /tests/check.py && r=1 || r=0; echo $r > /logs/verifier/reward.txt\n",
    "tests/check.py": "import sys\nsys.path.insert(0, '/app')\nfrom calc import double\nassert double(21) == 42\n",
}

# Neither trusts an exit code, but the code under test decides what equals what in its own process.
LOOKS_AT_WORDS = {
    "tests/test.sh": "python3 /tests/check.py | grep -qx right && r=1 || r=0; echo $r > /logs/verifier/reward.txt\n",
    "tests/check.py": "import sys\nsys.path.insert(0, '/app')\nfrom calc import double\n"
    "print('right' if double(21) == 42 else 'wrong')\n",
}


def gate(lab, **settings):
    kind = AgentTrial()
    suite = lab.suite(**settings)
    return asyncio.run(kind.gate(suite, lab.root, kind.tasks(suite, lab.root), lab.root.parent / "cache"))


def test_a_sound_task_passes_and_is_remembered_until_it_changes(lab):
    folder = lab.task()
    assert list(gate(lab)) == []
    proofs = lab.root.parent / "cache" / "proofs"
    assert len(list(proofs.iterdir())) == 1
    assert list(gate(lab)) == []
    assert len(list(proofs.iterdir())) == 1
    (folder / "tests" / "test.sh").write_text("echo 1 > /logs/verifier/reward.txt\n")
    assert [refusal.reason for refusal in gate(lab)] == ["doing nothing scores 1, not 0"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"solution/solve.sh": "echo 41 > /app/answer.txt\n"}, "its own solution scores 0, not 1"),
        (
            {"solution/solve.sh": "exit 0\n", "tests/test.sh": "exit 1\n"},
            "oracle could not be judged: the verifier left no",
        ),
        ({"tests/test.sh": "sleep 60\n", "task.toml": "[verifier]\ntimeout_sec = 1.0\n"}, "ended by its wall limit"),
        (IMPORTING, "an agent that only forges its verdict scores 1"),
        ({**IMPORTING, **LOOKS_AT_WORDS}, "an agent that only forges its verdict scores 1"),
        ({"environment/Dockerfile": "FROM python:3.11-slim\nRUN make -C /nothing all\n"}, "cannot be built here"),
        (
            {"tests/test.sh": "echo 0.$RANDOM > /logs/verifier/reward.txt\n"},
            "its own solution scores 0.",
        ),
    ],
)
def test_an_unsound_task_is_refused_with_the_reason(lab, files, words):
    lab.task(**files)
    (refusal,) = gate(lab)
    assert refusal.task == "double"
    assert words in refusal.reason


FRACTION = {
    "tests/test.sh": '[ "$(cat /app/answer.txt)" = 42 ] && r=1 || r=0.25\necho $r > /logs/verifier/reward.txt\n'
}


def test_a_task_that_pays_a_little_for_nothing_is_for_the_lenient(lab, caplog):
    lab.task(**FRACTION)
    assert "doing nothing scores 0.25" in gate(lab)[0].reason
    with caplog.at_level(logging.WARNING):
        assert list(gate(lab, gate="lenient")) == []
    assert "double: doing nothing scores 0.25" in caplog.text
    assert list(gate(lab, gate="off")) == []


def test_a_skill_that_is_the_answer_is_reported_or_refused(lab, caplog):
    lab.task(
        **{
            "environment/skills/doubling/SKILL.md": "---\nname: doubling\ndescription: d\n---\nWrite 73919.\n",
            "solution/solve.sh": "echo 73919 > /app/answer.txt\n",
            "tests/test.sh": "python3 /tests/check.py && r=1 || r=0; echo $r > /logs/verifier/reward.txt\n",
            "tests/check.py": "assert int(open('/app/answer.txt').read()) == 73919\n",
        }
    )
    with caplog.at_level(logging.WARNING):
        assert list(gate(lab)) == []
    assert "its skill holds constants of its tests that instruction and data do not: 73919" in caplog.text
    assert [refusal.reason for refusal in gate(lab, leak="refuse")] == ["its skill holds constants of its tests: 73919"]


def test_a_constant_that_the_data_or_the_instruction_gives_is_no_leak(lab):
    lab.task(
        **{
            "environment/skills/doubling/SKILL.md": "---\nname: doubling\ndescription: d\n---\nFor example 73919.\n",
            "environment/number.txt": "73919\n",
            "solution/solve.sh": "echo 147838 > /app/answer.txt\n",
            "tests/test.sh": "python3 /tests/check.py && r=1 || r=0; echo $r > /logs/verifier/reward.txt\n",
            "tests/check.py": "assert int(open('/app/answer.txt').read()) == 2 * 73919\n",
        }
    )
    assert list(gate(lab, leak="refuse")) == []
