"""Tools that work in a box: a shell, and reading, writing and editing files. Nothing of them touches the host.

Each call is one execution of the box: it starts in the working folder, and ends with every process that it started
dead, also when it times out or is cancelled. Files last from call to call; `cd`, variables and background programs do
not.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fairtrial.agents.tools.functions import function_tool
from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.tasks.sandbox.api import Box, End, Execution

BoxTool = Literal["bash", "read_file", "write_file", "edit_file"]
NAMES: tuple[BoxTool, ...] = ("bash", "read_file", "write_file", "edit_file")
_FILE_S = 30.0
_GRACE_S = 10.0
"""The box ends a program by itself; the executor's own timeout comes this much later."""
# Standard error goes the way of standard output, so that a model reads both in their order.
_SHELL = 'exec 2>&1; if [ -x /bin/bash ]; then exec /bin/bash -c "$1"; else exec /bin/sh -c "$1"; fi'
_READ = (
    'if [ -d "$1" ]; then echo "it is a folder" >&2; exit 1; fi; if [ ! -e "$1" ]; then echo "no such file" >&2; '
    'exit 1; fi; if [ ! -f "$1" ]; then echo "it is no regular file" >&2; exit 1; fi; cat -- "$1"'
)
_WRITE = 'mkdir -p -- "$(dirname -- "$1")" && cat > "$1"'


def box_tools(
    box: Box, names: Sequence[BoxTool] = ("bash",), *, command_s: float = 120.0, shown: int = 16_000
) -> tuple[Tool, ...]:
    """Tools over an open box.

    Args:
        box: Where they work.
        names: Which of `bash`, `read_file`, `write_file` and `edit_file`.
        command_s: Wall seconds that a command may take.
        shown: Characters of an output or a file that the model sees; the middle of what is longer is left out.
    """
    desk = _Desk(box, command_s, shown)
    made = {
        "bash": function_tool(
            desk.bash,
            description=_about_bash(box.spec.workdir, command_s),
            effect="write",
            timeout_s=command_s + _GRACE_S,
        ),
        "read_file": function_tool(desk.read_file, timeout_s=_FILE_S + _GRACE_S),
        "write_file": function_tool(desk.write_file, effect="write", keys=desk.keys, timeout_s=_FILE_S + _GRACE_S),
        "edit_file": function_tool(desk.edit_file, effect="write", keys=desk.keys, timeout_s=2 * _FILE_S + _GRACE_S),
    }
    return tuple(made[name] for name in dict.fromkeys(names))


def _about_bash(workdir: str, command_s: float) -> str:
    return (
        f"Run a command with bash in {workdir}; gives what it prints, and its exit code unless that is 0. Files stay; "
        "each call is a new shell, so `cd`, variables and background programs end with it. "
        f"A command may take {command_s:g} seconds."
    )


class _Desk:
    def __init__(self, box: Box, command_s: float, shown: int) -> None:
        self._box, self._command_s, self._shown = box, command_s, shown

    async def bash(self, command: str) -> str:
        """Run a command.

        Args:
            command: One or more lines of bash.
        """
        done = await self._box.exec(["/bin/sh", "-c", _SHELL, "sh", command], timeout_s=self._command_s)
        said = [self._cut(_decoded(done.stdout)).rstrip("\n")]
        if done.leftover:
            said.append(f"[ended with the command: {'; '.join(done.leftover[:5])}]")
        if done.end is End.EXIT:
            if done.exit_code:
                said.append(f"[exit code {done.exit_code}]")
            return "\n".join(part for part in said if part) or "[it printed nothing]"
        said.append(f"[{_ended(done)}]")
        text = "\n".join(part for part in said if part)
        raise TimeoutError(text) if done.end is End.WALL_LIMIT else ToolError(text)

    async def read_file(self, path: str, first_line: int = 1, lines: int | None = None) -> str:
        """Read a text file.

        Args:
            path: Absolute, or from the working folder.
            first_line: Where to begin, from 1.
            lines: How many; without it all that can be shown.
        """
        text = await self._read(path)
        if first_line == 1 and lines is None:
            return self._cut(text)
        all_lines = text.splitlines(keepends=True)
        if not 1 <= first_line <= max(1, len(all_lines)):
            raise ToolError(f"{path} has {len(all_lines)} lines; first_line is {first_line}")
        end = len(all_lines) if lines is None else first_line - 1 + max(0, lines)
        return self._cut("".join(all_lines[first_line - 1 : end]))

    async def write_file(self, path: str, content: str) -> str:
        """Write a text file; what was in it is replaced, folders are made.

        Args:
            path: Absolute, or from the working folder.
            content: The whole new content.
        """
        await self._write(path, content)
        return f"{path}: {len(content.encode())} bytes written"

    async def edit_file(self, path: str, old: str, new: str) -> str:
        """Replace a text that occurs exactly once in a file.

        Args:
            path: Absolute, or from the working folder.
            old: The text as it stands there, spaces and line ends included.
            new: What is to stand there instead.
        """
        text = await self._read(path)
        found = text.count(old) if old else 0
        if found != 1:
            how = "is empty" if not old else f"occurs {found} times" if found else "does not occur"
            raise ToolError(f"nothing was changed: `old` {how} in {path}; give a text that occurs exactly once")
        await self._write(path, text.replace(old, new))
        line = text[: text.index(old)].count("\n") + 1
        return f"{path}: replaced at line {line}"

    def keys(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """The file that a write touches."""
        return (posixpath.normpath(posixpath.join(self._box.spec.workdir, str(arguments.get("path", "")))),)

    async def _read(self, path: str) -> str:
        done = await self._box.exec(["/bin/sh", "-c", _READ, "sh", _named(path)], timeout_s=_FILE_S)
        if done.end is not End.EXIT or done.exit_code:
            raise ToolError(f"{path}: {_decoded(done.stderr).strip() or _ended(done)}")
        if done.truncated:
            raise ToolError(f"{path} is too long to be read whole; read a part of it with bash (sed -n, head, grep)")
        try:
            text = done.stdout.decode()
        except UnicodeDecodeError:
            raise ToolError(f"{path} is no text file (not UTF-8)") from None
        return text

    async def _write(self, path: str, content: str) -> None:
        try:
            data = content.encode()
        except UnicodeEncodeError:
            raise ToolError("the content has a half of a surrogate pair, which no file can hold") from None
        done = await self._box.exec(["/bin/sh", "-c", _WRITE, "sh", _named(path)], stdin=data, timeout_s=_FILE_S)
        if done.end is not End.EXIT or done.exit_code:
            raise ToolError(f"{path} was not written: {_decoded(done.stderr).strip() or _ended(done)}")

    def _cut(self, text: str) -> str:
        if len(text) <= self._shown:
            return text
        half = self._shown // 2
        return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _named(path: str) -> str:
    if not path.strip():
        raise ToolError("path is empty; name a file")
    return path if path.startswith("/") else f"./{path}"


def _ended(done: Execution) -> str:
    """How a program was ended, for the model."""
    match done.end:
        case End.WALL_LIMIT:
            return f"ended: it took longer than {done.wall_s:.1f} s"
        case End.OUT_OF_MEMORY:
            return "killed: out of memory"
        case End.CRASH:
            return f"killed by signal {-done.exit_code}"
        case End.EXIT:
            return f"exit code {done.exit_code}"
        case _:
            return f"killed by its {done.end.value.replace('_', ' ')}"


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
