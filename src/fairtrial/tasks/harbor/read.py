"""A task folder in the Harbor format (task.toml + instruction.md, or a single task.md) read into a Task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtrial.core.config import read_toml
from fairtrial.core.errors import UserError, one_line
from fairtrial.core.ids import check_name
from fairtrial.core.trial import TaskInfo
from fairtrial.tasks.harbor.files import folder_digest, read_text, walk
from fairtrial.tasks.harbor.front import task_md_tables
from fairtrial.tasks.harbor.requirements import merged, script_installs
from fairtrial.tasks.harbor.schema import NetworkMode, StepSection, TaskToml, parse_task_toml, strays
from fairtrial.tasks.sandbox.api import BoxLimits, Network
from fairtrial.tasks.skill import read_skill, skill_file
from fairtrial.tasks.task import Skill, Step, Task, Verifier

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Declared:
    """What a task folder declares, before anything but its settings was read."""

    settings: TaskToml
    instruction: str | None
    """None where the steps have instructions of their own."""
    tests: str
    """Name of the verifier's folder."""
    solution: str


def is_task(path: Path) -> bool:
    """Whether `path` looks like a task folder."""
    return (path / "task.toml").is_file() or (path / "task.md").is_file()


def read_declared(path: Path) -> Declared:
    """The settings of a task folder. Raises UserError."""
    if (path / "task.toml").is_file():
        settings = parse_task_toml(read_toml(path / "task.toml"), where=str(path / "task.toml"))
        instruction = path / "instruction.md"
        if not instruction.is_file() and not settings.steps:
            raise UserError(f"{instruction}: no such file; a task needs its instruction there")
        return Declared(settings, read_text(instruction) if instruction.is_file() else None, "tests", "solution")
    if (path / "task.md").is_file():
        tables, instruction_text = task_md_tables(read_text(path / "task.md"), where=str(path / "task.md"))
        settings = parse_task_toml(tables, where=str(path / "task.md"))
        return Declared(settings, instruction_text, "verifier", "oracle")
    if not path.is_dir():
        raise UserError(f"{path}: no such task folder")
    raise UserError(f"{path}: is no task: it has neither task.toml nor task.md")


def read_task(path: Path, *, environ: Mapping[str, str] | None = None) -> Task:
    """The task in the folder `path`; its id is the folder's name.

    `environ` fills `${VARIABLE}` in the task's env tables; nothing is ever taken from the host's own environment.
    Raises UserError, on one line, for whatever keeps the task from being run and verified.
    """
    path = path.resolve()
    declared = read_declared(path)
    settings = declared.settings
    warnings = [f"task.toml: {line}" for line in (*strays(settings), *_without_meaning(settings))]
    skills = tuple(_skills(path / "environment" / "skills", warnings))
    network = _network(settings.environment.network_mode, settings.environment.allow_internet, "environment", warnings)
    steps = tuple(_steps(path, declared, environ or {}, warnings))
    solution_env = _filled(settings.solution.env, environ or {}, "solution.env", warnings)
    family = settings.metadata.get("family")
    return Task(
        info=TaskInfo(
            id=check_name(path.name, "task"),
            digest=folder_digest(path),
            family=family if isinstance(family, str) else None,
            tags=_tags(settings.metadata),
        ),
        path=path,
        steps=steps,
        skills=skills,
        limits=BoxLimits(
            memory_mb=settings.environment.memory_limit_mb or BoxLimits().memory_mb,
            cpus=settings.environment.cpus,
            disk_mb=settings.environment.storage_limit_mb or BoxLimits().disk_mb,
        ),
        agent_timeout_s=settings.agent.timeout_sec,
        network=_network(settings.agent.network_mode, None, "agent", warnings)
        if settings.agent.network_mode
        else network,
        solution_env=solution_env,
        step_reward=settings.multi_step_reward_strategy or "mean",
        artifacts=_artifacts(settings),
        warnings=tuple(warnings),
    )


def read_suite(path: Path) -> list[Task]:
    """All tasks of a folder of task folders (or of one task folder), in the order of their names.

    Raises UserError naming every broken one.
    """
    return read_tasks([path] if is_task(path) else task_folders(path))


def read_tasks(folders: Sequence[Path]) -> list[Task]:
    """The tasks in `folders`. Raises UserError naming every broken one."""
    tasks: list[Task] = []
    errors: list[str] = []
    for folder in folders:
        try:
            tasks.append(read_task(folder))
        except UserError as error:
            errors.append(one_line(error))
    if errors:
        raise UserError(f"{len(errors)} of {len(folders)} tasks cannot be read: {'; '.join(errors)}")
    return tasks


def task_folders(path: Path) -> list[Path]:
    """The task folders directly below `path`, sorted by name. Raises UserError when there are none."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder of tasks")
    found = sorted(item for item in path.iterdir() if item.is_dir() and is_task(item))
    if not found:
        raise UserError(f"{path}: holds no task folder (a folder with task.toml or task.md)")
    return found


def _artifacts(settings: TaskToml) -> tuple[str, ...]:
    listed = [*settings.artifacts, *(item for step in settings.steps for item in step.artifacts)]
    return tuple(dict.fromkeys(item if isinstance(item, str) else item.source for item in listed))


def _without_meaning(settings: TaskToml) -> Iterator[str]:
    """Known settings that change nothing here, each with the reason."""
    users = [("agent", settings.agent.user), ("verifier", settings.verifier.user)]
    users += [(f"steps.{step.name}", step.agent.user or step.verifier.user) for step in settings.steps]
    for table, user in users:
        if user not in (None, "root", 0):
            yield f"{table}.user {user}: programs run as the box's only user"
    for item in settings.artifacts:
        if not isinstance(item, str) and (item.destination or item.exclude or item.service):
            yield f"artifact {item.source}: kept whole under its own path; destination, exclude, service mean nothing"


def _tags(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The category first, then the tags. A category is a subject, not a family: its tasks stay independent."""
    tags = metadata.get("tags")
    named = [metadata.get("category"), *(tags if isinstance(tags, list) else [])]
    return tuple(dict.fromkeys(tag for tag in named if isinstance(tag, str)))


def _skills(folder: Path, warnings: list[str]) -> Iterator[Skill]:
    if not folder.is_dir():
        return
    list(walk(folder))
    for item in sorted(folder.iterdir()):
        if not item.is_dir():
            continue
        if skill_file(item) is None:
            warnings.append(f"environment/skills/{item.name}: has no SKILL.md and is no skill")
            continue
        skill = read_skill(item, lenient=True)
        warnings.extend(f"environment/skills/{item.name}: {problem}" for problem in skill.problems)
        yield skill


def _steps(path: Path, declared: Declared, environ: Mapping[str, str], warnings: list[str]) -> Iterator[Step]:
    settings = declared.settings
    if not settings.steps:
        yield Step(
            name="main",
            instruction=_instruction(declared.instruction or "", path / "instruction.md"),
            verifier=_verifier(path / declared.tests, declared, None, environ, warnings),
            solution=_solution(path / declared.solution, warnings),
        )
        return
    for step in settings.steps:
        folder = path / "steps" / step.name
        if not folder.is_dir():
            raise UserError(f'{folder}: no such folder; the step "{step.name}" needs its instruction and tests there')
        own = folder / declared.tests
        yield Step(
            name=step.name,
            instruction=_instruction(read_text(folder / "instruction.md"), folder / "instruction.md"),
            verifier=_verifier(own if own.is_dir() else path / declared.tests, declared, step, environ, warnings),
            solution=_solution(folder / declared.solution, warnings) or _solution(path / declared.solution, warnings),
            min_reward=step.min_reward,
            agent_timeout_s=step.agent.timeout_sec,
        )


def _instruction(text: str, path: Path) -> str:
    if not text.strip():
        raise UserError(f"{path}: is empty; write what the agent has to do")
    return text


def _verifier(
    tests: Path, declared: Declared, step: StepSection | None, environ: Mapping[str, str], warnings: list[str]
) -> Verifier:
    if not (tests / "test.sh").is_file():
        raise UserError(f"{tests / 'test.sh'}: no such file; a task without a verifier cannot be scored")
    section = declared.settings.verifier
    env = {**section.env, **(step.verifier.env if step else {})}
    own_timeout = step.verifier.timeout_sec if step else None
    return Verifier(
        tests=tests,
        timeout_s=own_timeout or section.timeout_sec,
        env=_filled(env, environ, "verifier.env", warnings),
        network=_network(section.network_mode, None, "verifier", warnings) if section.network_mode else "none",
        packages=_packages(tests / "test.sh", warnings),
    )


def _packages(script: Path, warnings: list[str]) -> tuple[str, ...]:
    """The Python requirements that a test.sh installs."""
    installs = list(script_installs(read_text(script)))
    warnings.extend(f"{script.parent.name}/test.sh: {reason}" for install in installs for reason in install.refused)
    return merged([text for install in installs for text in install.requirements])


def _solution(folder: Path, warnings: list[str]) -> Path | None:
    script = folder / "solve.sh"
    if not script.is_file():
        return None
    try:
        installs = list(script_installs(read_text(script)))
    except UserError as error:
        warnings.append(one_line(error))
        return folder
    if wanted := merged([text for install in installs for text in install.requirements]):
        line = f"{folder.name}/solve.sh installs {', '.join(wanted)}, which no agent could do without network"
        warnings.extend([] if line in warnings else [line])
    return folder


def _network(mode: NetworkMode | None, legacy: bool | None, table: str, warnings: list[str]) -> Network:
    if mode == "public":
        return "public"
    lines: list[str] = []
    if mode == "allowlist":
        lines.append(f'{table}.network_mode = "allowlist": hosts cannot be allowed one by one here; the network is cut')
    elif mode is None and legacy:
        lines.append(f"{table}.allow_internet: a legacy key; the network is cut unless network_mode asks for it")
    warnings.extend(line for line in lines if line not in warnings)
    return "none"


def unfilled(env: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The keys of an env table whose `${VARIABLE}` has neither a value in `environ` nor a default."""
    return {
        key: match[1]
        for key, text in env.items()
        for match in _VARIABLE.finditer(text)
        if match[1] not in environ and match[2] is None
    }


def _filled(env: Mapping[str, str], environ: Mapping[str, str], table: str, warnings: list[str]) -> dict[str, str]:
    missing = unfilled(env, environ)
    for key, variable in missing.items():
        line = f"{table}.{key} wants ${{{variable}}} from the host; a task is never given the host's variables"
        warnings.extend([] if line in warnings else [line])
    return {
        key: _VARIABLE.sub(lambda m: environ.get(m[1], m[2] or ""), text)
        for key, text in env.items()
        if key not in missing
    }
