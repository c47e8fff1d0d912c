"""Record: what one trial leaves behind, and the four outcomes it can have."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from fairtrial.core.config import Config
from fairtrial.core.limits import Usage
from fairtrial.core.trajectory import Trajectory


class Outcome(StrEnum):
    """How a trial ended. Only `scored` and `failed` carry scores; `errored` is never averaged and never a zero."""

    SCORED = "scored"
    FAILED = "failed"
    """The agent's fault (a limit, an invalid output): counts, with the scores that the task's rule gives."""
    ERRORED = "errored"
    """The infrastructure's fault."""
    SKIPPED = "skipped"
    """Not run: the study's budget was spent."""

    @property
    def counts(self) -> bool:
        """Whether the record's scores enter the statistics."""
        return self in (Outcome.SCORED, Outcome.FAILED)


class TrialKey(Config):
    """Names one trial; `attempt` counts from 1 and rises when an errored trial is tried again."""

    arm: str
    task: str
    repeat: int = Field(ge=0)
    attempt: int = Field(default=1, ge=1)

    @property
    def trial(self) -> tuple[str, str, int]:
        """(arm, task, repeat): the trial without its attempt."""
        return (self.arm, self.task, self.repeat)

    def __str__(self) -> str:
        return f"{self.arm}/{self.task}#{self.repeat}" + (f".{self.attempt}" if self.attempt > 1 else "")


class BlobRef(Config):
    """Content kept outside the record, by hash."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    """Bytes."""


class Timings(Config):
    """Seconds. working = wall - waiting, where waiting is time spent on a provider's answer."""

    started: datetime
    wall_s: float = Field(ge=0)
    working_s: float = Field(ge=0)
    waiting_s: float = Field(default=0.0, ge=0)


class Record(Config):
    """One attempt of one trial."""

    key: TrialKey
    seed: int
    outcome: Outcome
    scores: dict[str, float] = Field(default_factory=dict)
    cause: str | None = None
    """Why it failed, errored or was skipped, as one word: wall_limit, out_of_memory, provider, budget ..."""
    message: str | None = None
    """The same for people."""
    flags: tuple[str, ...] = ()
    """What was noticed that a reader must know (tampering, no isolation ...); flags never change a score."""
    usage: Usage = Usage()
    timings: Timings | None = None
    visible: BlobRef | None = None
    """The list of what the agent could read (JSON: path, sha256, size), proof that each arm got what it should."""
    trajectory: Trajectory | None = None
    artifacts: dict[str, BlobRef] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    """What the kind of trial adds (per-test results, agent's exit code ...)."""
    provenance: dict[str, str] = Field(default_factory=dict)
    """What varies between trials (sandbox, worker); what does not is in the manifest."""

    @model_validator(mode="after")
    def _scores_fit_outcome(self) -> Record:
        if self.outcome.counts and not self.scores:
            raise ValueError(f"a {self.outcome} record needs scores")
        if not self.outcome.counts and self.scores:
            raise ValueError(f"a record that {self.outcome} carries no scores: errors are never zeros")
        if self.outcome is not Outcome.SCORED and not self.cause:
            raise ValueError(f"a record that {self.outcome} names its cause")
        return self
