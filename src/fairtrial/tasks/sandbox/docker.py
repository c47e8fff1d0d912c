"""Boxes with a container engine, Docker or Podman: one container for each execution, over the same files and mounts.

Written against the engines' documented command line and tested here for its arguments and for what `available` says;
it has NOT been run against an engine, since none was at hand. The image is named by FAIRTRIAL_IMAGE and must be on the
machine already (nothing is pulled). Two things are coarser than with bubblewrap: an exit code above 128 is read as a
signal, and CPU seconds are not measured (0) and are capped for each process, not over all. A driver that is killed
outright leaves its container, whose name begins with "fairtrial-". The image's system folders take the host's place.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fairtrial.core.errors import InfraError
from fairtrial.tasks.sandbox.api import Availability, BoxSpec, End, Execution
from fairtrial.tasks.sandbox.box import refusal
from fairtrial.tasks.sandbox.capture import Capture
from fairtrial.tasks.sandbox.layout import SYSTEM_PATH, prepare_files
from fairtrial.tasks.sandbox.spawning import spawn
from fairtrial.tasks.sandbox.watch import Disk

DEFAULT_IMAGE = "python:3.12-bookworm"
_ANSWER_S = 1.8
_DISK_CHECK_S = 2.0
_FAILED = 125
"""Exit code of `docker run` when the engine, not the program, failed."""


class Docker:
    """Containers by Docker."""

    name = "docker"
    isolated = True
    _remedy = "install Docker and start its engine, or install bubblewrap, which needs no engine"

    def __init__(self) -> None:
        self._found: Availability | None = None

    def available(self) -> Availability:
        """Whether an engine answers and has the image; starts no container."""
        if self._found is None:
            self._found = self._look()
        return self._found

    def box(self, spec: BoxSpec) -> ContainerBox:
        """A box over `spec.files`."""
        return ContainerBox(spec, self.name)

    def _look(self) -> Availability:
        program = shutil.which(self.name)
        if program is None:
            return Availability(False, f"{self.name} is not installed", self._remedy)
        deadline = time.monotonic() + _ANSWER_S
        version = _ask([program, "version", "--format", "{{json .}}"], deadline)
        if isinstance(version, str):
            return Availability(False, f"no {self.name} engine answers: {version}", self._remedy)
        image = _ask([program, "image", "inspect", "--format", "{{json .Id}}", image_name()], deadline)
        if isinstance(image, str) and not image.startswith("sha256"):
            return Availability(False, f"the image {image_name()} is not here", f"{self.name} pull {image_name()}")
        return Availability(True, f"{self.name}, image {image_name()}")


class Podman(Docker):
    """Containers by Podman."""

    name = "podman"
    _remedy = "install Podman, or install bubblewrap, which needs no engine"


class ContainerBox:
    """A folder whose programs run in fresh containers."""

    def __init__(self, spec: BoxSpec, engine: str) -> None:
        self.spec, self.engine = spec, engine
        self._disk: Disk | None = None

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> Execution:
        """See `api.Box.exec`."""
        program = shutil.which(self.engine)
        if program is None:
            raise InfraError(f"{self.engine} is not installed", cause="sandbox", retryable=False)
        if (refused := refusal(argv)) is not None:
            return refused
        prepare_files(self.spec)
        if self._disk is None and self.spec.limits.disk_mb is not None:
            self._disk = Disk(self.spec.files)
        name = f"fairtrial-{secrets.token_hex(8)}"
        command = run_command(program, self.spec, name, argv, env or {}, workdir)
        started = time.monotonic()
        try:
            cause, out, err = await self._run(command, stdin, timeout_s)
            state = await _json(program, "inspect", "--format", "{{json .State}}", name)
        finally:
            await asyncio.shield(_json(program, "rm", "--force", "--volumes", name))
        wall_s = time.monotonic() - started
        if not isinstance(state, dict) or (state.get("Error") and state.get("ExitCode") == _FAILED):
            said = " ".join(err.value().decode(errors="replace").split())
            raise InfraError(f"the {self.engine} container did not start: {said}", cause="sandbox")
        code, end = outcome(state, cause)
        return Execution(
            exit_code=code,
            end=end,
            stdout=out.value(),
            stderr=err.value(),
            wall_s=wall_s,
            cpu_s=0.0,
            oom_kills=int(bool(state.get("OOMKilled"))),
            truncated=out.truncated or err.truncated,
        )

    async def _run(
        self, command: list[str], stdin: bytes, timeout_s: float | None
    ) -> tuple[End | None, Capture, Capture]:
        """Run the client until the container ends or a limit that the engine does not know is overrun."""
        client, out_fd, err_fd = spawn(command, stdin, dict(os.environ), ())
        kept = self.spec.limits.output_kb << 10
        out, err = Capture(out_fd, kept), Capture(err_fd, kept)
        waiting = asyncio.ensure_future(asyncio.to_thread(os.waitpid, client, 0))
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        cause: End | None = None
        try:
            while not waiting.done():
                left = _DISK_CHECK_S if deadline is None else min(_DISK_CHECK_S, deadline - time.monotonic())
                if left <= 0:
                    cause = End.WALL_LIMIT
                    break
                await asyncio.wait([waiting], timeout=left)
                if self._grew_too_much():
                    cause = End.DISK_LIMIT
                    break
        finally:
            if not waiting.done():
                await asyncio.shield(_json(command[0], "kill", command[command.index("--name") + 1]))
                await asyncio.shield(waiting)
            out.drain()
            err.drain()
            out.close()
            err.close()
        return cause, out, err

    def _grew_too_much(self) -> bool:
        cap = self.spec.limits.disk_mb
        if cap is None or self._disk is None or not self._disk.may_have_grown(cap):
            return False
        return self._disk.growth_mb() > cap


def image_name() -> str:
    """The image that boxes are made from."""
    return os.environ.get("FAIRTRIAL_IMAGE", DEFAULT_IMAGE)


def run_command(
    program: str,
    spec: BoxSpec,
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    workdir: str | None,
) -> list[str]:
    """The command line that runs `argv` in a fresh container called `name`."""
    command = [program, "run", "--name", name, "--pull", "never", "--interactive", "--init", "--read-only"]
    command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--hostname", "box"]
    command += ["--network", "none" if spec.network == "none" else "bridge"]
    command += [*_limits(spec), *_volumes(spec), "--workdir", workdir or spec.workdir, "--user", "0:0"]
    values = {
        "PATH": ":".join((*spec.path, *SYSTEM_PATH)),
        "HOME": "/root",
        "USER": "root",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        **spec.env,
        **env,
    }
    for key, value in values.items():
        command += ["--env", f"{key}={value}"]
    return [*command, "--entrypoint", argv[0], image_name(), *argv[1:]]


def outcome(state: Mapping[str, Any], cause: End | None) -> tuple[int, End]:
    """(exit code, how it ended) from the engine's account of a finished container and what this driver did to it."""
    code = int(state.get("ExitCode", 0))
    code = 128 - code if code > 128 else code
    if cause is not None:
        return -9, cause
    if state.get("OOMKilled") and code != 0:
        return code, End.OUT_OF_MEMORY
    if code == -24:
        return code, End.CPU_LIMIT
    if code == -25:
        return code, End.DISK_LIMIT
    return code, End.CRASH if code < 0 else End.EXIT


def _limits(spec: BoxSpec) -> Iterator[str]:
    limits = spec.limits
    yield from ("--ulimit", "core=0:0")
    if limits.memory_mb is not None:
        yield from ("--memory", f"{limits.memory_mb}m", "--memory-swap", f"{limits.memory_mb}m")
    if limits.cpus is not None:
        yield from ("--cpus", f"{limits.cpus:g}")
    if limits.processes is not None:
        yield from ("--pids-limit", str(limits.processes))
    if limits.file_mb is not None:
        yield from ("--ulimit", f"fsize={limits.file_mb << 20}:{limits.file_mb << 20}")
    if limits.cpu_s is not None:
        seconds = max(1, round(limits.cpu_s))
        yield from ("--ulimit", f"cpu={seconds}:{seconds + 1}")


def _volumes(spec: BoxSpec) -> Iterator[str]:
    """Writable files: top-level entries whole, below the image's /usr and /etc file by file; then the mounts."""
    size = "" if spec.limits.disk_mb is None else f",size={spec.limits.disk_mb}m"
    for name in ("tmp", "run"):
        if not (spec.files / name).is_dir():
            yield from ("--tmpfs", f"/{name}:rw,exec,mode=1777{size}")
    for entry in sorted(spec.files.iterdir()):
        if entry.is_symlink():
            raise InfraError(
                f"{entry.name}: a container cannot have a link as a top-level entry", cause="sandbox", retryable=False
            )
        shown = (
            [path for path in sorted(entry.rglob("*")) if path.is_file()] if entry.name in ("usr", "etc") else [entry]
        )
        for path in shown:
            yield from _volume(path, f"/{path.relative_to(spec.files)}", writable=True)
    for mount in spec.mounts:
        yield from _volume(mount.source, str(PurePosixPath(mount.target)), writable=mount.writable)


def _volume(source: Path, target: str, *, writable: bool) -> tuple[str, str]:
    text = f"type=bind,source={source.resolve()},target={target}"
    if "," in str(source) or "," in target:
        raise InfraError(f"a container cannot mount {source}: its name has a comma", cause="sandbox", retryable=False)
    return "--mount", text if writable else f"{text},readonly"


def _ask(command: list[str], deadline: float) -> Any:
    """The JSON that the client prints, or the reason why it does not, as text."""
    left = max(0.1, deadline - time.monotonic())
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "no answer in time" if isinstance(error, subprocess.TimeoutExpired) else str(error)
    if done.returncode != 0:
        return " ".join(done.stderr.split()) or f"exit {done.returncode}"
    try:
        return json.loads(done.stdout)
    except ValueError:
        return "an answer that is not JSON"


async def _json(program: str, *arguments: str) -> Any:
    """What the client prints as JSON, or None."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    try:
        return json.loads(out)
    except ValueError:
        return None
