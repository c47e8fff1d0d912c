"""The kind of trial "agent": an agent works on a task in a box, and a verifier outside of it judges the result."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fairtrial.agents import forger_program
from fairtrial.agents.agent import Agent, open_agent
from fairtrial.agents.attempt import Attempt, Bench, attempt
from fairtrial.agents.forger import Forger
from fairtrial.agents.skills.boxes import Pack, Packs
from fairtrial.agents.skills.findings import skill_findings
from fairtrial.agents.skills.settings import WRITTEN, skill_settings
from fairtrial.agents.skills.writing import Creator
from fairtrial.core.clock import SystemClock, Timer
from fairtrial.core.config import Config, parse
from fairtrial.core.errors import InfraError, UserError, one_line
from fairtrial.core.findings import Finding
from fairtrial.core.ids import canonical_json, file_digest, seed
from fairtrial.core.limits import Limits, Meter
from fairtrial.core.places import cache_folder
from fairtrial.core.record import Outcome, Record
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import Trajectory
from fairtrial.core.trial import Job, Refusal, TaskInfo, TrialContext, Work
from fairtrial.models.model import Model, Sampling
from fairtrial.models.opening import check_model, files_digest, open_model
from fairtrial.tasks.gate import Proof, Proofs, Rule, prove, refusal, warnings
from fairtrial.tasks.harbor.image import build_image, verifier_tools
from fairtrial.tasks.sandbox.api import Sandbox
from fairtrial.tasks.sandbox.choose import choose
from fairtrial.tasks.scratch import Scratch, remove_tree
from fairtrial.tasks.suite import find_suite, load_suite
from fairtrial.tasks.task import Task
from fairtrial.tasks.unmapped import with_paths
from fairtrial.tasks.visible import Manifests

log = logging.getLogger("fairtrial.agents")


class SuiteSettings(Config):
    """The `[suite]` table of a study of agents."""

    id: str | None = None
    """A registered suite, such as "core-tasks"."""
    path: str | None = None
    """A folder of task folders, or one task folder."""
    tasks: tuple[str, ...] = ()
    """Globs of task ids to take; none means all."""
    exclude: tuple[str, ...] = ()
    """Globs of task ids to leave out."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many tasks, the first in order."""
    sandbox: str | None = None
    """bubblewrap, unshare, docker, podman or none; unset: the first of the isolating ones that works."""
    gate: Rule = "strict"
    """What each task must prove first. strict: oracle 1, nop 0, forger 0; lenient: nop < 1, forger <= nop; off. Skills
    that the specification rejects are refused where it is strict, and shown as they are where it is not."""
    leak: Literal["warn", "refuse", "off"] = "warn"
    """What to do with a task whose skill holds constants of its tests that instruction and data do not."""

    @model_validator(mode="after")
    def _one_place(self) -> SuiteSettings:
        if (self.id is None) == (self.path is None):
            raise ValueError('name the suite by one of id (such as "core-tasks") and path (a folder)')
        return self


class ArmSettings(Config):
    """An arm of a study of agents."""

    agent: str | dict[str, Any]
    """"oracle", "nop", "forger", or a table with `id` and the agent's own settings."""
    skills: str | dict[str, Any] = "none"
    """Which skills are in the agent's box: none, curated (the task's own folder), forced ... or a table with `id` and
    settings (`SkillSettings`)."""


class AgentTrial:
    """Agents on tasks. Registered as the kind of trial "agent"."""

    name = "agent"
    score = "reward"
    suite_settings: type[Config] = SuiteSettings
    arm_settings: type[Config] = ArmSettings

    def tasks(self, suite: Config, base: Path) -> Sequence[TaskInfo]:
        """The suite's tasks in the order of their ids."""
        return [task.info for task in _tasks(_suite(suite), base)]

    def check(self, suite: Config, arms: Mapping[str, Config], base: Path) -> None:
        """Refuse what cannot run here: no sandbox, unusable agents, a forger without isolation, arms without skills."""
        settings = _suite(suite)
        sandbox = with_paths(choose(settings.sandbox))
        tasks = _tasks(settings, base)
        networks: dict[str, str] = {}
        packs = Packs(tasks)
        shown = False
        for name, arm in arms.items():
            chosen = _arm(arm)
            agent = open_agent(chosen.agent, base, where=f'arm "{name}": agent')
            agent.check(tasks)
            if isinstance(agent, Forger) and not sandbox.isolated:
                raise UserError(
                    f'arm "{name}": the forger attacks its box and never runs without one; use another sandbox'
                )
            skills = packs.check(_skills(chosen), f'arm "{name}": skills')
            shown |= skills.id not in ("none", *WRITTEN)
            if skills.creator is not None:
                check_model(skills.creator, base, where=f'arm "{name}": skills: creator')
            networks[name] = "public" if agent.needs(tasks[0], tasks[0].steps[0]).network == "public" else "as the task"
        if shown:
            _refuse_invalid(packs.invalid(), settings.gate)
        if len(set(networks.values())) > 1:
            told = ", ".join(f"{name}: {network}" for name, network in networks.items())
            log.warning("the arms do not have the same network (%s): a difference may be the network's", told)

    async def gate(self, suite: Config, base: Path, tasks: Sequence[TaskInfo], cache: Path) -> Sequence[Refusal]:
        """Run oracle (twice), nop and forger on each task that was not proved before on this machine."""
        settings = _suite(suite)
        if settings.gate == "off":
            return []
        wanted = {info.id for info in tasks}
        chosen = [task for task in _tasks(settings, base) if task.id in wanted]
        proofs = await prove_all(chosen, with_paths(choose(settings.sandbox)), cache)
        refusals: list[Refusal] = []
        for proof in proofs:
            refused = refusal(proof, settings.gate)
            if refused is None and proof.leaks and settings.leak == "refuse":
                refused = Refusal(proof.task, f"its skill holds constants of its tests: {', '.join(proof.leaks[:5])}")
            if refused is not None:
                refusals.append(refused)
                continue
            for line in warnings(proof, settings.gate):
                if settings.leak != "off" or "its skill holds" not in line:
                    log.warning("%s", line)
        return refusals

    def work(self, suite: Config, arms: Mapping[str, Config], base: Path) -> Work:
        """A worker on the driver's event loop: it mostly waits for boxes."""
        settings = {
            "suite": suite.model_dump(mode="json"),
            "arms": {name: arm.model_dump(mode="json") for name, arm in arms.items()},
            "base": str(base),
        }
        return Work("fairtrial.agents.trial:open_worker", settings, mode="async")

    def describe(self, suite: Config, arm: Config, base: Path) -> Mapping[str, str]:
        """Agent, skills, network and files of an arm."""
        chosen = _arm(arm)
        agent = open_agent(chosen.agent, base)
        known = {"none": "none: not readable in the box", "curated": "curated: the task's own folder, read-only"}
        skills = chosen.skills if isinstance(chosen.skills, str) else canonical_json(chosen.skills).decode()
        facts = {"network": "as the task", "skills": known.get(skills, skills), **agent.describe()}
        creator = skill_settings(_skills(chosen), "skills").creator
        if creator is not None and (found := files_digest(creator, base, where="skills: creator")) is not None:
            facts["creator's files"] = found
        return facts

    def measures(self, suite: Config, base: Path) -> Mapping[str, bool]:
        """The reward; what else a verifier scores is known only when it has run."""
        return {self.score: False}

    def measured(self, record: Record) -> Mapping[str, float]:
        """Nothing beside scores and what every record counts."""
        return {}

    def findings(
        self, arms: Mapping[str, Config], score: str, records: Callable[[], Iterable[Record]]
    ) -> Sequence[Finding]:
        """Skills that were read, and scores by what skills tasks have; nothing where no arm shows any."""
        if all(skill_settings(_arm(arm).skills, "skills").id == "none" for arm in arms.values()):
            return ()
        return skill_findings(list(arms), score, records())


def _refuse_invalid(problems: Sequence[str], gate: Rule) -> None:
    """Refuse (UserError) skills that are none by the specification; where the gate is not strict, say so."""
    if not problems:
        return
    more = f"; and {len(problems) - 1} more skills are invalid" if len(problems) > 1 else ""
    if gate == "strict":
        raise UserError(f'{problems[0]}{more}: mend it, or have it shown as it is with gate = "lenient" under [suite]')
    log.warning("%s%s: agents see it as it is", problems[0], more)


def _suite(suite: Config) -> SuiteSettings:
    assert isinstance(suite, SuiteSettings)
    return suite


def _arm(arm: Config) -> ArmSettings:
    assert isinstance(arm, ArmSettings)
    return arm


def _skills(arm: ArmSettings) -> str | dict[str, Any]:
    """The arm's skills; where a model is to write them and none is named, it is the agent's own."""
    own = arm.agent.get("model") if isinstance(arm.agent, dict) else None
    chosen = {"id": arm.skills} if isinstance(arm.skills, str) else arm.skills
    if own is None or chosen.get("id") not in WRITTEN or chosen.get("creator") is not None:
        return arm.skills
    return {**chosen, "creator": own}


def _tasks(settings: SuiteSettings, base: Path) -> list[Task]:
    path = find_suite(settings.id or settings.path or "", base)
    return load_suite(path, settings.tasks, settings.exclude, settings.limit)


async def open_bench(task: Task, sandbox: Sandbox, cache: Path) -> Bench:
    """Build a task's environment and its verifier's layers, once. Raises UserError for what cannot be built here."""
    image = await build_image(task, sandbox, cache)
    tools = {step.name: await verifier_tools(task, step, image, cache) for step in task.steps}
    manifests = Manifests()
    await asyncio.to_thread(manifests.of, image.files, remember=True)
    return Bench(task, image, sandbox, tools, manifests)


async def prove_all(tasks: Sequence[Task], sandbox: Sandbox, cache: Path) -> list[Proof]:
    """A proof for each task, remembered or made now; as many at once as the machine has cores."""
    proofs = Proofs(cache / "proofs", file_digest(Path(forger_program.__file__)))
    turn = asyncio.Semaphore(max(1, os.cpu_count() or 1))

    async def one(task: Task, scratch: Scratch) -> Proof:
        async with turn:
            if (known := proofs.get(task, sandbox.name)) is not None:
                return known
            try:
                bench = await open_bench(task, sandbox, cache)
            except (UserError, InfraError) as error:
                return Proof(task.id, error=f"its environment cannot be built here: {one_line(error)}")

            async def run(name: str) -> tuple[float, float]:
                return await _gate_run(bench, name, scratch)

            proof = await prove(task, bench.image, sandbox, run)
            proofs.put(task, sandbox.name, proof)
            return proof

    with Scratch() as scratch:
        return list(await asyncio.gather(*(one(task, scratch) for task in tasks)))


async def _gate_run(bench: Bench, name: str, scratch: Scratch) -> tuple[float, float]:
    folder = scratch.folder(f"gate-{name}-{bench.task.id}")
    clock = SystemClock()
    timer, started = Timer(clock), clock.monotonic()
    try:
        result = await attempt(
            bench, open_agent(name, Path()), skills="none", folder=folder, trial=f"gate/{bench.task.id}", seed=0,
            limits=Limits(), meter=Meter(Limits()), timer=timer,
        )  # fmt: skip
    finally:
        await asyncio.to_thread(remove_tree, folder)
    if name == "oracle" and result.cause:
        raise InfraError(f"its solution was ended early: {result.message}", cause=result.cause)
    return result.scores["reward"], clock.monotonic() - started


@dataclass(slots=True)
class AgentWorker:
    """Runs trials of the kind "agent"."""

    tasks: Mapping[str, Task]
    arms: Mapping[str, ArmSettings]
    agents: Mapping[str, Agent]
    sandbox: Sandbox
    cache: Path
    scratch: Scratch
    packs: Packs
    creators: Mapping[str, Model]
    """By arm: the models that write skills."""
    _benches: dict[str, asyncio.Task[Bench]] = field(default_factory=dict)

    async def run(self, job: Job, context: TrialContext) -> Record:
        """Run one trial; its temporary folder is gone when this returns, however it ends."""
        agent = self.agents[job.key.arm]
        with context.timer.waiting():
            bench = await self._bench(job.key.task)
        folder = self.scratch.folder(str(job.key))
        try:
            pack = await self._pack(job, context, folder)
            result = await attempt(
                bench, agent, skills=pack.arm.id, folder=folder, trial=str(job.key), seed=job.seed, limits=job.limits,
                meter=context.meter, timer=context.timer, pack=pack,
            )  # fmt: skip
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, folder))
        if pack.own or pack.skills:
            result.details["skills"] = pack.account(result.trajectory)
        if pack.said:
            result.blobs["skill_creation.json"] = canonical_json(list(pack.said))
        return self._record(job, context, result, agent, bench)

    async def _pack(self, job: Job, context: TrialContext, folder: Path) -> Pack:
        """The skills of a trial. Raises LimitExceeded and InfraError where a model writes them."""
        spec, place = _skills(self.arms[job.key.arm]), folder / "skills"
        place.mkdir()
        creator, model = None, self.creators.get(job.key.arm)
        if model is not None:
            settings = skill_settings(spec, "skills")
            creator = Creator(model, settings, job.seed, Sampling(), context.meter, context.timer)
        drawn = seed(job.block_seed, job.key.task, job.key.repeat, "environment")
        return await self.packs.make(spec, self.tasks[job.key.task], place, drawn, creator)

    async def _bench(self, task: str) -> Bench:
        """The task's environment, built once however many trials ask for it at the same time."""
        if task not in self._benches or (self._benches[task].done() and self._benches[task].exception() is not None):
            self._benches[task] = asyncio.create_task(open_bench(self.tasks[task], self.sandbox, self.cache))
        try:
            return await asyncio.shield(self._benches[task])
        except UserError as error:
            raise InfraError(one_line(error), cause="environment", retryable=False) from None

    def _record(self, job: Job, context: TrialContext, result: Attempt, agent: Agent, bench: Bench) -> Record:
        redactor = Redactor(extra=agent.secrets)
        put = context.blobs.put
        flags = result.flags if self.sandbox.isolated else [*result.flags, "not_isolated"]
        facts = agent.describe()
        notes = [*self.tasks[job.key.task].warnings, *bench.image.notes]
        trajectory = result.trajectory
        if trajectory is not None:
            trajectory = Trajectory.model_validate(redactor.trace(trajectory.model_dump(mode="json")))
        return Record(
            key=job.key,
            seed=job.seed,
            outcome=Outcome.FAILED if result.cause else Outcome.SCORED,
            scores=result.scores,
            cause=result.cause,
            message=redactor.text(result.message) if result.message else None,
            flags=tuple(flags),
            usage=context.meter.usage,
            visible=put(result.visible),
            trajectory=trajectory,
            artifacts={name: put(redactor.content(blob)) for name, blob in sorted(result.blobs.items())},
            details=redactor.value({**result.details, **({"environment": notes} if notes else {})}),
            provenance={"sandbox": self.sandbox.name, **({"files": facts["files"]} if "files" in facts else {})},
        )

    def failed_scores(self, job: Job) -> dict[str, float]:
        """Of a trial that was ended before anything could be judged."""
        return {"reward": 0.0, "strict": 0.0}

    async def close(self) -> None:
        """Release what the agents hold, and remove all temporary folders."""
        for bench in self._benches.values():
            bench.cancel()
        await asyncio.gather(*self._benches.values(), return_exceptions=True)
        for held in (*self.agents.values(), *self.creators.values()):
            await held.close()
        await asyncio.to_thread(self.scratch.close)


def open_worker(settings: Mapping[str, Any]) -> AgentWorker:
    """The worker of `AgentTrial.work`."""
    suite = parse(SuiteSettings, settings["suite"], where="suite")
    base = Path(settings["base"])
    arms = {name: parse(ArmSettings, arm, where=f'arm "{name}"') for name, arm in settings["arms"].items()}
    agents = {name: open_agent(arm.agent, base, where=f'arm "{name}": agent') for name, arm in arms.items()}
    tasks = {task.id: task for task in _tasks(suite, base)}
    creators = {
        name: open_model(spec, base, where=f'arm "{name}": skills: creator')
        for name, arm in arms.items()
        if (spec := skill_settings(_skills(arm), f'arm "{name}": skills').creator) is not None
    }
    packs, sandbox = Packs(list(tasks.values())), with_paths(choose(suite.sandbox))
    return AgentWorker(tasks, arms, agents, sandbox, cache_folder(), Scratch(), packs, creators)
