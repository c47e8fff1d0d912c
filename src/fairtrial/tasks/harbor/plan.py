"""A task's environment folder read into a plan: what to copy, what to run, what to install, and what is refused.

Nothing is built and nothing is executed here. The skills of a task are never part of its image: lines that copy them
only tell where an arm that has skills shows them (`skill_dirs`), and the build context leaves `skills/` out always.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fairtrial.core.errors import UserError, one_line
from fairtrial.tasks.harbor.context import Context
from fairtrial.tasks.harbor.dockerfile import Instruction, assignments, parse_dockerfile, substitute, words
from fairtrial.tasks.harbor.files import read_text
from fairtrial.tasks.harbor.host import base_reason
from fairtrial.tasks.harbor.read import read_declared, unfilled
from fairtrial.tasks.harbor.requirements import merged, requirement_lines
from fairtrial.tasks.harbor.runline import plan_run
from fairtrial.tasks.harbor.schema import EnvironmentSection, TaskToml

DEFAULT_SKILL_DIRS = ("/root/.claude/skills", "/root/.agents/skills")
_BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMPOSE = ("docker-compose.yaml", "docker-compose.yml", "compose.yaml", "compose.yml")
_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "tini", "dumb-init", "env"})


@dataclass(frozen=True, slots=True)
class CopyAction:
    """Files of the build context to put into the image."""

    line: int
    sources: tuple[str, ...]
    """Names relative to the context; empty for a here-document."""
    target: str
    """Absolute; a trailing slash says that it is a folder."""
    mode: int | None = None
    text: str | None = None
    """Content of a here-document."""


@dataclass(frozen=True, slots=True)
class FolderAction:
    """A folder to make (WORKDIR, mkdir, and where a RUN line writes)."""

    line: int
    target: str


@dataclass(frozen=True, slots=True)
class RunAction:
    """A program to run in a box without network."""

    line: int
    argv: tuple[str, ...]
    workdir: str
    env: tuple[tuple[str, str], ...]


Action = CopyAction | FolderAction | RunAction


@dataclass(frozen=True, slots=True)
class Problem:
    """What cannot be honoured, and where."""

    line: int
    """Line of the Dockerfile; 0 where it is not about the Dockerfile."""
    instruction: str
    reason: str

    def __str__(self) -> str:
        """`Dockerfile line 3 (RUN): reason`."""
        return f"Dockerfile line {self.line} ({self.instruction}): {self.reason}" if self.line else self.reason


@dataclass(slots=True)
class ImagePlan:
    """How to build an image here."""

    actions: list[Action] = field(default_factory=list)
    requirements: list[str] = field(default_factory=list)
    """Python requirements, in the order of the Dockerfile."""
    index: list[str] = field(default_factory=list)
    """Index options for pip."""
    packages: list[str] = field(default_factory=list)
    """Debian packages that this machine has."""
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    skill_dirs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def layer_requirements(self) -> tuple[str, ...]:
        """What the Python layer of the image has to hold."""
        return merged(self.requirements)


def plan_image(folder: Path) -> ImagePlan:
    """Plan the image of the task in `folder`; what cannot be honoured is listed in `problems`.

    Raises UserError when the task or its Dockerfile cannot be read at all.
    """
    settings = read_declared(folder).settings
    environment = folder / "environment"
    plan = ImagePlan()
    plan.problems += [Problem(0, "task.toml", reason) for reason in _unhonoured(settings)]
    if any((environment / name).is_file() for name in _COMPOSE):
        plan.problems.append(Problem(0, "compose", "needs a container engine: the environment has a compose file"))
    dockerfile = environment / "Dockerfile"
    if dockerfile.is_file():
        _Reader(plan, Context(environment), dockerfile).read()
    elif settings.environment.docker_image is not None:
        _base(plan, 0, settings.environment.docker_image)
    else:
        raise UserError(f"{dockerfile}: no such file; a task needs an environment (or environment.docker_image)")
    _settings(plan, settings.environment)
    return plan


def _unhonoured(settings: TaskToml) -> Iterator[str]:
    environment = settings.environment
    if environment.os != "linux":
        yield f"needs {environment.os}"
    if environment.gpus or environment.tpu:
        yield "needs a GPU or TPU, which boxes do not have"
    if environment.mcp_servers:
        yield "needs MCP servers beside the environment, which are not started here"
    if environment.healthcheck or any(step.healthcheck for step in settings.steps):
        yield "waits for a service with a healthcheck, and no service outlives a command here"
    if settings.verifier.environment_mode == "separate" or settings.verifier.environment:
        yield "wants another environment for its verifier"
    if settings.verifier.collect:
        yield "collects evidence with commands in the agent's environment (verifier.collect)"
    if "allowlist" in (environment.network_mode, settings.agent.network_mode, settings.verifier.network_mode):
        yield 'network_mode = "allowlist": hosts cannot be allowed one by one here'
    tables = {"verifier": settings.verifier.env, "solution": settings.solution.env, "environment": environment.env}
    for table, env in tables.items():
        for key, variable in unfilled(env, {}).items():
            yield f"{table}.env.{key} wants ${{{variable}}} from the host; a task is never given the host's variables"


def _settings(plan: ImagePlan, environment: EnvironmentSection) -> None:
    missing = unfilled(environment.env, {})
    for key, value in environment.env.items():
        if key not in missing:
            plan.env[key] = substitute(value, {})
    if environment.workdir is not None:
        plan.workdir = posixpath.normpath(posixpath.join(plan.workdir, environment.workdir))
        plan.actions.append(FolderAction(0, plan.workdir))
    if environment.skills_dir is not None and environment.skills_dir.startswith("/"):
        plan.skill_dirs.append(posixpath.normpath(environment.skills_dir))
    plan.skill_dirs = list(dict.fromkeys(plan.skill_dirs)) or list(DEFAULT_SKILL_DIRS)
    # Boxes show /etc and /usr read-only: a place to mount on has to be there, empty, in every arm.
    plan.actions += [FolderAction(0, item) for item in plan.skill_dirs if item.startswith(("/etc/", "/usr/"))]
    plan.notes = list(dict.fromkeys(plan.notes))
    plan.problems = list(dict.fromkeys(plan.problems))


def _base(plan: ImagePlan, line: int, image: str) -> None:
    reason = base_reason(image)
    if reason is not None:
        plan.problems.append(Problem(line, "FROM", f"{reason}; use a container engine for this task"))
    elif image != "scratch":
        plan.notes.append(f"{image} is replaced by this machine's system and Python")


class _Reader:
    """Walks through a Dockerfile and fills a plan."""

    def __init__(self, plan: ImagePlan, context: Context, dockerfile: Path) -> None:
        self.plan = plan
        self.context = context
        self.dockerfile = dockerfile
        self.arguments: dict[str, str] = {}
        self.shell = ("/bin/sh", "-c")
        self.stages = 0

    def read(self) -> None:
        instructions = parse_dockerfile(read_text(self.dockerfile), where=str(self.dockerfile))
        if not any(item.keyword == "FROM" for item in instructions):
            raise UserError(f"{self.dockerfile}: has no FROM instruction")
        for item in instructions:
            handler = getattr(self, f"_{item.keyword.lower()}", None)
            if item.keyword in ("LABEL", "EXPOSE", "MAINTAINER", "STOPSIGNAL", "CMD", "HEALTHCHECK", "VOLUME"):
                continue
            if handler is None:
                self._refuse(item, f"{item.keyword} cannot be honoured")
            else:
                handler(item)

    def _refuse(self, item: Instruction, reason: str) -> None:
        self.plan.problems.append(Problem(item.line, item.keyword, reason))

    @property
    def _variables(self) -> dict[str, str]:
        return {"PATH": _BASE_PATH, "HOME": "/root", **self.arguments, **self.plan.env}

    def _from(self, item: Instruction) -> None:
        self.stages += 1
        parts = words(item.text, self.arguments)
        if self.stages > 1:
            self._refuse(item, "several build stages need a container engine")
        elif not parts:
            self._refuse(item, "names no image")
        else:
            _base(self.plan, item.line, parts[0])

    def _arg(self, item: Instruction) -> None:
        self.arguments.update(assignments(item.text, self._variables))

    def _env(self, item: Instruction) -> None:
        for name, value in assignments(item.text, self._variables).items():
            if name == "PATH":
                known = set(_BASE_PATH.split(":"))
                self.plan.path = [part for part in value.split(":") if part.startswith("/") and part not in known]
            elif name:
                self.plan.env[name] = value

    def _workdir(self, item: Instruction) -> None:
        target = " ".join(words(item.text, self._variables))
        self.plan.workdir = posixpath.normpath(posixpath.join(self.plan.workdir, target or "/"))
        self.plan.actions.append(FolderAction(item.line, self.plan.workdir))

    def _user(self, item: Instruction) -> None:
        if item.text.strip() not in ("root", "0", "root:root", "0:0"):
            self.plan.notes.append(f"user {item.text.strip()}: programs run as the box's only user")

    def _shell(self, item: Instruction) -> None:
        form = item.json_form()
        if not form or form[0].rsplit("/", 1)[-1] not in ("sh", "bash", "dash"):
            self._refuse(item, "only sh and bash are known")
        else:
            self.shell = tuple(form)

    def _entrypoint(self, item: Instruction) -> None:
        form = item.json_form()
        program = form[0] if form else item.text.split()[0] if form is None and item.text.split() else ""
        if program and program.rsplit("/", 1)[-1] not in _SHELLS:
            self._refuse(item, "starts a program beside the agent, and no service outlives a command here")

    def _add(self, item: Instruction) -> None:
        sources = (item.json_form() or words(item.text, self._variables))[:-1]
        if any("://" in source or source.startswith("git@") for source in sources):
            self._refuse(item, "downloads; put the file into the environment folder")
        elif any(source.endswith((".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")) for source in sources):
            self._refuse(item, "unpacks an archive; put the files into the environment folder and use COPY")
        else:
            self._copy(item)

    def _copy(self, item: Instruction) -> None:
        flags = dict(item.flags)
        if unknown := sorted(set(flags) - {"chown", "chmod", "link"}):
            reason = "copies from another build stage or image" if "from" in flags else f"--{unknown[0]} is not known"
            self._refuse(item, reason)
            return
        form = item.json_form()
        parts = [substitute(part, self._variables) for part in form] if form else words(item.text, self._variables)
        if len(parts) < 2:
            self._refuse(item, "needs a source and a target")
            return
        mode = flags.get("chmod", "")
        if mode and not (mode.isdigit() and set(mode) <= set("01234567") and len(mode) <= 4):
            self._refuse(item, f"--chmod={mode} is not an octal mode")
            return
        target = self._target(parts[-1])
        sources: list[str] = []
        for source in parts[:-1]:
            heredoc = next((h for h in item.heredocs if source.lstrip("<-") == h.name), None)
            if heredoc is not None:
                text = heredoc.body if heredoc.literal else substitute(heredoc.body, self._variables)
                self.plan.actions.append(CopyAction(item.line, (), target, int(mode, 8) if mode else None, text))
            elif self.context.is_skill(source):
                self._skill(item, source, target)
            else:
                sources += self._found(item, source)
        if sources:
            many = len(sources) > 1 and not target.endswith("/")
            self.plan.actions.append(
                CopyAction(item.line, tuple(sources), f"{target}/" if many else target, int(mode, 8) if mode else None)
            )

    def _found(self, item: Instruction, source: str) -> list[str]:
        try:
            return self.context.match(source)
        except UserError as error:
            self._refuse(item, one_line(error))
            return []

    def _target(self, target: str) -> str:
        joined = posixpath.normpath(posixpath.join(self.plan.workdir, target))
        joined = f"/{joined.lstrip('/')}"
        return f"{joined}/" if target.endswith(("/", "/.")) or target == "." else joined

    def _skill(self, item: Instruction, source: str, target: str) -> None:
        name = self.context.skill_name(source)
        folder = posixpath.normpath(target)
        if name is None:
            self.plan.skill_dirs.append(folder)
        elif folder.endswith(f"/{name}"):
            self.plan.skill_dirs.append(posixpath.dirname(folder))
        else:
            self._refuse(item, f"copies {source} of a skill to {folder}; skills are never part of the image")

    def _run(self, item: Instruction) -> None:
        form = item.json_form()
        script = shlex.join(form) if form else _with_bodies(item)
        found = plan_run(script, installed=bool(self.plan.requirements))
        for reason in found.refused:
            self._refuse(item, reason)
        self.plan.notes += found.notes
        self.plan.packages += found.packages
        for install in found.installs:
            self.plan.requirements += install.requirements
            self.plan.index += install.index
            for name in install.files:
                self._requirements_file(item, name)
        self.plan.actions += [FolderAction(item.line, folder) for folder in found.folders]
        if found.script:
            argv = ("/bin/sh", "-c", found.script) if form else (*self.shell, found.script)
            env = {**self.arguments, **self.plan.env}
            self.plan.actions.append(RunAction(item.line, argv, self.plan.workdir, tuple(sorted(env.items()))))

    def _requirements_file(self, item: Instruction, name: str) -> None:
        path = self._source_of(posixpath.normpath(posixpath.join(self.plan.workdir, name)))
        if path is None:
            self._refuse(item, f"the requirements file {name} is not copied from the environment folder")
            return
        found, refused = requirement_lines(read_text(path))
        self.plan.requirements += found
        for reason in refused:
            self._refuse(item, reason)

    def _source_of(self, target: str) -> Path | None:
        """The file of the context that an image path was copied from."""
        for action in reversed(self.plan.actions):
            if isinstance(action, CopyAction):
                for source in action.sources:
                    if (path := self.context.origin(source, action.target, target)) is not None:
                        return path
        return None


def _with_bodies(item: Instruction) -> str:
    """The script of a RUN line with its here-documents after it, as a shell reads it."""
    if len(item.heredocs) == 1 and item.text.strip().startswith("<<"):
        body = item.heredocs[0].body
        return body.split("\n", 1)[1] if body.startswith("#!") else body
    return item.text + "".join(f"\n{h.body}{h.name}\n" for h in item.heredocs)
