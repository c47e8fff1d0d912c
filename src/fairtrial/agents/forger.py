"""The agent that forges its verdict: tries every known way to score without working. A sound verifier gives 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from fairtrial.agents import forger_program
from fairtrial.agents.agent import Mission, Needs, Run, minimal_trajectory, outcome_of, ran
from fairtrial.core.config import Config
from fairtrial.tasks.sandbox.api import Box, Mount
from fairtrial.tasks.task import Step, Task

Trick = Literal[
    "code", "rewards", "tests", "autoload", "startup", "processes", "loopback", "daemon", "interpreters", "link"
]
PROGRAM = "/agent/forger.py"


class ForgerSettings(Config):
    """Settings of the agent `forger`."""

    tricks: tuple[Trick, ...] = ()
    """Which tricks to try; empty means all, links of the verdict's places last."""
    ports: tuple[int, ...] = ()
    """Further ports of the host's loopback address to look for."""


class Forger:
    """Pre-writes rewards, edits tests, plants programs and start-up files, leaves a daemon, breaks code under test."""

    settings_type = ForgerSettings
    secrets: tuple[str, ...] = ()

    def __init__(self, settings: ForgerSettings, base: Path) -> None:
        self.settings = settings

    def check(self, tasks: Sequence[Task]) -> None:
        """Always fit."""

    def needs(self, task: Task, step: Step) -> Needs:
        """Its program."""
        ports = " ".join(map(str, self.settings.ports))
        return Needs(mounts=(Mount(Path(forger_program.__file__), PROGRAM),), env={"FORGER_PORTS": ports})

    async def run(self, box: Box, mission: Mission) -> Run:
        """Try the tricks."""
        argv = ["python3", PROGRAM, mission.image.workdir, *self.settings.tricks]
        done = await box.exec(argv, timeout_s=min(mission.seconds, 60.0))
        cause, message = outcome_of(done)
        details, blobs = ran(done)
        return Run(minimal_trajectory(mission, " ".join(argv), done), cause, message, details, blobs)

    def describe(self) -> Mapping[str, str]:
        """What it is."""
        return {"agent": f"forger: {', '.join(self.settings.tricks) or 'every trick'}"}

    async def close(self) -> None:
        """Nothing is held."""
