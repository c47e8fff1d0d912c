"""Starts the outer process of a box: a new session, exactly the descriptors it should have, default signals.

posix_spawn does not copy the driver's memory map, so the cost does not grow with the driver.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence

from fairtrial.core.errors import InfraError


def spawn(
    argv: Sequence[str], stdin: bytes, env: Mapping[str, str], inherited: Sequence[int], own_stderr: int | None = None
) -> tuple[int, int, int]:
    """Start a host process in a new session; (pid, the program's stdout, its stderr).

    `inherited` become its descriptors 3, 4 ...; it gets no other, also none that this process was itself given. With
    `own_stderr` the process writes its own messages there and finds the program's stderr as the last descriptor.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as after:

        def own(stack: contextlib.ExitStack, fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        out_read, out_write = os.pipe()
        undo.callback(os.close, out_read)
        after.callback(os.close, out_write)
        err_read, err_write = os.pipe()
        undo.callback(os.close, err_read)
        after.callback(os.close, err_write)
        given = own(after, _input(stdin))
        wanted = [given, out_write, err_write, *inherited]
        if own_stderr is not None:
            wanted = [given, out_write, own_stderr, *inherited, err_write]
        high = [own(after, _above(fd)) for fd in wanted]
        actions: list[tuple[int, int, int] | tuple[int, int]] = [
            (os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(high)
        ]
        actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd >= len(high)]
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ],
            )
        except OSError as error:
            raise InfraError(f"{argv[0]} cannot be started: {error}", cause="sandbox", retryable=False) from error
        undo.pop_all()
    return pid, out_read, err_read


def _above(fd: int) -> int:
    """A copy of `fd` that no number of the new process can collide with."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


def _inheritable() -> list[int]:
    """Descriptors that a program started now would get: those that this process was given, and careless libraries'."""
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names only, and often
        with contextlib.suppress(OSError):
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _input(data: bytes) -> int:
    """A descriptor to read `data` from, with nobody needed to feed it."""
    if not data:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    return in_memory(data)


def in_memory(data: bytes) -> int:
    """A descriptor of an unnamed file with this content, at its start."""
    fd = os.memfd_create("fairtrial", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
