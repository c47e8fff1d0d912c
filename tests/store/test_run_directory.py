import asyncio
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from fairtrial.core.errors import CorruptError, LockedError, UserError
from fairtrial.core.record import Outcome, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.store import BlobStore, RunDir, verify


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_was_stored_comes_back_equal_and_in_order(create, make_record, tmp_path):
    records = [make_record(number, size=50 + 300 * (number % 7)) for number in range(300)]
    with create() as writer:
        writer.append_many(records)
    with RunDir.open(tmp_path / "run") as run:
        assert list(run.records()) == records
        assert run.get(records[123].key) == records[123]
        assert list(run.records(arm="fold")) == records[1::2]
        assert len(run) == 300
        assert run.manifest == {"study": "demo", "seed": 1}
        assert run.study_text == 'question = "?"\n'
        with pytest.raises(KeyError):
            run.get(TrialKey(arm="fold", task="task-0", repeat=9))
    assert verify(tmp_path / "run") == []


def test_concurrent_appends_share_frames(create, make_record, tmp_path):
    async def store() -> None:
        with create() as writer:
            await asyncio.gather(*(writer.append(make_record(number)) for number in range(1000)))

    asyncio.run(store())
    with RunDir.open(tmp_path / "run") as run:
        frames = {(row.place.segment, row.place.offset) for row in run.rows()}
        assert len(run) == 1000
    assert 1000 / 64 <= len(frames) < 200


def test_an_acknowledged_append_is_visible_at_once(create, make_record):
    async def store() -> None:
        with create() as writer:
            for number in range(5):
                await writer.append(make_record(number))
                assert writer.run.get(make_record(number).key) == make_record(number)
                with RunDir.open(writer.run.path) as reader:
                    assert len(reader) == number + 1

    asyncio.run(store())


def test_a_key_is_stored_once(create, make_record):
    with create() as writer:
        writer.append_many([make_record(1)])
        with pytest.raises(ValueError, match="stored already"):
            writer.append_many([make_record(1)])
        with pytest.raises(ValueError, match="stored already"):
            writer.append_many([make_record(2), make_record(2)])
        writer.append_many([make_record(3)])
        assert {row.task for row in writer.run.rows()} == {"task-0", "task-1"}
        assert len(writer.run) == 2


def test_the_latest_attempt_counts_and_all_attempts_are_paid_for(create, make_record, tmp_path):
    with create() as writer:
        writer.append_many([make_record(0, outcome="errored"), make_record(1), make_record(2, outcome="failed")])
    with RunDir.open_writer(tmp_path / "run", Redactor({})) as writer:
        writer.append_many([make_record(0, attempt=2), make_record(4, outcome="errored")])
        run = writer.run
        assert run.done() == {
            ("control", "task-0", 0): (2, Outcome.SCORED),
            ("fold", "task-0", 0): (1, Outcome.SCORED),
            ("control", "task-1", 0): (1, Outcome.FAILED),
            ("control", "task-2", 0): (1, Outcome.ERRORED),
        }
        assert run.latest("control", "task-0", 0) == make_record(0, attempt=2)
        assert run.latest("fold", "task-9", 0) is None
        totals = run.totals()
        assert (totals.attempts, totals.usage.calls, totals.usage.cost_usd) == (5, 10, 1.25)
        assert (totals.wall_s, totals.working_s, totals.waiting_s) == (10.0, 7.5, 2.5)
        control, fold = run.arms()
        assert (control.arm, control.trials, control.spent.attempts) == ("control", 3, 4)
        assert control.outcomes[Outcome.ERRORED] == 1
        assert control.scores["reward"].n == 2
        assert fold.scores["steps"].mean == 1.0
        rows = {(row.arm, row.task): (row.value, row.outcome) for row in run.score_rows("steps")}
        assert rows[("control", "task-0")] == (0.0, Outcome.SCORED)
        assert rows[("control", "task-2")] == (None, Outcome.ERRORED)
        assert run.score_names() == ["reward", "steps"]
        assert len(list(run.records(latest=True))) == 4
        assert [row.cause for row in run.rows(latest=False) if row.outcome is Outcome.ERRORED] == ["provider"] * 2


def test_an_empty_run_has_empty_answers(create, tmp_path):
    create().close()
    with RunDir.open(tmp_path / "run") as run:
        assert (len(run), run.arms(), run.done(), run.score_names()) == (0, [], {}, [])
        assert run.totals().usage.tokens == 0
        assert list(run.records()) == []
    assert verify(tmp_path / "run") == []


def test_a_folder_with_other_content_is_refused(tmp_path, create):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"other content \(thesis.tex\)"):
        create()
    assert os.listdir(tmp_path / "run") == ["thesis.tex"]
    (tmp_path / "run" / "thesis.tex").rename(tmp_path / "run" / "study.toml")
    with pytest.raises(UserError, match="other content"):
        create()
    assert (tmp_path / "run" / "study.toml").read_text() == "precious"


def test_creating_twice_is_refused_and_opening_nothing_too(create, tmp_path):
    create().close()
    with pytest.raises(UserError, match="run directory already; resume it"):
        create()
    with pytest.raises(UserError, match="no such run directory"):
        RunDir.open(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="not a run directory"):
        RunDir.open_writer(tmp_path / "other")


def test_a_creation_killed_at_any_moment_can_be_finished(create, lossy, power_cut, tmp_path):
    path, moment, unfinished = tmp_path / "run", 0, 0
    while True:
        moment += 1
        disk = lossy()
        disk.fail_at = moment
        try:
            create(disk=disk).close()
            break
        except power_cut:
            if not RunDir.exists(path):
                unfinished += 1
                with pytest.raises(UserError, match=r"creation was interrupted|no such run|not a run"):
                    RunDir.open(path)
                create().close()
            with RunDir.open_writer(path) as writer:
                assert writer.run.manifest == {"study": "demo", "seed": 1}
            assert verify(path) == []
            for file in sorted(path.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            path.rmdir()
    assert unfinished > 10


def test_a_second_driver_is_told_who_holds_the_directory(create, make_record, tmp_path):
    with create() as writer:
        writer.append_many([make_record(1)])
        script = (
            "import sys; from pathlib import Path; from fairtrial.store import RunDir\n"
            "try: RunDir.open_writer(Path(sys.argv[1]))\n"
            "except Exception as error: print(error); sys.exit(error.exit_code)"
        )
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True)
        assert done.returncode == 4
        assert f"process {os.getpid()} on " in done.stdout
        assert done.stdout.count("\n") == 1
        writer.append_many([make_record(2)])
    with RunDir.open_writer(tmp_path / "run") as writer:
        assert len(writer.run) == 2


def test_two_creators_cannot_both_win(create, tmp_path):
    with create(), pytest.raises((LockedError, UserError)):
        create()


@pytest.mark.parametrize("state", ["working", "closed", "killed"])
def test_reading_changes_nothing(state, create, make_record, tmp_path):
    path = tmp_path / "run"
    writer = create()
    writer.append_many(make_record(number) for number in range(100))
    if state == "killed":
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", str(path), str(copy)], check=True)
        path = copy
    if state != "working":
        writer.close()
    before = contents(path)
    with RunDir.open(path) as run:
        assert len(run) == 100
        assert len(list(run.records())) == 100
        run.arms()
    verify(path)
    after = contents(path)
    after.pop("index.db-shm", None), before.pop("index.db-shm", None)  # the readers' own marks in shared memory
    assert after == before
    writer.close()


def test_a_read_only_file_system_is_readable(create, make_record, tmp_path):
    with create() as writer:
        writer.append_many(make_record(number) for number in range(10))
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount, "sh", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this machine does not let users mount")
    script = (
        "import sys; from pathlib import Path; from fairtrial.store import RunDir, verify; path = Path(sys.argv[1])\n"
        "with RunDir.open(path) as run: print(len(run), len(list(run.records())), verify(path))\n"
        "try: RunDir.open_writer(path)\n"
        "except Exception as error: print(type(error).__name__, error.exit_code, error)"
    )
    inside = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f'{mount}; shift; exec "$@"', "sh", str(tmp_path), *inside],
        capture_output=True,
        text=True,
    )
    first, second = done.stdout.splitlines()
    assert first == "10 10 []", done.stderr
    assert second.startswith("StorageError 4 ")
    assert second.endswith("the file system is read-only")


@pytest.mark.parametrize("harm", ["missing", "garbage", "empty", "other database", "old version"])
def test_a_lost_index_is_rebuilt(harm, create, make_record, tmp_path):
    path = tmp_path / "run" / "index.db"
    with create() as writer:
        writer.append_many([make_record(number) for number in range(100)] + [make_record(7, attempt=2)])
        arms, done = writer.run.arms(), writer.run.done()
    if harm == "missing":
        path.unlink()
    elif harm == "old version":
        import sqlite3

        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 0")
        db.close()
    elif harm == "other database":
        import sqlite3

        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE trials (empty TEXT)")
        db.close()
    else:
        path.write_bytes(os.urandom(5000) if harm == "garbage" else b"")
    with RunDir.open(tmp_path / "run") as run:
        assert (run.arms(), run.done()) == (arms, done)
    with RunDir.open_writer(tmp_path / "run") as writer:
        assert writer.recovery.rebuilt
        assert writer.recovery.records == 101
        assert (writer.run.arms(), writer.run.done()) == (arms, done)
    assert verify(tmp_path / "run") == []


def test_segments_roll_and_are_sealed(create, make_record, tmp_path):
    with create(roll_bytes=20_000) as writer:
        for start in range(0, 600, 64):
            writer.append_many(make_record(number, size=2000) for number in range(start, start + 64))
    segments = sorted((tmp_path / "run" / "segments").iterdir())
    assert len(segments) >= 3
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "run", capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count("segments/driver-") == len(segments)
    with RunDir.open_writer(tmp_path / "run", roll_bytes=20_000) as writer:
        writer.append_many([make_record(9999)])
        assert len(list(writer.run.records())) == 641
    assert verify(tmp_path / "run") == []


def test_plain_tools_read_a_segment(create, make_record, tmp_path):
    with create() as writer:
        writer.append_many(make_record(number) for number in range(3))
    segment = tmp_path / "run" / "segments" / "driver-000000.jsonl.zst"
    try:
        done = subprocess.run(["zstd", "-dc", str(segment)], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("the zstd command is not installed")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(b'{"key":{"arm":"control","repeat":0,"task":"task-0"},"outcome":"scored"')


def test_secrets_reach_no_file(tmp_path):
    canary, key = 'canary-7f3a"\n-value', "sk-" + "a1B2" * 8
    redactor = Redactor({"MY_API_KEY": canary})
    from fairtrial.core.record import Record

    record = Record(
        key=TrialKey(arm="a", task="t", repeat=0),
        seed=1,
        outcome="errored",
        cause="provider",
        message=f"HTTP 401: {canary}",
        details={canary: [f"\n{key}", {"long": canary * 9000}], "plain": "task-merge-the-paginated-exports"},
    )
    with RunDir.create(tmp_path / "run", {"env": canary, canary: 1}, f"# {key}\n", redactor) as writer:
        writer.append_many([record])
        writer.blobs.put(f"log: {canary} {key}".encode())
        stored = next(writer.run.records())
        assert stored.message == "HTTP 401: [redacted MY_API_KEY]"
        assert stored.details["plain"] == "task-merge-the-paginated-exports"
        assert writer.run.manifest["env"] == "[redacted MY_API_KEY]"
    import zstandard

    for name, content in contents(tmp_path / "run").items():
        if name.endswith(".zst"):
            content += zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()
        for secret in (b"canary-7f3a", key.encode()):
            assert secret not in content, name
    assert verify(tmp_path / "run") == []


def test_the_store_does_not_care_for_locale_umask_or_clock(tmp_path):
    script = r"""
import os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from fairtrial.core.record import Record, Timings, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.store import RunDir, verify
os.umask(0o077)
path = Path(sys.argv[1])
def record(i):
    started = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=i)
    key = TrialKey(arm="\u00fc", task="t" + str(i), repeat=0)
    return Record(key=key, seed=i, outcome="errored", cause="x", message="\u65e5\u672c \U0001f600",
                  timings=Timings(started=started, wall_s=0, working_s=0))
with RunDir.create(path, {"\u043a": "\u00e9"}, "# \u00fc\n", Redactor({})) as writer:
    writer.append_many(map(record, range(9)))
with RunDir.open(path) as run:
    assert list(run.records()) == list(map(record, range(9)))
    assert run.study_text == "# \u00fc\n"
assert verify(path) == []
"""
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "run").rglob("*")} == {0}


def test_blobs_are_stored_once_and_checked(tmp_path):
    store = pickle.loads(pickle.dumps(BlobStore(tmp_path / "blobs", Redactor({}), max_bytes=1000)))
    ref = store.put(b"content")
    assert store.put(b"content") == ref
    assert store.get(ref) == b"content"
    assert ref in store
    with pytest.raises(UserError, match="above the limit"):
        store.put(bytes(1001))
    store.path(ref.sha256).write_bytes(b"CONTENT")
    with pytest.raises(CorruptError, match="damaged"):
        store.get(ref)
    store.path(ref.sha256).unlink()
    with pytest.raises(CorruptError, match="cannot be read"):
        store.get(ref)
    with pytest.raises(ValueError, match="not a sha256"):
        store.path("../../etc/passwd")


def test_many_processes_put_the_same_blob(tmp_path):
    script = (
        "import sys; from pathlib import Path; from fairtrial.store import BlobStore\n"
        "store = BlobStore(Path(sys.argv[1]))\n"
        "for n in range(40): assert store.get(store.put(str(n).encode() * 1000)) == str(n).encode() * 1000"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "blobs")]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert len(list(BlobStore(tmp_path / "blobs").files())) == 40


def test_importing_the_store_loads_nothing_heavy():
    heavy = ["numpy", "scipy", "pandas", "matplotlib", "pyarrow", "torch"]
    script = f"import sys, fairtrial.store; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
