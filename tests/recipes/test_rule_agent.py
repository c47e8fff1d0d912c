"""The rule-based baseline on small problems of its kinds, made here: points come from method, not from memory."""

import json
import subprocess
import sys
from pathlib import Path

from fairtrial.tasks.core_tasks import path as core_tasks

PROGRAM = Path(__file__).resolve().parents[2] / "recipes" / "rule_agent" / "solver.py"


def solve(root: Path, instruction: str) -> list[str]:
    """Run the program the way a box does; its transcript."""
    command = [sys.executable, "-I", str(PROGRAM)]
    done = subprocess.run(command, cwd=root, input=instruction, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_a_build_order_is_the_smallest_one(tmp_path: Path) -> None:
    packages = {
        "b": {"requires": ["c"]},
        "a": {"after": ["b"]},
        "c": {},
        "x": {"requires": ["y"]},
        "y": {"requires": ["x"]},
    }
    (tmp_path / "packages.json").write_text(json.dumps(packages | {"z": {"requires": ["x", "gone"]}}))
    (tmp_path / "wanted.txt").write_text("a\nb\nx\nz\n")
    text = (
        f"Find the build order of packages by their dependencies, report each cycle. Write `{tmp_path}/out.json`:\n"
        '```json\n{"order": [], "cycles": [], "blocked": []}\n```\n'
    )
    solve(tmp_path, text)
    answer = json.loads((tmp_path / "out.json").read_text())
    assert answer == {"order": ["c", "b", "a"], "cycles": [["x", "y"]], "blocked": ["z"]}


def test_pieces_are_packed_into_the_fewest_bars(tmp_path: Path) -> None:
    rows = ["id;quantity;length;unit", "A;3;700;mm", "B;3;29,8;cm", "C;2;499;mm"]
    (tmp_path / "order.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "stock.json").write_text('{"bar_mm": 1000, "kerf_mm": 2, "offcuts": [{"id": "R", "length_mm": 300}]}')
    text = (
        f"Cut the pieces from bars so that they fit, mind the kerf and the length. Write `{tmp_path}/cuts.json`:\n"
        '```json\n[{"bar": "new", "pieces": ["A"]}]\n```\n'
    )
    solve(tmp_path, text)
    plan = json.loads((tmp_path / "cuts.json").read_text())
    assert sorted(piece for bar in plan for piece in bar["pieces"]) == sorted("AAABBBCC")
    size = {"A": 700, "B": 298, "C": 499}
    for bar in plan:
        room = 300 if bar["bar"] == "R" else 1000
        assert sum(size[piece] for piece in bar["pieces"]) + 2 * (len(bar["pieces"]) - 1) <= room
    assert sum(bar["bar"] == "new" for bar in plan) == 4


def test_personal_data_is_replaced_and_look_alikes_are_kept(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("mail a.b@example.org, card 4111 1111 1111 1111, not 4111 1111 1111 1112\n")
    text = (
        f"Personal data in `{tmp_path}/in/*.txt` is to be replaced by a marker; write to `{tmp_path}/out/`.\n"
        "| `[EMAIL]` | e-mail addresses |\n| `[CARD]` | card numbers, not phone numbers |\n"
    )
    solve(tmp_path, text)
    assert (tmp_path / "out" / "a.txt").read_text() == "mail [EMAIL], card [CARD], not 4111 1111 1111 1112\n"


def test_the_same_input_gives_the_same_output(tmp_path: Path) -> None:
    instruction = (core_tasks() / "shift-schedule" / "instruction.md").read_text("utf-8")
    data = core_tasks() / "shift-schedule" / "environment" / "data"
    answers = []
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        for file in data.iterdir():
            (root / file.name).write_bytes(file.read_bytes())
        solve(root, instruction.replace("/app/", f"{root}/"))
        answers.append((root / "schedule.json").read_bytes())
    assert answers[0] == answers[1]


def test_what_it_does_not_know_it_leaves_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing\n")
    lines = solve(tmp_path, "Compose a sonnet about the sea.")
    assert lines[-1] == "- nothing more to try"
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_it_names_no_task_and_reads_no_tests_or_solutions() -> None:
    text = PROGRAM.read_text("utf-8")
    for folder in core_tasks().iterdir():
        assert folder.name not in text or folder.name.startswith("_")
    for word in ("/tests", "/solution", "/logs", "/runtime", "solve.sh", "reward"):
        assert word not in text
