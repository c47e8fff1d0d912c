"""Writable files and mounts in odd places: below /usr and /etc, inside one another, over links left by a program."""

import asyncio
import shutil
from pathlib import Path

import pytest

from fairtrial.core.errors import InfraError
from fairtrial.tasks.sandbox.api import BoxSpec, Mount


@pytest.fixture
def files(tmp_path):
    def put(name, text="x"):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put


def test_top_level_files_folders_and_links(run, files, tmp_path):
    files("app/a", "1")
    files("note.txt", "2")
    (tmp_path / "files/link").symlink_to("app/a")
    (tmp_path / "files/out").symlink_to("/etc/hostname")
    done = run("cat /app/a /note.txt /link /out; echo new > /app/b")
    assert done.stdout == b"121box\n"
    assert (tmp_path / "files/app/b").read_text() == "new\n"


def test_programs_below_usr_local_beside_the_systems(run, files, tmp_path):
    files("usr/local/bin/tool", "#!/bin/sh\necho tool").chmod(0o755)
    files("usr/local/share/data/deep/x", "data")
    done = run("tool; cat /usr/local/share/data/deep/x; echo; echo more > /usr/local/share/data/y; ls /usr/local/bin")
    assert done.stdout.startswith(b"tool\ndata")
    assert (tmp_path / "files/usr/local/share/data/y").exists()
    beside = {path.name for path in Path("/usr/local/bin").iterdir()} | {"tool"}
    assert set(done.stdout.decode().split()) >= beside
    assert run("echo > /usr/local/bin/new").exit_code != 0


def test_settings_below_etc(run, files):
    files("etc/app.conf", "conf")
    files("etc/passwd", "somebody:x:0:0::/root:/bin/sh\n")
    done = run("cat /etc/app.conf; whoami; cat /etc/hostname; echo more >> /etc/app.conf")
    assert done.stdout == b"confsomebody\nbox\n"
    assert run("cat /etc/app.conf").stdout == b"confmore\n"


def test_var_and_tmp_persist_when_given(run, files, tmp_path):
    files("var/lib/db", "rows")
    files("tmp/seed", "s")
    assert run("cat /var/lib/db /tmp/seed; echo 2 > /tmp/kept").stdout == b"rowss"
    assert (tmp_path / "files/tmp/kept").read_text() == "2\n"


def test_what_cannot_be_laid_out_is_refused_with_the_place(run, files):
    files("usr/bin/new-tool")
    with pytest.raises(InfraError, match=r"/usr/bin/new-tool.*use /usr/local") as caught:
        run("true")
    assert not caught.value.retryable


def test_files_in_a_system_folder_are_refused(run, files):
    files("proc/x")
    with pytest.raises(InfraError, match="/proc"):
        run("true")


def test_mounts_read_only_writable_nested_and_below_system_folders(run, tmp_path):
    for name in ("tests", "logs", "skills", "etc-skills"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    mounts = (
        Mount(tmp_path / "tests", "/tests"),
        Mount(tmp_path / "logs", "/logs/verifier", writable=True),
        Mount(tmp_path / "skills", "/root/.agent/skills"),
        Mount(tmp_path / "skills", "/usr/share/skills"),
        Mount(tmp_path / "etc-skills", "/etc/agent/skills"),
        Mount(tmp_path / "tests/x", "/app/one"),
    )
    command = (
        "cat /tests/x /logs/verifier/x /root/.agent/skills/x /usr/share/skills/x /etc/agent/skills/x /app/one; "
        "echo done > /logs/verifier/reward; echo no > /tests/x; echo no > /root/.agent/skills/new; echo no > /app/one"
    )
    done = run(command, mounts=mounts, workdir="/app")
    assert done.stdout == b"testslogsskillsskillsetc-skillstests"
    assert (tmp_path / "logs/reward").read_text() == "done\n"
    assert (tmp_path / "tests/x").read_text() == "tests"
    assert [path.name for path in (tmp_path / "skills").iterdir()] == ["x"]


def test_a_link_left_by_a_program_does_not_lead_a_mount_out_of_the_box(sandbox, tmp_path):
    """Nor does it break the box, which would count as a failure of the infrastructure."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/y").write_text("shown")
    spec = BoxSpec(tmp_path / "files", mounts=(Mount(tmp_path / "data", "/app/data/x"),), workdir="/app/work")
    box = sandbox.box(spec)

    async def both():
        free = sandbox.box(BoxSpec(tmp_path / "files", workdir="/app"))
        await free.exec(["sh", "-c", f"ln -s {outside} /app/data; rm -rf /app/work; ln -s {outside} /app/work"])
        return await box.exec(["cat", "/app/data/x/y"], workdir="/"), await box.exec(["true"])

    first, second = asyncio.run(both())
    assert first.stdout == b"shown"
    assert second.exit_code == 126
    assert list(outside.iterdir()) == []


def test_text_that_would_smuggle_options_is_refused(sandbox, tmp_path):
    evil = {"A": f"1\0--bind\0{tmp_path}\0/host"}
    with pytest.raises(InfraError, match="not allowed"):
        asyncio.run(sandbox.box(BoxSpec(tmp_path / "files", env=evil)).exec(["ls", "/host"]))
    quoted = {"A": "'; touch /root/x; '\n$(touch /root/y)"}
    done = asyncio.run(sandbox.box(BoxSpec(tmp_path / "files", env=quoted)).exec(["sh", "-c", 'echo "$A"; ls /root']))
    assert done.stdout.decode() == quoted["A"] + "\n"


def test_a_command_with_a_nul_fails_like_a_command(run):
    assert run(["echo", "a\0b"]).exit_code == 126
    assert run(["echo", "\ud800"]).exit_code == 126


def test_a_link_to_the_host_shows_the_boxs_own_place(run, tmp_path):
    (tmp_path / "secret").write_text("canary")
    (tmp_path / "files/app").mkdir(parents=True)
    (tmp_path / "files/app/x").symlink_to(tmp_path / "secret")
    assert b"No such file" in run("cat /app/x").stderr


def test_the_working_folder_is_made(run, tmp_path):
    assert run("pwd", workdir="/root").stdout == b"/root\n"
    shutil.rmtree(tmp_path / "files")
    from fairtrial.tasks.sandbox.layout import prepare_files

    prepare_files(BoxSpec(tmp_path / "files", workdir="/srv/deep/er"))
    assert (tmp_path / "files/srv/deep/er").is_dir()
