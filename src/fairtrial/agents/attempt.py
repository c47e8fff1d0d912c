"""One agent on one task: its box, its run, and the verdict on what it left. Used by trials and by the gate alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fairtrial.agents.agent import Agent, Mission, Needs, Run
from fairtrial.agents.skills.boxes import Pack
from fairtrial.core.clock import Timer
from fairtrial.core.errors import LimitExceeded
from fairtrial.core.limits import Limits, Meter
from fairtrial.core.trajectory import ApiAction, CodeAction, Item, MessageAction, Trajectory
from fairtrial.tasks.harbor.image import VerifierTools
from fairtrial.tasks.reward import Reward
from fairtrial.tasks.sandbox.api import Box, BoxSpec, Execution, Mount, Sandbox
from fairtrial.tasks.scratch import copy_tree, read_inside, remove_tree
from fairtrial.tasks.tamper import tampering
from fairtrial.tasks.task import Image, Step, Task
from fairtrial.tasks.verify import (
    Finished,
    Judgement,
    agent_spec,
    clear_mount_points,
    home_folders,
    passed,
    scores_of,
    verify,
)
from fairtrial.tasks.visible import Entry, Manifests, visible

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_ARTIFACT_LIMIT = 8 << 20
_ARTIFACTS = 50


@dataclass(frozen=True, slots=True)
class Bench:
    """What is the same for all attempts at a task."""

    task: Task
    image: Image
    sandbox: Sandbox
    tools: Mapping[str, VerifierTools]
    """By step."""
    manifests: Manifests


@dataclass(slots=True)
class Attempt:
    """What an agent's attempt at a task came to."""

    scores: dict[str, float] = field(default_factory=dict)
    rewards: list[Reward] = field(default_factory=list)
    cause: str | None = None
    """None: ended by itself. Else the limit that ended the agent; the trial is failed, with the verifier's scores."""
    message: str | None = None
    flags: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    visible: bytes = b""
    trajectory: Trajectory | None = None


@dataclass(slots=True)
class Watched:
    """A box that remembers what was left running and never outlives the agent's time."""

    box: Box
    spec: BoxSpec
    timer: Timer
    until: float
    """Working seconds of the timer at which the agent's time is up."""
    leftover: list[str] = field(default_factory=list)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> Execution:
        """As the box inside does, with what is left of the agent's time as the longest timeout."""
        left = self.until - self.timer.working_s
        if left <= 0:
            raise LimitExceeded("wall_limit", "the agent's time is up")
        timeout_s = left if timeout_s is None else min(timeout_s, left)
        done = await self.box.exec(argv, stdin=stdin, timeout_s=timeout_s, env=env, workdir=workdir)
        self.leftover += done.leftover
        return done


async def attempt(
    bench: Bench,
    agent: Agent,
    *,
    skills: str,
    folder: Path,
    trial: str,
    seed: int,
    limits: Limits,
    meter: Meter,
    timer: Timer,
    pack: Pack | None = None,
) -> Attempt:
    """Let `agent` work on the task and judge what it left.

    `folder` is an empty host folder; the caller removes it. `skills` names the arm's set: "none", "curated", or that of
    `pack`, which then says what is shown. Only the agent's run
    counts as working time. Raises InfraError when the sandbox or the verifier fails.
    """
    task, image = bench.task, bench.image
    result, files = Attempt(), folder / "box"
    with timer.waiting():
        await asyncio.to_thread(copy_tree, image.files, files)
        # The box's own, so that it lasts from one command to the next and until the verdict.
        (files / "tmp").mkdir(exist_ok=True)
        before = await asyncio.to_thread(bench.manifests.of, files, recall=True)
    steps: list[dict[str, Any]] = []
    for number, step in enumerate(task.steps):
        needs = agent.needs(task, step)
        shown = _shown(task, image, skills, pack, needs)
        spec = _spec(bench, files, needs, shown)
        with timer.waiting():
            await asyncio.to_thread(_fresh, files, spec.mounts)
            facts = {"skills": skills if not needs.skills else "always (the agent needs them)", "step": step.name}
            seen = await asyncio.to_thread(_listing, bench, spec, (*shown, *needs.mounts), facts, number == 0)
        if number == 0:
            result.visible = seen
        else:
            result.blobs[f"visible_{step.name}.json"] = seen
        allowed = _allowed(step.agent_timeout_s or task.agent_timeout_s, limits, timer)
        box = Watched(bench.sandbox.box(spec), spec, timer, timer.working_s + allowed)
        mission = Mission(trial, task, step, image, files, allowed, seed, meter, timer)
        run = await _run(agent, box, mission if pack is None or needs.skills else _taught(mission, pack))
        with timer.waiting():
            tamper = await asyncio.to_thread(_tampering, bench, files, before, box.leftover)
            _collect(result, task, files, step, run)
            finished = Finished(files, before, shown)
            judgement = await verify(
                task, step, image, bench.sandbox, finished, folder=_folder(folder, number), tools=bench.tools[step.name]
            )
            await asyncio.to_thread(remove_tree, folder / f"step-{number}")
        if spec.network != task.network:
            result.flags.append("network_opened")
        steps.append(_noted(result, step, run, tamper, judgement))
        if run.cause or not passed(step, judgement.reward):
            break
    result.details |= steps[0] if len(task.steps) == 1 else {"steps": steps, "steps_planned": len(task.steps)}
    result.scores = scores_of(task, result.rewards)
    result.flags = list(dict.fromkeys(result.flags))
    return result


def _shown(task: Task, image: Image, skills: str, pack: Pack | None, needs: Needs) -> tuple[Mount, ...]:
    """The mounts with skills."""
    if pack is not None and pack.folder is not None and not needs.skills:
        return tuple(Mount(pack.folder, place) for place in image.skill_dirs)
    return skill_mounts(task, image) if skills in ("curated", "forced") or needs.skills else ()


def _taught(mission: Mission, pack: Pack) -> Mission:
    """The mission with what the agent is told of skills."""
    listing = pack.listing(mission.image.skill_dirs[0])
    if not pack.instruction:
        return replace(mission, skills=listing)
    text = mission.step.instruction.rstrip() + pack.instruction
    return replace(mission, skills=listing, step=replace(mission.step, instruction=text))


def skill_mounts(task: Task, image: Image) -> tuple[Mount, ...]:
    """The task's skill folder, read-only, wherever its author shows it."""
    if not task.skills:
        return ()
    return tuple(Mount(task.skills[0].path.parent, place) for place in image.skill_dirs)


def _spec(bench: Bench, files: Path, needs: Needs, shown: tuple[Mount, ...]) -> BoxSpec:
    spec = agent_spec(bench.task, bench.image, files, (*shown, *needs.mounts))
    network = "public" if needs.network == "public" else spec.network
    return replace(spec, env={**spec.env, **needs.env}, network=network)


def _listing(bench: Bench, spec: BoxSpec, shown: Sequence[Mount], facts: dict[str, Any], untouched: bool) -> bytes:
    """What the agent of this box can read; hashes are reused only while no agent has been in the box."""
    files = bench.manifests.of(spec.files, recall=untouched)
    facts = {**facts, "network": spec.network, "variables": sorted(spec.env)}
    return visible(files, bench.image.mounts, shown, facts, bench.manifests)


def _tampering(bench: Bench, files: Path, before: Mapping[str, Entry], leftover: list[str]) -> dict[str, list[str]]:
    image = bench.image
    return tampering(
        before,
        bench.manifests.of(files),
        workdir=image.workdir,
        homes=home_folders(image),
        path=(*image.path, *SYSTEM_PATH),
        leftover=leftover,
    )


def _fresh(files: Path, mounts: Sequence[Mount]) -> None:
    """Empty /logs, and nothing in the way of the mounts."""
    remove_tree(files / "logs")
    for name in ("agent", "verifier", "artifacts"):
        (files / "logs" / name).mkdir(parents=True)
    clear_mount_points(files, mounts)


def _allowed(timeout_s: float, limits: Limits, timer: Timer) -> float:
    if limits.seconds is None:
        return timeout_s
    # A little less than the cap: the agent is to be ended here, and judged, before the engine ends the whole trial.
    left = limits.seconds - timer.working_s
    return max(0.05, min(timeout_s, left - min(2.0, 0.25 * limits.seconds)))


async def _run(agent: Agent, box: Watched, mission: Mission) -> Run:
    try:
        return await agent.run(box, mission)
    except LimitExceeded as error:
        cause = error.limit if error.limit.endswith("_limit") else f"{error.limit}_limit"
        return Run(Trajectory(id=f"{mission.trial}/{mission.step.name}"), cause, str(error))


def _folder(folder: Path, number: int) -> Path:
    path = folder / f"step-{number}"
    path.mkdir()
    return path


def _noted(result: Attempt, step: Step, run: Run, tamper: dict[str, list[str]], judgement: Judgement) -> dict[str, Any]:
    """Add a step's run and verdict to the result; returns the step's details."""
    result.rewards.append(judgement.reward)
    result.cause, result.message = run.cause, run.message
    result.flags += [*run.flags, *tamper, *judgement.flags]
    several = "" if step.name == "main" else f"{step.name}/"
    result.blobs |= {f"{several}{name}": blob for name, blob in (run.blobs | judgement.blobs).items()}
    if result.trajectory is None:
        result.trajectory = run.trajectory
    else:
        offset = len(result.trajectory.model_calls)
        result.trajectory = _joined(result.trajectory, run.trajectory, offset)
    details: dict[str, Any] = {"agent": run.details, "verifier": judgement.details}
    if tamper:
        details["tamper"] = tamper
    if step.name != "main":
        details |= {"step": step.name, "reward": judgement.reward.value}
    return details


def _joined(first: Trajectory, second: Trajectory, offset: int) -> Trajectory:
    """One trajectory of two runs; references to model calls are moved."""
    items = tuple(_moved(item, offset) for item in second.content)
    calls = tuple(
        call.model_copy(update={"prompt": call.prompt.model_copy(update={"base": call.prompt.base + offset})})
        if call.prompt is not None and call.prompt.base is not None
        else call
        for call in second.model_calls
    )
    return first.model_copy(update={"content": first.content + items, "model_calls": first.model_calls + calls})


def _moved(item: Item, offset: int) -> Item:
    if isinstance(item, ApiAction | CodeAction | MessageAction) and item.model_call is not None:
        return item.model_copy(update={"model_call": item.model_call + offset})
    return item


def _collect(result: Attempt, task: Task, files: Path, step: Step, run: Run) -> None:
    """Keep the artifacts that the task declares, and what the agent put in /logs/artifacts."""
    wanted = [path if path.startswith("/") else f"/{path}" for path in task.artifacts]
    missing: list[str] = []
    kept = 0
    for path in [*wanted, "/logs/artifacts"]:
        found = _artifact_files(files, path)
        if not found and path in wanted:
            missing.append(f"{path}: not there")
        for name in found:
            try:
                content = read_inside(files, name, _ARTIFACT_LIMIT) if kept < _ARTIFACTS else None
            except ValueError as error:
                missing.append(str(error))
                continue
            if content is None:
                missing.append(f"{name}: more than {_ARTIFACTS} artifacts")
                break
            kept += 1
            result.blobs[f"artifacts{name}"] = content
    if missing:
        run.details["artifacts_missing"] = missing[:20]


def _artifact_files(files: Path, path: str) -> list[str]:
    """The regular files at or below `path` of the box, reached through no link."""
    place = files
    for part in path.strip("/").split("/"):
        place = place / part
        if part == ".." or place.is_symlink():
            return []
    if place.is_dir():
        listed: dict[str, Entry] = Manifests().of(place, path.rstrip("/"))
        return [name for name, entry in listed.items() if entry.link is None]
    return [path] if place.is_file() else []
