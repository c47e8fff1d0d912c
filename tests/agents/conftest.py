"""Small Harbor tasks and a way to run one trial of an arm on them, as an engine would."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fairtrial.agents.trial import AgentTrial, open_worker
from fairtrial.core.clock import SystemClock, Timer
from fairtrial.core.config import parse
from fairtrial.core.limits import Limits, Meter
from fairtrial.core.record import BlobRef, Record, Timings, TrialKey
from fairtrial.core.trial import Job, TrialContext

SKILL = "---\nname: doubling\ndescription: How numbers are doubled here.\n---\nSKILL-MARK: add the number to itself.\n"
DOCKERFILE = "FROM python:3.11-slim\nWORKDIR /app\nCOPY number.txt /app/\nCOPY skills /root/.claude/skills\n"
SOLVE = """cd /root/.claude/skills/doubling/scripts
python3 -c 'from double import double; print(double(int(open("/app/number.txt").read())))' > /app/answer.txt
"""
TASK_TOML = 'schema_version = "1.4"\n[agent]\ntimeout_sec = {agent_s}\n[verifier]\ntimeout_sec = 30.0\n'


@dataclass
class Blobs:
    """A blob store in memory."""

    kept: dict[str, bytes] = field(default_factory=dict)

    def put(self, content: bytes) -> BlobRef:
        sha256 = hashlib.sha256(content).hexdigest()
        self.kept[sha256] = content
        return BlobRef(sha256=sha256, size=len(content))

    def text(self, ref: BlobRef) -> str:
        return self.kept[ref.sha256].decode()


def write_task(root: Path, name: str = "double", agent_s: float = 30.0, **files: str) -> Path:
    """A task: write twice the number in /app/number.txt to /app/answer.txt. `files` replaces or adds files by path."""
    wanted = {
        "task.toml": TASK_TOML.format(agent_s=agent_s),
        "instruction.md": "Write twice the number in /app/number.txt to /app/answer.txt.\n",
        "environment/Dockerfile": DOCKERFILE,
        "environment/number.txt": "21\n",
        "environment/skills/doubling/SKILL.md": SKILL,
        "environment/skills/doubling/scripts/double.py": "def double(x):\n    return x + x\n",
        "solution/solve.sh": SOLVE,
        "tests/test.sh": 'test "$(cat /app/answer.txt)" = 42 && r=1 || r=0\necho $r > /logs/verifier/reward.txt\n',
    }
    for path, text in {**wanted, **files}.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root / name


@dataclass
class Lab:
    """Runs trials on the tasks of one folder."""

    root: Path
    blobs: Blobs = field(default_factory=Blobs)

    def task(self, name: str = "double", **files: Any) -> Path:
        return write_task(self.root, name, **files)

    def suite(self, **settings: Any) -> Any:
        return parse(AgentTrial.suite_settings, {"path": str(self.root), **settings}, where="suite")

    def arm(self, agent: Any, **settings: Any) -> Any:
        return parse(AgentTrial.arm_settings, {"agent": agent, **settings}, where="arm")

    def run(self, agent: Any, task: str = "double", limits: Limits | None = None, **arm: Any) -> Record:
        return asyncio.run(self.arun(agent, task, limits or Limits(), **arm))

    async def arun(self, agent: Any, task: str, limits: Limits, **arm: Any) -> Record:
        kind = AgentTrial()
        suite, arms = self.suite(), {"a": self.arm(agent, **arm)}
        kind.check(suite, arms, self.root)
        work = kind.work(suite, arms, self.root)
        worker = open_worker(json.loads(json.dumps(work.settings)))
        clock = SystemClock()
        try:
            context = TrialContext(clock, Timer(clock), Meter(limits), self.blobs)
            record = await worker.run(Job(TrialKey(arm="a", task=task, repeat=0), 1, 2, limits), context)
            wall, working, waiting = context.timer.read()  # as the engine does
            times = Timings(started=clock.now(), wall_s=wall, working_s=working, waiting_s=waiting)
            return record.model_copy(update={"timings": times})
        finally:
            await worker.close()

    def out(self, record: Record, name: str = "agent_stdout.txt") -> str:
        return self.blobs.text(record.artifacts[name])


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with an empty folder of tasks and its own cache."""
    monkeypatch.setenv("FAIRTRIAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "suite").mkdir()
    return Lab(tmp_path / "suite")


@pytest.fixture
def script(lab: Lab) -> Callable[..., dict[str, Any]]:
    """An agent `command` that runs the given Python text."""

    def make(text: str, **settings: Any) -> dict[str, Any]:
        (lab.root.parent / "solver.py").write_text(text)
        return {
            "id": "command",
            "command": ["python3", "/agent/solver.py"],
            "files": [str(lab.root.parent / "solver.py")],
            **settings,
        }

    return make
