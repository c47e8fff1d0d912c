"""Tools of MCP servers (Model Context Protocol), through the official SDK: the extra `mcp`.

One task owns each session: it enters and leaves the SDK's contexts, and callers only send through it, so a call that is
cancelled or times out ends by itself (the server is told) and leaves the session as it was. A server that dies answers
the calls that are under way with an error, and the next call starts it again; nothing is ever sent twice. When a server
is closed, everything that it had started is ended too, found by a mark in its environment.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pydantic import Field, model_validator

from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.core.config import Config
from fairtrial.core.errors import InfraError, UserError, one_line
from fairtrial.tasks.sandbox import processes

_CLOSED, _TIMEOUT = -32000, -32001
"""The SDK's codes for a connection that ended and for a call that took too long."""
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_-]")
_PAGES = 100
_MARK = "FAIRTRIAL_MCP"
_SWEEPS = 100
"""How often what a server left is looked for, 10 ms apart: a killed process takes a moment, and may have forked."""


class McpSettings(Config):
    """An MCP server: a program that talks over its standard input and output, or an address."""

    command: tuple[str, ...] = ()
    """Program and arguments. It runs on this machine, outside of any box."""
    url: str | None = None
    """Instead of a command: the address of a server that speaks streamable HTTP."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables of the program, with literal values; of yours it gets HOME, PATH and the like."""
    secrets: tuple[str, ...] = ()
    """Names of variables to pass through from your own environment."""
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9_-]*$")
    """Put before each tool's name."""
    tools: tuple[str, ...] = ("*",)
    """Globs of the server's tools to offer."""
    read_only: tuple[str, ...] = ()
    """Globs of tools that change nothing, where the server does not say so itself. Others run one at a time."""
    start_s: float = Field(default=30.0, gt=0)
    """Seconds in which the server must have told its tools."""
    call_s: float = Field(default=60.0, gt=0)
    """Seconds for one call."""
    restarts: int = Field(default=3, ge=0)
    """How often a server that died is started again."""

    @model_validator(mode="after")
    def _one_way(self) -> McpSettings:
        if bool(self.command) == (self.url is not None):
            raise ValueError("give one of command (a program that is started) and url (an address)")
        if self.url is not None and (self.env or self.secrets):
            raise ValueError("env and secrets belong to a command")
        return self


@dataclass(slots=True)
class _Session:
    """One connection and the task that owns it."""

    owner: asyncio.Task[None]
    scope: Any
    """The owner's cancel scope; cancelling it ends the owner in good order."""
    client: Any
    mark: str


class McpServer:
    """A server and its tools. `async with McpServer(...) as server: server.tools`."""

    def __init__(self, name: str, settings: McpSettings, base: Path = Path()) -> None:
        self.name, self.settings = name, settings
        self.tools: tuple[Tool, ...] = ()
        self.starts = 0
        """How often it was started."""
        self._base = base
        self._session: _Session | None = None
        self._starting = asyncio.Lock()
        self._said: BinaryIO | None = None

    def check(self) -> None:
        """Refuse (UserError) what cannot start, before anything runs."""
        if importlib.util.find_spec("mcp") is None:
            raise UserError(f'mcp "{self.name}": the MCP SDK is not installed; pip install "fairtrial[mcp]"')
        for name in self.settings.secrets:
            if not os.environ.get(name):
                raise UserError(f'mcp "{self.name}": secrets: the variable {name} is not set; export it first')
        if self.settings.command and shutil.which(self._base / self.settings.command[0]) is None:
            program = self.settings.command[0]
            if "/" in program or shutil.which(program) is None:
                raise UserError(f'mcp "{self.name}": command: no such program: {program}')

    async def __aenter__(self) -> McpServer:
        """Start it and learn its tools. Raises UserError where it does not start or its tools cannot be offered."""
        self.check()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __aexit__
        try:
            client = (await self._live()).client
            self.tools = self._offered(await self._listed(client))
        except (InfraError, ToolError) as error:
            await self.close()
            raise UserError(f'mcp "{self.name}": {error}') from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the server, and every process that it has left. May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await _end(session)
        if self._said is not None:
            self._said.close()
            self._said = None

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Call a tool by the server's own name for it.

        Returns its structured content where it gives some, else text. Raises ToolError with what the server says, or
        that it died; TimeoutError after `call_s`.
        """
        from mcp.shared.exceptions import MCPError

        try:
            session = await self._live()
        except InfraError as error:
            raise ToolError(f"the MCP server {self.name} could not be started again: {error}") from None
        try:
            result = await session.client.call_tool(tool, dict(arguments), read_timeout_seconds=self.settings.call_s)
        except MCPError as error:
            if error.code == _TIMEOUT:
                raise TimeoutError(f"the MCP server {self.name} gave no answer in {self.settings.call_s:g} s") from None
            if error.code == _CLOSED:
                await self._lost(session)
                said = "ended; whether this call was carried out is not known"
                raise ToolError(f"the MCP server {self.name} {said}; {self._next()}") from None
            raise ToolError(f"the MCP server {self.name} refused the call: {error.message}") from None
        except (OSError, RuntimeError) as error:
            raise ToolError(f"the MCP server {self.name} failed: {one_line(error)}") from None
        text = _text(result.content)
        if result.is_error:
            raise ToolError(text or "the tool reported an error and did not say which")
        return text if result.structured_content is None else _bare(result.structured_content, text)

    def _next(self) -> str:
        again = self.starts <= self.settings.restarts
        return "it is started again for the next call, and what it remembered is lost" if again else "it stays down"

    async def _live(self) -> _Session:
        """The session; a server that died is started again."""
        async with self._starting:
            if self._session is not None and not self._session.owner.done():
                return self._session
            if self.starts > self.settings.restarts:
                raise ToolError(f"the MCP server {self.name} is down: it was started {self.starts} times")
            self.starts += 1
            self._session = await self._start()
            return self._session

    async def _start(self) -> _Session:
        import anyio

        mark, scope = f"{_MARK}={secrets.token_hex(8)}", anyio.CancelScope()
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        owner = asyncio.create_task(self._own(scope, mark, ready), name=f"mcp {self.name}")
        try:
            return _Session(owner, scope, await asyncio.shield(ready), mark)
        except BaseException:
            ready.cancel()
            await _end(_Session(owner, scope, None, mark))
            raise

    async def _own(self, scope: Any, mark: str, ready: asyncio.Future[Any]) -> None:
        """Enter the session, hold it until the scope is cancelled, and leave it, all in this one task."""
        import anyio

        def late() -> None:
            self._failed(ready, f"it did not come up in {self.settings.start_s:g} s")
            scope.cancel()

        # No timeout of a context manager: it would have to be left before the client's contexts, which it encloses.
        timer = asyncio.get_running_loop().call_later(self.settings.start_s, late)
        try:
            with scope:
                async with self._client(mark) as client:
                    timer.cancel()
                    if not ready.done():
                        ready.set_result(client)
                    await anyio.sleep_forever()
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises is a server that does not work
            self._failed(ready, _cause(error))
        finally:
            timer.cancel()

    def _failed(self, ready: asyncio.Future[Any], why: str) -> None:
        if not ready.done():
            ready.set_exception(InfraError(f"{why}{self._last_words()}", cause="mcp"))

    def _client(self, mark: str) -> Any:
        from mcp import Client, StdioServerParameters, stdio_client

        if self.settings.url is not None:
            return Client(self.settings.url, cache=None)
        passed = {name: os.environ[name] for name in self.settings.secrets if name in os.environ}
        name, _, token = mark.partition("=")
        parameters = StdioServerParameters(
            command=self.settings.command[0],
            args=list(self.settings.command[1:]),
            env={**self.settings.env, **passed, name: token},
            cwd=self._base,
        )
        assert self._said is not None
        return Client(stdio_client(parameters, errlog=self._said), cache=None)  # pyright: ignore[reportArgumentType]

    def _last_words(self) -> str:
        """The last line that the server wrote on standard error."""
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read()[-4096:].decode("utf-8", "replace").splitlines()]
        said = [line for line in lines if line]
        return f"; it said: {said[-1][:300]}" if said else ""

    async def _lost(self, session: _Session) -> None:
        """Clear up after a server that died, once however many calls have noticed."""
        if self._session is session:
            self._session = None
            await _end(session)

    async def _listed(self, client: Any) -> list[Any]:
        found: list[Any] = []
        cursor: str | None = None
        async with asyncio.timeout(self.settings.start_s):
            for _ in range(_PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if not cursor:
                    break
        return found

    def _offered(self, listed: Sequence[Any]) -> tuple[Tool, ...]:
        tools = [self._tool(one) for one in listed if any(fnmatchcase(one.name, glob) for glob in self.settings.tools)]
        names = [tool.name for tool in tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f'mcp "{self.name}": two of its tools are called {twice[0]}; choose with tools = [...]')
        if not tools:
            has = ", ".join(one.name for one in listed) or "none at all"
            raise UserError(f'mcp "{self.name}": no tool fits tools = {list(self.settings.tools)}; it has {has}')
        return tuple(tools)

    def _tool(self, one: Any) -> Tool:
        annotations = one.annotations
        reads = bool(annotations and annotations.read_only_hint)
        reads = reads or any(fnmatchcase(one.name, glob) for glob in self.settings.read_only)

        async def call(arguments: Mapping[str, Any]) -> Any:
            return await self.call(one.name, arguments)

        return Tool(
            name=_UNNAMEABLE.sub("_", self.settings.prefix + one.name)[:64],
            description=one.description or one.title or "",
            parameters={"type": "object", "properties": {}, **one.input_schema},
            call=call,
            effect="read" if reads else "write",
            keys=lambda _: (f"mcp {self.name}",),
            timeout_s=self.settings.call_s,
        )


async def _end(session: _Session) -> None:
    """Let the owner leave, and end what is left of the server's processes; a cancelled caller still gets that far."""
    session.scope.cancel()
    waiting = asyncio.ensure_future(asyncio.wait([session.owner]))
    cancelled = False
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            cancelled = True
    for _ in range(_SWEEPS):
        if not (left := _marked(session.mark.encode())):
            break
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


def _marked(mark: bytes) -> list[int]:
    """Living processes with the mark in their environment."""
    found: list[int] = []
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc"):  # noqa: PTH208 - names only
            if name.isdigit() and mark in (processes.read(f"/proc/{name}/environ") or b"").split(b"\0"):
                found.append(int(name))
    return found


def _cause(error: BaseException) -> str:
    """The first plain error inside a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return f"no such program: {error.filename}"
    return f"it does not start: {one_line(error)}"


def _text(content: Sequence[Any]) -> str:
    """What a result says, as text; what is no text is named."""
    parts: list[str] = []
    for part in content:
        resource = getattr(part, "resource", None)
        if part.type == "text":
            parts.append(part.text)
        elif resource is not None:
            text = getattr(resource, "text", None)
            parts.append(f"[resource {resource.uri}]" if text is None else text)
        elif part.type == "resource_link":
            parts.append(f"[link {part.uri}]")
        else:
            parts.append(f"[{part.type}, {part.mime_type}, {len(part.data)} characters of base64]")
    return "\n".join(parts)


def _bare(structured: dict[str, Any], text: str) -> Any:
    """Structured content; a lone `result`, into which the SDK wraps what is no object, without its wrapping."""
    if list(structured) != ["result"]:
        return structured
    with suppress(ValueError):
        if json.loads(text) == structured:
            return structured
    return structured["result"]
