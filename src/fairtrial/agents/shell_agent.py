"""The agent `shell`: any model with a shell in the task's box, in the loop that runs agents everywhere.

Its tools work inside the box. MCP servers can be added; they run on this machine, outside of the box, and a run that
had any is flagged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import Field

from fairtrial.agents.accounting import Estimate, account
from fairtrial.agents.agent import Mission, Needs, Run
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.log import Limited, Log
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.recording import dump_log, trajectory_of
from fairtrial.agents.room import refuse_cramped
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.tools.box import BoxTool, box_tools
from fairtrial.agents.tools.mcp import McpServer, McpSettings
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import SystemClock
from fairtrial.core.config import Config
from fairtrial.core.errors import LimitExceeded, UserError
from fairtrial.core.redact import Redactor
from fairtrial.models.model import Model, Sampling
from fairtrial.models.opening import check_model, files_digest, model_settings, open_model
from fairtrial.tasks.sandbox.api import Box
from fairtrial.tasks.task import Step, Task

_TASK = (
    "\n\nDo this with the tools, in the files of the machine that they work on. What counts is what is in the files at "
    "the end; when all is done and checked, give a short note of what you did as your final answer."
)


class ShellSettings(Config):
    """Settings of the agent `shell`."""

    model: str | dict[str, Any]
    """KIND:TEXT (`openai:gpt-x`, `scripted:replies.toml`), or a table with `kind` and the kind's settings."""
    policy: str | dict[str, Any] = "append"
    """Context policy: its name, or a table with `id` and its settings."""
    planner: str | dict[str, Any] = "native"
    """Dialect of the model's actions: its name, or a table with `id` and its settings."""
    turns: int = Field(default=30, ge=1)
    """Accepted turns; the last of them must answer."""
    tool_calls: int | None = Field(default=None, ge=1)
    """Calls over the whole run; None: no limit of their own."""
    repairs: int = Field(default=3, ge=0)
    """Tries after a turn that could not be read."""
    tools: tuple[BoxTool, ...] = ("bash",)
    """Of bash, read_file, write_file, edit_file."""
    command_s: float = Field(default=120.0, gt=0)
    """Wall seconds that one command may take."""
    shown: int = Field(default=16_000, ge=200)
    """Characters of an output that the model sees."""
    sampling: Sampling = Sampling()
    """How replies are drawn; seeds come from the trial."""
    mcp: dict[str, McpSettings] = Field(default_factory=dict)
    """MCP servers whose tools are offered too, by a name of yours. They run outside of the box."""


class Shell:
    """A model with a shell."""

    settings_type = ShellSettings

    def __init__(self, settings: ShellSettings, base: Path) -> None:
        self.settings, self._base = settings, base
        self._model: Model | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The variable of the model's key, and those that go to MCP servers."""
        model = self.settings.model
        key = model.get("api_key_env") if isinstance(model, dict) else None
        return tuple(filter(None, (key, *(name for server in self.settings.mcp.values() for name in server.secrets))))

    def check(self, tasks: Sequence[Task]) -> None:
        """Refuse an unknown model, policy, planner or setting, and MCP servers that cannot start."""
        check_model(self.settings.model, self._base, where='agent "shell": model')
        _, model = model_settings(self.settings.model)
        asked = {task.id: min((step.instruction for step in task.steps), key=len) for task in tasks}
        takes = getattr(model, "context", None)
        refuse_cramped(asked, (), self._policy(), self._planner(), Estimate(), takes, 'agent "shell"')
        for name, server in self.settings.mcp.items():
            McpServer(name, server, self._base).check()

    def needs(self, task: Task, step: Step) -> Needs:
        """Nothing: the model is asked from outside of the box."""
        return Needs()

    async def run(self, box: Box, mission: Mission) -> Run:
        """Play until the model gives its final answer or a limit ends the run."""
        settings, stopped, planner = self.settings, None, self._planner()
        model = self._opened(mission)
        if planner.native and "tools" not in model.features:
            raise UserError(
                'agent "shell": planner = "native" needs a model that calls tools; use "react" with this one'
            )
        async with AsyncExitStack() as stack:
            tools = list(box_tools(box, settings.tools, command_s=settings.command_s, shown=settings.shown))
            for name, server in settings.mcp.items():
                with mission.timer.waiting():
                    tools += (await stack.enter_async_context(McpServer(name, server, self._base))).tools
            runtime = Runtime(
                model,
                self._policy(),
                planner,
                _distinct(tools),
                SystemClock(),
                budget=Budget(
                    turns=settings.turns,
                    tool_calls=settings.tool_calls,
                    repairs=settings.repairs,
                    seconds=mission.timer.working_s + mission.seconds,
                ),
                sampling=settings.sampling,
                meter=mission.meter,
                timer=mission.timer,
            )
            question = mission.step.instruction.rstrip() + _TASK
            log = runtime.begin(question, seed=mission.seed, told=mission.skills)
            try:
                await runtime.play(log, run=mission.trial)
            except LimitExceeded as error:
                stopped = error
        return self._result(log, mission, stopped)

    def _opened(self, mission: Mission) -> Model:
        """The model, opened for the first run and then kept for all."""
        if self._model is None:
            with mission.timer.waiting():
                self._model = open_model(self.settings.model, self._base, where='agent "shell": model')
        return self._model

    def _result(self, log: Log, mission: Mission, stopped: LimitExceeded | None) -> Run:
        cause, message = _end(log, mission, stopped)
        details: dict[str, Any] = {"answer": log.answer, "accounting": account(log, Estimate())}
        return Run(
            trajectory_of(log, f"{mission.trial}/{mission.step.name}"),
            cause,
            message,
            details,
            {"agent_log.jsonl": dump_log(log, Redactor(extra=self.secrets))},
            ("tools_outside_the_box",) if self.settings.mcp else (),
        )

    def _policy(self) -> Any:
        return open_policy(self.settings.policy, Estimate(), where='agent "shell": policy')

    def _planner(self) -> Any:
        return open_planner(self.settings.planner, where='agent "shell": planner')

    def describe(self) -> Mapping[str, str]:
        """Model, policy, planner and tools; the digest of a local model's files."""
        settings = self.settings
        facts = {
            "agent": f"shell: {', '.join(settings.tools)}; at most {settings.turns} turns",
            "model": _short(settings.model, "kind"),
            "policy": _short(settings.policy, "id"),
            "planner": _short(settings.planner, "id"),
        }
        if (found := files_digest(settings.model, self._base)) is not None:
            facts["files"] = f"model {found}"
        if settings.mcp:
            facts["mcp"] = f"{', '.join(settings.mcp)} (outside of the box)"
        return facts

    async def close(self) -> None:
        """Release the model."""
        model, self._model = self._model, None
        if model is not None:
            await model.close()


def _end(log: Log, mission: Mission, stopped: LimitExceeded | None) -> tuple[str | None, str | None]:
    """(cause, message): the limit that ended the run; None, None where the agent ended it by its answer."""
    if stopped is not None:
        return _cause(stopped.limit), str(stopped)
    if (over := mission.meter.limits.exceeded_by(mission.meter.usage)) is not None:
        return _cause(over), f"the trial's limit on {over} ({getattr(mission.meter.limits, over)}) is used up"
    if log.answer is not None:
        return None, None
    limit = next((event.limit for event in reversed(log.events) if isinstance(event, Limited)), "turns")
    if limit == "format":
        return "format", "the model's turns could not be read: see the trajectory"
    return _cause(limit), f"the run ended without an answer: its limit on {limit} is used up"


def _cause(limit: str) -> str:
    return limit if limit.endswith("_limit") else f"{limit}_limit"


def _distinct(tools: Sequence[Tool]) -> Sequence[Tool]:
    names = [tool.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'agent "shell": two tools are called {twice[0]}; give one of its MCP servers a prefix')
    return tools


def _short(spec: str | Mapping[str, Any], key: str) -> str:
    """What an arm names, on one line."""
    if isinstance(spec, str):
        return spec
    rest = ", ".join(f"{name} = {value}" for name, value in spec.items() if name != key)
    return f"{spec.get(key)}{f' ({rest[:200]})' if rest else ''}"
