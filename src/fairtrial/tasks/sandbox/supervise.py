"""Runs one program in one box to its end: starts it behind the gate, limits, captures, watches, ends every process.

Nothing is polled: the program's end and the box's end are pidfds on the event loop. Whatever happens (cancellation
included) the function returns only when the box's init, and with it every process of the box, is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from fairtrial.core.errors import InfraError
from fairtrial.tasks.sandbox import gate, processes, spawning
from fairtrial.tasks.sandbox.api import BoxLimits, End, Execution
from fairtrial.tasks.sandbox.capture import Capture
from fairtrial.tasks.sandbox.cgroups import POOL, Group
from fairtrial.tasks.sandbox.watch import Disk, Watch

_START_TIMEOUT_S = 60.0
_DYING_S = 0.02
_LEFTOVERS_LISTED = 50
_BACKSTOP_MB = 1024


@dataclass(frozen=True, slots=True)
class Launch:
    """An isolated box, ready to be started."""

    argv: Sequence[str]
    """The outer command; it inherits the gate as descriptor 3 and `plan` as descriptor 4."""
    plan: bytes
    """What the outer command is to read (kept off its command line, which programs in the box could read)."""
    limits: BoxLimits
    disk: Disk | None
    name: str
    """Of the sandbox, for messages."""
    strays: Callable[[int], list[int]] | None = None
    """Where no namespace keeps the processes together: finds those that belong to the outer command."""
    quiet: bool = False
    """The outer command chatters: keep its stderr apart from the program's, which it finds as descriptor 5."""


async def run(launch: Launch, stdin: bytes, timeout_s: float | None) -> Execution:
    """Run the launch's program. Raises InfraError(cause="sandbox") when the box does not come up."""
    try:
        running = _Running(launch, stdin)
        try:
            await running.begin()
            return await running.finish(timeout_s)
        finally:
            await _surely(running.destroy())
    except OSError as error:
        raise InfraError(f"the {launch.name} box failed: {error}", cause="sandbox") from error


async def _surely(ending: Coroutine[None, None, None]) -> None:
    """Wait for `ending` even if this task is cancelled, once or more, meanwhile."""
    task = asyncio.ensure_future(ending)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


class _Running:
    """One execution, from the gate to the grave."""

    def __init__(self, launch: Launch, stdin: bytes) -> None:
        self.launch, self.limits = launch, launch.limits
        self.loop = asyncio.get_running_loop()
        self.gate, inner = gate.pair()
        self.said = spawning.in_memory(b"")
        with inner, contextlib.ExitStack() as undo:
            undo.callback(self.gate.close)
            plan = spawning.in_memory(launch.plan)
            undo.callback(os.close, self.said)
            try:
                own = self.said if launch.quiet else None
                self.outer, out, err = spawning.spawn(launch.argv, stdin, {}, (inner.fileno(), plan), own)
            finally:
                os.close(plan)
            undo.pop_all()
        kept = launch.limits.output_kb << 10
        self.out, self.err = Capture(out, kept), Capture(err, kept)
        self.pidfds: list[int] = []
        self.outer_dead = self._on_end(os.pidfd_open(self.outer))
        self.program = self.init = 0
        self.init_fd = -1
        self.group: Group | None = None
        self.usage: resource.struct_rusage | None = None
        self.status = 0
        self.cause: tuple[End, str] | None = None
        self.overrun: asyncio.Future[None] = self.loop.create_future()
        self.watch: Watch | None = None

    def _on_end(self, pidfd: int) -> asyncio.Future[None]:
        """A future that is done when the process of `pidfd` has ended."""
        self.pidfds.append(pidfd)
        ended: asyncio.Future[None] = self.loop.create_future()

        def ready() -> None:
            self.loop.remove_reader(pidfd)
            if not ended.done():
                ended.set_result(None)

        self.loop.add_reader(pidfd, ready)
        return ended

    async def begin(self) -> None:
        """Wait for the program at the gate, put it under its limits, let it go."""
        ready: asyncio.Future[None] = self.loop.create_future()
        self.loop.add_reader(self.gate.fileno(), lambda: ready.done() or ready.set_result(None))
        try:
            await asyncio.wait([ready, self.outer_dead], timeout=_START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.loop.remove_reader(self.gate.fileno())
        program = None
        with contextlib.suppress(BlockingIOError, ConnectionError):
            program = gate.sender(self.gate)
        shell = processes.stat(program) if program else None
        while shell is not None and (parent := processes.stat(shell.parent)) is not None and parent.state != "T":
            await asyncio.sleep(0.001)
        above = processes.stat(shell.parent) if shell else None
        if program is None or shell is None or above is None:
            await self._failed_to_start()
        assert program is not None and above is not None
        self.program, self.init = program, above.parent if self.launch.strays is None else self.outer
        self.init_fd = os.pidfd_open(self.init)
        self.init_dead = self._on_end(self.init_fd)
        self._limit()
        self.program_dead = self._on_end(os.pidfd_open(program))
        self.watch = Watch(self.limits, self.launch.disk, self.group, self._exceeded)
        self.watch.start(self.init)
        self.started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            self.gate.send(gate.OPEN)

    async def _failed_to_start(self) -> None:
        await self.destroy()
        said = " ".join((self.diagnosis + self.err.value()).decode(errors="replace").split()) or "no message"
        raise InfraError(f"the {self.launch.name} box did not start: {said}", cause="sandbox")

    def _limit(self) -> None:
        """Caps of the kernel on the waiting program; its children inherit them."""
        self.group = POOL.lend(self.limits)
        if self.group is not None:
            try:
                self.group.add(self.program)
            except OSError as error:
                POOL.give_up(str(error))
                self.group = None
        for kind, value in _rlimits(self.limits, self.group is not None, self.launch.strays is None):
            soft, hard = value
            ceiling = resource.prlimit(self.program, kind)[1]
            if ceiling != resource.RLIM_INFINITY:
                soft, hard = min(soft, ceiling), min(hard, ceiling)
            resource.prlimit(self.program, kind, (soft, hard))
        if self.group is None and self.limits.cpus is not None:
            cores = sorted(os.sched_getaffinity(0))[: max(1, math.ceil(self.limits.cpus))]
            os.sched_setaffinity(self.program, cores)

    def _exceeded(self, end: End, message: str) -> None:
        if self.cause is None:
            self.cause = (end, message)
            if not self.overrun.done():
                self.overrun.set_result(None)

    async def finish(self, timeout_s: float | None) -> Execution:
        """Wait for the end, end everything, and say how it ended."""
        done, _ = await asyncio.wait(
            [self.program_dead, self.outer_dead, self.overrun],
            timeout=timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        wall_s = time.monotonic() - self.started
        if not done:
            self.cause = (End.WALL_LIMIT, f"more than {timeout_s:g} seconds")
        truth = processes.stat(self.program)
        leftover = await self._leftover() if self.program_dead.done() else ()
        await self.destroy()
        assert self.watch is not None and self.usage is not None
        code = self._exit_code(truth)
        cpu_s = self.usage.ru_utime + self.usage.ru_stime
        cpu_s = max(cpu_s, self.watch.cpu_s, self.group_cpu_s)
        end = self._end(code, cpu_s)
        return Execution(
            exit_code=code,
            end=end,
            stdout=self.out.value(),
            stderr=self.err.value() + self._note(end),
            wall_s=wall_s,
            cpu_s=cpu_s,
            peak_mb=self.group_peak_mb or self._sampled_peak_mb(),
            leftover=leftover,
            oom_kills=self.oom_kills,
            truncated=self.out.truncated or self.err.truncated,
        )

    def _exit_code(self, truth: processes.Stat | None) -> int:
        """From the zombie; where a limit ended it, SIGKILL; where something inside collected it, what that reported."""
        if self.program_dead.done() and truth is not None and truth.state in "ZX":
            return os.waitstatus_to_exitcode(truth.wait_status)
        if self.cause is not None:
            return -signal.SIGKILL
        if self.last_word is not None:
            return self.last_word
        code = os.waitstatus_to_exitcode(self.status)
        return 128 - code if code > 128 else code

    def _end(self, code: int, cpu_s: float) -> End:
        if self.cause is not None:
            return self.cause[0]
        if self.oom_kills and code != 0:
            return End.OUT_OF_MEMORY
        cap = self.limits.cpu_s
        if cap is not None and cpu_s >= cap and code != 0:
            return End.CPU_LIMIT
        if code == -signal.SIGXFSZ and self.limits.file_mb is not None:
            return End.DISK_LIMIT
        if self._grew_too_much():
            return End.DISK_LIMIT
        return End.CRASH if code < 0 else End.EXIT

    def _grew_too_much(self) -> bool:
        disk, cap = self.launch.disk, self.limits.disk_mb
        if disk is None or cap is None:
            return False
        written = self.usage.ru_oublock * 512 / 1e6 if self.usage else 0.0
        return disk.may_have_grown(cap, written) and disk.growth_mb() > cap

    def _note(self, end: End) -> bytes:
        if self.cause is None:
            return b""
        return f"\n[{self.launch.name} box ended the program: {self.cause[1]}]\n".encode()

    def _sampled_peak_mb(self) -> float | None:
        """What the watch saw; failing that, the largest single process, unless the number is the driver's own size."""
        assert self.watch is not None and self.usage is not None
        largest = self.usage.ru_maxrss
        if largest <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
            return self.watch.peak_mb
        return max(self.watch.peak_mb or 0.0, largest / 1e3)

    async def _leftover(self) -> tuple[str, ...]:
        """Processes that outlived the program; those that are about to die get a moment to do so."""
        shell = processes.stat(self.program)
        own = {self.program, shell.parent if shell else 0}
        for attempt in (0, 1):
            alive = processes.descendants(self.init) if self.launch.strays is None else self.launch.strays(self.outer)
            found = [command for pid in alive if pid not in own and (command := processes.command(pid))]
            if not found:
                return ()
            if attempt == 0:
                await asyncio.sleep(_DYING_S)
        return tuple(found[:_LEFTOVERS_LISTED])

    def _kill_strays(self, strays: Callable[[int], list[int]]) -> None:
        """Kill what a namespace would have taken along; again, since a process may start another meanwhile."""
        for _ in range(100):
            alive = strays(self.outer)
            for pid in alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not alive:
                return

    async def _kill_unborn(self) -> None:
        """Kill a box that has not reached the gate. Its first process may not be bound to the outer one's life yet."""
        os.kill(self.outer, signal.SIGSTOP)
        while (outer := processes.stat(self.outer)) is not None and outer.state not in "TZX":
            await asyncio.sleep(0.0005)
        ends: list[asyncio.Future[None]] = []
        for pid in processes.descendants(self.outer):
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                ends.append(self._on_end(pidfd))
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for end in ends:
            await end
        os.kill(self.outer, signal.SIGKILL)

    async def destroy(self) -> None:
        """Kill the box and wait until all of it is dead, then take the accounts. May be called again."""
        if self.usage is not None:
            return
        if self.watch is not None:
            self.watch.stop()
        if self.launch.strays is not None:
            self._kill_strays(self.launch.strays)
        if self.init_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
        else:
            await self._kill_unborn()
        await self.outer_dead
        if self.init_fd >= 0:
            await self.init_dead  # The outer command may have ended first, when a program killed the gate's shell.
        self.last_word = gate.last_word(self.gate)
        self.gate.close()
        _, self.status, self.usage = os.wait4(self.outer, 0)
        self.diagnosis = os.pread(self.said, 4096, 0)
        os.close(self.said)
        for capture in (self.out, self.err):
            capture.drain()
            capture.close()
        for pidfd in self.pidfds:
            self.loop.remove_reader(pidfd)
            os.close(pidfd)
        self.oom_kills, self.group_cpu_s, self.group_peak_mb = 0, 0.0, None
        if self.group is not None:
            self.oom_kills, self.group_cpu_s = self.group.oom_kills(), self.group.cpu_s()
            self.group_peak_mb = self.group.peak_mb()
            POOL.give_back(self.group)


def _rlimits(limits: BoxLimits, grouped: bool, namespaced: bool) -> list[tuple[int, tuple[int, int]]]:
    """(resource, (soft, hard)). Memory and processes are the group's business where there is one."""
    found = [(resource.RLIMIT_CORE, (0, 0))]
    if limits.cpu_s is not None:
        seconds = max(1, math.ceil(limits.cpu_s))
        found.append((resource.RLIMIT_CPU, (seconds + 1, seconds + 2)))
    if limits.file_mb is not None:
        found.append((resource.RLIMIT_FSIZE, (limits.file_mb << 20, limits.file_mb << 20)))
    if not grouped:
        if limits.memory_mb is not None:
            backstop = (limits.memory_mb + max(limits.memory_mb, _BACKSTOP_MB)) << 20
            found.append((resource.RLIMIT_DATA, (backstop, backstop)))
        if limits.processes is not None and namespaced and _counts_processes_per_box():
            found.append((resource.RLIMIT_NPROC, (limits.processes + 3, limits.processes + 3)))
    return found


def _counts_processes_per_box() -> bool:
    """Whether the kernel (5.14 and later) counts RLIMIT_NPROC per user namespace, not over the user's whole session."""
    major, minor = (int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return (major, minor) >= (5, 14)
