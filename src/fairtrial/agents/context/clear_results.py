"""The policy `clear-results`: calls stay, old results give way to a placeholder.

As Claude's context editing does it (clear_tool_uses_20250919: trigger, keep, placeholder). Once over the trigger all
results but the last `keep` steps' are cleared, and then none until the prompt has grown over it again: between two
clearings the prompt's beginning stays the same, and caches with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from fairtrial.agents.context import rendering
from fairtrial.agents.context.policy import Count, WindowFullError
from fairtrial.agents.context.window import ChatPolicy, PolicySettings, fits
from fairtrial.agents.log import Log, Step
from fairtrial.models.model import Message


class ClearResultsSettings(PolicySettings):
    """Settings of `clear-results`."""

    keep: int = Field(default=3, ge=1)
    """Steps, counted from the last, whose results stay."""
    trigger: int = Field(default=0, ge=0)
    """Tokens of a prompt above which results are cleared; 0: at every step."""
    placeholder: str = "[result cleared]"
    """What stands for a result; shorter results than this stay."""


class ClearResults(ChatPolicy):
    """All steps, without the results of old ones."""

    settings_type = ClearResultsSettings

    def __init__(self, settings: ClearResultsSettings, count: Count) -> None:
        super().__init__(settings, count)
        self._settings = settings

    def render(self, log: Log) -> tuple[Message, ...]:
        """The whole chat with placeholders. Over the window it clears all but the last; raises WindowFullError."""
        steps = log.steps
        prompt = self._cleared(log, self._old(log))
        if fits(prompt, self._count, self._settings.window):
            return prompt
        prompt = self._cleared(log, len(steps) if log.limited else max(0, len(steps) - 1))
        if fits(prompt, self._count, self._settings.window):
            return prompt
        raise WindowFullError(f"the prompt has {self._count(prompt)} tokens, the window {self._settings.window}")

    def _cleared(self, log: Log, old: int) -> tuple[Message, ...]:
        steps = log.steps
        placeholders = [self._settings.placeholder if index < old else None for index in range(len(steps))]
        return self._prompt(log, steps, cleared=placeholders)

    def _old(self, log: Log) -> int:
        """How many steps' results are cleared: every clearing so far, replayed from the sizes of the steps."""
        total = self._count((*rendering.system(log.asked), Message(role="user", content=log.asked.question)))
        full = [self._size(log, [step], None) for step in log.steps]
        old = 0
        for index, size in enumerate(full):
            total += size
            due = index + 1 - self._settings.keep
            if total > self._settings.trigger and due > old:
                placeholder = self._settings.placeholder
                total -= sum(full[step.number] - self._size(log, [step], placeholder) for step in log.steps[old:due])
                old = due
        return old

    def _size(self, log: Log, steps: Sequence[Step], placeholder: str | None) -> int:
        return self._count(
            rendering.steps_chat(
                steps, native=log.asked.native, thinking=self._settings.thinking, cleared=[placeholder] * len(steps)
            )
        )
