"""The choice of a sandbox, the container engines' arguments, and what running without isolation means."""

import asyncio
import os
import stat
import time

import pytest

from fairtrial.core.errors import InfraError, UserError
from fairtrial.tasks.sandbox.api import BoxLimits, BoxSpec, End, Mount
from fairtrial.tasks.sandbox.choose import choose, survey
from fairtrial.tasks.sandbox.docker import ContainerBox, Docker, outcome, run_command
from fairtrial.tasks.sandbox.none import NoSandbox


def test_the_first_that_works_and_never_none_by_itself():
    found = survey()
    working = [name for name in ("bubblewrap", "unshare", "docker", "podman") if found[name].ok]
    if not working:
        pytest.skip("no sandbox works here")
    assert choose().name == working[0]
    assert choose("none").isolated is False
    assert all(entry.reason for entry in found.values())


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match="bubblewrap"):
        choose("bublewrap")


def engine(tmp_path, monkeypatch, script):
    """Put a stand-in `docker` client on PATH."""
    path = tmp_path / "bin" / "docker"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_a_client_without_an_engine_is_not_available(tmp_path, monkeypatch):
    engine(tmp_path, monkeypatch, "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    found = Docker().available()
    assert not found.ok and "Cannot connect" in found.reason and found.remedy
    with pytest.raises(UserError, match="Cannot connect"):
        choose("docker")


def test_a_hanging_engine_is_given_up_in_two_seconds(tmp_path, monkeypatch):
    engine(tmp_path, monkeypatch, "exec sleep 60")
    started = time.monotonic()
    assert not Docker().available().ok
    assert time.monotonic() - started < 4


def test_an_engine_without_the_image_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRTRIAL_IMAGE", "my/image:1")
    engine(tmp_path, monkeypatch, '[ "$1" = version ] && echo "{}" || { echo "no such image" >&2; exit 1; }')
    found = Docker().available()
    assert not found.ok and found.remedy == "docker pull my/image:1"


def test_container_arguments(tmp_path):
    for name in ("files/app", "files/usr/local/bin", "tests"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "files/usr/local/bin/tool").touch()
    limits = BoxLimits(memory_mb=100, cpu_s=9, cpus=1.5, processes=7, disk_mb=50, file_mb=3)
    spec = BoxSpec(tmp_path / "files", (Mount(tmp_path / "tests", "/tests"),), workdir="/app", limits=limits)
    command = run_command("docker", spec, "n", ["sh", "-c", "x y"], {"K": "v"}, None)
    text = " ".join(command)
    assert command[-4:] == ["sh", "python:3.12-bookworm", "-c", "x y"]
    for part in (
        "--network none", "--memory 100m --memory-swap 100m", "--cpus 1.5", "--pids-limit 7", "--cap-drop ALL",
        "--security-opt no-new-privileges", "--read-only", "--ulimit fsize=3145728:3145728", "--env K=v",
        f"source={tmp_path}/tests,target=/tests,readonly", f"source={tmp_path}/files/app,target=/app",
        f"source={tmp_path}/files/usr/local/bin/tool,target=/usr/local/bin/tool", "--pull never", "--workdir /app",
    ):  # fmt: skip
        assert part in text, part


def test_container_outcomes():
    assert outcome({"ExitCode": 137, "OOMKilled": True}, None) == (-9, End.OUT_OF_MEMORY)
    assert outcome({"ExitCode": 139}, None) == (-11, End.CRASH)
    assert outcome({"ExitCode": 0}, None) == (0, End.EXIT)
    assert outcome({"ExitCode": 137}, End.WALL_LIMIT) == (-9, End.WALL_LIMIT)


def test_a_container_that_does_not_start_is_an_infrastructure_error(tmp_path, monkeypatch):
    engine(tmp_path, monkeypatch, "echo 'engine is gone' >&2; exit 125")
    with pytest.raises(InfraError, match="engine is gone"):
        asyncio.run(ContainerBox(BoxSpec(tmp_path / "files"), "docker").exec(["true"]))


def plain(tmp_path, argv, limits=None, **options):
    box = NoSandbox().box(BoxSpec(tmp_path / "files", workdir="/app", limits=limits or BoxLimits()))
    return asyncio.run(box.exec(argv, **options))


def test_without_isolation_programs_run_in_the_mapped_folder(tmp_path):
    done = plain(tmp_path, ["sh", "-c", 'pwd; echo "$FAIRTRIAL_ROOT"; cat; exit 137'], stdin=b"in")
    root = str(tmp_path / "files")
    assert done.stdout.decode() == f"{root}/app\n{root}\nin"
    assert (done.exit_code, done.end) == (137, End.EXIT)


def test_without_isolation_limits_and_clean_up_still_hold(tmp_path):
    spin = plain(tmp_path, ["sh", "-c", "while :; do :; done"], BoxLimits(cpu_s=0.3))
    assert spin.end is End.CPU_LIMIT
    done = plain(tmp_path, ["sh", "-c", "setsid sleep 311 & sleep 312 & (setsid sleep 313 &) ; kill -9 $$"])
    assert (done.exit_code, done.end) == (-9, End.CRASH)
    assert sorted(done.leftover) == ["sleep 311", "sleep 312", "sleep 313"]
    commands = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                commands.append(file.read())
        except OSError:
            continue
    assert not [line for line in commands if line.startswith(b"sleep\x0031")]


def test_the_constructed_etc_has_nothing_private():
    from fairtrial.tasks.sandbox.etc import etc_folder

    folder = etc_folder("none")
    assert stat.S_IMODE(folder.parent.stat().st_mode) & 0o022 == 0
    names = {path.name for path in folder.rglob("*")}
    assert not names & {"shadow", "gshadow", "private", "sudoers", "ssh", "environment", "machine-id"}
    assert "passwd" in names
