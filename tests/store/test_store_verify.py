import os
import random
import shutil
from pathlib import Path

import pytest

from fairtrial.core.errors import UserError
from fairtrial.core.redact import Redactor
from fairtrial.store import RunDir, reindex, verify


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, make_record):
    """A closed run with a few segments, blobs and attempts; copied by each test that harms it."""
    path = tmp_path_factory.mktemp("sealed") / "run"
    with RunDir.create(path, {"seed": 1}, "question = 1\n", Redactor({}), roll_bytes=1500) as writer:
        for start in range(0, 40, 8):
            writer.append_many(make_record(number, size=400) for number in range(start, start + 8))
        writer.append_many([make_record(100, size=100_000), make_record(3, attempt=2)])
    assert len(list((path / "segments").iterdir())) >= 3
    assert verify(path) == []
    return path


@pytest.fixture
def run(sealed, tmp_path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "run"))


def truths(path: Path) -> list[Path]:
    """Everything whose bytes matter: all but the index, the lock and the report."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return sorted(file for file in files if file.name not in ("index.db", "lock"))


@pytest.mark.parametrize("seed", range(60))
def test_any_flipped_bit_is_found(run, seed):
    rng = random.Random(seed)
    file = rng.choice(truths(run))
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    problems = verify(run)
    assert any(not problem.harmless for problem in problems), file
    named = file.relative_to(run).as_posix()
    assert any(problem.where.startswith((named, "SHA256SUMS")) or named == "SHA256SUMS" for problem in problems)


def test_every_bit_of_an_open_segment_is_covered(create, make_record, tmp_path):
    """No sha256 protects a segment that is still written to: the frames' own checksums must."""
    with create() as writer:
        writer.append_many(make_record(number, size=20) for number in range(2))
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
    segment = tmp_path / "copy" / "segments" / "driver-000000.jsonl.zst"
    whole = segment.read_bytes()
    assert [problem for problem in verify(tmp_path / "copy") if not problem.harmless] == []
    bits = [*range(60 * 8), *(byte * 8 + byte % 8 for byte in range(60, len(whole)))]  # every bit of both headers
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        segment.write_bytes(content)
        assert any(not problem.harmless for problem in verify(tmp_path / "copy")), f"bit {bit}"


@pytest.mark.parametrize("seed", range(20))
def test_any_truncation_is_found(run, seed):
    rng = random.Random(seed)
    file = rng.choice(truths(run))
    os.truncate(file, rng.randrange(file.stat().st_size))
    assert any(not problem.harmless for problem in verify(run))


def test_any_missing_file_is_found(sealed, tmp_path):
    for number, file in enumerate(truths(sealed)):
        run = Path(shutil.copytree(sealed, tmp_path / str(number)))
        (run / file.relative_to(sealed)).unlink()
        named = file.relative_to(sealed).as_posix()
        assert any(problem.where == named and not problem.harmless for problem in verify(run)), named


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trials SET outcome = 1 WHERE task = (SELECT max(task) FROM trials)",
        "UPDATE scores SET value = value + 1e-9 WHERE repeat = 0 AND attempt = 2",
        "UPDATE trials SET cost_usd = 0",
        "DELETE FROM trials WHERE attempt = 2",
        "INSERT INTO trials SELECT arm, task, 77, attempt, latest, outcome, cause, calls, input_tokens, output_tokens,"
        " cached_tokens, cost_usd, started, wall_s, working_s, waiting_s, segment, offset, length, 500, marks"
        " FROM trials WHERE attempt = 2",
        "UPDATE trials SET latest = 1",
        "UPDATE names SET name = 'nobody' WHERE name = 'fold'",
        "UPDATE segments SET indexed = indexed + 1",
        "DROP TABLE scores",
    ],
)
def test_an_index_that_disagrees_is_found_and_rebuilt(run, change):
    import sqlite3

    with sqlite3.connect(run / "index.db") as db:
        db.execute(change)
    db.close()
    problems = verify(run)
    assert any(not problem.harmless for problem in problems)
    assert reindex(run).problems == []
    assert verify(run) == []


@pytest.mark.parametrize("seed", range(15))
def test_garbage_never_raises(run, seed):
    rng = random.Random(seed)
    for file in rng.sample([*truths(run), run / "index.db"], 4):
        how = rng.randrange(4)
        if how == 0:
            file.write_bytes(rng.randbytes(rng.randrange(3000)))
        elif how == 1:
            file.unlink()
            file.mkdir()
        elif how == 2:
            file.write_bytes(b"")
        else:
            file.unlink()
            file.symlink_to("/dev/null")
    assert verify(run)
    if (run / "SHA256SUMS").is_file() and not (run / "index.db").is_dir():
        reindex(run)
        assert verify(run)


def test_what_is_no_run_directory_is_said_so(tmp_path):
    assert [str(problem) for problem in verify(tmp_path / "none")] == [f"{tmp_path / 'none'}: no such run directory"]
    assert verify(tmp_path) != []
    with pytest.raises(UserError, match="not a run directory"):
        reindex(tmp_path)


def test_a_living_run_has_nothing_but_harmless_problems(create, make_record, tmp_path):
    with create() as writer:
        writer.append_many(make_record(number) for number in range(100))
        assert verify(tmp_path / "run") == []
        (tmp_path / "run" / "blobs" / ".tmp-abc").write_bytes(b"half")
        with (tmp_path / "run" / "segments" / "driver-000000.jsonl.zst").open("ab") as file:
            file.write(b"\x5e\x2a\x4d\x18\x1c")
        problems = verify(tmp_path / "run")
        assert len(problems) == 2
        assert all(problem.harmless for problem in problems)
