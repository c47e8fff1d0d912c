"""What a program in a box can see and reach: hostile and curious programs, run for real."""

import asyncio
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

import fairtrial
from fairtrial.tasks.sandbox.api import BoxSpec, Mount

CANARY = "canary-" + os.urandom(8).hex()

WALK = """
import json, os, sys
seen, wanted = [], set(map(tuple, json.load(sys.stdin)))
for folder, folders, names in os.walk('/'):
    if folder in ('/proc', '/dev'):
        folders.clear()
    for name in [*names, *folders]:
        path = os.path.join(folder, name)
        try:
            found = os.lstat(path)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) in wanted:
            seen.append(path)
print(json.dumps(seen))
"""

GREP = """
import os, sys
canary = sys.stdin.read().strip()
for folder, folders, names in os.walk('/'):
    if folder in ('/proc', '/dev', '/usr', '/.python'):
        folders.clear()
        continue
    for name in names:
        try:
            text = open(os.path.join(folder, name), 'rb').read()
        except OSError:
            continue
        if canary.encode() in text or canary in name:
            print(os.path.join(folder, name))
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('environ', 'cmdline'):
        try:
            if canary.encode() in open(f'/proc/{pid}/{name}', 'rb').read():
                print(pid, name)
        except OSError:
            pass
"""


def inodes(*folders):
    """(device, inode) of everything below the folders."""
    found = []
    for top in folders:
        for folder, folders_below, names in os.walk(top):
            if Path(folder).name == ".git":
                folders_below.clear()
            for name in names:
                stat = os.lstat(os.path.join(folder, name))
                found.append((stat.st_dev, stat.st_ino))
    return found


def test_no_file_of_fairtrial_its_environment_or_the_home_is_visible(run, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text(CANARY)
    monkeypatch.setenv("HOME", str(home))
    package = Path(fairtrial.__file__).parent
    hidden = inodes(package, sys.prefix if sys.prefix != sys.base_prefix else package, home, Path.home())
    assert len(hidden) > 50
    done = run(["python3", "-c", WALK], stdin=json.dumps(hidden).encode(), timeout_s=120)
    assert json.loads(done.stdout) == [], done.stderr


def test_the_walk_finds_what_is_shown(run, tmp_path):
    """The check above can fail: a file that is mounted is found by it."""
    (tmp_path / "shown").write_text("x")
    mounts = (Mount(tmp_path / "shown", "/data/shown"),)
    wanted = json.dumps(inodes(tmp_path)).encode()
    done = run(["python3", "-c", WALK], stdin=wanted, mounts=mounts, timeout_s=120)
    assert "/data/shown" in json.loads(done.stdout)


def test_canaries_in_environment_home_and_temporary_folder_do_not_show(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", CANARY)
    (tmp_path / CANARY).write_text(CANARY)
    with tempfile.NamedTemporaryFile(prefix=CANARY) as file:
        file.write(CANARY.encode())
        file.flush()
        done = run(["python3", "-c", GREP], stdin=CANARY.encode())
    assert (done.exit_code, done.stdout) == (0, b""), done.stdout
    assert CANARY.encode() not in run("env").stdout


def test_environment_is_exactly_what_was_asked_for(run):
    done = run("env", env={"B": "2"}, path=("/x/bin",))
    names = {line.split("=")[0] for line in done.stdout.decode().splitlines()}
    assert names <= {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TERM", "PWD", "B", "LD_LIBRARY_PATH", "_", "SHLVL"}
    assert b"PATH=/x/bin:" in done.stdout
    assert b"HOME=/root\n" in done.stdout


def test_fairtrial_and_host_packages_cannot_be_imported(run):
    for module in ("fairtrial", "pydantic", "orjson", "typer"):
        for python in ("python3", "python"):
            done = run([python, "-c", f"import {module}"])
            assert b"ModuleNotFoundError" in done.stderr, module
    assert run(["python3", "-c", "import ssl, sqlite3, ctypes, multiprocessing; multiprocessing.Lock()"]).exit_code == 0


def test_descriptors_of_the_driver_do_not_leak(run, tmp_path):
    (tmp_path / "open").write_text(CANARY)
    fd = os.open(tmp_path / "open", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        done = run(f"ls /proc/self/fd; cat <&{fd}")
    finally:
        os.close(fd)
    assert CANARY.encode() not in done.stdout
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls reading the folder


def test_the_network_is_cut_but_the_own_loopback_works(run):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert b"refused" in run(["python3", "-c", code]).stderr
        shared = run(["python3", "-c", code], network="public")
        assert shared.exit_code == 0, shared.stderr
    own = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print(1)"
    )
    assert run(["python3", "-c", own]).stdout == b"1\n"
    outward = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    assert b"unreachable" in run(["python3", "-c", outward]).stderr.lower()


def test_abstract_sockets_of_the_host_cannot_be_reached(run):
    name = "fairtrial-" + CANARY
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')"
        assert b"ConnectionRefused" in run(["python3", "-c", code]).stderr


def test_host_processes_are_invisible(run):
    done = run(f"ls -d /proc/[0-9]* | wc -l; kill -0 {os.getpid()}")
    assert int(done.stdout) <= 12
    assert done.exit_code != 0


def test_the_system_cannot_be_written(run):
    done = run("for f in /usr/x /etc/x /x /bin/x /usr/bin/python3; do echo > $f && echo $f; done")
    assert done.stdout == b""
    assert run("mount -t tmpfs x /tmp; chroot /; mknod /root/sda b 8 0").exit_code != 0
    assert not (Path("/usr/x").exists() or Path("/x").exists())


def test_switches_of_the_hosts_kernel_cannot_be_touched(run):
    """Root's box is root's user id to the kernel, which asks for no capability there; so /proc must be read-only."""
    opened = (
        "import os\n"
        "for folder, folders, names in os.walk('/proc'):\n"
        " if folder == '/proc': folders[:] = [name for name in folders if not name.isdigit()]\n"
        " for name in names:\n"
        "  try: os.close(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_NONBLOCK))\n"
        "  except OSError: continue\n"
        "  print(os.path.join(folder, name))\n"
    )
    done = run(["python3", "-c", opened])
    assert (done.exit_code, done.stdout) == (0, b"")
    assert run("unshare --user true").exit_code != 0


def test_no_capabilities_no_new_privileges_no_terminal(run):
    status = run("grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; cat /dev/tty").stdout.decode().split()
    assert status == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    tiocsti = "import fcntl, termios\nfor fd in (0, 1, 2):\n fcntl.ioctl(fd, termios.TIOCSTI, b'x')"
    assert run(["python3", "-c", tiocsti]).exit_code == 1


def test_a_replaced_interpreter_does_not_reach_a_later_program(sandbox, tmp_path):
    """Whatever an earlier program could write, default PATH does not find it."""
    box = sandbox.box(BoxSpec(tmp_path / "files", workdir="/app"))
    evil = (
        "for d in /app /root /root/bin /root/.local/bin /tmp /usr/local/bin /.python/bin /bin /usr/bin; do "
        "mkdir -p $d; printf '#!/bin/sh\\necho forged' > $d/python3; chmod +x $d/python3; done; true"
    )

    async def both():
        await box.exec(["sh", "-c", evil])
        return await box.exec(["python3", "-c", "print('real')"]), await box.exec(["sh", "-c", "python3 -c 'print(1)'"])

    first, second = asyncio.run(both())
    assert (first.stdout, second.stdout) == (b"real\n", b"1\n")


@pytest.mark.parametrize("name", ["bubblewrap", "unshare"])
def test_an_ordinary_user_gets_the_same_box(driver, name):
    script = "id -u; echo $HOME; touch /root/x /usr/x; ls /home /work; python3 -c 'import fairtrial'; cat /etc/shadow"
    out, err = driver(1000, sandbox=name, argv=["sh", "-c", script], timeout_s=30).communicate(timeout=60)
    assert out, err.decode()
    done = json.loads(out)
    assert done["stdout"] == "0\n/root\n"
    assert "ModuleNotFoundError" in done["stderr"]
    assert done["stderr"].count("No such file") >= 3
    assert "Read-only" in done["stderr"]
