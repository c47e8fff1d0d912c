"""What the run directory costs: appending, opening, summarising and reading, beside a zip and a SQLite writer.

    python benchmarks/store_append.py [--records 100000] [--save]

Records carry 6 kB trajectories cut from the standard library's sources. All stores get the same records in the same
process; CPU is of all threads; the machine may be busy, so rates are per CPU second. The zip holds one deflated entry
a record (the layout of `.eval` logs); SQLite holds one zstd blob a record, 64 to a transaction, WAL and NORMAL. Only
the run directory syncs before it acknowledges.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import zstandard

from fairtrial.core.limits import Usage
from fairtrial.core.record import Outcome, Record, Timings, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import ApiAction, MessageAction, TextObservation, Trajectory
from fairtrial.store import RunDir, verify

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine, save

ARMS = ("control", "fold", "placebo", "skills")
CHUNK = 2000


def corpus() -> str:
    """Some 10 MB of English and Python."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.py")))


def trajectories(text: str, count: int, size: int = 6000) -> list[Trajectory]:
    """Distinct trajectories of about `size` bytes of JSON."""
    rng = random.Random(0)
    found: list[Trajectory] = []

    def cut(length: int) -> str:
        start = rng.randrange(len(text) - length)
        return text[start : start + length]

    for number in range(count):
        items: list[ApiAction | TextObservation | MessageAction] = [TextObservation(content=cut(700), source="user")]
        while sum(len(item.model_dump_json(exclude_defaults=True)) + 32 for item in items) < size - 700:
            call = f"call_{len(items)}"
            items.append(ApiAction(function="shell", kwargs={"command": cut(90)}, call_id=call, description=cut(160)))
            items.append(TextObservation(content=cut(rng.randrange(300, 900)), source="environment", call_id=call))
        items.append(MessageAction(content=cut(150)))
        found.append(Trajectory(id=f"trajectory-{number}", content=tuple(items)))
    return found


def records(pool: list[Trajectory], count: int) -> Iterator[list[Record]]:
    """Records in the order of a study (blocks of task and repeat, arms inside), in chunks."""
    started = datetime(2026, 11, 21, tzinfo=UTC)
    for start in range(0, count, CHUNK):
        yield [
            Record(
                key=TrialKey(arm=ARMS[n % 4], task=f"suite/task-{n // 20:05d}", repeat=n // 4 % 5),
                seed=n,
                outcome=Outcome.SCORED,
                scores={"reward": (n * 7919 % 1000) / 1000},
                usage=Usage(calls=7, input_tokens=5000 + n % 999, output_tokens=900, cost_usd=0.0125),
                timings=Timings(started=started, wall_s=12.5, working_s=10.25, waiting_s=2.25),
                trajectory=pool[n % len(pool)],
            )
            for n in range(start, min(count, start + CHUNK))
        ]


def appended(chunks: Iterator[list[Record]], append: Callable[[list[Record]], None]) -> tuple[float, float]:
    """CPU and wall seconds inside `append`."""
    cpu = wall = 0.0
    for chunk in chunks:
        before, started = time.process_time(), time.perf_counter()
        append(chunk)
        cpu += time.process_time() - before
        wall += time.perf_counter() - started
    return cpu, wall


def cost(action: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    before = time.process_time()
    action()
    return time.process_time() - before


def disk_use(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def run_directory(path: Path, pool: list[Trajectory], count: int) -> dict[str, float]:
    rng = random.Random(1)
    writer = RunDir.create(path, {}, "", Redactor())
    cpu, wall = appended(records(pool, count), writer.append_many)
    writer.close()
    keys = [chunk[rng.randrange(len(chunk))].key for chunk in records(pool, count) for _ in range(10)]
    rng.shuffle(keys)

    def opened() -> None:
        with RunDir.open(path) as run:
            assert len(run) == count
            assert len(run.arms()) == len(ARMS)
            run.totals()

    def scored() -> None:
        with RunDir.open(path) as run:
            assert sum(1 for _ in run.score_rows("reward")) == count

    with RunDir.open(path) as run:
        read = cost(lambda: [run.get(key) for key in keys]) / len(keys)
        group = cost(run.arms)
    return {
        "cpu": cpu,
        "wall": wall,
        "bytes": disk_use(path) / count,
        "open": cost(opened),
        "group": group,
        "scores": cost(scored),
        "read": read,
        "check": cost(lambda: verify(path)),
    }


def zip_file(path: Path, pool: list[Trajectory], count: int) -> dict[str, float]:
    archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6)

    def append(chunk: list[Record]) -> None:
        for record in chunk:
            archive.writestr(f"samples/{record.key}.json", record.model_dump_json(exclude_none=True))

    cpu, wall = appended(records(pool, count), append)
    archive.close()
    totals: dict[str, float] = {}

    def summarised() -> None:
        with zipfile.ZipFile(path) as stored:
            for name in stored.namelist():
                record = json.loads(stored.read(name))
                totals[record["key"]["arm"]] = totals.get(record["key"]["arm"], 0) + record["scores"]["reward"]

    opened = cost(summarised)
    with zipfile.ZipFile(path) as stored:
        names = random.Random(1).sample(stored.namelist(), 500)
        read = cost(lambda: [Record.model_validate_json(stored.read(name)) for name in names]) / len(names)
    return {"cpu": cpu, "wall": wall, "bytes": disk_use(path) / count, "open": opened, "read": read}


def sqlite_blobs(path: Path, pool: list[Trajectory], count: int) -> dict[str, float]:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(
        "CREATE TABLE records (arm TEXT, task TEXT, repeat INT, attempt INT, outcome TEXT, reward REAL, cost REAL,"
        " working REAL, body BLOB, PRIMARY KEY (arm, task, repeat, attempt))"
    )
    packer, unpacker = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def append(chunk: list[Record]) -> None:
        for start in range(0, len(chunk), 64):
            db.execute("BEGIN IMMEDIATE")
            for record in chunk[start : start + 64]:
                body = packer.compress(record.model_dump_json(exclude_none=True).encode())
                row = (*record.key.trial, 1, record.outcome, record.scores["reward"], record.usage.cost_usd, 1.0, body)
                db.execute("INSERT INTO records VALUES (?,?,?,?,?,?,?,?,?)", row)
            db.execute("COMMIT")

    cpu, wall = appended(records(pool, count), append)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    query = "SELECT arm, outcome, count(*), avg(reward), sum(cost), sum(working) FROM records GROUP BY arm, outcome"
    opened = cost(lambda: sqlite3.connect(path).execute(query).fetchall())
    keys = [chunk[0].key for chunk in records(pool, count)] * 10
    one = "SELECT body FROM records WHERE arm = ? AND task = ? AND repeat = ?"
    read = cost(
        lambda: [
            Record.model_validate_json(unpacker.decompress(db.execute(one, key.trial).fetchone()[0])) for key in keys
        ]
    ) / len(keys)
    db.close()
    return {"cpu": cpu, "wall": wall, "bytes": disk_use(path) / count, "open": opened, "group": opened, "read": read}


def awaited(path: Path, pool: list[Trajectory], count: int, in_flight: int) -> tuple[float, float]:
    """Records per wall second and per CPU second of `await append` with some appends in flight."""
    batch = [record for chunk in records(pool, count) for record in chunk]

    async def run() -> tuple[float, float]:
        with RunDir.create(path, {}, "", Redactor()) as writer:
            free = asyncio.Semaphore(in_flight)

            async def one(record: Record) -> None:
                async with free:
                    await writer.append(record)

            before, started = time.process_time(), time.perf_counter()
            await asyncio.gather(*map(one, batch))
            return count / (time.perf_counter() - started), count / (time.process_time() - before)

    return asyncio.run(run())


def table(count: int, pool: list[Trajectory], found: dict[str, dict[str, float]], waits: list[str]) -> str:
    size = sum(len(t.model_dump_json(exclude_none=True)) for t in pool) / len(pool)
    titles = {"run": "run directory", "zip": "zip, entry a record", "sqlite": "SQLite, blob a record"}
    head = f"{count} records of {size:.0f} B (JSON)"
    lines = [f"{head:38}" + "".join(f"{titles[name]:>23}" for name in found) + f"{'target':>12}"]

    def row(title: str, key: str, show: Callable[[float], str], target: str = "") -> None:
        cells = [show(store[key]) if key in store else "-" for store in found.values()]
        lines.append(f"{title:38}" + "".join(f"{cell:>23}" for cell in cells) + f"{target:>12}")

    row("append, records per CPU second", "cpu", lambda cpu: f"{count / cpu:,.0f}", ">= 8,000")
    row("append, records per wall second", "wall", lambda wall: f"{count / wall:,.0f}")
    row("bytes per record on disk", "bytes", lambda size: f"{size:,.0f}", "<= 1,900")
    row("open + summary by arm, CPU s", "open", lambda cpu: f"{cpu:.3f}", "<= 1")
    row("summary by arm alone, CPU s", "group", lambda cpu: f"{cpu:.3f}", "<= 0.1")
    row("open + all score rows, CPU s", "scores", lambda cpu: f"{cpu:.3f}")
    row("random read by key, CPU ms", "read", lambda cpu: f"{cpu * 1000:.3f}")
    row("verify everything, CPU s", "check", lambda cpu: f"{cpu:.1f}")
    ours = found["run"]
    for name, store in list(found.items())[1:]:
        lines.append(
            f"against {titles[name]}: append {store['cpu'] / ours['cpu']:.1f}x its CPU rate, "
            f"{store['bytes'] / ours['bytes']:.2f}x smaller, open + summary {store['open'] / ours['open']:.1f}x faster"
        )
    return "\n".join([*lines, *waits, f"machine: {machine()}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    pool = trajectories(corpus(), min(given.records, 3000))
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        found = {
            "run": run_directory(room / "run", pool, given.records),
            "zip": zip_file(room / "records.zip", pool, given.records),
            "sqlite": sqlite_blobs(room / "records.db", pool, given.records),
        }
        waits = []
        for in_flight in (1, 8, 64):
            wall, cpu = awaited(room / f"await-{in_flight}", pool, min(2000, 250 * in_flight), in_flight)
            waits.append(
                f"await append, {in_flight:3} in flight: {wall:,.0f} records/s wall, {cpu:,.0f} per CPU second"
            )
    text = table(given.records, pool, found, waits)
    print(text)
    if given.save:
        print(save("store-append", text))


if __name__ == "__main__":
    main()
