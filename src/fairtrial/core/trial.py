"""The trial protocol: all that studies, engines and kinds of trial need to know of each other.

A kind of trial (an agent on a task, a model scored on items, a training run ...) is registered under the entry-point
group `fairtrial.trials` by the room that owns it. Studies plan jobs, an engine runs them, the kind's worker answers
each with a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from fairtrial.core.clock import Clock, Timer
from fairtrial.core.config import Config
from fairtrial.core.findings import Finding
from fairtrial.core.limits import Limits, Meter
from fairtrial.core.record import BlobRef, Record, TrialKey


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a study knows of a task."""

    id: str
    digest: str
    """sha256 over everything that defines the task; part of the manifest, so that a changed task is noticed."""
    family: str | None = None
    """Tasks of one family are not independent: statistics cluster on it."""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A task that must not be used, and why in one line."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to run: small and picklable, never a closure."""

    key: TrialKey
    seed: int
    """Of the stream "sampling"; a worker derives further streams with `core.ids.seed` from `block_seed`."""
    block_seed: int
    """The study's seed."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is built from, in whatever process: an import string and JSON settings."""

    target: str
    """`module:callable`; called with `settings`, returns a Worker."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mode: Literal["async", "process"] = "async"
    """async: on the driver's event loop (waits a lot); process: in a spawned process (computes a lot)."""


class BlobSink(Protocol):
    """Where a worker puts large content."""

    def put(self, content: bytes) -> BlobRef:
        """Store `content` (durably, once per hash) and return its reference."""
        ...


@dataclass(slots=True)
class TrialContext:
    """What an engine hands to a worker beside the job."""

    clock: Clock
    timer: Timer
    """Wrap waits for a provider in `timer.waiting()`: they do not count against the limit on seconds."""
    meter: Meter
    blobs: BlobSink


class Worker(Protocol):
    """Runs trials of one kind; built once per process."""

    async def run(self, job: Job, context: TrialContext) -> Record:
        """Run one trial.

        Returns a record with the job's key. Raises InfraError (retried, then errored); LimitExceeded and the
        engine's own deadline become a failed record by `failed_scores`. Cancellation must leave no process behind;
        a worker that answers it with a record keeps its trajectory in the failed one. A returned record that is
        errored is tried again unless it carries the flag "not_retryable".
        """
        ...

    def failed_scores(self, job: Job) -> dict[str, float]:
        """The scores that the task's rule gives to a trial that failed."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...


class TrialKind(Protocol):
    """One kind of trial. A class registered under `fairtrial.trials`, built without arguments."""

    name: str
    score: str
    """The score that a study analyses unless it names another."""
    suite_settings: type[Config]
    """The keys that a study's `[suite]` table may have."""
    arm_settings: type[Config]
    """The keys that an arm may have beside `control` and `title`."""

    def tasks(self, suite: Config, base: Path) -> Sequence[TaskInfo]:
        """The suite's tasks in a fixed order; relative paths are relative to `base`. Raises UserError."""
        ...

    def check(self, suite: Config, arms: Mapping[str, Config], base: Path) -> None:
        """Refuse (UserError) what cannot run here or would be unfair, before anything runs."""
        ...

    async def gate(self, suite: Config, base: Path, tasks: Sequence[TaskInfo], cache: Path) -> Sequence[Refusal]:
        """Prove the verifiers of `tasks` before any model runs; what was proved may be remembered in `cache`."""
        ...

    def work(self, suite: Config, arms: Mapping[str, Config], base: Path) -> Work:
        """How workers are built; `settings` must be JSON."""
        ...

    def describe(self, suite: Config, arm: Config, base: Path) -> Mapping[str, str]:
        """Short facts about an arm for reports (agent, skills, what it may see ...), and what a resume is held to.

        So digests of files that its outcomes follow from belong here, such as those of a local model's weights.
        """
        ...

    def measures(self, suite: Config, base: Path) -> Mapping[str, bool]:
        """Names of what claims may be about: the scores, and what records tell beside them.

        True for a fact of the task, which is the same in every arm: claims may be kept to some tasks by it.
        """
        ...

    def measured(self, record: Record) -> Mapping[str, float]:
        """What a record tells beside its scores, by the names of `measures`; what it does not tell is left out."""
        ...

    def findings(
        self, arms: Mapping[str, Config], score: str, records: Callable[[], Iterable[Record]]
    ) -> Sequence[Finding]:
        """What the report shows beside scores and verdicts, from the last attempt of each trial.

        `score` is what the study analyses. `records` reads the store when it is called; a kind that adds nothing does
        not call it.
        """
        ...


class Engine(Protocol):
    """Runs jobs somewhere. The contract is tests/engine/contract.py: every engine passes it."""

    def run(self, jobs: Iterable[Job], work: Work, options: EngineOptions, blobs: BlobSink) -> EngineRun:
        """Start `jobs` (in order, bounded in flight) and return the running stream of records.

        A job is taken from `jobs` only when there is room to start it, so that a caller can decide late (budgets).
        """
        ...


class EngineRun(Protocol):
    """A stream of records: one for each attempt, errored attempts included, in order of completion."""

    def __aiter__(self) -> EngineRun: ...

    async def __anext__(self) -> Record: ...

    def drain(self) -> None:
        """Start no more jobs; those in flight finish and are yielded (the first Ctrl-C)."""
        ...

    async def stop(self) -> None:
        """Cancel what is in flight; nothing of it is yielded (the second Ctrl-C). Leaves no process behind."""
        ...


class ArmOptions(Config):
    """What an engine respects for one arm."""

    concurrency: int | None = Field(default=None, ge=1)
    """At most so many trials of this arm at once."""
    per_minute: float | None = Field(default=None, gt=0)
    """At most so many starts of this arm in a minute, evenly spaced."""


class EngineOptions(Config):
    """How to run; volatile: a resume may change all of it."""

    in_flight: int = Field(default=4, ge=1)
    """Trials at once over all arms."""
    attempts: int = Field(default=3, ge=1)
    """Attempts of a trial that errors, counted over resumes through the attempt in its job's key."""
    backoff_s: float = Field(default=1.0, ge=0)
    """First wait before another attempt; doubles each time, with full jitter from the block's "retry" stream."""
    backoff_max_s: float = Field(default=60.0, ge=0)
    arms: dict[str, ArmOptions] = Field(default_factory=dict[str, ArmOptions])
