"""Bounded capture of a program's output: head and tail are kept, the middle of what is longer is dropped."""

from __future__ import annotations

import asyncio
import os
from collections import deque

_CHUNK = 1 << 16


class Capture:
    """Reads one pipe on the event loop. Memory stays within about twice the limit, however much is printed."""

    def __init__(self, fd: int, limit: int) -> None:
        self.fd, self.limit, self.total = fd, limit, 0
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._ready)

    @property
    def truncated(self) -> bool:
        """More was printed than the limit."""
        return self.total > self.limit

    def _ready(self) -> None:
        try:
            chunk = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            self._keep(chunk)
        else:
            self.close()

    def _keep(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self.limit - self.limit // 2 - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        if not chunk:
            return
        self._tail.append(chunk)
        self._tail_size += len(chunk)
        while self._tail and self._tail_size - len(self._tail[0]) >= self.limit // 2:
            self._tail_size -= len(self._tail.popleft())

    def drain(self) -> None:
        """Take what is in the pipe now, without waiting for its end."""
        while not self.closed.done():
            before = self.total
            self._ready()
            if self.total == before:
                return

    def close(self) -> None:
        """Stop reading and close the pipe."""
        if self.closed.done():
            return
        self._loop.remove_reader(self.fd)
        os.close(self.fd)
        self.closed.set_result(None)

    def value(self) -> bytes:
        """What was kept; a mark stands where the middle was dropped."""
        tail = b"".join(self._tail)
        if not self.truncated:
            return bytes(self._head) + tail
        tail = tail[len(tail) - min(len(tail), self.limit // 2) :]
        dropped = self.total - len(self._head) - len(tail)
        return bytes(self._head) + f"\n[... {dropped} bytes dropped ...]\n".encode() + tail
