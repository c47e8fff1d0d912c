"""RunWriter: appends records durably. One thread writes; whoever waits for a record is told once its frame is on disk.

Group commit: while one group is being synced, the next one gathers, so that many waiting appends share one fsync.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fairtrial.core.errors import UserError
from fairtrial.core.record import Record
from fairtrial.core.redact import Redactor
from fairtrial.store.codec import encode
from fairtrial.store.disk import Disk, Lock
from fairtrial.store.frames import FRAME_BYTES, FRAME_LINES, Frame, Packer
from fairtrial.store.index import Entry, Index
from fairtrial.store.recovery import Recovery
from fairtrial.store.segments import ROLL_BYTES, SegmentWriter

if TYPE_CHECKING:
    from fairtrial.store.blobs import BlobStore
    from fairtrial.store.rundir import RunDir

_GROUP_LINES = 8 * FRAME_LINES
"""At most so many records wait for one fsync."""
_GROUP_SECONDS = 1.0
"""At most so long does gathering a group take."""
_LINGER_SECONDS = 0.002
"""So long does a group wait for as many tickets as the last one had: those who were told come back at once."""


@dataclass(slots=True)
class _Ticket:
    """Some records, and whom to tell when they are durable (None) or why they are not."""

    records: Sequence[Record]
    tell: Callable[[BaseException | None], None]


class RunWriter:
    """The one writer of a run directory, from `RunDir.create` or `RunDir.open_writer`. Close it, or use `with`."""

    def __init__(
        self,
        run: RunDir,
        index: Index,
        lock: Lock,
        redactor: Redactor,
        recovery: Recovery,
        *,
        writer: str,
        disk: Disk,
        roll_bytes: int = ROLL_BYTES,
    ) -> None:
        self.run, self.recovery, self.redactor = run, recovery, redactor
        self._index, self._lock, self._packer = index, lock, Packer()
        self._segment = SegmentWriter(run.path, writer, disk, roll_bytes=roll_bytes)
        self._queue: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._last_group = 1
        self._broken: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def blobs(self) -> BlobStore:
        """Where large content goes."""
        return self.run.blobs

    async def append(self, record: Record) -> None:
        """Store `record`; returns once it would survive a power loss. Await several at once to share one fsync.

        Raises ValueError where the key is stored already or the record holds what JSON cannot, StorageError where
        the disk refuses (the writer then takes no more). Cancelling the wait does not take the record back.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if waiter.done():
                return
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

        def tell(error: BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, error)

        self._submit(_Ticket((record,), tell))
        await waiter

    def append_many(self, records: Iterable[Record]) -> None:
        """Store records in order; returns once all are durable. Raises like `append`, for the first that fails."""
        waiters: list[Future[None]] = []
        chunk: list[Record] = []
        for record in records:
            chunk.append(record)
            if len(chunk) == FRAME_LINES:
                waiters.append(self._submit_blocking(chunk))
                chunk = []
                if len(waiters) >= 2 * _GROUP_LINES // FRAME_LINES:
                    waiters.pop(0).result()
        waiters.append(self._submit_blocking(chunk))
        for waiter in waiters:
            waiter.result()

    def flush(self) -> None:
        """Return once everything submitted before this call is durable. Raises StorageError where it cannot be."""
        self._submit_blocking(()).result()

    def _submit_blocking(self, records: Sequence[Record]) -> Future[None]:
        waiter: Future[None] = Future()

        def tell(error: BaseException | None) -> None:
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

        self._submit(_Ticket(records, tell))
        return waiter

    def _submit(self, ticket: _Ticket) -> None:
        if self._closed:
            raise RuntimeError("the run directory's writer is closed")
        self._queue.put(ticket)

    def _work(self) -> None:
        last = False
        while not last:
            group, last = self._gather()
            if self._broken is not None:
                for ticket, _ in group:
                    ticket.tell(self._broken)
                continue
            try:
                self._commit([line for _, lines in group for line in lines])
            except BaseException as error:  # noqa: BLE001 - every waiter gets it; none is left hanging
                self._broken = error
            for ticket, _ in group:
                ticket.tell(self._broken)

    def _gather(self) -> tuple[list[tuple[_Ticket, list[tuple[bytes, Entry]]]], bool]:
        """Encode tickets until none waits or the group is full; a ticket that cannot be encoded is answered at once.

        The second result says whether the writer is closing.
        """
        group: list[tuple[_Ticket, list[tuple[bytes, Entry]]]] = []
        keys: set[tuple[str, str, int, int]] = set()
        ticket = self._queue.get()
        began = time.monotonic()
        while ticket is not None:
            encoded = self._answered(ticket, keys)
            if encoded is not None:
                keys.update(one.key for _, one in encoded)
                group.append((ticket, encoded))
            waited = time.monotonic() - began
            if len(keys) >= _GROUP_LINES or waited > _GROUP_SECONDS:
                break
            linger = _LINGER_SECONDS if len(group) < self._last_group else 0.0
            try:
                ticket = self._queue.get(timeout=linger) if linger else self._queue.get_nowait()
            except queue.Empty:
                break
        self._last_group = len(group)
        return group, ticket is None

    def _answered(self, ticket: _Ticket, keys: set[tuple[str, str, int, int]]) -> list[tuple[bytes, Entry]] | None:
        """The ticket's lines, or None where its caller had to be told at once that they cannot be stored."""
        if self._broken is None:
            try:
                return self._encode(ticket.records, keys)
            except BaseException as error:  # noqa: BLE001 - this caller is told, or everybody
                if isinstance(error, ValueError) or type(error) is UserError:
                    ticket.tell(error)
                    return None
                self._broken = error
        ticket.tell(self._broken)
        return None

    def _encode(self, records: Sequence[Record], keys: set[tuple[str, str, int, int]]) -> list[tuple[bytes, Entry]]:
        encoded: list[tuple[bytes, Entry]] = []
        mine: set[tuple[str, str, int, int]] = set()
        for record in records:
            line, one = encode(record, self.redactor, self.blobs)
            if one.key in keys or one.key in mine or self._index.has(one.key):
                raise ValueError(f"record {record.key} is stored already")
            mine.add(one.key)
            encoded.append((line, one))
        return encoded

    def _commit(self, lines: list[tuple[bytes, Entry]]) -> None:
        """Write one group: frames, fsync, index. Only when this returns may anybody be told."""
        if not lines:
            return
        packed: list[tuple[bytes, list[Entry]]] = []
        chunk: list[tuple[bytes, Entry]] = []
        size = 0
        for line, one in lines:
            if chunk and (len(chunk) == FRAME_LINES or size + len(line) > FRAME_BYTES):
                packed.append((self._packer.pack([text for text, _ in chunk]), [e for _, e in chunk]))
                chunk, size = [], 0
            chunk.append((line, one))
            size += len(line) + 1
        packed.append((self._packer.pack([text for text, _ in chunk]), [e for _, e in chunk]))
        name = self._segment.path.name
        offset = self._segment.append(b"".join(frame for frame, _ in packed))
        placed: list[tuple[Frame, list[Entry]]] = []
        for frame, entries in packed:
            placed.append((Frame(offset, len(frame), len(entries)), entries))
            offset += len(frame)
        self._index.add(name, placed)
        self._segment.roll()

    def close(self) -> None:
        """Write what was submitted, seal the segment, free the lock. A second call does nothing.

        A writer that the disk has refused closes without a further error: its waiters were told.
        """
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        try:
            if self._broken is None:
                self._segment.seal()
        finally:
            self._segment.close()
            self.run.close()
            self._index.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
