"""Images and verifier tools in a real sandbox; the packages are a wheel made here, so no network is needed."""

import asyncio
import base64
import dataclasses
import hashlib
import shutil
import socket
import zipfile
from pathlib import Path

import pytest

from fairtrial.core.errors import InfraError, UserError
from fairtrial.tasks.harbor.build import ImageError, inside
from fairtrial.tasks.harbor.image import build_image, verifier_tools
from fairtrial.tasks.harbor.packages import PackageError, layer
from fairtrial.tasks.harbor.read import read_task
from fairtrial.tasks.sandbox.api import BoxSpec, Mount
from fairtrial.tasks.sandbox.choose import choose

SKILL = "---\nname: one\ndescription: secret-procedure-4711\n---\nsecret-procedure-4711\n"


@pytest.fixture(scope="module")
def sandbox():
    try:
        return choose()
    except UserError as error:
        pytest.skip(f"no sandbox works here: {error}")


def wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with a module and a console script, both of the package's name."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"import sys\nVERSION = '{version}'\ndef main():\n    print('{name} {version}', *sys.argv[1:])\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in files.items()
    )
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)


def make(root: Path, dockerfile: str, test_sh="true\n", **files: str):
    folder = root / "demo"
    for path, text in {
        "task.toml": "[environment]\nmemory_mb = 512\n",
        "instruction.md": "x",
        "environment/Dockerfile": dockerfile,
        "environment/skills/one/SKILL.md": SKILL,
        "tests/test.sh": test_sh,
        **files,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return read_task(folder)


def run(sandbox, image, script, tmp_path, mounts=None, path=None, env=None):
    files = tmp_path / "trial"
    shutil.copytree(image.files, files, symlinks=True, dirs_exist_ok=True)
    spec = BoxSpec(
        files=files,
        mounts=image.mounts if mounts is None else mounts,
        workdir=image.workdir,
        env=image.env if env is None else env,
        path=image.path if path is None else path,
    )
    done = asyncio.run(sandbox.box(spec).exec(["/bin/bash", "-c", script], timeout_s=60))
    return done.exit_code, done.stdout.decode().strip(), done.stderr.decode()


def test_an_image_has_what_the_dockerfile_says(sandbox, tmp_path):
    dockerfile = """FROM python:3.12-slim
ENV GREETING="hello there"
WORKDIR /app
COPY . .
RUN mkdir -p /output && cp data/a.txt /output/b.txt && chmod 600 /output/b.txt && python tool.py > made.txt
RUN <<'EOF'
set -e
for name in x y; do echo "$GREETING $name"; done > /app/loop.txt
EOF
COPY <<END /app/inline.txt
text of $GREETING
END
"""
    files = {"environment/data/a.txt": "content", "environment/tool.py": "print(40 + 2)\n"}
    task = make(tmp_path, dockerfile, **files)
    image = asyncio.run(build_image(task, sandbox, tmp_path / "cache"))
    assert (image.files / "output/b.txt").read_text() == "content"
    assert (image.files / "app/made.txt").read_text() == "42\n"
    assert (image.files / "app/loop.txt").read_text() == "hello there x\nhello there y\n"
    assert (image.files / "app/inline.txt").read_text() == "text of hello there\n"
    assert run(sandbox, image, "pwd; echo $GREETING; cat made.txt", tmp_path)[1] == "/app\nhello there\n42"


def test_no_file_of_an_image_tells_of_the_skills(sandbox, tmp_path):
    dockerfile = (
        "FROM debian\nCOPY . /app\nCOPY skills /root/.claude/skills\nCOPY skills /etc/agent/skills\nRUN ls /app\n"
    )
    task = make(tmp_path, dockerfile, **{"environment/x": "1"})
    image = asyncio.run(build_image(task, sandbox, tmp_path / "cache"))
    assert image.skill_dirs == ("/root/.claude/skills", "/etc/agent/skills")
    found = [path for path in image.files.rglob("*") if path.is_file() and "4711" in path.read_text()]
    assert found == []
    search = "grep -rl 4711 /app /root /etc/agent /opt /srv 2>/dev/null; find / -name SKILL.md 2>/dev/null; true"
    assert run(sandbox, image, search, tmp_path)[1] == ""
    skills = task.path / "environment" / "skills"
    mounts = tuple(Mount(skills, place) for place in image.skill_dirs)
    shown = run(
        sandbox, image, "cat /root/.claude/skills/one/SKILL.md /etc/agent/skills/one/SKILL.md", tmp_path, mounts
    )
    assert shown[1].count("secret-procedure-4711") == 4, shown


def test_images_are_kept_by_digest_and_built_again_when_the_environment_changes(sandbox, tmp_path):
    cache = tmp_path / "cache"
    task = make(tmp_path, "FROM debian\nRUN date +%N > /root/when\n")
    first = asyncio.run(build_image(task, sandbox, cache))
    again = asyncio.run(build_image(read_task(task.path), sandbox, cache))
    assert again.files == first.files
    changed = make(tmp_path, "FROM debian\nRUN date +%N > /root/when\n", **{"environment/new": "x"})
    assert asyncio.run(build_image(changed, sandbox, cache)).files != first.files


def test_building_at_once_gives_one_image(sandbox, tmp_path):
    task = make(tmp_path, "FROM debian\nRUN date +%N > /root/when && sleep 0.2\n")

    async def three():
        return await asyncio.gather(*(build_image(task, sandbox, tmp_path / "cache") for _ in range(3)))

    assert len({image.files for image in asyncio.run(three())}) == 1
    assert len([path for path in (tmp_path / "cache" / "images").iterdir() if path.is_dir()]) == 1


def test_a_run_line_that_fails_is_a_refusal_with_its_line_and_leaves_nothing(sandbox, tmp_path):
    task = make(tmp_path, "FROM debian\nRUN echo a > /root/a\nRUN echo no luck >&2; exit 3\n")
    with pytest.raises(ImageError, match=r'task "demo" .*line 3 \(RUN\) .*\(exit code 3\): no luck'):
        asyncio.run(build_image(task, sandbox, tmp_path / "cache"))
    assert [path for path in (tmp_path / "cache" / "images").iterdir() if path.is_dir()] == []


def test_an_unplannable_task_is_refused_with_all_reasons(sandbox, tmp_path):
    task = make(tmp_path, "FROM debian\nRUN curl x\nRUN npm i\n")
    with pytest.raises(ImageError, match=r"line 2 \(RUN\): curl needs the network; .*line 3 \(RUN\): npm needs"):
        asyncio.run(build_image(task, sandbox, tmp_path / "cache"))


def test_building_has_no_network_and_cannot_write_outside(sandbox, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    dockerfile = f"FROM debian\nWORKDIR /app\nRUN ln -s {outside} /app/out && ln -s ../../../.. /app/up\n"
    dockerfile += "COPY x /app/out/x\nCOPY x /app/up/y\n"
    task = make(tmp_path, dockerfile, **{"environment/x": "1"})
    image = asyncio.run(build_image(task, sandbox, tmp_path / "cache"))
    assert list(outside.iterdir()) == []
    assert (image.files / str(outside).lstrip("/") / "x").read_text() == "1"
    assert (image.files / "y").read_text() == "1"
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    task = make(tmp_path / "two", f'FROM debian\nRUN python3 -c "{code}"\n')
    with pytest.raises(ImageError, match="fails without network"):
        asyncio.run(build_image(task, sandbox, tmp_path / "cache"))


def test_link_loops_in_a_target_end(tmp_path):
    (tmp_path / "a").symlink_to("/b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ImageError, match="too many links"):
        inside(tmp_path, "/a/x")
    assert inside(tmp_path, "/../../etc/x") == tmp_path / "etc" / "x"


def test_a_layer_is_made_once_and_its_programs_run_in_a_box(sandbox, tmp_path):
    wheel(tmp_path / "wheels", "tinyjudge", "1.2.0")
    index = ["--no-index", "--find-links", str(tmp_path / "wheels")]
    cache = tmp_path / "cache"
    first = asyncio.run(layer(["tinyjudge==1.2.0"], index, cache))
    shutil.rmtree(tmp_path / "wheels")
    assert asyncio.run(layer(["tinyjudge==1.2.0"], index, cache)) == first
    task = make(tmp_path, "FROM debian\nRUN mkdir -p /opt/own\n")
    image = asyncio.run(build_image(task, sandbox, cache))
    place = "/opt/packages/x"
    image = dataclasses.replace(image, mounts=(Mount(first, place),), path=(f"{place}/bin",), env={"PYTHONPATH": place})
    script = "tinyjudge a; python3 -c 'import tinyjudge; print(tinyjudge.VERSION)'; ls -d /opt/own"
    assert run(sandbox, image, script, tmp_path)[1] == "tinyjudge 1.2.0 a\n1.2.0\n/opt/own"


def test_packages_that_cannot_be_had_are_named(tmp_path):
    (tmp_path / "wheels").mkdir()
    index = ["--no-index", "--find-links", str(tmp_path / "wheels")]
    with pytest.raises(PackageError, match=r"no-such-thing==9 for Python 3\.\d+ .*No matching distribution"):
        asyncio.run(layer(["no-such-thing==9"], index, tmp_path / "cache"))
    unreachable = ["--index-url", "http://127.0.0.1:9/simple", "--retries", "0"]
    with pytest.raises((InfraError, PackageError), match="no-such-thing==9"):
        asyncio.run(layer(["no-such-thing==9"], unreachable, tmp_path / "cache"))
    assert [path for path in (tmp_path / "cache" / "layers").iterdir() if path.is_dir()] == []


def test_cancelling_an_installation_leaves_no_process(tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))
    index = ["--index-url", f"http://127.0.0.1:{listener.getsockname()[1]}/silent", "--timeout", "60"]
    cache = tmp_path / "cache"

    async def cancelled():
        making = asyncio.create_task(layer(["anything==1"], index, cache))
        await asyncio.get_running_loop().sock_accept(listener)  # pip is asking
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        return making.cancelled()

    listener.setblocking(False)
    with listener:
        assert asyncio.run(cancelled())
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, str(tmp_path))]
    assert left == []
    wheel(tmp_path / "wheels", "anything", "1")
    offline = ["--no-index", "--find-links", str(tmp_path / "wheels")]
    assert (asyncio.run(layer(["anything==1"], offline, cache)) / "anything.py").is_file()


def _mentions(cmdline: Path, text: str) -> bool:
    try:
        return text.encode() in cmdline.read_bytes()
    except OSError:
        return False


def test_a_genuine_looking_test_script_runs_unchanged_without_network(sandbox, tmp_path):
    wheel(tmp_path / "wheels", "tinyjudge", "1.2.0")
    script = f"""#!/bin/bash
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends curl ca-certificates
curl -LsSf https://astral.sh/uv/0.9.7/install.sh | sh
source "$HOME/.local/bin/env"
pip3 install --break-system-packages --find-links {tmp_path / "wheels"} --no-index tinyjudge==1.2.0
python3 -m pip install -q tinyjudge
uvx \\
  --with tinyjudge==1.2.0 \\
  tinyjudge from uvx
uv run tinyjudge from run
uv pip install 'tinyjudge>=1,<2'
if pip install tinyjudge==1.3; then echo wrong; fi
if pip install other-thing; then echo wrong; fi
if apt-get install -y surely-not-here; then echo wrong; fi
"""
    task = make(tmp_path, "FROM debian\nWORKDIR /app\n", "true\n")
    image = asyncio.run(build_image(task, sandbox, tmp_path / "cache"))
    wanted = script.split("if pip install tinyjudge==1.3")[0].replace(" --no-index", "")
    (task.path / "tests" / "test.sh").write_text(wanted)
    tools = asyncio.run(verifier_tools(task, task.steps[0], image, tmp_path / "cache"))
    code, out, err = run(sandbox, image, script, tmp_path, tools.mounts, tools.path, tools.env)
    assert code == 0, err
    assert "tinyjudge 1.2.0 from uvx" in out and "tinyjudge 1.2.0 from run" in out
    assert "wrong" not in out
    assert "tinyjudge==1.3 is wanted, 1.2.0 is installed" in err
    assert "other-thing is not installed" in err
    assert "not on this machine, and the network is cut: surely-not-here" in err
    assert run(sandbox, image, "python3 -c 'import tinyjudge'", tmp_path)[0] != 0
