"""Study: the question, the arms with exactly one control, and how to analyse; frozen, and refused when it is unfair."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, field_validator, model_validator

from fairtrial.core import registry
from fairtrial.core.config import Config, parse, read_toml
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.ids import check_name
from fairtrial.core.limits import Limits
from fairtrial.core.trial import ArmOptions, EngineOptions, TrialKind

if TYPE_CHECKING:
    from fairtrial.studies.run import Run
    from fairtrial.studies.runner import Progress


class Arm(Config):
    """One named setting of what is compared. Other keys belong to the kind of trial."""

    model_config = ConfigDict(extra="allow")

    control: bool = False
    """The arm that all others are compared with; exactly one arm has it."""
    title: str | None = None
    """For reports."""
    engine: ArmOptions = ArmOptions()
    """Concurrency and rate of this arm; never a reason for a different result."""

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that belong to the kind of trial."""
        return dict(self.model_extra or {})


class Analysis(Config):
    """How effects are estimated and judged."""

    score: str | None = None
    """Name of the score to analyse; None: the kind's own."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=10_000, ge=200, le=1_000_000)
    margin: float | None = Field(default=None, gt=0)
    """Differences within +-margin are called equivalent where two one-sided tests show it."""
    cluster: Literal["auto", "task", "family"] = "auto"
    """What is resampled as a whole. auto: families where at least eight of them are named, else tasks."""
    pass_k: tuple[int, ...] = ()
    """k for pass@k and pass^k; each at most `repeats`."""


class Claim(Config):
    """Something that a paper says, in terms of this study's arms: the report says whether it holds here."""

    text: str
    """What the paper says."""
    published: str = ""
    """Its figure, printed beside what is measured."""
    arm: str
    against: str | None = None
    """The arm that it is compared with; None: the control."""
    measure: str | None = None
    """A score, or something that the kind's records count; None: the score that the study analyses."""
    direction: Literal["more", "less", "same"]
    """Of the arm beside the other."""
    margin: float = Field(default=0.0, ge=0)
    """In units of the measure. same: the largest difference that does not matter; else the smallest that does."""
    where: dict[str, tuple[float, float]] = Field(default_factory=dict[str, tuple[float, float]])
    """Only tasks whose facts lie in these ranges, ends included."""

    @model_validator(mode="after")
    def _has_a_margin(self) -> Claim:
        if self.direction == "same" and not self.margin:
            raise ValueError('direction = "same" needs a margin: the largest difference that does not matter')
        return self


class CalibrationSpec(Config):
    """`[calibration]`: what `fairtrial calibrate` plays twice, and what it plants; no part of a run."""

    arm: str | None = None
    """The arm that is played against itself; None: the control. An arm that always or never succeeds tells little."""
    planted: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.05, 0.1, 0.2, 0.3)
    """Sizes of the effects to plant; they go where the scores have more room, up or down."""
    tasks: int | None = Field(default=None, ge=2)
    """Of each simulated study; None: as many as were played."""
    repeats: int | None = Field(default=None, ge=1)
    """Of each simulated study; None: the study's."""


class EngineSpec(EngineOptions):
    """`[engine]`: where and how wide trials run. Volatile: may change between resumes."""

    id: str = "local"


_VOLATILE = {"engine", "budget", "calibration", "title", "question", "published", "paper"}
"""What may change between resumes."""


class Study(Config):
    """A study as its file states it."""

    title: str
    question: str = ""
    paper: str | None = None
    """Such as `arXiv:2602.12670`, where the study re-runs a published claim."""
    published: str | None = None
    """The paper's figure, printed beside what is measured."""
    claims: tuple[Claim, ...] = ()
    """What the paper says of arms and measures, to be judged one by one."""
    kind: str = "agent"
    suite: dict[str, Any]
    every: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Keys of every arm that does not say otherwise; as they stand, tables are not merged."""
    arms: dict[str, Arm]
    repeats: int = Field(default=1, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    limits: Limits = Limits()
    """For each trial."""
    budget: Limits = Limits()
    """For the study, over all resumes; volatile."""
    analysis: Analysis = Analysis()
    calibration: CalibrationSpec = CalibrationSpec()
    engine: EngineSpec = EngineSpec()

    @field_validator("arms")
    @classmethod
    def _names(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        for name in arms:
            check_name(name, "arm")
        return arms

    @model_validator(mode="after")
    def _one_control(self) -> Study:
        controls = [name for name, arm in self.arms.items() if arm.control]
        if not controls:
            raise ValueError(
                "no control arm: every claim needs one; put `control = true` on exactly one arm "
                f"(arms: {', '.join(self.arms) or 'none'})"
            )
        if len(controls) > 1:
            raise ValueError(f"several control arms ({', '.join(controls)}): put `control = true` on exactly one")
        if len(self.arms) < 2:
            raise ValueError("a control arm alone compares nothing: add at least one other arm")
        for index, claim in enumerate(self.claims):
            for key, name in (("arm", claim.arm), ("against", claim.against or self.control)):
                if name not in self.arms:
                    raise ValueError(f'claims.{index}.{key}: no arm "{name}"{did_you_mean(name, self.arms)}')
            if claim.arm == (claim.against or self.control):
                raise ValueError(f'claims.{index}.against: "{claim.arm}" is compared with itself; name another arm')
        if (name := self.calibration.arm) is not None and name not in self.arms:
            raise ValueError(f'calibration.arm: no arm "{name}"{did_you_mean(name, self.arms)}')
        for name in Limits.model_fields:
            if getattr(self.budget, name) is not None and getattr(self.limits, name) is None:
                raise ValueError(
                    f"budget.{name} needs limits.{name} beside it: the most that one trial may use, so that no trial "
                    "is cut short because others were expensive"
                )
        if (k := max(self.analysis.pass_k, default=1)) > self.repeats or min(self.analysis.pass_k, default=1) < 1:
            raise ValueError(f"analysis.pass_k: k must be between 1 and repeats = {self.repeats} (got {k})")
        return self

    @property
    def control(self) -> str:
        """The control arm's name."""
        return next(name for name, arm in self.arms.items() if arm.control)

    def run(self, path: str | Path, *, base: str | Path = ".", progress: Progress | None = None) -> Run:
        """Run the study into a directory, or continue what is there, and return it opened.

        Relative paths in the study are relative to `base`. Blocks, also inside a running event loop (a notebook).
        Raises UserError (bad settings, a directory that holds another study), LockedError, StorageError.
        """
        from fairtrial.studies.run import Run
        from fairtrial.studies.runner import execute_blocking

        execute_blocking(bind(self, Path(base).resolve()), Path(path), study_toml(self), progress)
        return Run(Path(path))

    def frozen_part(self) -> dict[str, Any]:
        """What must not change between resumes, as JSON."""
        data = json.loads(self.model_dump_json(exclude=_VOLATILE))
        every = data.pop("every")
        for arm in data["arms"].values():
            del arm["engine"], arm["title"]
            arm.update({key: value for key, value in every.items() if key not in arm})
        for claim in data["claims"]:
            del claim["text"], claim["published"]
        return data


@dataclass(frozen=True, slots=True)
class BoundStudy:
    """A study joined with its kind of trial: settings validated, ready to plan."""

    study: Study
    kind: TrialKind
    suite: Config
    arms: Mapping[str, Config]
    base: Path
    """Relative paths in the study are relative to this folder."""

    @property
    def score(self) -> str:
        """The score that is analysed."""
        return self.study.analysis.score or self.kind.score


def study_toml(study: Study) -> str:
    """A study as TOML text, defaults left out; reading it back gives an equal study."""
    import tomli_w

    data = json.loads(study.model_dump_json(exclude_defaults=True, exclude_none=True))
    return tomli_w.dumps({key: data[key] for key in sorted(data, key=lambda key: isinstance(data[key], dict))})


def load_study(path: Path, overrides: tuple[str, ...] = ()) -> tuple[Study, str]:
    """Read a study file; returns it with the text that states it.

    `overrides` are `dotted.key=TOML value`, applied before validation. Raises UserError with path, value and nearest
    name for what is wrong.
    """
    data = read_toml(path)
    for override in overrides:
        apply_override(data, override)
    study = parse(Study, data, where=str(path))
    return study, study_toml(study) if overrides else path.read_text("utf-8")


def apply_override(data: dict[str, Any], override: str) -> None:
    """Apply one `dotted.key=value` to a study table; a value that is not TOML is taken as a string."""
    import tomllib

    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {override!r}: write KEY=VALUE, such as --set repeats=5 or --set arms.mine.skills=none")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    table = data
    for part in parts[:-1]:
        inner: Any = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {override!r}: {part} is a value, not a table")
        table = cast("dict[str, Any]", inner)
    table[parts[-1]] = parsed


def bind(study: Study, base: Path) -> BoundStudy:
    """Join a study with its kind of trial and validate the settings that belong to the kind. Raises UserError."""
    kind: TrialKind = registry.load("trials", study.kind)()
    suite = parse(kind.suite_settings, study.suite, where="[suite]")
    if mine := sorted(set(study.every) & set(Arm.model_fields)):
        raise UserError(f"[every]: {mine[0]} belongs to one arm; put it there")
    arms = {
        name: parse(
            kind.arm_settings,
            {**study.every, **arm.settings},
            where=f"[arms.{name}] (keys besides control, title, engine)",
        )
        for name, arm in study.arms.items()
    }
    return BoundStudy(study, kind, suite, arms, base)
