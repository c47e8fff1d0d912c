"""Python packages of tasks as layers: folders made once by pip, shown read-only in boxes and put on PYTHONPATH.

Only wheels are installed: building a source distribution would run a stranger's code outside of any box.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import re
import signal
import sys
import sysconfig
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fairtrial.core.errors import InfraError, UserError
from fairtrial.core.ids import digest

_LOCK_WAIT_S = 0.1
_UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|Name or service not known|Temporary failure in name resolution|"
    r"Max retries exceeded|Connection refused|ProxyError|Network is unreachable"
)


class PackageError(UserError):
    """Python packages that a task names cannot be had here."""


def layer_key(requirements: Sequence[str], index: Sequence[str] = ()) -> str:
    """Names a layer: its requirements, and the Python and platform that it is for."""
    return digest(
        ["layer-1", sorted(requirements), list(index), sys.implementation.cache_tag, sysconfig.get_platform()]
    )


async def layer(requirements: Sequence[str], index: Sequence[str], cache: Path, *, timeout_s: float = 900.0) -> Path:
    """The folder that holds `requirements`, installed unless it is there already; safe for several processes.

    Args:
        requirements: as pip reads them, e.g. "numpy==1.26.4".
        index: index options for pip, flattened; empty for the host's own settings.
        cache: the cache folder.
        timeout_s: limit for pip.

    Raises:
        PackageError: pip refused (no such version for this Python, conflict ...).
        InfraError: no index could be reached, or pip took too long.
    """
    folder = cache / "layers" / layer_key(requirements, index)
    if folder.is_dir():
        return folder
    async with held(folder):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="making-") as making:
            target = Path(making) / "layer"
            target.mkdir(mode=0o755)
            if requirements:
                await _pip(requirements, index, target, timeout_s)
                _portable_scripts(target / "bin")
            target.rename(folder)
    return folder


@asynccontextmanager
async def held(folder: Path) -> AsyncIterator[None]:
    """Hold the lock under which `folder` is made; waits while another process or task makes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_WAIT_S)
        yield


async def _pip(requirements: Sequence[str], index: Sequence[str], target: Path, timeout_s: float) -> None:
    names = ", ".join(requirements)
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"pip is missing in this Python environment and is needed for {names}; run: python -m ensurepip"
        )
    listed = target.parent / "requirements.txt"
    listed.write_text("".join(f"{line}\n" for line in requirements))
    command = [
        sys.executable, "-m", "pip", "install", "--target", str(target), "--only-binary", ":all:", "--no-input",
        "--disable-pip-version-check", "--no-warn-conflicts", "--quiet", *index, "-r", str(listed),
    ]  # fmt: skip
    code, text = await _output(command, timeout_s, names)
    if code == 0:
        return
    errors = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.startswith("ERROR:")]
    last = errors[-1] if errors else (text.strip().splitlines() or ["no message"])[-1]
    if _UNREACHABLE.search(text):
        raise InfraError(f"pip reaches no package index for {names}: {last}", cause="packages", retryable=False)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise PackageError(
        f"pip cannot install {names} for Python {version} from wheels (sources are never built: that would run "
        f"their code outside of a box): {last}"
    )


async def _output(command: Sequence[str], timeout_s: float, names: str) -> tuple[int, str]:
    """Exit code and output; the program and its children are gone on timeout and on cancellation."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=STDOUT, stdin=DEVNULL, start_new_session=True
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError:
        raise InfraError(f"pip needed more than {timeout_s:g} s for {names}", cause="packages") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, output.decode("utf-8", "replace")


def _portable_scripts(folder: Path) -> None:
    """Console scripts run by the Python of the box, wherever that is."""
    if not folder.is_dir():
        return
    for script in folder.iterdir():
        raw = script.read_bytes() if script.is_file() and not script.is_symlink() else b""
        if raw.startswith(b"#!") and b"python" in raw.split(b"\n", 1)[0]:
            script.write_bytes(b"#!/usr/bin/env python3\n" + raw.split(b"\n", 1)[1])
        elif raw.startswith(b"#!/bin/sh\n'''exec'"):
            script.write_bytes(b"#!/usr/bin/env python3\n" + raw.split(b"\n", 3)[3])
