"""A real MCP server over stdio for the tests: quick and slow tools, tools that fail, and tools that kill it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

NOTES = Path(sys.argv[1])
server = MCPServer("lab")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def slow(seconds: float) -> str:
    """Answers late."""
    with NOTES.open("a") as notes:
        notes.write("started\n")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        with NOTES.open("a") as notes:
            notes.write("cancelled\n")
        raise
    return "late"


@server.tool(name="notes/append")
def append(text: str) -> dict[str, str]:
    """Writes something down."""
    with NOTES.open("a") as notes:
        notes.write(text + "\n")
    return {"result": text}


@server.tool()
def fail() -> str:
    """Never works."""
    raise ToolError("no luck")


@server.tool()
def spawn() -> int:
    """Leaves a process behind, in a session of its own."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


@server.tool()
async def die() -> str:
    """Kills the server in the middle of the call."""
    with NOTES.open("a") as notes:
        notes.write("dying\n")
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)
    return "alive"


if __name__ == "__main__":
    if len(sys.argv) > 2:
        server.add_tool(fail, name=sys.argv[2])
    server.run()
