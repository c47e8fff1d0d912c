"""The shell and the file tools in a real box: what a model reads, what is refused, and that nothing stays behind."""

import asyncio
import os
from pathlib import Path

import pytest

from fairtrial.agents.tools.box import NAMES, box_tools
from fairtrial.agents.tools.tool import ToolError
from fairtrial.tasks.sandbox.api import BoxLimits, BoxSpec
from fairtrial.tasks.sandbox.choose import choose


@pytest.fixture
def desk(tmp_path):
    """Calls a tool by name in a fresh box with the working folder /app."""
    files = tmp_path / "box"
    (files / "app").mkdir(parents=True)
    spec = BoxSpec(files, workdir="/app", env={"BOX_MARK": tmp_path.name}, limits=BoxLimits(output_kb=64))
    tools = {tool.name: tool for tool in box_tools(choose(None).box(spec), NAMES, command_s=0.7, shown=1000)}

    def call(name, **arguments):
        return asyncio.run(tools[name].call(arguments))

    call.tools, call.files, call.mark = tools, files, tmp_path.name
    return call


def left(mark: str) -> list[str]:
    """Command lines of living processes with the box's mark in their environment."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and f"BOX_MARK={mark}".encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(Path(f"/proc/{name}/cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


def test_what_a_shell_says(desk):
    assert desk("bash", command="pwd; echo careful >&2; echo done") == "/app\ncareful\ndone"
    assert desk("bash", command="cd /tmp && false") == "[exit code 1]"
    assert desk("bash", command="touch a.txt") == "[it printed nothing]"
    assert desk("bash", command="ls\npwd") == "a.txt\n/app"
    assert "syntax error" in desk("bash", command="if then")
    assert desk("bash", command="printf 'a\\xffb'") == "a\N{REPLACEMENT CHARACTER}b"
    long = desk("bash", command="seq 1 5000")
    assert long.startswith("1\n2\n") and long.endswith("4999\n5000") and "characters left out" in long
    assert len(long) < 1100
    assert "/app" in desk.tools["bash"].description and "0.7 seconds" in desk.tools["bash"].description


def test_trap_14_a_command_that_hangs_is_a_timeout_that_says_what_it_printed_and_leaves_nothing(desk):
    with pytest.raises(TimeoutError, match=r"(?s)first.*longer than"):
        desk("bash", command="echo first; (setsid sleep 300 &); sleep 300")
    assert left(desk.mark) == []
    said = desk("bash", command="setsid sleep 300 & echo started")
    assert said.startswith("started") and "[ended with the command: " in said and "sleep" in said
    assert left(desk.mark) == []


def test_trap_14_a_cancelled_command_leaves_nothing(desk):
    async def cancelled():
        task = asyncio.create_task(desk.tools["bash"].call({"command": "touch begun; setsid sleep 300 & sleep 300"}))
        while not (desk.files / "app" / "begun").exists():
            await asyncio.sleep(0.01)
        assert any("sleep" in line for line in left(desk.mark))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert left(desk.mark) == []


def test_files_are_written_read_and_edited(desk):
    assert desk("write_file", path="notes/today.md", content="one\ntwo 'quoted' $HOME\nthree\n") == (
        "notes/today.md: 29 bytes written"
    )
    assert (desk.files / "app/notes/today.md").read_text() == "one\ntwo 'quoted' $HOME\nthree\n"
    assert desk("edit_file", path="/app/notes/today.md", old="two 'quoted'", new="2\\1") == (
        "/app/notes/today.md: replaced at line 2"
    )
    assert desk("read_file", path="notes/today.md") == "one\n2\\1 $HOME\nthree\n"
    assert desk("read_file", path="notes/today.md", first_line=2, lines=1) == "2\\1 $HOME\n"
    desk("write_file", path="-n", content="a dash")
    assert desk("read_file", path="-n") == "a dash"
    keys = desk.tools["edit_file"].keys
    assert keys({"path": "notes/../a"}) == keys({"path": "/app/a"}) == ("/app/a",)
    assert [desk.tools[name].effect for name in NAMES] == ["write", "read", "write", "write"]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("read_file", {"path": "nowhere"}, "nowhere: no such file"),
        ("read_file", {"path": "/app"}, "it is a folder"),
        ("read_file", {"path": "pipe"}, "no regular file"),
        ("read_file", {"path": "bytes"}, "no text file"),
        ("read_file", {"path": "large"}, "too long to be read whole"),
        ("read_file", {"path": "twice", "first_line": 9}, "has 1 lines"),
        ("read_file", {"path": " "}, "path is empty"),
        ("write_file", {"path": "/usr/bin/true", "content": ""}, "was not written"),
        ("write_file", {"path": "x", "content": "\ud800"}, "surrogate"),
        ("edit_file", {"path": "twice", "old": "a", "new": "b"}, "occurs 2 times"),
        ("edit_file", {"path": "twice", "old": "z", "new": "b"}, "does not occur"),
        ("edit_file", {"path": "twice", "old": "", "new": "b"}, "is empty"),
        ("bash", {"command": "kill -SEGV $$"}, "killed by signal 11"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(desk, name, arguments, said):
    app = desk.files / "app"
    os.mkfifo(app / "pipe")
    (app / "bytes").write_bytes(b"\xff\xfe\x00")
    (app / "large").write_text("x" * 100_000)
    (app / "twice").write_text("a a\n")
    with pytest.raises(ToolError) as caught:
        desk(name, **arguments)
    assert said in str(caught.value)
    assert (app / "twice").read_text() == "a a\n"
