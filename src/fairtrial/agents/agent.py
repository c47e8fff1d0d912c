"""What an agent is: the Protocol that oracle, nop, forger, command and every later agent implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fairtrial.core import registry
from fairtrial.core.clock import Timer
from fairtrial.core.config import Config
from fairtrial.core.limits import Meter
from fairtrial.core.trajectory import CodeAction, TextObservation, Trajectory
from fairtrial.tasks.sandbox.api import Box, End, Execution, Mount, Network
from fairtrial.tasks.task import Image, Step, Task

SHOWN = 20_000
"""Characters of an output that a trajectory keeps; the whole is a blob."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an agent's box must have beside the task's own."""

    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    network: Network = "none"
    """"public" opens the network to the box even where the task asks for none."""
    skills: bool = False
    """Whether the box always gets the task's skills, whatever the arm says (oracles may import a skill's scripts)."""


@dataclass(frozen=True, slots=True)
class Mission:
    """One step of a task, as an agent is given it."""

    trial: str
    task: Task
    step: Step
    image: Image
    files: Path
    """Host folder of the box, for what the driver puts in before and reads after the run."""
    seconds: float
    """What is left of the agent's time."""
    seed: int
    meter: Meter
    timer: Timer
    skills: str = ""
    """The list of skills that the box shows, with their places, for agents that do not look for them themselves."""


@dataclass(frozen=True, slots=True)
class Run:
    """What an agent's run came to."""

    trajectory: Trajectory
    cause: str | None = None
    """The limit that ended it; None when it ended by itself. A trial with a cause is failed, and still verified."""
    message: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


class Agent(Protocol):
    """An agent. Registered under `fairtrial.agents`; built from its settings and the folder that paths start from."""

    settings_type: type[Config]

    def __init__(self, settings: Any, base: Path) -> None: ...

    def check(self, tasks: Sequence[Task]) -> None:
        """Refuse (UserError) what cannot work, before anything runs."""
        ...

    def needs(self, task: Task, step: Step) -> Needs:
        """What the box for `step` must have."""
        ...

    async def run(self, box: Box, mission: Mission) -> Run:
        """Work on the step. Charges `mission.meter`; wraps waits for a provider in `mission.timer.waiting()`."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Short facts for reports; the digest of the user's files under "files" where there are any."""
        ...

    async def close(self) -> None:
        """Release what it holds, after its last run."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of environment variables whose values must never be written."""
        ...


class NoSettings(Config):
    """An agent without settings."""


def open_agent(spec: str | Mapping[str, Any], base: Path, *, where: str = "agent") -> Agent:
    """The agent that an arm names: `"oracle"`, or a table with `id` and the agent's own settings. Raises UserError."""
    advice = 'say which agent: agent = "oracle" or agent = { id = "command", ... }'
    kind, settings = registry.chosen("agents", spec, advice, where=where)
    return kind(settings, base)


def outcome_of(done: Execution) -> tuple[str | None, str | None]:
    """(cause, message) of a program that was the whole agent; (None, None) when it ended by itself."""
    if done.end is End.EXIT:
        return None, None
    if done.end is End.CRASH:
        return "crash", f"the agent was killed by signal {-done.exit_code}"
    return done.end.value, f"the agent was ended by its {done.end.value.replace('_', ' ')} after {done.wall_s:.1f} s"


def minimal_trajectory(mission: Mission, command: str, done: Execution | None) -> Trajectory:
    """The instruction, the one program that was run, and what it printed."""
    content: list[Any] = [TextObservation(content=mission.step.instruction, source="user")]
    if done is not None:
        content.append(CodeAction(language="bash", content=command, call_id="run"))
        text = (done.stdout + (b"\n" + done.stderr if done.stderr else b"")).decode("utf-8", "replace")
        if len(text) > SHOWN:
            text = f"{text[: SHOWN // 2]}\n[... {len(text) - SHOWN} characters ...]\n{text[-SHOWN // 2 :]}"
        content.append(TextObservation(content=text, source="environment", call_id="run"))
    return Trajectory(id=f"{mission.trial}/{mission.step.name}", content=tuple(content))


def ran(done: Execution) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(details, blobs) of a program that was the whole agent."""
    details = {"exit_code": done.exit_code, "seconds": round(done.wall_s, 3), "cpu_s": round(done.cpu_s, 3)}
    blobs = {"agent_stdout.txt": done.stdout, "agent_stderr.txt": done.stderr}
    return details, {name: blob for name, blob in blobs.items() if blob}
