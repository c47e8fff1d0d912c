"""task.toml of the Harbor task format, schema 1.4, with the legacy keys that are still in the wild.

Known keys are checked for type and value. Unknown keys and sections are kept apart and reported (`strays`), because
genuine files carry them; below `[metadata]` everything is allowed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import did_you_mean

NetworkMode = Literal["public", "no-network", "allowlist"]

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", re.IGNORECASE)
_UNITS = {"": 1 / 1024**2, "k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"(\d+)(?:\.(\d+)){0,2}")


def megabytes(text: Any) -> int:
    """Megabytes in a legacy size such as "4G", "512M" or "2048MiB". Raises ValueError."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    size = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if not 0 < size < 1e9:
        raise ValueError('must be a size such as "4G" or "512M"')
    return max(1, round(size))


def _host(text: Any) -> str:
    problem = 'must be a host name, "*.name", an address or a CIDR range, without scheme or path'
    if not isinstance(text, str):
        raise ValueError(problem)
    if not _HOST.fullmatch(text):
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(problem) from None
    return text


def _version(value: Any) -> Any:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not (match := _VERSION.fullmatch(text)) or match[1] not in ("0", "1"):
        raise ValueError('must be a version such as "1.4" (only version 1 of the format is known)')
    return text


Text = Annotated[str, Field(max_length=100_000)]
Flag = Annotated[bool, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=1e7)]
Count = Annotated[int, Field(strict=True, ge=0, le=10**9)]
Size = Annotated[int, Field(strict=True, gt=0, le=10**9)]
LegacySize = Annotated[int, BeforeValidator(megabytes)]
Env = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Text]
Hosts = tuple[Annotated[str, BeforeValidator(_host)], ...]
Reward = Annotated[float, Field(strict=True)]


class Section(Config):
    """A table whose unknown keys are kept in `model_extra` instead of refused."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Networked(Section):
    """A table that may say how much network its phase needs."""

    network_mode: NetworkMode | None = None
    allowed_hosts: Hosts = ()

    @model_validator(mode="after")
    def _hosts_need_allowlist(self) -> Self:
        if self.allowed_hosts and self.network_mode not in (None, "allowlist"):
            raise ValueError('allowed_hosts needs network_mode = "allowlist"')
        return self


class Author(Section):
    """One author."""

    name: Text
    email: Text | None = None


class About(Section):
    """`[task]`: the package."""

    name: Text | None = None
    version: Text | None = None
    description: Text = ""
    authors: tuple[Author | Text, ...] = ()
    keywords: tuple[Text, ...] = ()


class AgentSection(Networked):
    """`[agent]`."""

    timeout_sec: Seconds = 600.0
    user: Text | int | None = None


class Collect(Section):
    """A command that gathers evidence before the verifier runs."""

    command: Text
    service: Text | None = None
    timeout_sec: Seconds = 60.0
    user: Text | int | None = None


class Healthcheck(Section):
    """How to find out that an environment is ready."""

    command: Text
    interval_sec: Seconds = 5.0
    timeout_sec: Seconds = 30.0
    start_period_sec: Annotated[float, Field(strict=True, ge=0)] = 0.0
    retries: Count = 3


class McpServer(Section):
    """A tool server beside the environment."""

    name: Text
    transport: Literal["stdio", "sse", "streamable-http"] = "sse"
    url: Text | None = None
    command: Text | None = None
    args: tuple[Text, ...] = ()


class EnvironmentSection(Networked):
    """`[environment]`; memory_mb and storage_mb also read the legacy `memory = "4G"` and `storage = "10G"`."""

    build_timeout_sec: Seconds = 600.0
    docker_image: Text | None = Field(default=None, validation_alias=AliasChoices("docker_image", "image"))
    os: Literal["linux", "windows"] = "linux"
    cpus: Annotated[float, Field(strict=True, gt=0, le=4096)] = 1.0
    memory_mb: Size | None = None
    memory: LegacySize | None = None
    storage_mb: Size | None = None
    storage: LegacySize | None = None
    gpus: Count = 0
    gpu_types: tuple[Text, ...] | None = None
    tpu: dict[str, Any] | Text | None = None
    mcp_servers: tuple[McpServer, ...] = ()
    env: Env = Field(default_factory=dict)
    skills_dir: Text | None = None
    healthcheck: Healthcheck | None = None
    workdir: Text | None = None
    allow_internet: Flag | None = None

    @property
    def memory_limit_mb(self) -> int | None:
        """The memory that the author allows, new key before legacy key."""
        return self.memory_mb or self.memory

    @property
    def storage_limit_mb(self) -> int | None:
        """The disk that the author allows, new key before legacy key."""
        return self.storage_mb or self.storage


class VerifierSection(Networked):
    """`[verifier]`."""

    timeout_sec: Seconds = 600.0
    env: Env = Field(default_factory=dict)
    user: Text | int | None = None
    environment_mode: Literal["shared", "separate"] | None = None
    environment: EnvironmentSection | None = None
    collect: tuple[Collect, ...] = ()


class SolutionSection(Section):
    """`[solution]`."""

    env: Env = Field(default_factory=dict)


class Artifact(Section):
    """A path to keep."""

    source: Text
    destination: Text | None = None
    exclude: tuple[Text, ...] = ()
    service: Text | None = None


class StepAgent(Section):
    """`[steps.agent]`."""

    timeout_sec: Seconds | None = None
    user: Text | int | None = None


class StepVerifier(Section):
    """`[steps.verifier]`."""

    timeout_sec: Seconds | None = None
    env: Env = Field(default_factory=dict)
    user: Text | int | None = None


class StepSection(Section):
    """One of `[[steps]]`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    agent: StepAgent = StepAgent()
    verifier: StepVerifier = StepVerifier()
    min_reward: Reward | dict[str, Reward] | None = None
    healthcheck: Healthcheck | None = None
    artifacts: tuple[Text | Artifact, ...] = ()


class TaskToml(Section):
    """A whole task.toml."""

    schema_version: Annotated[str, BeforeValidator(_version)] = Field(
        default="1.0", validation_alias=AliasChoices("schema_version", "version")
    )
    task: About | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    agent: AgentSection = AgentSection()
    verifier: VerifierSection = VerifierSection()
    environment: EnvironmentSection = EnvironmentSection()
    solution: SolutionSection = SolutionSection()
    artifacts: tuple[Text | Artifact, ...] = ()
    steps: tuple[StepSection, ...] = ()
    multi_step_reward_strategy: Literal["mean", "final"] | None = None
    source: Text | None = None

    @model_validator(mode="after")
    def _steps_are_distinct(self) -> Self:
        names = [step.name for step in self.steps]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two steps have the same name: {', '.join(twice)}")
        if self.multi_step_reward_strategy and not self.steps:
            raise ValueError("multi_step_reward_strategy needs [[steps]]")
        return self


def parse_task_toml(data: Any, *, where: str) -> TaskToml:
    """Check the tables of a task.toml. Raises UserError naming each wrong value by its path."""
    return parse(TaskToml, data, where=where)


def strays(model: BaseModel) -> Iterator[str]:
    """One line for every key that the format does not know; nothing below `[metadata]`."""
    yield from _strays(model, "")


def _strays(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _strays(item, f"{path}{index}.")
    if not isinstance(value, BaseModel):
        return
    known = set(type(value).model_fields)
    for key in value.model_extra or {}:
        hint = did_you_mean(key, known)
        yield f'unknown key "{path}{key}" is ignored{hint if "did you mean" in hint else ""}'
    for name in known:
        yield from _strays(getattr(value, name), f"{path}{name}.")
