"""What a planner is: a pure function from the model's text to a graph of tool calls, or to the final answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fairtrial.agents.planners.plan import Plan
from fairtrial.core.config import Config
from fairtrial.models.model import ToolCall


class RejectedTurn(Exception):  # noqa: N818 - the model's slip, told back to it
    """The model's turn cannot be read. Nothing of it is run; `code` and the message go back to the model."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Move:
    """What a turn asks for: a plan, or the final answer."""

    plan: Plan | None = None
    answer: str | None = None
    action: str = ""
    """The action's text as written, without what belongs to the policy or is thinking."""


class Planner(Protocol):
    """A dialect for actions. Registered under `fairtrial.planners`."""

    settings_type: type[Config]
    native: bool
    """Whether tools go to the provider as schemas and calls come back apart from the text."""

    def __init__(self, settings: Any) -> None: ...

    def rules(self, tools: Sequence[dict[str, Any]]) -> str:
        """What the system message says of how to act; `tools` are OpenAI function schemas."""
        ...

    def read(self, text: str, tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> Move:
        """The turn's move; the plan is complete and checked (see `planners.checks`). Raises RejectedTurn."""
        ...

    def write(self, move: Move) -> tuple[str, tuple[ToolCall, ...]]:
        """What a model would have to say for this move: `read(*write(move))` gives its plan or answer again."""
        ...
