"""Sessions of a gateway and their files: which one a request belongs to, and what is on disk of it.

    FOLDER/  collection.json   says that this is a collection that grows; `fairtrial show` and `export` read it
             sessions/         a file of pieces for each session (store.growing), appended after each call
             lock              one gateway at a time

A request belongs to the session that it names. Without a name it continues the session whose conversation it extends:
the one that ends in the longest prefix of its messages, else (a branch) the one whose reply lies deepest in it, else
it starts a new session. A call that failed can be tried again in its session. Sessions that no request needs any more
are forgotten beyond a number and read from their files when one does.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import orjson

from fairtrial.core.clock import Clock
from fairtrial.core.errors import CorruptError, UserError, one_line
from fairtrial.core.ids import check_name, digest
from fairtrial.core.redact import Redactor
from fairtrial.models.gateway.recorder import Asked, Failure, Piece, Recorder
from fairtrial.models.model import Reply
from fairtrial.store.disk import TEMPORARY, Disk, Lock, storing
from fairtrial.store.growing import append, joined, mend, pieces, settle

_MANIFEST = {"grows": True, "made_by": "fairtrial gateway", "files": []}
_NUMBERED = re.compile(r"session-(\d+)")


class Sessions:
    """The sessions of one folder. For one event loop."""

    def __init__(self, folder: Path, clock: Clock, redactor: Redactor | None = None, *, kept: int = 512) -> None:
        """Open or make the folder; `kept` sessions stay in memory.

        Raises UserError where it holds something else, LockedError while another gateway uses it.
        """
        self._kept = kept
        self.folder, self._clock, self._redactor = folder, clock, redactor or Redactor()
        _claim_folder(folder)
        self._lock = Lock(folder / "lock")
        self._live: OrderedDict[str, Recorder] = OrderedDict()
        self._busy: dict[str, int] = {}
        self._paths: dict[str, Path] = {}
        self._open_ends: dict[bytes, dict[str, None]] = {}
        self._replies: dict[bytes, str] = {}
        self._count = 0
        self._unnamed: set[str] = set()
        try:
            for path in sorted((folder / "sessions").glob("*.jsonl")):
                self._find(path)
        except BaseException:
            self._lock.release()
            raise

    def begin(self, name: str | None, one: Asked) -> Recorder:
        """The session of a request, claimed until `answered` or `failed`. Raises UserError for an impossible name."""
        if name is None:
            name = self._continued(one) or self._new_name()
            self._unnamed.add(name)
        session = self._get(check_name(name, "session"))
        self._busy[session.id] = self._busy.get(session.id, 0) + 1
        if (waiting := self._open_ends.get(session.end)) is not None:
            waiting.pop(session.id, None)
            if not waiting:
                del self._open_ends[session.end]
        return session

    async def answered(self, session: Recorder, one: Asked, reply: Reply) -> None:
        """Record a reply; returns when it is on disk. Raises StorageError."""
        path, fd = self._write(session, lambda: session.answered(one, reply, self._now()))
        await asyncio.to_thread(settle, path, fd)

    def failed(self, session: Recorder, one: Asked, failure: Failure) -> None:
        """Record a call that brought no reply. Raises StorageError."""
        settle(*self._write(session, lambda: session.failed(one, failure, self._now())))

    def refused(self, name: str, failure: Failure) -> None:
        """Record that a call in a named session did not reach the model. Raises StorageError."""
        session = self._get(check_name(name, "session"))
        self._busy[name] = self._busy.get(name, 0) + 1
        settle(*self._write(session, lambda: session.refused(failure, self._now())))

    def close(self) -> None:
        """Free the folder."""
        self._lock.release()

    def _write(self, session: Recorder, make: Callable[[], Piece]) -> tuple[Path, int]:
        try:
            piece, path = make(), self._paths[session.id]
            secret = self._redactor.suspects(orjson.dumps(piece).decode())
            fd = append(path, self._redactor.value(piece) if secret else piece)
            session.apply(piece)
        finally:
            self._release(session)
        return path, fd

    def _release(self, session: Recorder) -> None:
        self._busy[session.id] -= 1
        if not self._busy[session.id]:
            del self._busy[session.id]
        self._index(session)
        while len(self._live) > self._kept and (idle := next((id for id in self._live if id not in self._busy), None)):
            del self._live[idle]

    def _index(self, session: Recorder) -> None:
        """Let unnamed requests find an unnamed session by what it ends in."""
        if session.id in self._unnamed and session.id not in self._busy and session.end:
            self._open_ends.setdefault(session.end, {})[session.id] = None
        if session.id in self._unnamed:
            self._replies |= dict.fromkeys(session.replies, session.id)
        session.replies.clear()

    def _continued(self, one: Asked) -> str | None:
        for at in reversed(one.chain):
            if waiting := self._open_ends.get(at):
                return next(iter(waiting))
        return next((found for at in reversed(one.chain) if (found := self._replies.get(at))), None)

    def _new_name(self) -> str:
        while True:
            self._count += 1
            if (name := f"session-{self._count:06d}") not in self._paths:
                return name

    def _get(self, name: str) -> Recorder:
        session = self._live.get(name)
        if session is None:
            session = Recorder(name)
            if name not in self._paths:
                self._paths[name] = self.folder / "sessions" / f"{_file_name(name)}.jsonl"
            elif (path := self._paths[name]).exists():
                for piece in pieces(path)[0]:
                    session.apply(piece)
                session.replies.clear()
            self._live[name] = session
        self._live.move_to_end(name)
        return session

    def _find(self, path: Path) -> None:
        """Take in a session that an earlier gateway wrote."""
        found, size = pieces(path)
        mend(path, size)
        if not found:
            path.unlink()
            return
        name = found[0].get("id")
        if not isinstance(name, str):
            raise CorruptError(f"{path}: its first line names no session; move the file away")
        self._paths[name] = path
        session = Recorder(name)
        for piece in found:
            session.apply(piece)
        if match := _NUMBERED.fullmatch(name):
            self._count = max(self._count, int(match[1]))
            self._unnamed.add(name)
        self._index(session)

    def _now(self) -> str:
        return self._clock.now().isoformat()


def trajectory_of(path: Path) -> Piece:
    """The trajectory in a session's file, as a dict."""
    return joined(pieces(path)[0])


def _claim_folder(folder: Path) -> None:
    manifest = folder / "collection.json"
    if manifest.exists():
        try:
            grows = orjson.loads(manifest.read_bytes()).get("grows")
        except (ValueError, AttributeError) as error:
            raise CorruptError(f"{manifest}: cannot be read ({one_line(error)}); choose another --out") from None
        if grows is not True:
            raise UserError(f"{folder} is an imported collection; choose another place with --out")
    elif folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
        raise UserError(f"{folder} exists and was not made by a gateway; choose another place with --out")
    with storing(folder):
        Disk().make_folder(folder / "sessions")
        if not manifest.exists():
            Disk().write_whole(manifest, orjson.dumps(_MANIFEST, option=orjson.OPT_INDENT_2))


def _foreign(path: Path) -> bool:
    """Whether a gateway that was killed while it made its folder cannot have left this."""
    return path.name != "sessions" and not path.name.startswith(TEMPORARY)


def _file_name(name: str) -> str:
    """The session's name where a file can have it; else with a digest, so that no other session has the same."""
    plain = re.sub(r"[^A-Za-z0-9._@+-]", "-", name)[:100]
    return plain if plain == name else f"{plain}-{digest(name)[:12]}"
