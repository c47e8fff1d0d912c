"""metrics.jsonl: one JSON object for each step, evaluation and event of a run, flushed as it happens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import orjson

from fairtrial.store import storing, whole_file

FILE = "metrics.jsonl"


class Watcher(Protocol):
    """Who is shown a run as it goes."""

    def began(self, step: int, steps: int) -> None:
        """Training begins or goes on at `step` of `steps`."""
        ...

    def saw(self, row: dict[str, Any]) -> None:
        """One row of metrics.jsonl."""
        ...


class Silent:
    """Shows nothing."""

    def began(self, step: int, steps: int) -> None:
        """Nothing."""

    def saw(self, row: dict[str, Any]) -> None:
        """Nothing."""


class Journal:
    """Appends to metrics.jsonl and shows each row; rows of steps that are made again are cut off first."""

    def __init__(self, folder: Path, watcher: Watcher) -> None:
        self._path, self._watcher = folder / FILE, watcher
        self._fd = -1

    def open(self, step: int) -> None:
        """Begin after `step` finished steps: later rows (made before an interruption) are dropped."""
        kept: list[bytes] = []
        if self._path.exists():
            for line in self._path.read_bytes().splitlines():
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError:
                    break
                if row["step"] <= step:
                    kept.append(line)
        with whole_file(self._path) as file:
            file.write(b"".join(line + b"\n" for line in kept))
        with storing(self._path):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One row. Raises StorageError where the disk refuses."""
        row = {"kind": kind, "step": step} | values
        with storing(self._path):
            os.write(self._fd, orjson.dumps(row) + b"\n")
        self._watcher.saw(row)

    def close(self) -> None:
        """Nothing is written any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line that was cut off is left out."""
    rows: list[dict[str, Any]] = []
    for line in (folder / FILE).read_bytes().splitlines():
        try:
            rows.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            break
    return rows
