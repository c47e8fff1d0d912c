"""Tools of a real MCP server: what is offered, and what a failure, a timeout, a death and a cancellation leave."""

import asyncio
import sys
from pathlib import Path

import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer
from processes import running

from fairtrial.agents.tools.mcp import McpServer, McpSettings
from fairtrial.agents.tools.tool import ToolError
from fairtrial.core.errors import UserError

SERVER = Path(__file__).parent / "mcp_server.py"


def settings(tmp_path, **more):
    env = {"TESTED_IN": str(tmp_path)}
    return McpSettings(command=(sys.executable, str(SERVER), str(tmp_path / "notes")), env=env, **more)


def with_server(tmp_path, work, **more):
    async def run():
        async with McpServer("lab", settings(tmp_path, **more)) as server:
            return await work(server, {tool.name: tool for tool in server.tools})

    return asyncio.run(run())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_server_offers_and_answers(tmp_path):
    async def work(server, tools):
        assert set(tools) == {"x_add", "x_slow", "x_notes_append", "x_fail", "x_spawn", "x_die"}
        assert tools["x_add"].description == "Adds two numbers."
        assert set(tools["x_add"].parameters["properties"]) == {"a", "b"}
        assert (tools["x_add"].effect, tools["x_fail"].effect, tools["x_spawn"].effect) == ("read", "write", "read")
        assert await tools["x_add"].call({"a": 20, "b": 22}) == 42
        assert await tools["x_notes_append"].call({"text": "hi"}) == {"result": "hi"}
        with pytest.raises(ToolError, match="no luck"):
            await tools["x_fail"].call({})
        with pytest.raises(ToolError):
            await tools["x_add"].call({"a": "many", "b": 1})
        calls = [tools["x_slow"].call({"seconds": 0.3}) for _ in range(10)]
        async with asyncio.timeout(2.5):  # ten calls over one session at once, not one after the other
            assert await asyncio.gather(*calls) == ["late"] * 10
        assert server.starts == 1

    with_server(tmp_path, work, prefix="x_", read_only=("spawn",))


def test_trap_17_calls_from_other_tasks_time_out_and_are_cancelled_without_harm(tmp_path):
    async def work(server, tools):
        with pytest.raises(TimeoutError, match="lab"):
            await tools["slow"].call({"seconds": 60})
        task = asyncio.create_task(tools["slow"].call({"seconds": 60}))
        while (tmp_path / "notes").read_text().count("started") < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.create_task(tools["add"].call({"a": 1, "b": 1})) == 2
        async with asyncio.timeout(5):
            while (tmp_path / "notes").read_text().count("cancelled") < 2:  # the server was told, both times
                await asyncio.sleep(0.01)
        assert server.starts == 1

    with_server(tmp_path, work, call_s=0.7)


def test_a_server_killed_in_a_call_is_an_error_and_the_next_call_has_a_new_one(tmp_path):
    async def work(server, tools):
        waiting = asyncio.create_task(tools["slow"].call({"seconds": 60}))
        while not (tmp_path / "notes").exists():
            await asyncio.sleep(0.01)
        with pytest.raises(ToolError, match=r"lab ended.*started again"):
            await tools["die"].call({})
        with pytest.raises(ToolError, match="lab ended"):
            await waiting
        assert await tools["add"].call({"a": 1, "b": 2}) == 3
        assert server.starts == 2
        with pytest.raises(ToolError, match="stays down"):
            await tools["die"].call({})
        with pytest.raises(ToolError, match="started 2 times"):
            await tools["add"].call({"a": 1, "b": 2})
        assert (tmp_path / "notes").read_text().count("dying") == 2  # no call is sent twice

    with_server(tmp_path, work, restarts=1)
    assert running(f"TESTED_IN={tmp_path}") == []


def test_trap_14_closing_ends_the_server_and_what_it_left(tmp_path):
    async def work(server, tools):
        pid = await tools["spawn"].call({})
        assert alive(pid) and len(running(f"TESTED_IN={tmp_path}")) >= 2
        return pid

    pid = with_server(tmp_path, work)
    assert not alive(pid) and running(f"TESTED_IN={tmp_path}") == []

    async def cancelled():
        server = McpServer("lab", McpSettings(command=("sleep", "600"), env={"TESTED_IN": str(tmp_path)}))
        task = asyncio.create_task(server.__aenter__())
        while not running(f"TESTED_IN={tmp_path}"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert running(f"TESTED_IN={tmp_path}") == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"command": ("no-such-program-here",)}, "no such program: no-such-program-here"),
        ({"command": ("sleep", "60"), "start_s": 0.3}, "did not come up in 0.3 s"),
        ({"command": (sys.executable, "-c", "raise SystemExit('no licence')")}, "no licence"),
        ({"command": ("sleep", "1"), "secrets": ("FAIRTRIAL_NOWHERE",)}, "FAIRTRIAL_NOWHERE is not set"),
        ({"url": "http://127.0.0.1:9/mcp"}, 'mcp "lab": '),
    ],
)
def test_a_server_that_does_not_start_is_one_line(wrong, said, tmp_path):
    env = {} if "url" in wrong else {"env": {"TESTED_IN": str(tmp_path)}}

    async def run():
        async with McpServer("lab", McpSettings(**wrong, **env)):
            pass

    with pytest.raises(UserError) as caught:
        asyncio.run(run())
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert running(f"TESTED_IN={tmp_path}") == []


def test_a_server_at_an_address(tmp_path):
    offered = MCPServer("far")

    @offered.tool()
    def double(number: int) -> int:
        """Twice a number."""
        return 2 * number

    async def run():
        web = uvicorn.Server(uvicorn.Config(offered.streamable_http_app(), port=0, log_level="error"))
        serving = asyncio.create_task(web.serve())
        while not web.started:
            await asyncio.sleep(0.01)
        port = web.servers[0].sockets[0].getsockname()[1]
        try:
            settings = McpSettings(url=f"http://127.0.0.1:{port}/mcp", read_only=("*",))
            async with McpServer("far", settings) as server:
                (tool,) = server.tools
                assert (tool.name, tool.effect) == ("double", "read")
                assert await asyncio.gather(*(tool.call({"number": n}) for n in range(5))) == [0, 2, 4, 6, 8]
        finally:
            web.should_exit = True
            await serving

    asyncio.run(run())


def test_settings_that_cannot_be_meant():
    for wrong in ({}, {"command": ("a",), "url": "http://x"}, {"url": "http://x", "env": {"A": "1"}}):
        with pytest.raises(ValueError):
            McpSettings(**wrong)


def test_tools_that_do_not_fit_the_globs_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no tool fits.*notes/append"):
        with_server(tmp_path, None, tools=("find*",))
