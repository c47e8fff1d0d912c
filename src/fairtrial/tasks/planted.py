"""The kind of trial "planted": sums answered with a known success probability, to prove the bench on a known truth.

Task i asks for a sum. Its difficulty is drawn from a Beta law; an arm adds its `effect`, and answers rightly when the
trial's own uniform number (from the seed, so common to all arms) falls below. Faults can be injected. Nothing here is a
model: it is the instrument that calibrates the rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import InfraError
from fairtrial.core.findings import Finding
from fairtrial.core.ids import canonical_json, digest, seed
from fairtrial.core.limits import Usage
from fairtrial.core.record import Outcome, Record
from fairtrial.core.trajectory import MessageAction, TextObservation, Trajectory
from fairtrial.core.trial import Job, Refusal, TaskInfo, TrialContext, Work


class PlantedSuite(Config):
    """`[suite]` of a planted study."""

    n: int = Field(default=100, ge=1, le=1_000_000)
    """Tasks."""
    difficulty: float = Field(default=0.34, gt=0, lt=1)
    """Mean success probability without an effect."""
    concentration: float = Field(default=0.7, gt=0)
    """Of the Beta law; small values put most tasks near 0 and 1."""
    families: int = Field(default=0, ge=0)
    """Tasks share a difficulty within so many families; 0: every task has its own."""
    drift: float = Field(default=0.0, ge=-1, le=1)
    """Added to every success probability bit by bit over the first 1,000 trials of a session, as by an endpoint that
    changes while it is measured. Results then depend on the order of the trials."""
    filler: int = Field(default=0, ge=0, le=10_000_000)
    """Characters of text added to each trajectory."""


class PlantedArm(Config):
    """An arm of a planted study."""

    effect: float = Field(default=0.0, ge=-1, le=1)
    """Added to every task's success probability (cut to 0 .. 1)."""
    errors: float = Field(default=0.0, ge=0, le=1)
    """Share of attempts that end in an infrastructure error."""
    seconds: float = Field(default=0.0, ge=0)
    """How long a trial takes on the engine's clock."""
    cost_usd: float = Field(default=0.0, ge=0)
    """What a trial costs."""


class PlantedTrial:
    """Registered as the kind "planted"."""

    name = "planted"
    score = "reward"
    suite_settings = PlantedSuite
    arm_settings = PlantedArm

    def tasks(self, suite: Config, base: Path) -> Sequence[TaskInfo]:
        """The sums, in order."""
        settings = _suite(suite)
        whole = digest(settings.model_dump(exclude={"n"}))[:16]
        return [
            TaskInfo(
                f"sum-{index:06d}", whole, f"family-{index % settings.families:04d}" if settings.families else None
            )
            for index in range(settings.n)
        ]

    def check(self, suite: Config, arms: Mapping[str, Config], base: Path) -> None:
        """Nothing to refuse."""

    async def gate(self, suite: Config, base: Path, tasks: Sequence[TaskInfo], cache: Path) -> Sequence[Refusal]:
        """Sums need no proof."""
        return ()

    def work(self, suite: Config, arms: Mapping[str, Config], base: Path) -> Work:
        """One worker on the event loop."""
        return Work(
            "fairtrial.tasks.planted:open_worker",
            {"suite": suite.model_dump(), "arms": {name: arm.model_dump() for name, arm in arms.items()}},
        )

    def describe(self, suite: Config, arm: Config, base: Path) -> Mapping[str, str]:
        """The planted truth."""
        settings = parse(PlantedArm, arm.model_dump(), where="arm")
        return {"planted effect": f"{settings.effect:+g}", "injected errors": f"{settings.errors:g}"}

    def measures(self, suite: Config, base: Path) -> Mapping[str, bool]:
        """The reward."""
        return {self.score: False}

    def measured(self, record: Record) -> Mapping[str, float]:
        """Nothing beside it."""
        return {}

    def findings(
        self, arms: Mapping[str, Config], score: str, records: Callable[[], Iterable[Record]]
    ) -> Sequence[Finding]:
        """Nothing beside scores and verdicts."""
        return ()


def _suite(suite: Config) -> PlantedSuite:
    return suite if isinstance(suite, PlantedSuite) else parse(PlantedSuite, suite.model_dump(), where="[suite]")


def open_worker(settings: Mapping[str, Any]) -> PlantedWorker:
    """Build a worker from JSON settings."""
    suite = PlantedSuite.model_validate(settings["suite"])
    return PlantedWorker(suite, {name: PlantedArm.model_validate(arm) for name, arm in settings["arms"].items()})


class PlantedWorker:
    """Answers sums with a known success probability."""

    def __init__(self, suite: PlantedSuite, arms: Mapping[str, PlantedArm]) -> None:
        self.suite, self.arms, self.ran = suite, arms, 0

    async def run(self, job: Job, context: TrialContext) -> Record:
        """Answer one sum, or fail as planted."""
        arm = self.arms[job.key.arm]
        self.ran += 1
        if arm.seconds:
            await context.clock.sleep(arm.seconds)
        context.meter.charge(Usage(calls=1, input_tokens=20, output_tokens=5, cost_usd=arm.cost_usd))
        if arm.errors and _uniform(job, f"error {job.key.arm} {job.key.attempt}") < arm.errors:
            raise InfraError("a planted fault", cause="planted")
        index = int(job.key.task.removeprefix("sum-"))
        known = _uniform(job, "answer") < self.probability(job, index, arm)
        question, answer = f"What is {index}+1?", str(index + 1 if known else index)
        reward = float(answer == str(index + 1))
        return Record(
            key=job.key,
            seed=job.seed,
            outcome=Outcome.SCORED,
            scores={"reward": reward},
            trajectory=Trajectory(
                id=str(job.key),
                content=(
                    TextObservation(content=question + _filler(job, self.suite.filler), source="user"),
                    MessageAction(content=answer),
                ),
            ),
        )

    def probability(self, job: Job, index: int, arm: PlantedArm) -> float:
        """The success probability of an arm on task `index`."""
        unit = index % self.suite.families if self.suite.families else index
        alpha = self.suite.difficulty * self.suite.concentration
        beta = (1 - self.suite.difficulty) * self.suite.concentration
        rng = random.Random(seed(job.block_seed, f"difficulty {unit}", 0, "environment"))  # noqa: S311 - a simulation
        drifted = self.suite.drift * min(1.0, self.ran / 1000)
        return min(1.0, max(0.0, rng.betavariate(alpha, beta) + arm.effect + drifted))

    def failed_scores(self, job: Job) -> dict[str, float]:
        """A sum without an answer is wrong."""
        return {"reward": 0.0}

    async def close(self) -> None:
        """Nothing to release."""


def _uniform(job: Job, what: str) -> float:
    return int(digest(canonical_json([job.seed, what]))[:13], 16) / 16**13


def _filler(job: Job, size: int) -> str:
    if not size:
        return ""
    rng = random.Random(job.seed)  # noqa: S311 - filler text
    words = (
        "tool",
        "observe",
        "page",
        "search",
        "result",
        "error",
        "value",
        "table",
        "config",
        "retry",
        "plan",
        "done",
    )
    text = " ".join(f"{rng.choice(words)}{rng.randrange(1000)}" for _ in range(size // 7 + 1))
    return " " + text[:size]
