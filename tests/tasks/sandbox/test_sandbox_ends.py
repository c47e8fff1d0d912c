"""Causes of death: told apart, reported with the truth, for each backend; also where no control group can be made."""

import json
import signal

import pytest

from fairtrial.tasks.sandbox.api import BoxLimits, End

HOG = "x = []\nwhile True: x.append(bytearray(b'1' * (1 << 20)))"
SPIN = "while True: pass"
SPIN_ALL = "import os\nos.fork(); os.fork()\nwhile True: pass"
FILL = "import os\nfor i in range(2000):\n open(f'/root/{i}', 'wb').write(os.urandom(1 << 20))"


def test_exit_code_is_the_programs_own(run):
    done = run("echo out; echo err >&2; exit 137")
    assert (done.exit_code, done.end) == (137, End.EXIT)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM])
def test_death_by_signal_is_negative_and_a_crash(run, number):
    done = run(f"kill -{int(number)} $$; sleep 5")
    assert (done.exit_code, done.end) == (-number, End.CRASH)


def test_a_program_that_kills_its_whole_group_still_reports(run):
    done = run("kill -9 0")
    assert (done.exit_code, done.end) == (-9, End.CRASH)


def test_out_of_memory(run):
    done = run(["python3", "-c", HOG], limits=BoxLimits(memory_mb=128))
    assert done.end is End.OUT_OF_MEMORY
    assert done.exit_code == -9
    assert done.peak_mb is None or done.peak_mb > 60


def test_child_killed_for_memory_explains_the_parents_failure(run):
    done = run(f'python3 -c "{HOG}"; exit 4', limits=BoxLimits(memory_mb=128))
    assert done.end is End.OUT_OF_MEMORY


def test_cpu_limit(run):
    done = run(["python3", "-c", SPIN], limits=BoxLimits(cpu_s=0.5))
    assert (done.end, done.exit_code) == (End.CPU_LIMIT, -9)
    assert 0.5 <= done.cpu_s < 2
    assert b"CPU" in done.stderr


def test_cpu_limit_counts_all_processes_together(run):
    done = run(["python3", "-c", SPIN_ALL], limits=BoxLimits(cpu_s=0.6), timeout_s=30)
    assert done.end is End.CPU_LIMIT
    assert done.cpu_s < 2.5


def test_wall_limit(run):
    done = run("trap '' TERM; sleep 30", timeout_s=0.3)
    assert (done.end, done.exit_code) == (End.WALL_LIMIT, -9)
    assert 0.3 <= done.wall_s < 10


def test_disk_limit(run):
    done = run(["python3", "-c", FILL], limits=BoxLimits(disk_mb=40))
    assert done.end is End.DISK_LIMIT


def test_disk_limit_of_a_program_faster_than_the_watch(run):
    done = run("head -c 30000000 /dev/urandom > /root/a", limits=BoxLimits(disk_mb=10))
    assert done.end is End.DISK_LIMIT


def test_file_size_limit(run):
    done = run("head -c 9000000 /dev/zero > /root/a", limits=BoxLimits(file_mb=2))
    assert done.end is End.DISK_LIMIT or done.exit_code != 0
    assert run("wc -c < /root/a").stdout.strip() == str(2 << 20).encode()


def test_temporary_folder_is_bounded(run):
    done = run("head -c 50000000 /dev/zero > /tmp/a; wc -c < /tmp/a", limits=BoxLimits(disk_mb=8))
    assert int(done.stdout) <= 8 << 20
    assert b"space" in done.stderr


def test_missing_program_and_folder_read_as_a_shell_reports_them(run):
    assert run(["no-such-program"]).exit_code == 127
    assert run(["true"], workdir="/nowhere").exit_code == 126


@pytest.mark.parametrize("user", [None, 1000])
@pytest.mark.parametrize("name", ["bubblewrap", "unshare"])
def test_causes_without_control_groups(driver, name, user):
    """The watch must find what a control group would have: as root with groups off, and as an ordinary user."""
    cases = {
        "out_of_memory": {"argv": ["python3", "-c", HOG], "limits": {"memory_mb": 200}},
        "cpu_limit": {"argv": ["python3", "-c", SPIN_ALL], "limits": {"cpu_s": 0.5}},
        "wall_limit": {"argv": ["sleep", "30"], "timeout_s": 0.3},
        "disk_limit": {"argv": ["python3", "-c", FILL], "limits": {"disk_mb": 40}},
        "crash": {"argv": ["sh", "-c", "kill -9 $$"]},
        "exit": {"argv": ["sh", "-c", "exit 137"]},
    }
    ends, codes = {}, {}
    for expected, case in cases.items():
        out, err = driver(user, sandbox=name, groups=False, **case).communicate(timeout=60)
        assert out, err.decode()
        ends[expected], codes[expected] = (json.loads(out)[key] for key in ("end", "exit_code"))
        assert not json.loads(out)["grouped"]
    assert ends == {expected: expected for expected in cases}
    assert codes["exit"] == 137
    assert codes["crash"] == -9


@pytest.mark.parametrize("user", [None, 1000])
@pytest.mark.parametrize("name", ["bubblewrap", "unshare"])
def test_fork_bomb_is_bounded(driver, name, user):
    bomb = (
        "import os, time\nn = 0\ntry:\n while n < 3000:\n  pid = os.fork()\n  if pid == 0: time.sleep(60)\n  n += 1\n"
    )
    bomb += "except OSError: pass\nprint(n, flush=True)\n"
    argv = ["python3", "-c", bomb]
    out, err = driver(user, sandbox=name, argv=argv, limits={"processes": 40}, timeout_s=30).communicate(timeout=60)
    assert out, err.decode()
    done = json.loads(out)
    forked = int(done["stdout"] or 0)
    assert forked < 3000 and (0 < forked <= 41 or done["end"] == "crash")
    assert len(done["leftover"]) <= 50
