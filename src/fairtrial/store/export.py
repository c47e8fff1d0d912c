"""Export: a run directory's records as JSON Lines or Parquet. The output appears complete or not at all."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairtrial.core.errors import UserError
from fairtrial.core.record import Record
from fairtrial.store.codec import resolve
from fairtrial.store.disk import packed_file, whole_file
from fairtrial.store.rundir import RunDir

_BATCH = 512


def export_jsonl(path: Path, out: Path) -> int:
    """Write every record as one line of JSON, oldest first, large strings in place; returns how many.

    A name ending in `.zst` is compressed. Raises UserError where `path` is no run directory, CorruptError for damage
    (and then writes nothing), StorageError.
    """
    count = 0
    with RunDir.open(path) as run, packed_file(out) as file:
        for line in run.lines():
            file.write(resolve(line, run.blobs) + b"\n")
            count += 1
    return count


def export_parquet(path: Path, out: Path) -> int:
    """Write one row for each attempt, oldest first; returns how many.

    Columns: arm, task, repeat, attempt, latest, outcome, cause, message, flags, seed, calls, input_tokens,
    output_tokens, cached_tokens, cost_usd, started, wall_s, working_s, waiting_s, `score.NAME` for each score, and
    `record`: the whole record as JSON. Raises like `export_jsonl`, and UserError where pyarrow is not installed.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError('Parquet needs pyarrow; install it with: pip install "fairtrial[parquet]"') from None
    with RunDir.open(path) as run:
        scores = run.score_names()
        schema = arrow.schema([(name, _type(arrow, kind)) for name, kind in _columns(scores)])
        latest = run.done()
        with whole_file(out) as file:
            with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
                count = 0
                for batch in _batches(run.records()):
                    rows = [_row(record, latest[record.key.trial].attempt, scores) for record in batch]
                    writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
                    count += len(rows)
    return count


def _columns(scores: list[str]) -> list[tuple[str, str]]:
    texts = ("arm", "task", "outcome", "cause", "message", "record")
    counts = ("repeat", "attempt", "seed", "calls", "input_tokens", "output_tokens", "cached_tokens")
    reals = ("cost_usd", "wall_s", "working_s", "waiting_s", *(f"score.{name}" for name in scores))
    return [
        *((name, "string") for name in texts),
        *((name, "int64") for name in counts),
        *((name, "float64") for name in reals),
        ("latest", "bool_"),
        ("started", "timestamp"),
        ("flags", "list"),
    ]


def _type(arrow: Any, kind: str) -> Any:
    if kind == "timestamp":
        return arrow.timestamp("us", tz="UTC")
    return arrow.list_(arrow.string()) if kind == "list" else getattr(arrow, kind)()


def _row(record: Record, latest: int, scores: list[str]) -> dict[str, Any]:
    timings = record.timings
    return {
        **record.key.model_dump(),
        **record.usage.model_dump(),
        **{f"score.{name}": record.scores.get(name) for name in scores},
        "latest": record.key.attempt == latest,
        "outcome": str(record.outcome),
        "cause": record.cause,
        "message": record.message,
        "flags": list(record.flags),
        "seed": record.seed,
        "started": timings.started if timings else None,
        "wall_s": timings.wall_s if timings else None,
        "working_s": timings.working_s if timings else None,
        "waiting_s": timings.waiting_s if timings else None,
        "record": record.model_dump_json(),
    }


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
