"""What a tool is: a name, a JSON schema, something to await, and what it does to the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Effect = Literal["pure", "read", "write"]
"""pure: depends on its arguments alone; read: changes nothing; write: changes something. A write is tried once."""


class ToolError(Exception):
    """A tool's own refusal; the message is what the model sees."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that an agent may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments: an object with properties."""
    call: Callable[[Mapping[str, Any]], Awaitable[Any]]
    """Awaited with checked arguments; returns JSON or text. Any exception is the node's error."""
    effect: Effect = "read"
    keys: Callable[[Mapping[str, Any]], tuple[str, ...]] = field(default=lambda _: ())
    """What a write touches: two writes that share a key never run at the same time. A write without keys locks all
    writes."""
    timeout_s: float | None = None
    retries: int = 0
    """More attempts after an error; only for pure and read."""
    concurrency: int | None = None
    """Calls at once; None: no limit of its own."""

    @property
    def schema(self) -> dict[str, Any]:
        """The OpenAI function schema."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)},
        }
