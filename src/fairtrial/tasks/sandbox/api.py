"""What a sandbox is: the Protocol that bubblewrap, unshare, docker, podman and none implement.

A box is a folder (`BoxSpec.files`, the writable part of the box's file system) plus rules. Each `exec` starts fresh
namespaces over that folder and ends with every process of the box dead, so what a program left running cannot act
afterwards, and what it wrote can be read from the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

Network = Literal["none", "public"]


class End(StrEnum):
    """How a program in a box ended; the causes of death are told apart, never guessed from exit code 137."""

    EXIT = "exit"
    """By itself, with whatever exit code."""
    OUT_OF_MEMORY = "out_of_memory"
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    DISK_LIMIT = "disk_limit"
    CRASH = "crash"
    """By a signal that no limit explains."""


@dataclass(frozen=True, slots=True)
class BoxLimits:
    """Caps for one box; None means no cap."""

    memory_mb: int | None = 2048
    """Of all processes together."""
    cpu_s: float | None = None
    """CPU seconds of all processes together, for each exec."""
    cpus: float | None = None
    """Cores that may be used at once."""
    processes: int | None = 256
    disk_mb: int | None = 1024
    """Growth of the box's writable files."""
    file_mb: int | None = 512
    """Size of a single file."""
    output_kb: int = 1024
    """Of stdout and of stderr each; the middle of what is longer is dropped and marked."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path shown in the box."""

    source: Path
    target: str
    """Absolute path in the box."""
    writable: bool = False


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """A box to open."""

    files: Path
    """Host folder; `files/app/x` is `/app/x` in the box, writable. Made if missing."""
    mounts: tuple[Mount, ...] = ()
    workdir: str = "/"
    env: Mapping[str, str] = field(default_factory=dict)
    """The whole environment besides PATH, HOME, LANG and TERM; nothing of the host's leaks in."""
    path: tuple[str, ...] = ()
    """Folders put before the system's on PATH."""
    network: Network = "none"
    limits: BoxLimits = BoxLimits()


@dataclass(frozen=True, slots=True)
class Execution:
    """What one program in a box did."""

    exit_code: int
    """Negative: the signal that killed it."""
    end: End
    stdout: bytes
    stderr: bytes
    wall_s: float
    cpu_s: float
    """Of all processes of the box."""
    peak_mb: float | None = None
    leftover: tuple[str, ...] = ()
    """Command lines of processes that were still alive when the program ended (they were killed)."""
    oom_kills: int = 0
    """Processes of the box that were killed for memory, also where the program itself went on."""
    truncated: bool = False
    """Output was longer than the limit."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a sandbox works on this machine."""

    ok: bool
    reason: str
    """Version or capability when ok; what is missing when not."""
    remedy: str = ""
    """How to get it, in one line."""


class Box(Protocol):
    """An open box."""

    spec: BoxSpec

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> Execution:
        """Run a program to its end (or kill it at `timeout_s` wall seconds) and end every process that it left.

        Raises InfraError(cause="sandbox") when the box itself cannot be started. Cancellation kills the box.
        """
        ...


class Sandbox(Protocol):
    """A way to isolate. Registered under `fairtrial.sandboxes`, built without arguments."""

    name: str
    isolated: bool
    """False marks every record "not isolated"."""

    def available(self) -> Availability:
        """Whether it works here, found by starting something in it (remembered for the process)."""
        ...

    def box(self, spec: BoxSpec) -> Box:
        """A box; opening costs nothing until something is executed."""
        ...
