"""Life and death of boxes: nothing survives, nothing is kept but files, output is bounded, many run at once."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairtrial.core.errors import InfraError
from fairtrial.tasks.sandbox.api import BoxLimits, BoxSpec, End, Mount

DAEMON = """
import os, signal, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for fd in range(3): os.close(fd)
while True:
    open('/root/beat', 'a').write('x'); time.sleep(0.01)
"""


def alive(marker):
    """Host processes whose command line has the marker."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if marker.encode() in Path(f"/proc/{name}/cmdline").read_bytes() and int(name) != os.getpid():
                found.append(int(name))
        except OSError:
            continue
    return found


def gone(marker, within_s=10):
    """Whether no such process is left, now or soon (for what the kernel does after a driver was killed)."""
    end = time.monotonic() + within_s
    while alive(marker):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_daemons_are_reported_and_die(run, tmp_path):
    marker = f"mark{os.urandom(6).hex()}"
    done = run(f'python3 -c "$(cat)" {marker} && sleep 0.3', stdin=DAEMON.encode())
    assert (done.exit_code, done.end) == (0, End.EXIT)
    assert [marker in line for line in done.leftover] == [True]
    assert alive(marker) == []
    size = (tmp_path / "files/root/beat").stat().st_size
    time.sleep(0.1)
    assert (tmp_path / "files/root/beat").stat().st_size == size > 0


def test_a_clean_program_leaves_nothing(run):
    assert run("true | cat; (sleep 0.01); seq 100000 | head -1").leftover == ()


def test_timeout_and_cancellation_end_everything(sandbox, tmp_path):
    marker = f"mark{os.urandom(6).hex()}"
    box = sandbox.box(BoxSpec(tmp_path / "files"))
    argv = ["sh", "-c", f"setsid sh -c 'sleep 300; echo {marker}' & sleep 300; echo {marker}"]

    async def cancelled():
        task = asyncio.ensure_future(box.exec(argv))
        while len(alive(marker)) < 2:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return alive(marker)

    assert asyncio.run(cancelled()) == []
    assert asyncio.run(box.exec(argv, timeout_s=0.3)).end is End.WALL_LIMIT
    assert alive(marker) == []


def test_cancellation_at_any_moment_of_the_start_leaves_nothing(sandbox, tmp_path):
    marker = f"mark{os.urandom(6).hex()}"
    box = sandbox.box(BoxSpec(tmp_path / "files"))
    before = len(os.listdir("/proc/self/fd"))

    async def one(delay):
        task = asyncio.ensure_future(box.exec(["sh", "-c", f"sleep 300; echo {marker}"]))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])

    async def all_of_them():
        for step in range(25):
            await one(step * 0.002)

    asyncio.run(all_of_them())
    assert alive(marker) == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["bubblewrap", "unshare"])
def test_kill_9_of_the_driver_leaves_no_process(driver, name, tmp_path):
    marker = f"mark{os.urandom(6).hex()}"
    daemon = f"setsid sh -c 'touch /root/up; sleep 300; echo {marker}'"
    process = driver(sandbox=name, argv=["sh", "-c", f"{daemon} & sleep 300; echo {marker}"], files=str(tmp_path))
    deadline = time.monotonic() + 30
    while not (tmp_path / "root/up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(alive(marker)) >= 4, process.poll()
    process.kill()
    process.wait()
    assert gone(marker)


@pytest.mark.parametrize("name", ["bubblewrap", "unshare"])
def test_kill_9_of_the_driver_while_boxes_start_leaves_no_process(driver, name):
    marker = f"mark{os.urandom(6).hex()}"
    for step in range(6):
        process = driver(sandbox=name, argv=["sh", "-c", f"sleep 300; echo {marker}"])
        while len(alive(marker)) < 2 and process.poll() is None:
            time.sleep(0.001)
        time.sleep(step * 0.004)
        process.kill()
        process.wait()
        assert gone(marker)


def test_files_persist_between_programs_and_nothing_else_does(sandbox, tmp_path):
    box = sandbox.box(BoxSpec(tmp_path / "files", workdir="/app"))

    async def both():
        write = "echo 1 > /app/a; echo 2 > /root/b; echo 3 > /tmp/c; echo 4 > /run/d; echo 5 > /dev/shm/e; sleep 50 &"
        first = await box.exec(["sh", "-c", write])
        second = await box.exec(["sh", "-c", "cat /app/a /root/b; ls /tmp /run /dev/shm; ls -d /proc/[0-9]* | wc -l"])
        return first, second

    first, second = asyncio.run(both())
    assert first.leftover == ("sleep 50",)
    assert second.stdout.decode().split()[:2] == ["1", "2"]
    assert not {"c", "d", "e"} & set(second.stdout.decode().split())
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["app", "root"]


def test_huge_output_is_bounded_and_marked(run):
    code = "head -c 300000000 /dev/zero | tr '\\0' 'x'; echo the-end; echo the-end >&2"
    done = run(code, limits=BoxLimits(output_kb=64))
    assert done.truncated
    assert len(done.stdout) < 70_000
    assert done.stdout.startswith(b"xxx") and done.stdout.endswith(b"the-end\n")
    assert b"bytes dropped" in done.stdout
    assert done.stderr == b"the-end\n"


def test_output_within_the_limit_is_whole(run):
    done = run("seq 10000", limits=BoxLimits(output_kb=64))
    assert done.stdout.split() == [str(i).encode() for i in range(1, 10001)]
    assert not done.truncated


def test_input_of_any_size(run):
    data = os.urandom(1 << 20) * 3
    done = run("sha256sum; cat", stdin=data)
    import hashlib

    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_twenty_boxes_at_once(sandbox, tmp_path):
    async def all_of_them():
        boxes = [sandbox.box(BoxSpec(tmp_path / str(i), limits=BoxLimits(memory_mb=200))) for i in range(20)]
        command = "echo $0 > /root/x; sleep 0.2; cat /root/x; exit $0"
        return await asyncio.gather(*(box.exec(["sh", "-c", command, str(i)]) for i, box in enumerate(boxes)))

    done = asyncio.run(all_of_them())
    assert [one.exit_code for one in done] == list(range(20))
    assert [one.stdout for one in done] == [f"{i}\n".encode() for i in range(20)]


def test_orphans_are_collected_while_the_program_runs(run):
    """The box's first process does its duty: a program that waits for its daemon to vanish does not wait for ever."""
    code = (
        "(sleep 0.1 & echo $! > /root/pid); while kill -0 $(cat /root/pid) 2>/dev/null; do sleep 0.02; done; echo gone"
    )
    assert run(code, timeout_s=10).stdout == b"gone\n"


def test_stopping_and_continuing_the_parent_changes_nothing(run):
    """The program may wake the stopped shell that started it; its end is still reported."""
    done = run("kill -CONT $PPID; sleep 0.1; exit 5")
    assert (done.exit_code, done.end) == (5, End.EXIT)


def test_a_program_that_kills_the_shell_above_it_dies_with_its_box(run):
    marker = f"mark{os.urandom(6).hex()}"
    done = run(f"kill -9 $PPID; sleep 300; echo {marker}", timeout_s=30)
    assert done.end is not End.EXIT or done.exit_code != 0
    assert done.wall_s < 20
    assert alive(marker) == []


def test_a_box_that_cannot_start_is_an_infrastructure_error(sandbox, tmp_path):
    with pytest.raises(InfraError) as caught:
        box = sandbox.box(BoxSpec(tmp_path / "files", mounts=(Mount(tmp_path / "missing", "/data"),)))
        asyncio.run(box.exec(["true"]))
    assert caught.value.cause == "sandbox"
    assert not caught.value.retryable
    assert "missing" in str(caught.value)


def test_choosing_loads_no_heavy_library():
    code = "import sys, fairtrial.tasks.sandbox.choose as c; c.survey(); print({'scipy', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
