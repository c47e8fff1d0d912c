"""A trajectory's file that grows: what survives a kill, a full disk, and damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fairtrial.core.errors import CorruptError
from fairtrial.store.growing import append, joined, mend, pieces, settle


def test_pieces_join_to_the_whole_and_leave_each_piece_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    parts = [
        {"id": "a", "content": [1], "extra": {"x": {"notes": [1], "first": 1}}},
        {"content": [2, 3], "extra": {"x": {"notes": [2], "first": 2}, "y": {"n": 0}}},
        {"content": []},
    ]
    for part in parts:
        settle(path, append(path, part))
    found, size = pieces(path)
    assert found == parts and size == path.stat().st_size
    assert joined(found) == {
        "id": "a",
        "content": [1, 2, 3],
        "extra": {"x": {"notes": [1, 2], "first": 1}, "y": {"n": 0}},
    }
    assert found == parts


def test_a_line_that_was_cut_off_is_left_out_and_removed_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    settle(path, append(path, {"content": [1]}))
    with path.open("ab") as file:
        file.write(b'{"content": [2')
    found, size = pieces(path)
    assert found == [{"content": [1]}]
    mend(path, size)
    settle(path, append(path, {"content": [3]}))
    assert joined(pieces(path)[0]) == {"content": [1, 3]}


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"content": [1]}\n{"cont\n{"content": [2]}\n')
    with pytest.raises(CorruptError, match=r"a\.jsonl:2: not valid JSON"):
        pieces(path)


def test_a_refused_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from fairtrial.core.errors import StorageError
from fairtrial.store.growing import append, pieces, settle
path = Path(sys.argv[1])
settle(path, append(path, {"content": ["short"]}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    append(path, {"content": ["long" * 1000]})
except StorageError as error:
    print(error)
settle(path, append(path, {"content": ["again"]}))
print([part["content"] for part in pieces(path)[0]])
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.jsonl")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told, kept = done.stdout.decode().splitlines()
    assert "the file size limit is reached" in told and kept == "[['short'], ['again']]"
