"""The policy `append`: every step stays in the prompt as it was (ReAct, 2210.03629); what the others are compared with.

At the end of its window it either stops (the run then asks for the answer, and that prompt holds the steps that the
window held) or drops its oldest steps.
"""

from __future__ import annotations

from typing import Literal

from fairtrial.agents.context.policy import Count, WindowFullError
from fairtrial.agents.context.window import ChatPolicy, PolicySettings, fits, fitting, unseen
from fairtrial.agents.log import Log
from fairtrial.models.model import Message


class AppendSettings(PolicySettings):
    """Settings of `append`."""

    full: Literal["stop", "drop_oldest"] = "stop"
    """What to do when the window is full."""


class Append(ChatPolicy):
    """All steps, oldest first."""

    settings_type = AppendSettings

    def __init__(self, settings: AppendSettings, count: Count) -> None:
        super().__init__(settings, count)
        self._settings = settings

    def render(self, log: Log) -> tuple[Message, ...]:
        """The whole chat. Raises WindowFullError."""
        steps, window = log.steps, self._settings.window
        if self._settings.full == "drop_oldest":
            last = max(0, len(steps) - 1)
            return fitting(
                lambda dropped: self._prompt(log, steps[dropped:], note=unseen(0, dropped - 1)),
                last,
                self._count,
                window,
            )
        prompt = self._prompt(log, steps)
        if fits(prompt, self._count, window):
            return prompt
        if log.limited is None:
            raise WindowFullError(f"the prompt has {self._count(prompt)} tokens, the window {window}")
        return fitting(
            lambda dropped: self._prompt(
                log, steps[: len(steps) - dropped], note=unseen(len(steps) - dropped, len(steps) - 1)
            ),
            len(steps),
            self._count,
            window,
        )
