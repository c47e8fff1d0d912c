"""What a study found, as data: the one source of the terminal table, the JSON and the HTML report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fairtrial.core.config import Config
from fairtrial.core.findings import Finding
from fairtrial.stats.claimed import ClaimWord, Direction

VerdictWord = Literal["better", "worse", "equivalent", "not decided"]


class Mix(Config):
    """One denominator: what became of the planned trials of an arm (each trial by its last attempt)."""

    planned: int
    scored: int
    failed: int
    errored: int
    skipped: int
    missing: int
    """Planned and not (yet) run."""


class PassK(Config):
    """pass@k (some of k repeats succeeds) and pass^k (all of them do), mean over tasks."""

    k: int
    at: float
    at_ci: tuple[float, float] | None = None
    hat: float
    hat_ci: tuple[float, float] | None = None


class ArmResult(Config):
    """One arm on its own."""

    name: str
    title: str | None = None
    control: bool
    facts: dict[str, str] = Field(default_factory=dict)
    """From the kind of trial: agent, skills, what it may see ..."""
    mix: Mix
    mean: float | None
    """Mean over tasks of the per-task means; failed trials count by the task's rule, errored ones never."""
    se: float | None
    ci: tuple[float, float] | None
    values: dict[str, float] = Field(default_factory=dict)
    """Per-task means."""
    tokens: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    working_s: float = 0.0
    """Seconds over all attempts, waiting for providers left out."""
    pass_k: tuple[PassK, ...] = ()
    flags: dict[str, int] = Field(default_factory=dict)
    """How many records carry each flag."""
    causes: dict[str, int] = Field(default_factory=dict)
    """Why trials failed, errored or were skipped."""


class EffectResult(Config):
    """One arm against the control, paired."""

    arm: str
    control: str
    estimate: float | None
    """Mean over tasks of (arm - control), over blocks where both count."""
    ci: tuple[float, float] | None
    ci_method: str = ""
    p: float | None = None
    """Sign-flip permutation, two-sided."""
    p_holm: float | None = None
    """p adjusted over the study's arms (Holm)."""
    p_mcnemar: float | None = None
    """Exact McNemar, where there is one binary repeat."""
    tasks: int
    clusters: int | None = None
    blocks: int
    dropped: int
    """Blocks left out because one of the two arms has no score in them."""
    mean_arm: float | None = None
    mean_control: float | None = None
    """Of the same blocks."""
    gain: float | None = None
    """Normalised gain (arm - control) / (1 - control) of the means; None where the control is at 1."""
    equivalence_p: float | None = None
    mde: float | None = None
    """Smallest true difference that this study would find in 80 of 100 cases."""
    tasks_needed: int | None = None
    """Tasks that would decide the estimate that was seen."""
    verdict: VerdictWord
    sentence: str
    differences: dict[str, float] = Field(default_factory=dict)
    """Per task."""
    sensitivity: dict[str, float] = Field(default_factory=dict)
    """The estimate with errored trials dropped, counted as 0, and at the two extremes."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        from fairtrial.studies.report.wording import interval, p_value, signed

        figures = f"{signed(self.estimate)} {interval(self.ci, sign=True)}, p = {p_value(self.p)}, {self.tasks} tasks"
        return f"{self.sentence} ({figures})"


class ClaimResult(Config):
    """A published claim beside what was measured."""

    text: str
    published: str = ""
    arm: str
    against: str
    measure: str
    direction: Direction
    margin: float = 0.0
    where: dict[str, tuple[float, float]] = Field(default_factory=dict[str, tuple[float, float]])
    """Only tasks whose facts lie in these ranges."""
    verdict: ClaimWord
    estimate: float | None = None
    """Mean over tasks of (arm - against), over blocks where both are measured."""
    ci: tuple[float, float] | None = None
    ratio: float | None = None
    """Of the means; None where one of them is not positive."""
    ratio_ci: tuple[float, float] | None = None
    mean_arm: float | None = None
    mean_against: float | None = None
    p: float | None = None
    """Of what speaks against the side that the data lean to."""
    p_holm: float | None = None
    """p adjusted over the study's claims that were measured (Holm)."""
    tasks: int = 0
    blocks: int = 0
    dropped: int = 0
    """Blocks left out because one of the two arms has no value in them."""
    notes: tuple[str, ...] = ()


class StudyResult(Config):
    """All that a report shows."""

    title: str
    question: str
    paper: str | None = None
    published: str | None = None
    path: str
    kind: str
    score: str
    control: str
    confidence: float
    repeats: int
    seed: int
    tasks: int
    complete: bool
    """Every planned trial has its final record."""
    arms: tuple[ArmResult, ...]
    effects: tuple[EffectResult, ...]
    claims: tuple[ClaimResult, ...] = ()
    """What the paper says, and what was measured."""
    findings: tuple[Finding, ...] = ()
    """What the kind of trial shows beside scores and verdicts."""
    warnings: tuple[str, ...] = ()
    mde_before: float | None = None
    """Smallest difference that the plan alone promised to find (assumptions: `studies.analysis.mde_before`)."""
    sandboxes: dict[str, int] = Field(default_factory=dict)
    """Records by the sandbox that they ran in."""
    created: str = ""
    finished: str | None = None
    version: str = ""
    machine: dict[str, str] = Field(default_factory=dict)

    def effect(self, arm: str) -> EffectResult:
        """The effect of one arm against the control. Raises UserError for an unknown arm."""
        from fairtrial.core.errors import UserError, did_you_mean

        for effect in self.effects:
            if effect.arm == arm:
                return effect
        known = [effect.arm for effect in self.effects]
        raise UserError(f'no effect of an arm "{arm}" in this study{did_you_mean(arm, known)}')

    def arm(self, name: str) -> ArmResult:
        """One arm on its own. Raises UserError for an unknown arm."""
        from fairtrial.core.errors import UserError, did_you_mean

        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UserError(f'no arm "{name}" in this study{did_you_mean(name, [arm.name for arm in self.arms])}')
