"""Running the agent's code for a verifier without letting the two meet: the candidate broker.

A verifier that imports or starts the agent's code shares a box with it, and the code can then write the verdict. So a
verifier may ask the driver instead, through the program named by FAIRTRIAL_CANDIDATE, to run a command in a third box
with a copy of the agent's files: no tests, no logs, no socket there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from fairtrial.core.errors import InfraError, one_line
from fairtrial.tasks import candidate_program, startup_program
from fairtrial.tasks.sandbox.api import Box, End, Execution

FOLDER = "/runtime/fairtrial"
"""Where the program and its socket are, in the verifier's box only."""
_HEAD_LIMIT = 256 * 1024
_INPUT_LIMIT = 8 << 20
_STATUS = {End.WALL_LIMIT: 124, End.CPU_LIMIT: 124, End.OUT_OF_MEMORY: 137}


@dataclass(slots=True)
class Broker:
    """Serves the requests of one verification. `open_box` is called at the first request only."""

    open_box: Callable[[], Awaitable[Box]]
    folder: Path
    """Host folder for the socket; the box sees it at FOLDER."""
    seconds: float
    """Of all requests together."""
    requests: int = 2000
    served: int = 0
    refused: list[str] = field(default_factory=list)
    failed: InfraError | None = None
    """Set where a third box could not be started: the verdict then rests on code that never ran."""
    ends: list[str] = field(default_factory=list)
    _box: Box | None = None
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    def env(self) -> dict[str, str]:
        """What tells the program in the box where to ask; without it, it runs what it is given beside the verifier."""
        return {"FAIRTRIAL_CANDIDATE_SOCKET": f"{FOLDER}/socket"}

    async def start(self) -> None:
        """Listen."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # By way of the handle: a socket's path may have 107 characters at most.
            line.bind(f"/proc/self/fd/{handle}/socket")
        finally:
            os.close(handle)
        (self.folder / "socket").chmod(0o666)
        line.setblocking(False)
        self._server = await asyncio.start_unix_server(self._accept, sock=line, limit=_HEAD_LIMIT)

    async def stop(self) -> None:
        """Stop listening and end what runs."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head, out, err = await self._answer(reader)
            writer.write(json.dumps(head).encode() + b"\n" + out + err)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[dict[str, object], bytes, bytes]:
        try:
            argv, timeout, cwd, given = await self._request(reader)
        except (ValueError, KeyError, TypeError) as error:
            self.refused.append(f"unusable request ({one_line(error)})"[:200])
            return {"error": self.refused[-1]}, b"", b""
        if self.served >= self.requests or self.seconds <= 0:
            self.refused.append(f"more than {self.requests} requests" if self.seconds > 0 else "out of time")
            return {"error": self.refused[-1]}, b"", b""
        self.served += 1
        async with self._turn:
            try:
                done = await self._run(argv, min(timeout, self.seconds), cwd, given)
            except InfraError as error:
                self.failed = error
                self.refused.append(one_line(error)[:200])
                return {"error": self.refused[-1]}, b"", b""
        self.seconds -= done.wall_s
        if done.end is not End.EXIT:
            self.ends.append(done.end.value)
        status = _STATUS.get(done.end, done.exit_code if done.exit_code >= 0 else 128 - done.exit_code) & 255
        head: dict[str, object] = {"status": status, "stdout": len(done.stdout), "stderr": len(done.stderr)}
        return head, done.stdout, done.stderr

    async def _request(self, reader: asyncio.StreamReader) -> tuple[list[str], float, str, bytes]:
        head = json.loads(await reader.readline())
        argv, timeout, cwd, size = head["argv"], float(head["timeout"]), head["cwd"], int(head["stdin"])
        if (
            not isinstance(argv, list)
            or not argv
            or not all(isinstance(word, str) and "\0" not in word for word in argv)
        ):
            raise ValueError("argv is not a list of words")
        if not isinstance(cwd, str) or not cwd.startswith("/") or not 0 <= size <= _INPUT_LIMIT or not timeout > 0:
            raise ValueError("cwd, stdin or timeout out of range")
        return argv, timeout, cwd, await reader.readexactly(size)

    async def _run(self, argv: list[str], timeout: float, cwd: str, given: bytes) -> Execution:
        async with self._opening:
            if self._box is None:
                self._box = await self.open_box()
        # The folder may be the verifier's own: by way of the shell, which falls back to where the box starts.
        script = f'cd {shlex.quote(cwd)} 2>/dev/null; exec "$@"'
        return await self._box.exec(["/bin/sh", "-c", script, "candidate", *argv], stdin=given, timeout_s=timeout)


def write_programs(folder: Path) -> None:
    """Put into `folder` what a verifier finds in FOLDER: the program, and what its Pythons load at their start."""
    program = folder / "candidate"
    program.write_text(Path(candidate_program.__file__).read_text("utf-8"), "utf-8")
    program.chmod(0o755)
    (folder / "lib").mkdir()
    (folder / "lib" / "sitecustomize.py").write_text(Path(startup_program.__file__).read_text("utf-8"), "utf-8")
