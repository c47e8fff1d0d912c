import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fairtrial
from fairtrial.tasks.sandbox.api import BoxLimits, BoxSpec
from fairtrial.tasks.sandbox.bubblewrap import Bubblewrap
from fairtrial.tasks.sandbox.unshare import Unshare

SCENARIO = Path(__file__).with_name("scenario.py")
ISOLATING = {"bubblewrap": Bubblewrap, "unshare": Unshare}


@pytest.fixture(params=sorted(ISOLATING))
def sandbox(request):
    """Each backend that isolates and works here."""
    made = ISOLATING[request.param]()
    found = made.available()
    if not found.ok:
        pytest.skip(f"{request.param} does not work here: {found.reason}")
    return made


@pytest.fixture
def run(sandbox, tmp_path):
    """run(command, ...) -> Execution of a shell command in a box over tmp_path/files."""

    def run_one(command, *, timeout_s=60, limits=None, stdin=b"", env=None, workdir=None, **spec):
        argv = ["sh", "-c", command] if isinstance(command, str) else command
        box = sandbox.box(BoxSpec(tmp_path / "files", limits=limits or BoxLimits(), **spec))
        return asyncio.run(box.exec(argv, stdin=stdin, timeout_s=timeout_s, env=env, workdir=workdir))

    return run_one


@pytest.fixture
def driver():
    """driver(user=..., **scenario) -> Popen of scenario.py as this or as an ordinary user."""
    folders = []
    running = []

    def start(user=None, **scenario):
        python, prefix = sys.executable, []
        folder = Path(tempfile.mkdtemp(prefix="box-driver-"))
        folders.append(folder)
        if user is not None:
            python, prefix = (
                ordinary_python(),
                ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"],
            )
            os.chown(folder, user, user)
        scenario.setdefault("files", str(folder / "files"))
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package_copy(folder)), "TMPDIR": str(folder)}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        process = subprocess.Popen(
            [*prefix, python, str(folder / "scenario.py"), json.dumps(scenario)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def package_copy(folder):
    """The parts of the package that a sandbox needs, where any user may read them (the checkout may be private)."""
    shutil.copy(SCENARIO, folder / "scenario.py")
    source = Path(fairtrial.__file__).parent
    target = folder / "lib" / "fairtrial"
    for name in ("__init__.py", "core/__init__.py", "core/errors.py", "tasks/__init__.py"):
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text("" if name.endswith("__init__.py") else (source / name).read_text())
    shutil.copytree(source / "tasks/sandbox", target / "tasks/sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "lib"


def ordinary_python():
    """A Python that every user may start, or a skip."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become another user")
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(path).exists():
            version = subprocess.run(
                [path, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True
            )
            if version.stdout.strip() == b"True":
                return path
    pytest.skip("no system Python of version 3.11 or later for another user")
