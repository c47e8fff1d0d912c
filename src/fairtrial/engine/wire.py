"""Frames between the driver and its worker processes: one byte that says what it is, four of length, the content.

Content is JSON, but for the opening frame: it carries the blob sink, which only its own class knows how to pack. That
frame goes from the driver to the process that it started, never the other way: what a worker sends is only ever JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

from fairtrial.core.limits import Limits
from fairtrial.core.record import Record, TrialKey
from fairtrial.core.trial import Job
from fairtrial.engine.attempt import Attempt

OPEN, JOB = b"O", b"J"
"""Driver to worker: build the worker; run a job."""
READY, REFUSED, STARTED, BEAT, ANSWER, STOPPED, CLOSED = b"R", b"X", b"S", b"B", b"A", b"E", b"C"
"""Worker to driver: built; not built; a job begun; its time so far; its attempt; disk full; closed."""

_HEAD = struct.Struct("!cI")


def frame(kind: bytes, content: bytes = b"") -> bytes:
    """One frame as bytes."""
    return _HEAD.pack(kind, len(content)) + content


def json_frame(kind: bytes, value: Any) -> bytes:
    """One frame with JSON content."""
    return frame(kind, json.dumps(value).encode())


async def read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """The next frame, or None at the end (a torn last frame is the end too: its sender died)."""
    try:
        kind, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        return kind, await reader.readexactly(size)
    except (asyncio.IncompleteReadError, OSError):
        return None


def recv_frame(sock: socket.socket) -> tuple[bytes, bytes] | None:
    """The same on a blocking socket."""
    head = _recv_exactly(sock, _HEAD.size)
    if head is None:
        return None
    kind, size = _HEAD.unpack(head)
    content = _recv_exactly(sock, size)
    return None if content is None else (kind, content)


def _recv_exactly(sock: socket.socket, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        try:
            part = sock.recv(min(size - len(content), 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        content += part
    return bytes(content)


def pack_job(job: Job) -> bytes:
    """A job as a frame."""
    value = {
        "key": job.key.model_dump(),
        "seed": job.seed,
        "block_seed": job.block_seed,
        "limits": job.limits.model_dump(),
    }
    return json_frame(JOB, value)


def unpack_job(content: bytes) -> Job:
    """The job in a frame's content."""
    value = json.loads(content)
    return Job(
        TrialKey.model_validate(value["key"]),
        value["seed"],
        value["block_seed"],
        Limits.model_validate(value["limits"]),
    )


def pack_attempt(attempt: Attempt) -> bytes:
    """An attempt as a frame: a line of what the engine needs, then the record."""
    head = json.dumps([attempt.retryable, attempt.retry_after_s, attempt.abandoned is not None]).encode()
    return frame(ANSWER, head + b"\n" + attempt.record.model_dump_json().encode())


def unpack_attempt(content: bytes) -> tuple[Attempt, bool]:
    """The attempt in a frame's content, and whether the process that sent it still runs a worker that ignores us."""
    head, _, record = content.partition(b"\n")
    retryable, retry_after_s, tainted = json.loads(head)
    return Attempt(Record.model_validate_json(record), retryable, retry_after_s), tainted
