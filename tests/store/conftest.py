"""Records and run directories for the store's tests, and a disk that forgets what was not synced."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fairtrial.core.limits import Usage
from fairtrial.core.record import Record, Timings, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import ApiAction, MessageAction, TextObservation, Trajectory
from fairtrial.store import RunDir, RunWriter
from fairtrial.store.disk import Disk

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(number: int, *, size: int = 200, attempt: int = 1, outcome: str = "scored") -> Record:
    """Record `number` of a study with two arms; the same number gives the same record."""
    rng = random.Random(number * 7919 + attempt)
    words = [
        rng.choice(("reads", "writes", "file", "the", "log", "error", "line", "42", "é", "\n"))
        for _ in range(size // 5)
    ]
    counts = outcome in ("scored", "failed")
    return Record(
        key=TrialKey(arm=("control", "fold")[number % 2], task=f"task-{number // 2}", repeat=0, attempt=attempt),
        seed=number,
        outcome=outcome,
        scores={"reward": rng.random(), "steps": float(number)} if counts else {},
        cause=None if outcome == "scored" else "provider",
        usage=Usage(calls=2, input_tokens=100, output_tokens=10, cost_usd=0.25),
        timings=Timings(started=START - timedelta(seconds=number), wall_s=2.0, working_s=1.5, waiting_s=0.5),
        trajectory=Trajectory(
            id=f"t{number}",
            content=(
                TextObservation(content="do it", source="user"),
                ApiAction(function="shell", kwargs={"command": ["ls", "-l"]}, call_id="c1"),
                TextObservation(content=" ".join(words), source="environment", call_id="c1"),
                MessageAction(content="done", description="that was all"),
            ),
        ),
    )


class LossyDisk(Disk):
    """A disk that remembers what a power loss would leave: synced contents under synced names."""

    def __init__(self) -> None:
        self.contents: dict[int, bytes] = {}
        self._held: dict[int, int] = {}  # open files, so that no inode number is used twice
        self.names: dict[Path, dict[str, int]] = {}
        self.operations = 0
        self.fail_at: int | None = None
        """The operation (counted from 1) before which the power goes: it raises PowerCut."""

    def _tick(self) -> None:
        self.operations += 1
        if self.fail_at is not None and self.operations >= self.fail_at:
            raise PowerCut

    def open_append(self, path: Path) -> int:
        self._tick()
        return super().open_append(path)

    def write(self, fd: int, content: bytes) -> None:
        self._tick()
        super().write(fd, content)

    def sync(self, fd: int) -> None:
        self._tick()
        super().sync(fd)
        number = os.fstat(fd).st_ino
        self.contents[number] = Path(f"/proc/self/fd/{fd}").read_bytes()
        if number not in self._held:
            self._held[number] = os.dup(fd)

    def replace(self, source: Path, target: Path) -> None:
        self._tick()
        super().replace(source, target)

    def sync_folder(self, path: Path) -> None:
        self._tick()
        super().sync_folder(path)
        self.names[path] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}

    def after_power_loss(self, root: Path, rng: random.Random) -> None:
        """Make `root` what a reboot would find: unsynced names are gone, of unsynced bytes some part is there."""
        inodes = {path.stat().st_ino: path for path in root.rglob("*") if path.is_file()}
        unsynced = {ino: path.read_bytes() for ino, path in inodes.items()}
        kept: dict[Path, bytes] = {}
        folders = [root]
        for folder in folders:
            for name, ino in self.names.get(folder, {}).items():
                path = folder / name
                if path.is_dir():
                    folders.append(path)
                elif ino in self.contents or ino in unsynced:
                    kept[path] = self._surviving(self.contents.get(ino, b""), unsynced.get(ino, b""), rng)
        for path in inodes.values():
            if not path.name.startswith("index.db"):
                path.unlink()
        for path, content in kept.items():
            if not path.name.startswith("index.db"):
                path.write_bytes(content)
        self.contents.clear()
        self.close()
        for folder in [root.parent, root, *(path for path in root.rglob("*") if path.is_dir())]:
            self.names[folder] = {entry.name: entry.stat().st_ino for entry in folder.iterdir()}
        for path, content in kept.items():
            if path.exists():
                self.contents[path.stat().st_ino] = content

    def close(self) -> None:
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    @staticmethod
    def _surviving(synced: bytes, written: bytes, rng: random.Random) -> bytes:
        if not written.startswith(synced):
            return synced
        tail = written[len(synced) :]
        tail = tail[: rng.randint(0, len(tail))]
        # a page that was allocated and never written reads as zeros
        return synced + (tail if rng.random() < 0.7 else bytes(len(tail)))


class PowerCut(BaseException):
    """The machine is off from here on."""


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record


@pytest.fixture
def lossy() -> Iterator[Callable[[], LossyDisk]]:
    disks: list[LossyDisk] = []

    def _lossy() -> LossyDisk:
        disks.append(LossyDisk())
        return disks[-1]

    yield _lossy
    for disk in disks:
        disk.close()


@pytest.fixture
def power_cut() -> type[PowerCut]:
    return PowerCut


@pytest.fixture
def create(tmp_path: Path) -> Callable[..., RunWriter]:
    """A new run directory `tmp_path/run`, open for writing."""

    def _create(**options: object) -> RunWriter:
        return RunDir.create(
            tmp_path / "run",
            {"study": "demo", "seed": 1},
            'question = "?"\n',
            Redactor({}),
            **options,  # type: ignore[arg-type]
        )

    return _create
