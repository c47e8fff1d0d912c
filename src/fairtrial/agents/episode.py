"""The kind of trial "episode": a model with a context policy and a planner works on one episode of a world.

What is compared is named by the arm (model, policy, planner, execution). What would make a comparison unfair is named
once, by the suite (turns, window, tool calls, repairs, workers, thinking, reader, sampling); an arm that sets one of
these to another value must say so in `differs`, or the study is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fairtrial.agents.accounting import Estimate, Fact, account, visited
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.episode_findings import findings, measured, measures
from fairtrial.agents.execute import Mode
from fairtrial.agents.log import Answered, Limited, Log
from fairtrial.agents.oracle_player import OracleModel, OracleSettings, unplayable
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.reader import Reader, derived_seed
from fairtrial.agents.recording import dump_log, trajectory_of
from fairtrial.agents.room import refuse_cramped
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.skills.disclosure import Kit
from fairtrial.agents.skills.episodes import Teacher, check_skills, evidence, leaked
from fairtrial.agents.skills.findings import skill_findings
from fairtrial.agents.skills.settings import WRITTEN, skill_settings
from fairtrial.agents.skills.writing import Creator
from fairtrial.agents.streaming import why_not
from fairtrial.agents.tools.tool import Tool
from fairtrial.core import registry
from fairtrial.core.clock import Clock
from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.findings import Finding
from fairtrial.core.ids import canonical_json, seed
from fairtrial.core.record import Outcome, Record
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import Trajectory
from fairtrial.core.trial import Job, Refusal, TaskInfo, TrialContext, Work
from fairtrial.models.model import Model, Sampling
from fairtrial.models.opening import check_model, files_digest, model_settings, open_model
from fairtrial.tasks.worlds.world import Episode, World

ModelSpec = str | dict[str, Any]
ORACLE = "oracle"
"""Kind of model of an episode's own: the gold plan, played in the arm's planner and policy. An upper bound."""
_TOP = ("turns", "window", "tool_calls", "repairs", "workers", "thinking", "reader", "sampling")
"""What arms have in common unless one of them says that it differs."""


class EpisodeSuite(Config):
    """`[suite]` of a study of episodes; what arms have in common is set here."""

    world: str | dict[str, Any]
    """`"wiki"`, or a table with `id` and the world's own settings."""
    model: ModelSpec | None = None
    """Of the arms that name none."""
    tasks: tuple[str, ...] = ()
    """Globs of episode ids to take; none means all."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many episodes, the first in order."""
    turns: int = Field(default=30, ge=1)
    """Accepted turns of the model; the last must answer."""
    window: int | None = Field(default=None, ge=1)
    """Tokens that a prompt may have; None: what the model takes."""
    tool_calls: int | None = Field(default=None, ge=1)
    """Over all turns."""
    repairs: int = Field(default=3, ge=0)
    """Tries after a turn that cannot be read, for each turn; then the trial fails with the cause "format_limit"."""
    workers: int | None = Field(default=None, ge=1)
    """Tool calls that run at the same time; None: as many as the plan allows."""
    thinking: Literal["drop", "keep"] = "drop"
    """Whether the model's thinking is in its later prompts."""
    reader: ModelSpec | None = None
    """A model for the tool `read(question, document)`, which plans may use as a node; None: there is no such tool."""
    reader_s: float = Field(default=0.0, ge=0)
    """What one reading takes in simulated time, in seconds."""
    sampling: Sampling = Sampling()
    """Of the model's turns; the seed comes from the study."""
    tool_timeout_s: float | None = Field(default=None, gt=0)
    time: Literal["simulated", "real"] = "simulated"
    """simulated: latencies of the world's tools are exact and cost no time; real: they are slept."""
    characters_per_token: float = Field(default=4.0, gt=0)
    """For windows and triggers, and for models that do not count their tokens."""


class EpisodeArm(Config):
    """An arm of a study of episodes. `turns` to `sampling` are the suite's unless `differs` names them."""

    model: ModelSpec | None = None
    """KIND:TEXT or a table as for every model; None: the suite's. Or "oracle" (as a table: kind = "oracle" and the
    settings of the oracle player): the world's gold plan, played by a script."""
    policy: str | dict[str, Any] = "append"
    planner: str | dict[str, Any] = "react"
    execution: Mode = "ready"
    """ready: a call starts when what it needs has ended; levels: a barrier after each level; sequential: one by one."""
    streaming: bool = False
    """Whether calls that change nothing begin while the model still writes its plan; for real time and a model that
    streams (an endpoint's needs live = true)."""
    skills: str | dict[str, Any] = "none"
    """Which skill texts are shown: none, curated, forced ... or a table with `id` and settings (`SkillSettings`)."""
    differs: tuple[str, ...] = ()
    """Which of the settings below this arm has otherwise than the suite."""
    turns: int | None = Field(default=None, ge=1)
    window: int | None = Field(default=None, ge=1)
    tool_calls: int | None = Field(default=None, ge=1)
    repairs: int | None = Field(default=None, ge=0)
    workers: int | None = Field(default=None, ge=1)
    thinking: Literal["drop", "keep"] | None = None
    reader: ModelSpec | None = None
    sampling: Sampling | None = None


def effective(suite: EpisodeSuite, arm: EpisodeArm) -> EpisodeSuite:
    """The suite with what the arm sets otherwise."""
    changed = {name: value for name in _TOP if (value := getattr(arm, name)) is not None}
    return suite.model_copy(update=changed)


def model_of(suite: EpisodeSuite, arm: EpisodeArm, where: str = "arm") -> ModelSpec:
    """The model of an arm. Raises UserError where neither the arm nor the suite names one."""
    spec = suite.model if arm.model is None else arm.model
    if spec is None:
        raise UserError(f'{where}: "model" is required: name one in the arm, or one for all arms in [suite]')
    return spec


def _models(suite: EpisodeSuite, arm: EpisodeArm) -> dict[str, ModelSpec]:
    """All models that an arm asks, by what for. Raises UserError where it has none."""
    creator = skill_settings(arm.skills, "skills").creator
    asked = {"model": model_of(suite, arm), "reader": effective(suite, arm).reader, "skills: creator": creator}
    return {what: spec for what, spec in asked.items() if spec is not None}


def check_equal(suite: EpisodeSuite, arms: Mapping[str, EpisodeArm]) -> None:
    """Refuse (UserError) arms that differ in a limit without saying so, or that say so and do not."""
    for name, arm in arms.items():
        settings = effective(suite, arm)
        for field_name in arm.differs:
            if field_name not in _TOP:
                raise UserError(f'arm "{name}": differs: "{field_name}" is nothing that arms have in common'
                                f"{did_you_mean(field_name, _TOP)}")  # fmt: skip
        for field_name in _TOP:
            mine, common = getattr(settings, field_name), getattr(suite, field_name)
            if mine != common and field_name not in arm.differs:
                raise UserError(
                    f'arm "{name}": {field_name} = {mine!r}, but the suite has {common!r}: limits are the same in all '
                    f'arms; set it in [suite], or name the difference with differs = ["{field_name}"]'
                )
            if mine == common and field_name in arm.differs:
                raise UserError(
                    f'arm "{name}": differs names "{field_name}", but it is {common!r} as in the suite: set it in the '
                    "arm, or take it out of differs"
                )


def open_world(spec: str | Mapping[str, Any], base: Path) -> World:
    """The world that a suite names. Raises UserError."""
    advice = 'say which world: world = "wiki" or world = { id = "wiki", ... }'
    kind, settings = registry.chosen("worlds", spec, advice, where="[suite] world")
    return kind(settings, base)


class EpisodeTrial:
    """Registered as the kind "episode"."""

    name = "episode"
    score = "em"
    suite_settings: type[Config] = EpisodeSuite
    arm_settings: type[Config] = EpisodeArm

    def __init__(self) -> None:
        self._opened: dict[bytes, tuple[World, dict[str, Episode]]] = {}

    def tasks(self, suite: Config, base: Path) -> Sequence[TaskInfo]:
        """The world's episodes in its order."""
        return [episode.info for episode in self._episodes(_suite(suite), base)[1].values()]

    def check(self, suite: Config, arms: Mapping[str, Config], base: Path) -> None:
        """Refuse unknown parts, unequal limits, and an oracle where the world knows no gold plan."""
        common, mine = _suite(suite), {name: _arm(arm) for name, arm in arms.items()}
        check_equal(common, mine)
        world, episodes = self._episodes(common, base)
        for name, arm in mine.items():
            settings, model = effective(common, arm), model_of(common, arm, f'arm "{name}"')
            _check_streaming(arm, settings, model, f'arm "{name}"')
            skills = check_skills(arm.skills, world, list(episodes.values()), f'arm "{name}": skills')
            creator = skills.creator or (model if skills.id in WRITTEN else None)
            if creator is not None and _oracle(creator, f'arm "{name}"') is not None:
                raise UserError(f'arm "{name}": skills: the oracle writes no skills; name a creator that can')
            for what, spec in _models(common, arm).items():
                where = f'arm "{name}": {what}'
                if _oracle(spec, where) is None:
                    if isinstance(spec, str) and ":" not in spec and spec not in registry.names("models"):
                        raise UserError(f'{where}: "{spec}" is neither KIND:TEXT nor "{ORACLE}", the world\'s own')
                    check_model(spec, base, where=where)
                elif (reason := unplayable(world, list(episodes.values()))) is not None:
                    raise UserError(f'{where} = "oracle": {reason}')
            policy, planner = _open_parts(arm, settings, f'arm "{name}"')
            count, takes = Estimate(settings.characters_per_token), _context(model, f'arm "{name}"')
            asked = {id: episode.question for id, episode in episodes.items()}
            tools = _tools(world, next(iter(episodes.values())), SimulatedClock(), 0, settings)
            refuse_cramped(asked, tools, policy, planner, count, takes, f'arm "{name}"')

    async def gate(self, suite: Config, base: Path, tasks: Sequence[TaskInfo], cache: Path) -> Sequence[Refusal]:
        """The right answer must be graded 1, and no answer 0."""
        world, episodes = self._episodes(_suite(suite), base)
        refusals: list[Refusal] = []
        for task in tasks:
            episode = episodes[task.id]
            right = [world.grade(episode, answer, ())["em"] for answer in episode.answers[:1]]
            if right != [1.0]:
                refusals.append(Refusal(task.id, f"its own answer is graded {right[0] if right else 'not at all'}"))
            elif world.grade(episode, None, ())["em"] != 0.0:
                refusals.append(Refusal(task.id, "no answer at all is graded as right"))
            elif (reason := leaked(episode)) is not None:
                refusals.append(Refusal(task.id, reason))
        return refusals

    def work(self, suite: Config, arms: Mapping[str, Config], base: Path) -> Work:
        """A worker on the driver's event loop: it mostly waits for models."""
        settings = {
            "suite": suite.model_dump(mode="json"),
            "arms": {name: arm.model_dump(mode="json") for name, arm in arms.items()},
            "base": str(base),
        }
        return Work("fairtrial.agents.episode:open_worker", settings)

    def describe(self, suite: Config, arm: Config, base: Path) -> Mapping[str, str]:
        """What the arm is made of, and where it differs from the others."""
        mine = _arm(arm)
        named = ("model", "policy", "planner", "execution")
        facts = {name: _shown(value) for name in named if (value := getattr(mine, name)) is not None}
        if mine.streaming:
            facts["streaming"] = "true"
        if mine.skills != "none":
            facts["skills"] = _shown(mine.skills)
        specs = {what: spec for what, spec in _models(_suite(suite), mine).items() if _oracle(spec, what) is None}
        digests = {what: files_digest(spec, base, where=what) for what, spec in specs.items()}
        if told := ", ".join(f"{what} {found}" for what, found in digests.items() if found is not None):
            facts["files"] = told
        return facts | {f"differs: {name}": _shown(getattr(mine, name)) for name in mine.differs}

    def measures(self, suite: Config, base: Path) -> Mapping[str, bool]:
        """The world's scores, what is counted of each run, and the numbers among the episodes' facts."""
        world, episodes = self._episodes(_suite(suite), base)
        scores = {name for episode in episodes.values() for name in world.grade(episode, None, ())}
        return measures([episode.facts for episode in episodes.values()], scores)

    def measured(self, record: Record) -> Mapping[str, float]:
        """What was counted of a run, and its episode's facts."""
        return measured(record)

    def findings(
        self, arms: Mapping[str, Config], score: str, records: Callable[[], Iterable[Record]]
    ) -> Sequence[Finding]:
        """What the arms took and kept, how their contexts grew, and which skills were read."""
        names = list(arms)
        skills = any(skill_settings(_arm(arm).skills, "skills").id != "none" for arm in arms.values())
        return [*(skill_findings(names, score, records()) if skills else ()), *findings(names, score, records())]

    def _episodes(self, suite: EpisodeSuite, base: Path) -> tuple[World, dict[str, Episode]]:
        key = canonical_json([suite.model_dump(mode="json"), str(base)])
        if key not in self._opened:
            world = open_world(suite.world, base)
            self._opened[key] = (world, _chosen(suite, world))
        return self._opened[key]


def _chosen(suite: EpisodeSuite, world: World) -> dict[str, Episode]:
    """Episodes by id. Raises UserError where none is left."""
    wanted = suite.tasks or ("*",)
    found = {
        episode.info.id: episode
        for episode in world.episodes()
        if any(fnmatchcase(episode.info.id, pattern) for pattern in wanted)
    }
    if not found:
        raise UserError(f"[suite] tasks: no episode is called {' or '.join(wanted)}")
    return dict(list(found.items())[: suite.limit])


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if "key" not in name.lower()}
    elif isinstance(value, Sampling):
        value = value.model_dump(mode="json", exclude_defaults=True)
    return value if isinstance(value, str) else canonical_json(value).decode()


def _suite(suite: Config) -> EpisodeSuite:
    assert isinstance(suite, EpisodeSuite)
    return suite


def _arm(arm: Config) -> EpisodeArm:
    assert isinstance(arm, EpisodeArm)
    return arm


def _open_parts(arm: EpisodeArm, settings: EpisodeSuite, where: str) -> tuple[Any, Any]:
    """Policy and planner of an arm. Raises UserError."""
    table: dict[str, Any] = {"id": arm.policy} if isinstance(arm.policy, str) else dict(arm.policy)
    for name in ("window", "thinking"):
        if name in table:
            raise UserError(f'{where}: policy: set {name} in [suite], or in the arm with differs = ["{name}"]')
    table |= {"window": settings.window, "thinking": settings.thinking == "keep"}
    policy = open_policy(table, Estimate(settings.characters_per_token), where=f"{where}: policy")
    return policy, open_planner(arm.planner, where=f"{where}: planner")


def _tools(world: World, episode: Episode, clock: Clock, seed: int, settings: EpisodeSuite) -> list[Tool]:
    """The world's, for one run."""
    return [
        Tool(each.name, each.description, each.parameters, each.call, timeout_s=settings.tool_timeout_s)
        for each in world.functions(episode, clock, seed)
    ]


def _context(model: ModelSpec, where: str) -> int | None:
    """Tokens that a model takes, as far as its settings say."""
    if _oracle(model, where) is not None:
        return None
    return getattr(model_settings(model, where=f"{where}: model")[1], "context", None)


def _check_streaming(arm: EpisodeArm, settings: EpisodeSuite, model: ModelSpec, where: str) -> None:
    """Refuse (UserError) an arm whose parts do not exist, or that asks for streaming which would do nothing."""
    _, planner = _open_parts(arm, settings, where)
    if not arm.streaming:
        return
    scripted = _oracle(model, where) is not None
    live = not scripted and getattr(model_settings(model, where=f"{where}: model")[1], "live", True)
    reason = why_not(planner, arm.execution, settings.time == "simulated", scripted=scripted, live=live)
    if reason is not None:
        raise UserError(f"{where}: streaming = true {reason}")


@dataclass(slots=True)
class EpisodeWorker:
    """Runs trials of the kind "episode"."""

    suite: EpisodeSuite
    arms: Mapping[str, EpisodeArm]
    world: World
    episodes: Mapping[str, Episode]
    models: Mapping[bytes, Model]
    """By what names them; arms that name the same model share it."""
    teacher: Teacher
    redactor: Redactor = field(default_factory=Redactor)

    async def run(self, job: Job, context: TrialContext) -> Record:
        """Play one episode and grade it. Raises InfraError where a model's provider failed."""
        episode = self.episodes[job.key.task]
        kit = await self._kit(job, context, episode)
        runtime = self._runtime(job, context, episode, kit)
        log = runtime.begin(episode.question, seed=job.seed, told=kit.told)
        try:
            await runtime.play(log, run=f"{job.key.task}#{job.key.repeat}")
        except asyncio.CancelledError:
            # Ended by the limit on seconds, the trial keeps what it did; otherwise somebody stops the whole study.
            if job.limits.seconds is None or context.timer.working_s < job.limits.seconds - 1e-6:
                raise
            log.add(Limited("seconds", last=False))
        return self._record(job, context, episode, log, kit)

    async def _kit(self, job: Job, context: TrialContext, episode: Episode) -> Kit:
        """The skills that the arm shows. Raises LimitExceeded and InfraError where a model writes them."""
        arm = self.arms[job.key.arm]
        skills = skill_settings(arm.skills, f'arm "{job.key.arm}": skills')
        creator = None
        if skills.id in WRITTEN:
            model = self._model(skills.creator or model_of(self.suite, arm), episode)
            sampling = effective(self.suite, arm).sampling
            creator = Creator(model, skills, job.seed, sampling, context.meter, context.timer)

        async def play(other: Episode, kit: Kit, name: str) -> str | None:
            runtime = self._runtime(job, context, other, kit)
            log = runtime.begin(other.question, seed=derived_seed(job.seed, name), told=kit.told)
            return (await runtime.play(log, run=f"{job.key.task}#{job.key.repeat} {name}")).answer

        tools = [tool.schema for tool in self._runtime(job, context, episode, Kit(skills)).tools] if creator else []
        drawn = seed(job.block_seed, job.key.task, job.key.repeat, "environment")
        return await self.teacher.kit(arm.skills, episode, drawn, creator, play, tools)

    def _runtime(self, job: Job, context: TrialContext, episode: Episode, kit: Kit) -> Runtime:
        arm = self.arms[job.key.arm]
        settings = effective(self.suite, arm)
        policy, planner = _open_parts(arm, settings, f'arm "{job.key.arm}"')
        clock: Clock = SimulatedClock() if settings.time == "simulated" else context.clock
        environment = seed(job.block_seed, job.key.task, job.key.repeat, "environment")
        tools = _tools(self.world, episode, clock, environment, settings)
        reader = None
        if settings.reader is not None:
            reader = Reader(
                self._model(settings.reader, episode),
                job.seed,
                clock=clock,
                seconds=settings.reader_s,
                meter=context.meter,
                timer=context.timer,
            )
        return Runtime(
            self._model(model_of(self.suite, arm), episode, planner, policy),
            policy,
            planner,
            [*tools, *kit.tools],
            clock,
            budget=Budget(settings.turns, settings.tool_calls, settings.repairs, job.limits.seconds),
            mode=arm.execution,
            workers=settings.workers,
            sampling=settings.sampling,
            reader=reader,
            meter=context.meter,
            timer=context.timer,
            streaming=arm.streaming,
        )

    def _model(self, spec: ModelSpec, episode: Episode, planner: Any = None, policy: Any = None) -> Model:
        settings = _oracle(spec, "model")
        if settings is None:
            return self.models[_key(spec)]
        return OracleModel([episode], settings, planner=planner, policy=policy)

    def _record(self, job: Job, context: TrialContext, episode: Episode, log: Log, kit: Kit) -> Record:
        cause, message = _ending(log, context)
        scores = self.world.grade(episode, log.answer, visited(log))
        trajectory = trajectory_of(log, str(job.key))
        details = {
            "answer": log.answer,
            "world": {
                **{name: value for name, value in episode.facts.items() if isinstance(value, str | int | float)},
                "steps": episode.steps,
                "critical_path": episode.critical_path,
            },
            **account(
                log,
                Estimate(self.suite.characters_per_token),
                facts=_facts(episode),
                pages=[step.page for step in episode.plan if step.page is not None],
            ),
        }
        artifacts = {"log.jsonl": context.blobs.put(dump_log(log, self.redactor))}
        shown = evidence(kit, episode, log, context.blobs, self.redactor) if episode.skills else None
        if shown is not None:
            details["skills"] = shown.details
        return Record(
            key=job.key,
            seed=job.seed,
            outcome=Outcome.FAILED if cause else Outcome.SCORED,
            scores=scores,
            cause=cause,
            message=message,
            flags=shown.flags if shown else (),
            visible=shown.visible if shown else None,
            usage=context.meter.usage,
            trajectory=Trajectory.model_validate(self.redactor.trace(trajectory.model_dump(mode="json"))),
            artifacts=artifacts | (shown.artifacts if shown else {}),
            details=self.redactor.value(details),
        )

    def failed_scores(self, job: Job) -> dict[str, float]:
        """Those of no answer."""
        return self.world.grade(self.episodes[job.key.task], None, ())

    async def close(self) -> None:
        """Close the models."""
        for model in self.models.values():
            await model.close()


def _facts(episode: Episode) -> list[Fact]:
    """The values of the gold plan, each with those that are found with its help."""
    leads: dict[str, list[int]] = {step.id: [] for step in episode.plan}
    for index, step in enumerate(episode.plan):
        for dep in step.deps:
            leads[dep].append(index)
    return [Fact(step.value, step.page, tuple(leads[step.id])) for step in episode.plan]


def _ending(log: Log, context: TrialContext) -> tuple[str | None, str | None]:
    """(cause, message) of a trial that failed: a limit of the trial is overrun, or the run ended without an answer."""
    last = log.events[-1]
    if isinstance(last, Limited):
        told = {"format": "the model's turns could not be read, again and again"}
        if not any(log.calls()):
            told["window"] = "the question and the rules alone do not fit the window; make `window` larger"
        return f"{last.limit}_limit", told.get(last.limit, f"the limit on {last.limit} is used up, without an answer")
    assert isinstance(last, Answered)
    if limit := context.meter.limits.exceeded_by(context.meter.usage):
        return f"{limit}_limit", f"the trial's limit on {limit} ({getattr(context.meter.limits, limit)}) is overrun"
    return None, None


def _oracle(spec: ModelSpec, where: str) -> OracleSettings | None:
    """The oracle's settings; None for any other model. Raises UserError."""
    table = {"kind": spec} if isinstance(spec, str) else spec
    if table.get("kind") != ORACLE:
        return None
    return parse(OracleSettings, {name: value for name, value in table.items() if name != "kind"}, where=where)


def _key(spec: ModelSpec) -> bytes:
    return canonical_json(spec)


def open_worker(settings: Mapping[str, Any]) -> EpisodeWorker:
    """The worker of `EpisodeTrial.work`. Raises UserError for a model that cannot be opened or cannot call tools."""
    suite = parse(EpisodeSuite, settings["suite"], where="[suite]")
    arms = {name: parse(EpisodeArm, arm, where=f'arm "{name}"') for name, arm in settings["arms"].items()}
    base = Path(settings["base"])
    world = open_world(suite.world, base)
    models: dict[bytes, Model] = {}
    for name, arm in arms.items():
        own = effective(suite, arm)
        creator = skill_settings(arm.skills, f'arm "{name}": skills').creator
        named = model_of(suite, arm)
        for what, spec in (("model", named), ("reader", own.reader), ("skills: creator", creator)):
            if spec is not None and _key(spec) not in models and _oracle(spec, "model") is None:
                models[_key(spec)] = open_model(spec, base, where=f'arm "{name}": {what}')
        native = open_planner(arm.planner, where=f'arm "{name}": planner').native
        model = models.get(_key(named))
        if native and model is not None and "tools" not in model.features:
            raise UserError(f'arm "{name}": planner = "native" needs a model that calls tools, which this one does not')
        if arm.streaming and model is not None and "stream" not in model.features:
            raise UserError(f'arm "{name}": streaming = true needs a model that streams, which this one does not')
    return EpisodeWorker(suite, arms, world, _chosen(suite, world), models, Teacher(world))
