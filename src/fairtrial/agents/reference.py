"""The two agents every verifier is proved with: the author's own solution, and doing nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fairtrial.agents.agent import Mission, Needs, NoSettings, Run, minimal_trajectory, outcome_of, ran
from fairtrial.core.errors import UserError
from fairtrial.tasks.sandbox.api import Box, Mount
from fairtrial.tasks.task import Step, Task


class Oracle:
    """Runs the author's solution/solve.sh. Its box always gets the skills: genuine solutions import their scripts."""

    settings_type = NoSettings
    secrets: tuple[str, ...] = ()

    def __init__(self, settings: NoSettings, base: Path) -> None:
        pass

    def check(self, tasks: Sequence[Task]) -> None:
        """Refuse tasks without a solution."""
        without = [task.id for task in tasks if any(step.solution is None for step in task.steps)]
        if without:
            raise UserError(f"the oracle has no solution/solve.sh to run in: {', '.join(without[:5])}; exclude them")

    def needs(self, task: Task, step: Step) -> Needs:
        """The solution at /solution, its environment, the skills."""
        mounts = (Mount(step.solution, "/solution"),) if step.solution else ()
        return Needs(mounts=mounts, env=task.solution_env, skills=True)

    async def run(self, box: Box, mission: Mission) -> Run:
        """Run solve.sh to its end."""
        done = await box.exec(["/bin/bash", "/solution/solve.sh"], timeout_s=mission.seconds)
        cause, message = outcome_of(done)
        details, blobs = ran(done)
        return Run(minimal_trajectory(mission, "bash /solution/solve.sh", done), cause, message, details, blobs)

    def describe(self) -> Mapping[str, str]:
        """What it is."""
        return {
            "agent": "oracle: the task author's solution",
            "skills": "always: genuine solutions import a skill's scripts",
        }

    async def close(self) -> None:
        """Nothing is held."""


class Nop:
    """Does nothing."""

    settings_type = NoSettings
    secrets: tuple[str, ...] = ()

    def __init__(self, settings: NoSettings, base: Path) -> None:
        pass

    def check(self, tasks: Sequence[Task]) -> None:
        """Always fit."""

    def needs(self, task: Task, step: Step) -> Needs:
        """Nothing."""
        return Needs()

    async def run(self, box: Box, mission: Mission) -> Run:
        """Return at once."""
        return Run(minimal_trajectory(mission, "", None))

    def describe(self) -> Mapping[str, str]:
        """What it is."""
        return {"agent": "nop: does nothing"}

    async def close(self) -> None:
        """Nothing is held."""
