"""The policy `last-n`: the question and the last n steps; everything older is gone from the prompt."""

from __future__ import annotations

from pydantic import Field

from fairtrial.agents.context.policy import Count
from fairtrial.agents.context.window import ChatPolicy, PolicySettings, fitting, unseen
from fairtrial.agents.log import Log
from fairtrial.models.model import Message


class LastNSettings(PolicySettings):
    """Settings of `last-n`."""

    n: int = Field(default=5, ge=1)
    """Steps that are shown; fewer where the window takes fewer."""


class LastN(ChatPolicy):
    """The last n steps."""

    settings_type = LastNSettings

    def __init__(self, settings: LastNSettings, count: Count) -> None:
        super().__init__(settings, count)
        self._settings = settings

    def render(self, log: Log) -> tuple[Message, ...]:
        """The end of the chat. Raises WindowFullError where the last step alone does not fit."""
        steps = log.steps
        first = max(0, len(steps) - self._settings.n)
        return fitting(
            lambda dropped: self._prompt(log, steps[first + dropped :], note=unseen(0, first + dropped - 1)),
            max(0, len(steps) - first - 1),
            self._count,
            self._settings.window,
        )
