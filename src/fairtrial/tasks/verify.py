"""Judging what an agent left: a second, fresh box, opened when the agent's box is dead.

The box holds the agent's files without anything that a verifier's programs would load by themselves, the tests
read-only at /tests, an empty /logs and an environment in which nothing of the agent's is on any search path. The
verdict is read from the box's folder by the driver afterwards.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fairtrial.core.errors import InfraError
from fairtrial.tasks.candidate import FOLDER, Broker, write_programs
from fairtrial.tasks.harbor.image import VerifierTools
from fairtrial.tasks.reward import Reward, read_reward
from fairtrial.tasks.sandbox.api import Box, BoxLimits, BoxSpec, End, Execution, Mount, Sandbox
from fairtrial.tasks.scratch import copy_tree, read_inside, remove_tree
from fairtrial.tasks.tamper import SYSTEM, planted_autoload
from fairtrial.tasks.task import Image, Step, Task
from fairtrial.tasks.visible import Entry, Manifests

HOME = "/logs/home"
"""The verifier's home: empty, so that no start-up file of the agent's is read."""
OUTSIDE = frozenset({"logs", "tests", "solution", "runtime"})
"""Top-level folders of the agent's box that the verifier never sees."""
_DENIED = ("PYTHON", "LD_", "PYTEST_", "BASH_", "PIP_", "UV_")
_DEATHS = {End.OUT_OF_MEMORY: "ran out of memory", End.CRASH: "crashed", End.DISK_LIMIT: "wrote too much"}
_DETAILS_LIMIT = 256 * 1024
_KEPT_TESTS = 200


@dataclass(frozen=True, slots=True)
class Finished:
    """What an agent left behind, and what its box was made of."""

    files: Path
    """Host folder of the agent's box; not changed by verification."""
    before: Mapping[str, Entry]
    """Its files when the agent started."""
    mounts: tuple[Mount, ...]
    """Read-only mounts that the agent had beside the image's (skills): the code that it wrote may use them."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one step."""

    reward: Reward
    flags: tuple[str, ...]
    details: dict[str, Any]
    blobs: dict[str, bytes]


async def verify(
    task: Task, step: Step, image: Image, sandbox: Sandbox, finished: Finished, *, folder: Path, tools: VerifierTools
) -> Judgement:
    """Run the verifier of `step` on what the agent left.

    `folder` is an empty host folder for the boxes; the caller removes it. Raises InfraError: cause
    "verifier_out_of_memory", "verifier_cpu_limit", "verifier_wall_limit", "verifier_disk_limit" or "verifier_crash"
    when a limit or a signal ended the verifier, "verifier" when it left no valid verdict.
    """
    verifier = step.verifier
    files = folder / "verifier"
    mounts = (*tools.mounts, *finished.mounts, Mount(verifier.tests, "/tests"), Mount(folder / "broker", FOLDER))
    await asyncio.to_thread(prepare, finished, image, files, mounts)
    (folder / "broker").mkdir()
    write_programs(folder / "broker")

    async def candidate_box() -> Box:
        own = folder / "candidate"
        await asyncio.to_thread(copy_tree, finished.files, own, leave_out=OUTSIDE)
        clear_mount_points(own, finished.mounts)
        return sandbox.box(agent_spec(task, image, own, finished.mounts))

    broker = Broker(candidate_box, folder / "broker", seconds=verifier.timeout_s)
    shows_sockets = sandbox.isolated
    if shows_sockets:
        await broker.start()
    spec = BoxSpec(
        files=files,
        mounts=mounts,
        workdir=image.workdir,
        env={**environment(image, tools, verifier.env), **(broker.env() if shows_sockets else {})},
        path=search_path(image, tools),
        network=verifier.network,
        limits=task.limits,
    )
    try:
        done = await sandbox.box(spec).exec(["/bin/bash", f"/tests/{verifier.script}"], timeout_s=verifier.timeout_s)
    finally:
        await broker.stop()
    return _judged(step, files, done, task.limits, broker, () if shows_sockets else ("candidate_not_isolated",))


def agent_spec(task: Task, image: Image, files: Path, mounts: Sequence[Mount]) -> BoxSpec:
    """The box that an agent of `task` works in (the caller adds what its agent needs)."""
    return BoxSpec(
        files=files,
        mounts=(*image.mounts, *mounts),
        workdir=image.workdir,
        env=image.env,
        path=image.path,
        network=task.network,
        limits=task.limits,
    )


def _judged(
    step: Step, files: Path, done: Execution, limits: BoxLimits, broker: Broker, flags: tuple[str, ...]
) -> Judgement:
    end = _end(done, limits)
    if end is not End.EXIT:
        said = _DEATHS.get(end, f"was ended by its {end.value.replace('_', ' ')}")
        raise InfraError(f"the verifier {said}: {_tail(done)}".rstrip(": "), cause=f"verifier_{end.value}")
    if broker.failed is not None:
        raise InfraError(f"the agent's code could not be run for the verifier: {broker.failed}", cause="candidate")
    try:
        reward = read_reward(files, step.verifier.tests)
    except InfraError as error:
        words = f"{error}; exit code {done.exit_code}: {_tail(done)}".rstrip(": ")
        raise InfraError(words, cause=error.cause, retryable=error.retryable) from None
    details: dict[str, Any] = {"exit_code": done.exit_code, "seconds": round(done.wall_s, 3), "source": reward.source}
    blobs = {"verifier_stdout.txt": done.stdout, "verifier_stderr.txt": done.stderr}
    for name in ("ctrf.json", "details.json"):
        try:
            raw = read_inside(files, f"/logs/verifier/{name}", _DETAILS_LIMIT)
        except ValueError as error:
            details[name] = f"not kept: {error}"
            continue
        if raw is not None:
            blobs[name] = raw
            if (shown := _tests(raw)) is not None:
                details["tests"] = shown
    if broker.served or broker.refused:
        details["candidate"] = {"runs": broker.served, "refused": broker.refused[:5], "ends": broker.ends[:20]}
    if done.leftover:
        flags = (*flags, "left_processes_in_verifier")
    return Judgement(reward, (*reward.flags, *flags), details, {name: blob for name, blob in blobs.items() if blob})


def _end(done: Execution, limits: BoxLimits) -> End:
    """How the verifier ended; a limit that took one of its children is its own, whatever its script made of it."""
    if done.end is not End.EXIT:
        return done.end
    if done.oom_kills:
        return End.OUT_OF_MEMORY
    return End.CPU_LIMIT if limits.cpu_s is not None and done.cpu_s >= limits.cpu_s else End.EXIT


def _tail(done: Execution) -> str:
    text = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace")
    return " ".join(text.splitlines()[-3:])[-300:]


def _tests(raw: bytes) -> list[dict[str, Any]] | None:
    """Name and status (or score) of each test in a CTRF report or a details.json; None where it is neither."""
    try:
        data = json.loads(raw)
        rows = data["results"]["tests"] if "results" in data else data["checks"]
        kept: list[dict[str, Any]] = []
        for row in rows[:_KEPT_TESTS]:
            shown = {key: row[key] for key in ("name", "status", "score") if key in row}
            if "detail" in row:
                shown["detail"] = str(row["detail"])[:200]
            kept.append(shown)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return kept


def prepare(finished: Finished, image: Image, files: Path, mounts: Sequence[Mount]) -> None:
    """Make the verifier's files: the agent's, without what would work on the verifier by itself."""
    copy_tree(finished.files, files, leave_out=OUTSIDE)
    for at in restored(image):
        clear_mount_points(files, [Mount(image.files, at)])
        own, original = files / at.lstrip("/"), image.files / at.lstrip("/")
        remove_tree(own)
        if original.is_symlink():
            own.symlink_to(original.readlink())
        elif original.is_dir():
            copy_tree(original, own)
    after = Manifests().of(files)
    homes = home_folders(image)
    for name in sorted(after):
        old = finished.before.get(name)
        if (old is None or old.sha256 != after[name].sha256) and planted_autoload(name, image.workdir, homes):
            path = files / name.lstrip("/")
            path.unlink()
            original = image.files / name.lstrip("/")
            if original.is_file() and not original.is_symlink():
                shutil.copy2(original, path)
    clear_mount_points(files, mounts)
    for name in ("verifier", "agent", "artifacts", "home"):
        (files / "logs" / name).mkdir(parents=True)


def clear_mount_points(files: Path, mounts: Sequence[Mount]) -> None:
    """Remove links and files that an agent put where a mount goes, which would redirect or break the mount."""
    for mount in mounts:
        path = files
        parts = PurePosixPath(mount.target).parts[1:]
        for number, part in enumerate(parts):
            path = path / part
            last_file = number == len(parts) - 1 and not mount.source.is_dir()
            if path.is_symlink() or (path.exists() and path.is_dir() == last_file):
                remove_tree(path)


def home_folders(image: Image) -> tuple[str, ...]:
    """Where the agent's shells may have looked for a home."""
    return tuple(dict.fromkeys((image.env.get("HOME", "/root"), "/root")))


def environment(image: Image, tools: VerifierTools, own: Mapping[str, str]) -> dict[str, str]:
    """The verifier's environment: the image's without search paths and start-up hooks, then the task author's.

    Of a PYTHONPATH only folders remain that an agent could not write.
    """
    kept = {name: value for name, value in tools.env.items() if name not in ("PATH", "HOME", "ENV")}
    packages = [entry for entry in kept.get("PYTHONPATH", "").split(":") if entry and _fixed(entry, tools.mounts)]
    kept = {name: value for name, value in kept.items() if not name.startswith(_DENIED)}
    hygiene = {
        "HOME": HOME,
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": ":".join([f"{FOLDER}/lib", "/tests", *packages]),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "FAIRTRIAL_CANDIDATE": f"{FOLDER}/candidate",
    }
    return {**hygiene, **kept, **{name: value for name, value in own.items() if name != "PATH"}}


def search_path(image: Image, tools: VerifierTools) -> tuple[str, ...]:
    """Folders before the system's on the verifier's PATH: only such as hold nothing of the agent's."""
    return tuple(at for at in tools.path if _fixed(at, tools.mounts) or at in restored(image))


def restored(image: Image) -> tuple[str, ...]:
    """Writable folders whose content is put back to the image's: the system's, and those on the image's PATH."""
    work = PurePosixPath(image.workdir)
    mine = [at.rstrip("/") for at in image.path if not _fixed(at, image.mounts)]
    # A folder that the agent is meant to work in cannot be put back: it is left off the PATH instead.
    return (*(at.rstrip("/") for at in SYSTEM), *(at for at in mine if at and not work.is_relative_to(at)))


def _fixed(folder: str, mounts: Sequence[Mount]) -> bool:
    """Whether `folder` of the box lies in a read-only mount."""
    path = PurePosixPath(folder)
    return any(not mount.writable and path.is_relative_to(mount.target) for mount in mounts)


def passed(step: Step, reward: Reward) -> bool:
    """Whether the steps after this one are run."""
    wanted = step.min_reward
    if wanted is None:
        return True
    if isinstance(wanted, Mapping):
        return all(reward.scores.get(key, float("-inf")) >= value for key, value in wanted.items())
    return reward.value >= wanted


def scores_of(task: Task, rewards: Sequence[Reward]) -> dict[str, float]:
    """A trial's scores: reward (fractions kept), strict (1 only for a full reward) and the verifier's other numbers.

    Over several steps the reward is the mean of all planned steps, or the last one's; a step that was not reached
    counts 0.
    """
    if len(task.steps) == 1:
        reward, others = rewards[0].value, rewards[0].scores
    elif task.step_reward == "final":
        reward, others = (rewards[-1].value if len(rewards) == len(task.steps) else 0.0), {}
    else:
        reward, others = sum(item.value for item in rewards) / len(task.steps), {}
    return {**others, "reward": reward, "strict": 1.0 if reward == 1.0 else 0.0}
