"""What all policies share: their common settings, the window, and what they do where they have no wish of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from fairtrial.agents.context import rendering, tags
from fairtrial.agents.context.policy import Count, Digest, Turn, WindowFullError
from fairtrial.agents.log import Folded, Log, Step
from fairtrial.core.config import Config
from fairtrial.models.model import Message


class PolicySettings(Config):
    """Settings that every policy has; arms that are compared should agree in them."""

    window: int | None = Field(default=None, ge=1)
    """Tokens that a prompt may have; None: no limit but the model's."""
    thinking: bool = False
    """Whether steps that are shown in full are shown with what the model thought."""


class ChatPolicy:
    """A policy that shows steps as messages of a chat and asks for nothing in the reply."""

    def __init__(self, settings: PolicySettings, count: Count) -> None:
        self._base, self._count = settings, count

    @property
    def rules(self) -> str:
        """None."""
        return ""

    def read(self, text: str, log: Log) -> Turn:
        """The text without its thinking is the planner's."""
        return Turn(None, "", tags.apart(text)[0])

    def write(self, fold: Folded | None, explanation: str = "", thinking: str = "") -> str:
        """What a model says before its action: its thinking, and why."""
        return written_thinking(thinking) + (f"{explanation}\n" if explanation else "")

    def digest(self, log: Log) -> Digest | None:
        """Never due."""
        return None

    def _prompt(
        self, log: Log, steps: Sequence[Step], *, note: str = "", cleared: Sequence[str | None] | None = None
    ) -> tuple[Message, ...]:
        """System, question (with a note below it), the steps, and the prompt's end."""
        native = log.asked.native
        question = f"{log.asked.question}\n\n{note}" if note else log.asked.question
        head = (*rendering.system(log.asked), Message(role="user", content=question))
        shown = rendering.steps_chat(steps, native=native, thinking=self._base.thinking, cleared=cleared)
        return rendering.closed(log, (*head, *shown), native=native)


def written_thinking(thinking: str) -> str:
    """Thinking as a model writes it."""
    return f"<think>\n{contained(thinking, tags.THINK)}\n</think>\n" if thinking else ""


def contained(text: str, tag: str) -> str:
    """Text that cannot end the tag around it."""
    return text.replace(f"</{tag}>", f"< /{tag}>")


def unseen(start: int, end: int) -> str:
    """What a prompt says about steps that it leaves out; "" for none."""
    if end < start:
        return ""
    return f"(Step {start} is not shown.)" if start == end else f"(Steps {start} to {end} are not shown.)"


def fitting(
    build: Callable[[int], tuple[Message, ...]], most: int, count: Count, window: int | None
) -> tuple[Message, ...]:
    """The first of build(0) .. build(most) that fits the window; each leaves out more than the one before.

    Raises WindowFullError where none does. Takes O(log most) counts.
    """
    if window is None:
        return build(0)
    if fits(prompt := build(0), count, window):
        return prompt
    low, high = 1, most
    best: tuple[Message, ...] | None = None
    while low <= high:
        middle = (low + high) // 2
        if fits(prompt := build(middle), count, window):
            best, high = prompt, middle - 1
        else:
            low = middle + 1
    if best is None:
        raise WindowFullError(f"the prompt has {count(build(most))} tokens, the window {window}")
    return best


def fits(prompt: Sequence[Message], count: Count, window: int | None) -> bool:
    """Whether a prompt is within the window."""
    return window is None or count(prompt) <= window
