"""The journal of an agent's tool calls: what each attempt came to, so that a run can be played again without tools.

One JSON line per attempt, keyed by (run, step and node, tool, canonical arguments, attempt): no time is part of the
key, so calls are found in whatever order they come. A write leaves a line when it begins, too: where its end is
missing (the process died), nobody can know whether it took effect, and it is not repeated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairtrial.agents.log import Status
from fairtrial.core.errors import CorruptError, StorageError, UserError

Mode = Literal["record", "replay", "hybrid"]
"""record: call and write down; replay: never call, what is not there is an error; hybrid: call what is missing."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an attempt came to. An attempt 0 that is "cancelled" is a call that never got to start."""

    status: Status
    text: str
    value: Any = None
    final: bool = False
    """The executor stopped it: no further attempt followed."""


_UNKNOWN = Recorded(
    "error",
    "this call was begun before and cut off: whether it took effect is not known, so it was not repeated",
    final=True,
)


class Journal:
    """A journal file. Raises UserError for one that does not go with `mode`, CorruptError for one that is damaged."""

    def __init__(self, path: Path, mode: Mode = "record") -> None:
        self.path, self.mode = path, mode
        if mode == "replay" and not path.is_file():
            raise UserError(f'journal "{path}": there is no such file; record one first')
        if mode == "record" and path.is_file() and path.stat().st_size:
            raise UserError(f'journal "{path}" exists: use another file, or mode = "hybrid" to go on with it')
        self._ended: dict[str, Recorded] = {}
        self._begun: set[str] = set()
        whole = self._load() if mode != "record" and path.is_file() else 0
        self._file = None
        if mode != "replay":
            try:
                self._file = path.open("ab", buffering=0)
                if self._file.tell() > whole:
                    self._file.truncate(whole)
            except OSError as error:
                raise UserError(f'journal "{path}" cannot be written: {error.strerror}') from None

    def key(self, run: str, path: str, tool: str, args: Mapping[str, Any] | None, attempt: int) -> str:
        """The name of an attempt: a digest over all that it depends on."""
        named = json.dumps([run, path, tool, args, attempt], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(named.encode()).hexdigest()

    def find(self, key: str, path: str) -> Recorded | None:
        """What the attempt came to before; None if it is to be made now.

        Raises UserError in a replay of what was not recorded (the run went another way than the recorded one), and
        where a call would be recorded twice.
        """
        if self.mode == "record" and (key in self._ended or key in self._begun):
            raise UserError(
                f'journal "{self.path}" has call "{path}" already: give each run in one journal a name of its own'
            )
        if key in self._ended:
            return self._ended[key]
        if key in self._begun:
            return _UNKNOWN
        if self.mode == "replay":
            raise UserError(
                f'journal "{self.path}" has no call "{path}" with these arguments: the run went another way than the '
                'recorded one; mode = "hybrid" would make the call'
            )
        return None

    def never_started(self, key: str) -> Recorded | None:
        """What is recorded of a call that never got to start; None if it did, or was never seen."""
        return self._ended.get(key)

    def begin(self, key: str, path: str) -> None:
        """Note that a write is about to go out."""
        if self.mode == "record":
            self._begun.add(key)
        self._write({"key": key, "call": path})

    def end(self, key: str, path: str, status: Status, text: str, value: Any = None, *, final: bool = False) -> None:
        """Note what an attempt came to; nothing in a replay, nor of what is there already."""
        if key in self._ended or self.mode == "replay":
            return
        self._ended[key] = Recorded(status, text, value, final)
        line: dict[str, Any] = {"key": key, "call": path, "status": status, "text": text}
        if not isinstance(value, str) or value != text:
            line["value"] = value
        if final:
            line["final"] = True
        self._write(line)

    def close(self) -> None:
        """Close the file; also at the end of a `with`."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        except OSError as error:
            raise StorageError(
                f'journal "{self.path}": {error.strerror}; make room and go on in mode "hybrid"'
            ) from None

    def _load(self) -> int:
        """Read what is there and return how many bytes of it are whole lines; a line cut off at the end is dropped."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, raw in enumerate(content[:whole].splitlines(), 1):
            try:
                line = json.loads(raw.decode("utf-8", "surrogatepass"))
                if "status" in line:
                    value = line.get("value", line["text"])
                    final = line.get("final", False)
                    self._ended[line["key"]] = Recorded(line["status"], line["text"], value, final)
                else:
                    self._begun.add(line["key"])
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptError(
                    f'journal "{self.path}", line {number}: {error}; delete it and record anew'
                ) from None
        return whole
