"""Task: instruction + environment + verifier (+ oracle solution), as read from disk and checked, not yet run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fairtrial.core.trial import TaskInfo
from fairtrial.tasks.sandbox.api import BoxLimits, Mount, Network


@dataclass(frozen=True, slots=True)
class Skill:
    """A folder with a SKILL.md (Agent Skills specification)."""

    name: str
    description: str
    path: Path
    body: str
    """The Markdown after the front matter."""
    problems: tuple[str, ...] = ()
    """What the Agent Skills specification has against it; empty for a valid skill."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """How a finished environment is judged: `script` (a test.sh) runs in a fresh box with `tests` mounted at /tests."""

    tests: Path
    """Host folder."""
    script: str = "test.sh"
    timeout_s: float = 600.0
    env: Mapping[str, str] = field(default_factory=dict)
    network: Network = "none"
    packages: tuple[str, ...] = ()
    """Python requirements that the verifier needs and the agent must not be given by accident."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction and the verifier of what it asks; most tasks have a single step."""

    name: str
    instruction: str
    verifier: Verifier
    solution: Path | None
    """Host folder with solve.sh, or None where the author gave no oracle."""
    min_reward: float | Mapping[str, float] | None = None
    """Below it, later steps are not run."""
    agent_timeout_s: float | None = None
    """The step's own limit; None for the task's."""


@dataclass(frozen=True, slots=True)
class Image:
    """A task's environment, built: what a box starts from."""

    files: Path
    """Host folder to copy for each trial (the writable part of the file system)."""
    workdir: str
    env: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    """Read-only layers (Python packages)."""
    path: tuple[str, ...] = ()
    skill_dirs: tuple[str, ...] = ("/root/.claude/skills", "/root/.agents/skills")
    """Where the task's author shows the skills in the box; nothing is there unless an arm mounts it."""
    notes: tuple[str, ...] = ()
    """In what the image differs from the author's, one line each."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task that can be run."""

    info: TaskInfo
    path: Path
    steps: tuple[Step, ...]
    skills: tuple[Skill, ...]
    limits: BoxLimits
    agent_timeout_s: float
    network: Network
    solution_env: Mapping[str, str] = field(default_factory=dict)
    step_reward: str = "mean"
    """Over several steps: "mean" or "final"."""
    artifacts: tuple[str, ...] = ()
    """Paths in the box to keep with the record."""
    warnings: tuple[str, ...] = ()
    """What was read but means nothing here (unknown keys, invalid skills), one line each."""

    @property
    def id(self) -> str:
        """The task's id."""
        return self.info.id
