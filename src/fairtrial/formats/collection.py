"""A collection: a folder of imported trajectories, with everything that the import had to say about them.

imported/<name>/  collection.json      format, files with digests, settings, counts (the manifest, written last)
                  trajectories.jsonl   fairtrial trajectories, one a line
                  problems.jsonl       what was rejected, left out, or survived with a flaw: file, line, reason, text
                  quality.json  quality.html

A gateway's folder is a collection that grows: it has `sessions/` with a file of pieces for each trajectory
(`store.growing`) in place of trajectories.jsonl, and its manifest holds no counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.core.trajectory import Trajectory
from fairtrial.formats import source
from fairtrial.formats.format import Row
from fairtrial.store.growing import joined, pieces

MANIFEST, TRAJECTORIES, PROBLEMS = "collection.json", "trajectories.jsonl", "problems.jsonl"
SESSIONS = "sessions"


class Collection:
    """A finished import."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether a finished collection lies at `path`."""
        return (path / MANIFEST).is_file()

    @classmethod
    def open(cls, path: Path) -> Collection:
        """Open a collection. Raises UserError where `path` is none, CorruptError for a damaged manifest."""
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
        except OSError:
            raise UserError(f"{path} is no collection: it has no {MANIFEST} (make one with fairtrial import)") from None
        except ValueError as error:
            raise CorruptError(f"{path / MANIFEST}: not valid JSON: {error}") from None
        return cls(path, manifest)

    def rows(self) -> Iterator[Row]:
        """Every trajectory as a dict, streamed. Raises CorruptError where a line is damaged."""
        if self._grows:
            yield from (row for path in self._sessions() if (row := joined(pieces(path)[0])))
            return
        for item in source.values(self.path / TRAJECTORIES, limit=1 << 40):
            if item.problem is not None:
                raise CorruptError(f"{self.path / TRAJECTORIES}:{item.line}: {item.problem}")
            yield item.value

    def get(self, id: str) -> Trajectory | None:
        """The trajectory of this id, or None."""
        if self._grows:
            row = next((row for row in self.rows() if row["id"] == id), None)
            return None if row is None else Trajectory.model_validate(row)
        mark = orjson.dumps(id)
        with (self.path / TRAJECTORIES).open("rb") as lines:
            for line in lines:
                if mark in line and (row := orjson.loads(line))["id"] == id:
                    return Trajectory.model_validate(row)
        return None

    def __len__(self) -> int:
        return len(self._sessions()) if self._grows else self.manifest["trajectories"]

    @property
    def _grows(self) -> bool:
        return self.manifest.get("grows") is True

    def _sessions(self) -> list[Path]:
        return sorted((self.path / SESSIONS).glob("*.jsonl"))
