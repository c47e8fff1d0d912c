"""Any program as an agent: a user's own solver or CLI agent, run inside the task's box.

The instruction comes on standard input and in the file that FAIRTRIAL_INSTRUCTION names. Standard output is the
transcript. The program may leave a JSON file at FAIRTRIAL_USAGE (calls, input_tokens, output_tokens, cached_tokens,
cost_usd) and one at FAIRTRIAL_TRAJECTORY (its trajectory, in any format that `fairtrial import` reads).
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field, ValidationError

from fairtrial.agents.agent import Mission, Needs, Run, minimal_trajectory, outcome_of, ran
from fairtrial.core.config import Config, explain
from fairtrial.core.errors import LimitExceeded, UserError, one_line
from fairtrial.core.ids import digest, file_digest
from fairtrial.core.limits import Usage
from fairtrial.core.trajectory import Trajectory
from fairtrial.formats.format import check
from fairtrial.formats.reading import Options, SourceFile, find, read_file
from fairtrial.tasks.sandbox.api import Box, Mount
from fairtrial.tasks.scratch import read_inside
from fairtrial.tasks.task import Step, Task

INSTRUCTION = "/logs/agent/instruction.md"
USAGE = "/logs/agent/usage.json"
TRAJECTORY = "/logs/agent/trajectory.json"
_TRAJECTORY_LIMIT = 32 << 20


class CommandSettings(Config):
    """Settings of the agent `command`."""

    command: tuple[str, ...] = Field(min_length=1)
    """Program and arguments, as the box sees them."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables with literal values."""
    secrets: tuple[str, ...] = ()
    """Names of variables to pass through from your own environment; their values are never written anywhere."""
    files: tuple[str, ...] = ()
    """Files and folders of yours, each shown read-only as /agent/<name>."""
    network: Literal["none", "public"] = "none"
    """"public" lets the program reach the network even in tasks without one."""


class Command:
    """Runs a program of the user's as the agent."""

    settings_type = CommandSettings

    def __init__(self, settings: CommandSettings, base: Path) -> None:
        self.settings = settings
        self._files = [(base / Path(name).expanduser()).resolve() for name in settings.files]

    @property
    def secrets(self) -> tuple[str, ...]:
        """Variables that are passed through."""
        return self.settings.secrets

    def check(self, tasks: Sequence[Task]) -> None:
        """Refuse missing files, variables and programs."""
        for name, path in zip(self.settings.files, self._files, strict=True):
            if not path.exists():
                raise UserError(f'agent "command": files: {name}: no such file or folder')
        names = [path.name for path in self._files]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f'agent "command": files: two of them are called {twice[0]}; rename one')
        for name in self.settings.secrets:
            if not os.environ.get(name):
                raise UserError(f'agent "command": secrets: the variable {name} is not set; export it first')
        for word in self.settings.command:
            if word.startswith("/agent/") and not self._shown(word):
                raise UserError(
                    f'agent "command": {word} is not among its files; add files = ["{word.removeprefix("/agent/")}"]'
                )

    def _shown(self, word: str) -> bool:
        first, _, rest = word.removeprefix("/agent/").partition("/")
        return any(path.name == first and (not rest or (path / rest).exists()) for path in self._files)

    def needs(self, task: Task, step: Step) -> Needs:
        """The user's files, variables and network."""
        secrets = {name: value for name in self.settings.secrets if (value := os.environ.get(name))}
        places = {"FAIRTRIAL_INSTRUCTION": INSTRUCTION, "FAIRTRIAL_USAGE": USAGE, "FAIRTRIAL_TRAJECTORY": TRAJECTORY}
        return Needs(
            mounts=tuple(Mount(path, f"/agent/{path.name}") for path in self._files),
            env={**self.settings.env, **secrets, **places, "FAIRTRIAL_TASK": task.id},
            network=self.settings.network,
        )

    async def run(self, box: Box, mission: Mission) -> Run:
        """Run the program to its end."""
        instruction = mission.step.instruction.encode()
        place = mission.files / "logs" / "agent"
        (place / "instruction.md").write_bytes(instruction)
        done = await box.exec(self.settings.command, stdin=instruction, timeout_s=mission.seconds)
        cause, message = outcome_of(done)
        details, blobs = ran(done)
        if done.exit_code in (126, 127):
            details["program"] = f"exit code {done.exit_code}: the box has no such program, or cannot execute it"
        run = Run(minimal_trajectory(mission, shlex.join(self.settings.command), done), cause, message, details, blobs)
        return self._charged(self._with_trajectory(run, mission), mission)

    def _charged(self, run: Run, mission: Mission) -> Run:
        """Charge the usage that the program reported, if any."""
        try:
            raw = read_inside(mission.files, USAGE, 64 * 1024)
            if raw is None:
                return run
            usage = Usage.model_validate(json.loads(raw))
        except (ValueError, RecursionError) as error:
            run.details["usage"] = f"not counted: {_words(error, Usage)}"
            return replace(run, flags=(*run.flags, "unusable_usage"))
        try:
            mission.meter.charge(usage)
        except LimitExceeded as error:
            return replace(run, cause=run.cause or f"{error.limit}_limit", message=run.message or str(error))
        return run

    def _with_trajectory(self, run: Run, mission: Mission) -> Run:
        """The program's own trajectory in place of the minimal one, if it left a valid one."""
        try:
            raw = read_inside(mission.files, TRAJECTORY, _TRAJECTORY_LIMIT)
        except ValueError as error:
            run.details["trajectory"] = f"not kept: {error}"
            return replace(run, flags=(*run.flags, "unusable_trajectory"))
        if raw is None:
            return run
        blobs = {**run.blobs, "agent_trajectory.json": raw}
        try:
            trajectory, format = _read_trajectory(raw)
        except (ValueError, UserError) as error:
            run.details["trajectory"] = f"kept as an artifact only: {one_line(error)}"
            return replace(run, blobs=blobs, flags=(*run.flags, "foreign_trajectory"))
        if format == "fairtrial":
            return replace(run, trajectory=trajectory)
        run.details["trajectory"] = f"read as {format}; the original is the artifact agent_trajectory.json"
        return replace(run, trajectory=trajectory, blobs=blobs)

    def describe(self) -> Mapping[str, str]:
        """The command, and the digest of the user's files."""
        facts = {"agent": f"command: {shlex.join(self.settings.command)}"}
        if self.settings.network == "public":
            facts["network"] = "public, whatever the task says"
        if self._files:
            facts["files"] = f"{', '.join(path.name for path in self._files)} (sha256 {self._files_digest()[:16]})"
        return facts

    async def close(self) -> None:
        """Nothing is held."""

    def _files_digest(self) -> str:
        rows: list[Any] = []
        for path in self._files:
            inner = sorted(path.rglob("*")) if path.is_dir() else [path]
            rows += [[str(item.relative_to(path.parent)), file_digest(item)] for item in inner if item.is_file()]
        return digest(rows)


def _words(error: Exception, model: type[Config]) -> str:
    words = explain(error, model) if isinstance(error, ValidationError) else " ".join(str(error).split())
    return words[:300]


def _read_trajectory(raw: bytes) -> tuple[Trajectory, str]:
    """The trajectory that a program left, in any format that can be read, and that format's name.

    Raises ValueError or UserError, one line, where it is none, or more than one.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trajectory.json"
        path.write_bytes(raw)
        try:
            (file,) = find(str(path), Options())
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{path}: ")) from None
        assert isinstance(file, SourceFile)
        readings = list(read_file(file, Options()))
    for reading in readings:
        if reading.problem is not None:
            raise ValueError(f"line {reading.line}: {reading.problem}")
    rows = [reading.row for reading in readings if reading.row is not None]
    if len(rows) != 1:
        raise ValueError(f"it holds {len(rows)} trajectories of {file.format.name}, not one")
    return check(rows[0]), file.format.name
