"""Kill, cut the power, fill the disk: nothing acknowledged is lost, nothing is there twice."""

import asyncio
import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairtrial.core.errors import CorruptError, StorageError
from fairtrial.core.redact import Redactor
from fairtrial.store import RunDir, verify
from fairtrial.store.disk import Disk


def harmful(path: Path) -> list[str]:
    return [str(problem) for problem in verify(path) if not problem.harmless]


async def append_for_ever(writer, acknowledged: int, size: int, make_record) -> None:
    """Append what is missing, several at once, and note each number once it is acknowledged."""
    free = asyncio.Semaphore(16)
    numbers = iter(range(100_000))

    async def one(number: int) -> None:
        await writer.append(make_record(number, size=size))
        os.write(acknowledged, f"{number}\n".encode())
        free.release()

    async with asyncio.TaskGroup() as group:
        known = writer.run.done()
        for number in numbers:
            if make_record(number).key.trial not in known:
                await free.acquire()
                group.create_task(one(number))


def fork_writer(path: Path, acknowledged: Path, size: int, make_record) -> int:
    """A child that opens the directory and appends until it is killed."""
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            fd = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            writer = RunDir.open_writer(path, Redactor({}))
            asyncio.run(append_for_ever(writer, fd, size, make_record))
        os._exit(1)
    return pid


@pytest.mark.parametrize("size", [200, 6000])
def test_kill_9_loses_and_repeats_nothing(size, create, make_record, tmp_path):
    rng, path, acknowledged = random.Random(size), tmp_path / "run", tmp_path / "acknowledged"
    create().close()
    for _ in range(12):
        pid = fork_writer(path, acknowledged, size, make_record)
        time.sleep(rng.uniform(0.01, 0.25))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert harmful(path) == []
    numbers = [int(line) for line in acknowledged.read_text().split()] if acknowledged.exists() else []
    assert len(numbers) > 100
    assert len(numbers) == len(set(numbers)), "a record was acknowledged twice"
    with RunDir.open(path) as run:
        assert all(run.get(make_record(number, size=size).key) == make_record(number, size=size) for number in numbers)
        stored = [record.key for record in run.records()]
    assert len(stored) == len(set(map(str, stored)))
    with RunDir.open_writer(path) as writer:
        assert len(writer.run) == len(stored)
    assert verify(path) == []


@pytest.mark.parametrize("seed", range(16))
def test_power_loss_loses_nothing_acknowledged(seed, create, lossy, power_cut, make_record, tmp_path):
    """Random appends, cut at a random file operation; what was not synced is gone; then again on what is left."""
    rng, path, disk, acknowledged = random.Random(seed), tmp_path / "run", lossy(), set()
    create(disk=disk, roll_bytes=6000).close()
    for _ in range(3):
        disk.fail_at = disk.operations + rng.randint(1, 30)
        try:
            writer = RunDir.open_writer(path, Redactor({}), disk=disk, roll_bytes=6000)
        except power_cut:
            writer = None
        with contextlib.suppress(power_cut):
            while writer is not None:
                size, count = rng.choice(((50, 70), (500, 5), (50, 1), (90_000, 1)))
                batch = [make_record(len(acknowledged) + more, size=size) for more in range(count)]
                fresh = [record for record in batch if record.key.trial not in writer.run.done()]
                writer.append_many(fresh)
                acknowledged |= set(range(len(acknowledged), len(acknowledged) + len(batch)))
        disk.fail_at = None
        stale = rng.choice(("kept", "lost"))
        if writer is not None:
            writer._thread.join(0)
            writer._segment.close()
            writer.run.close()
            writer._index.db.close()
            writer._lock.release()
        disk.after_power_loss(path, rng)
        if stale == "lost":
            for file in path.glob("index.db*"):
                file.unlink()
        with RunDir.open(path) as run:
            assert all(make_record(number).key.trial in run.done() for number in acknowledged)
            known = {key[1] for key in run.done()}
        with RunDir.open_writer(path, Redactor({}), disk=disk, roll_bytes=6000) as writer:
            assert {key[1] for key in writer.run.done()} == known
            for number in acknowledged:
                assert writer.run.get(make_record(number).key).seed == number
        assert harmful(path) == []


@pytest.mark.parametrize("seed", range(30))
def test_a_torn_tail_is_cut_and_what_was_whole_stays(seed, create, make_record, tmp_path):
    """The last frame, never indexed, is cut at any byte or followed by garbage."""
    rng, path = random.Random(seed), tmp_path / "run"
    writer = create()
    writer.append_many(make_record(number) for number in range(20))
    segment = path / "segments" / "driver-000000.jsonl.zst"
    index = {file: file.read_bytes() for file in path.glob("index.db*")}
    whole = segment.stat().st_size
    writer.append_many(make_record(number) for number in range(20, 40))
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(path), str(copy)], check=True)
    writer.close()
    for file, content in index.items():
        (copy / file.name).write_bytes(content)
    segment = copy / "segments" / segment.name
    full = segment.read_bytes()
    kind = seed % 3
    if kind == 0:
        segment.write_bytes(full[: rng.randint(whole + 1, len(full) - 1)])
    elif kind == 1:
        segment.write_bytes(full[:whole] + bytes(rng.randint(1, 500)))
    else:
        segment.write_bytes(full + rng.randbytes(rng.randint(1, 100)))
    survivors = 40 if kind == 2 else 20
    with RunDir.open(copy) as run:
        assert len(run) == survivors
    with RunDir.open_writer(copy) as writer:
        assert len(writer.run) == survivors
        assert writer.recovery.torn_bytes > 0
        assert bool(writer.recovery.set_aside) == (kind > 0)
        writer.append_many(make_record(number) for number in range(survivors, 60))
        assert [record.seed for record in writer.run.records()] == list(range(60))
    assert harmful(copy) == []


def test_damage_before_the_end_is_refused_then_reindexed(create, make_record, tmp_path):
    from fairtrial.store import reindex

    path = tmp_path / "run"
    with create() as writer:
        for start in range(0, 30, 10):
            writer.append_many(make_record(number) for number in range(start, start + 10))
    segment = path / "segments" / "driver-000000.jsonl.zst"
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    (path / "index.db").unlink()
    with pytest.raises(CorruptError, match=r"damaged at byte \d+; .*fairtrial reindex") as raised:
        RunDir.open_writer(path)
    assert raised.value.exit_code == 4
    found = reindex(path)
    assert found.records == 20
    assert len(found.problems) == 1
    with RunDir.open_writer(path) as writer:
        missing = [number for number in range(30) if make_record(number).key.trial not in writer.run.done()]
        assert len(missing) == 10
        writer.append_many(make_record(number) for number in missing)
        assert sorted(record.seed for record in writer.run.records()) == list(range(30))
    assert any("damaged" in problem for problem in harmful(path)), "damage is not forgotten"


def test_a_segment_cut_below_its_index_is_refused_then_reindexed(create, make_record, tmp_path):
    from fairtrial.store import reindex

    path = tmp_path / "run"
    with create() as writer:
        for start in range(0, 30, 10):
            writer.append_many(make_record(number) for number in range(start, start + 10))
    segment = path / "segments" / "driver-000000.jsonl.zst"
    os.truncate(segment, segment.stat().st_size - 3)
    with pytest.raises(CorruptError, match="3 bytes are missing at its end"):
        RunDir.open_writer(path)
    assert reindex(path).records == 20
    with RunDir.open_writer(path) as writer:
        assert len(writer.run) == 20
    segment.unlink()
    with pytest.raises(CorruptError, match="missing"):
        RunDir.open_writer(path)
    assert reindex(path).records == 0
    with RunDir.open_writer(path) as writer:
        writer.append_many([make_record(1)])


class FailingDisk(Disk):
    """Refuses one kind of operation with one error, from a moment on."""

    def __init__(self, operation: str, code: int) -> None:
        self.operation, self.code, self.armed = operation, code, False

    def write(self, fd: int, content: bytes) -> None:
        if self.armed and self.operation == "write":
            super().write(fd, content[: len(content) // 2])
            raise OSError(self.code, os.strerror(self.code))
        super().write(fd, content)

    def sync(self, fd: int) -> None:
        if self.armed and self.operation == "sync":
            raise OSError(self.code, os.strerror(self.code))
        super().sync(fd)

    def truncate(self, fd: int, size: int) -> None:
        if self.armed and self.code == errno.EIO:
            raise OSError(self.code, os.strerror(self.code))
        super().truncate(fd, size)


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_refused_write_is_one_line_and_the_directory_resumes(operation, code, create, make_record, tmp_path):
    path, disk = tmp_path / "run", FailingDisk(operation, code)

    async def store() -> None:
        with create(disk=disk) as writer:
            await asyncio.gather(*(writer.append(make_record(number)) for number in range(50)))
            disk.armed = True
            tries = [writer.append(make_record(number)) for number in range(50, 60)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            assert {type(result) for result in results} == {StorageError}
            assert "\n" not in str(results[0])
            assert "driver-000000.jsonl.zst: cannot be written: the " in str(results[0])
            with pytest.raises(StorageError):
                await writer.append(make_record(60))
            with pytest.raises(StorageError):
                writer.flush()

    asyncio.run(store())
    disk.armed = False
    assert harmful(path) == []
    with RunDir.open_writer(path) as writer:
        done = writer.run.done()
        assert all(make_record(number).key.trial in done for number in range(50))
        writer.append_many(make_record(number) for number in range(50, 70) if make_record(number).key.trial not in done)
        assert len(writer.run) == 70
    assert verify(path) == []


def test_a_blob_that_cannot_be_stored_refuses_its_record(create, make_record, tmp_path):
    disk = FailingDisk("sync", errno.ENOSPC)
    with create(disk=disk) as writer:
        writer.append_many([make_record(0)])
        disk.armed = True
        with pytest.raises(StorageError, match="the disk is full; free some space and resume"):
            writer.append_many([make_record(1, size=400_000)])
    disk.armed = False
    with RunDir.open_writer(tmp_path / "run") as writer:
        writer.append_many([make_record(1, size=400_000)])
        assert list(writer.run.records()) == [make_record(0), make_record(1, size=400_000)]
    assert verify(tmp_path / "run") == []


FULL_DISK = r"""
import json, os, random, sys
from pathlib import Path
from fairtrial.core.errors import StorageError
from fairtrial.core.record import Record, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.store import RunDir, verify
room = Path(sys.argv[1])
filler = room / "filler"
filler.write_bytes(bytes(300_000))
rng = random.Random(1)
def record(i):
    key = TrialKey(arm="a", task=f"t{i}", repeat=0)
    return Record(key=key, seed=i, outcome="errored", cause="x", message=random.Random(i).randbytes(1500).hex())
acknowledged, message, code = 0, "", 0
try:
    with RunDir.create(room / "run", {}, "", Redactor({})) as writer:
        while True:
            writer.append_many([record(acknowledged)])
            acknowledged += 1
except StorageError as error:
    message, code = str(error), error.exit_code
again = ""
try:
    with RunDir.open_writer(room / "run") as writer:
        writer.append_many(record(i) for i in range(acknowledged + 1, acknowledged + 2000))
except StorageError as error:
    again = str(error)
with RunDir.open(room / "run") as run:
    readable = len(run)
filler.unlink()
with RunDir.open_writer(room / "run") as writer:
    done = writer.run.done()
    lost = [i for i in range(acknowledged) if ("a", f"t{i}", 0) not in done]
    new = next(i for i in range(10**6) if ("a", f"t{i}", 0) not in done)
    writer.append_many([record(new)])
    same = all(stored == record(stored.seed) for stored in writer.run.records())
print(json.dumps({
    "acknowledged": acknowledged, "message": message, "code": code, "again": again, "lost": lost, "readable": readable,
    "same": same, "problems": [str(problem) for problem in verify(room / "run")],
}))
"""


@pytest.mark.parametrize("megabytes", [2, 3])
def test_a_full_disk_is_one_line_and_resumable(megabytes, tmp_path):
    mount = f"mount -t tmpfs -o size={megabytes}m none {tmp_path}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine does not let users mount a tmpfs")
    inside = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f'{mount}; exec "$@"', "sh", *inside], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["acknowledged"] > 50
    assert found["code"] == 4
    assert "disk is full; free some space and resume" in found["message"]
    assert "\n" not in found["message"]
    assert "disk is full" in found["again"]
    assert found["lost"] == []
    assert found["readable"] >= found["acknowledged"]
    assert found["same"]
    assert found["problems"] == []


def test_a_file_size_limit_is_one_line_and_resumable(tmp_path):
    limited = FULL_DISK.replace("filler.write_bytes(bytes(300_000))", "filler.touch(); limit(1_000_000)")
    limited = limited.replace("filler.unlink()", "limit(resource.RLIM_INFINITY)")
    prelude = (
        "import resource\ndef limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
    )
    done = subprocess.run([sys.executable, "-c", prelude + limited, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["acknowledged"] > 20
    assert found["code"] == 4
    assert found["lost"] == []
    assert found["same"]
    assert found["problems"] == []


def test_cancelling_a_waiter_does_not_disturb_the_others(create, make_record):
    async def store() -> None:
        with create() as writer:
            tasks = [asyncio.create_task(writer.append(make_record(number))) for number in range(100)]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.flush()
            done = writer.run.done()
            assert all(make_record(number).key.trial in done for number in range(100) if number % 3)

    asyncio.run(store())


def test_a_closed_writer_says_so(create, make_record):
    writer = create()
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError, match="closed"):
        writer.append_many([make_record(1)])
