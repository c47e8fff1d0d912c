"""What scripted players of episodes share: settings, and the shape of a model around what its script says each turn.

A player goes by its prompt alone; chance is drawn from the request, so the same request gets the same reply.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from fairtrial.agents.accounting import Estimate, text_of
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.dialects import Voices
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.planners.planner import Planner
from fairtrial.core.clock import Timer
from fairtrial.core.config import Config
from fairtrial.core.ids import canonical_json, digest
from fairtrial.core.limits import Usage
from fairtrial.models.model import Delta, Feature, Message, Pair, Reply, Request, Score, ToolCall, UnsupportedError

Said = tuple[str, tuple[ToolCall, ...]]
"""Text and tool calls of a turn."""


class PlayerSettings(Config):
    """What every scripted player can be told."""

    planner: str | dict[str, Any] | None = None
    """None: recognised by its rules in the system message; likewise the policy."""
    policy: str | dict[str, Any] | None = None
    seed: int = 0
    """Of what it does by chance, with the request's own seed."""
    characters_per_token: float = Field(default=4.0, gt=0)
    """For usage: it has no tokens."""


class ScriptedPlayer:
    """A model that plays episodes; a script is a subclass with `_reply`."""

    name = "scripted-player"
    features: frozenset[Feature] = frozenset({"seed", "tools"})
    context: int | None = None

    def __init__(
        self, settings: PlayerSettings, *, planner: Planner | None = None, policy: ContextPolicy | None = None
    ) -> None:
        """`planner` and `policy` go before what the settings name. Raises UserError for one that there is not."""
        self._seed = settings.seed
        self._count = Estimate(settings.characters_per_token)
        planner = planner or (None if settings.planner is None else open_planner(settings.planner))
        policy = policy or (None if settings.policy is None else open_policy(settings.policy, self._count))
        self._voices = Voices(self._count, planner, policy)

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """What the script says. Raises UserError for a prompt that the script has nothing for."""
        messages = request.messages
        if messages is None:
            raise UnsupportedError(f"{self.name} answers conversations, not texts or token ids; give messages")
        drawn = canonical_json([self._seed, request.sampling.seed, *self._draws_from(messages)])
        text, calls = self._reply(request, messages, random.Random(digest(drawn)))  # noqa: S311 - a simulation
        message = Message(role="assistant", content=text, tool_calls=calls)
        if on_delta is not None:
            on_delta(Delta(text=text))
        usage = Usage(calls=1, input_tokens=self._count(messages), output_tokens=self._count.tokens(text_of(message)))
        return Reply(message, "tool_calls" if calls else "stop", self.name, usage=usage)

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """It has no probabilities. Raises UnsupportedError."""
        raise UnsupportedError(f"{self.name} cannot score texts; use a model with log-probabilities")

    async def close(self) -> None:
        """Nothing to release."""

    def _draws_from(self, messages: Sequence[Message]) -> list[str]:
        """What chance depends on beside the seeds: nothing, so that it falls alike in every turn of a run."""
        del messages
        return []

    def _reply(self, request: Request, messages: Sequence[Message], rng: random.Random) -> Said:
        """The next turn, summary or reading."""
        raise NotImplementedError
