"""The policy `summarise-at`: a chat that is summarised by a call of its own once it is longer than the trigger.

As ReSum (2509.13313), OpenHands' condenser and Claude's compaction do it: the first `keep_first` and the last
`keep_last` steps stay as they are, a summary tells what lies between, and the next summary takes in the one before.
What is known to go wrong there has its guard:

- It summarises again at every call once it is over the trigger: a summary is due only for steps that together hold
  at least `least` of the trigger, and at most once between two steps.
- The summary's call fails and the run with it: a digest brings a fallback, cut from the steps without a model.
- Summaries grow without end: the digest bounds the answer's tokens, the fallback its characters.
- The summariser sees only a part of the steps: it gets the steps in full, and the summary before.
- Calls lose their results: steps are kept, summarised and dropped as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from fairtrial.agents.context import rendering, tags
from fairtrial.agents.context.policy import Count, Digest
from fairtrial.agents.context.window import ChatPolicy, PolicySettings, fitting, unseen
from fairtrial.agents.log import Called, Log, Planned, Result, Step
from fairtrial.models.model import Message

_CHARACTERS = 4
"""Of a token, roughly: only to bound the fallback."""
_INSTRUCTION = (
    "You write the notes of an agent that goes on with its task and from now on sees only these notes instead of the "
    "steps below. Say in plain text:\n"
    "1. What is established, each fact with where it comes from; names, numbers, paths and ids exactly as they are.\n"
    "2. What was tried and failed, with the error.\n"
    "3. What is still open, and what was to be done next.\n"
    "Take over from earlier notes all that still matters. Add nothing that is not there; do not answer the question."
)


class SummariseAtSettings(PolicySettings):
    """Settings of `summarise-at`."""

    trigger: int = Field(ge=1)
    """Tokens of a prompt above which a summary is due."""
    keep_first: int = Field(default=0, ge=0)
    """Steps from the beginning that are never summarised."""
    keep_last: int = Field(default=2, ge=1)
    """Steps from the end that stay in full."""
    least: float = Field(default=0.25, gt=0, le=1)
    """Share of the trigger that the steps to be summarised must hold."""
    summary_tokens: int = Field(default=1500, ge=1)
    """Tokens that a summary may have."""

    @model_validator(mode="after")
    def _trigger_within_the_window(self) -> SummariseAtSettings:
        if self.window is not None and self.trigger > self.window:
            raise ValueError(f"trigger = {self.trigger} lies beyond window = {self.window}: no summary would ever come")
        return self


class SummariseAt(ChatPolicy):
    """First steps, one summary, last steps. In the log its block reaches from step 0, also over the first steps."""

    settings_type = SummariseAtSettings

    def __init__(self, settings: SummariseAtSettings, count: Count) -> None:
        super().__init__(settings, count)
        self._settings = settings

    def render(self, log: Log) -> tuple[Message, ...]:
        """Over the window it leaves out the oldest steps behind the summary. Raises WindowFullError."""
        recent = len(log.steps) - self._told(log) - 1
        return fitting(
            lambda dropped: self._shown(log, dropped), max(0, recent - 1), self._count, self._settings.window
        )

    def digest(self, log: Log) -> Digest | None:
        """The summary of all but the first and last steps, if the prompt is over the trigger and it gains enough."""
        settings, told = self._settings, self._told(log)
        end = len(log.steps) - 1 - settings.keep_last
        if end <= told or _summarised_since_the_last_step(log):
            return None
        if self._count(self._shown(log, 0)) <= settings.trigger:
            return None
        middle = log.steps[told + 1 : end + 1]
        shown = rendering.steps_chat(middle, native=log.asked.native, thinking=settings.thinking)
        if self._count(shown) < settings.least * settings.trigger:
            return None
        notes = _notes(log)
        steps = "\n\n".join(f"**[Step {step.number}]**\n{rendering.step_text(step)}" for step in middle)
        parts = [f"### Question\n{log.asked.question}", *([f"### Earlier notes\n{notes}"] if notes else [])]
        user = "\n\n".join([*parts, f"### Steps\n{steps}", "Write the notes now."])
        messages = (Message(role="system", content=_INSTRUCTION), Message(role="user", content=user))
        fallback = _trimmed(notes, middle, settings.summary_tokens * _CHARACTERS)
        return Digest(0, end, messages, fallback, settings.summary_tokens)

    def _told(self, log: Log) -> int:
        """The last step that the summary or the first steps tell; -1: none."""
        return log.blocks[-1].end if log.blocks else min(self._settings.keep_first, len(log.steps)) - 1

    def _shown(self, log: Log, dropped: int) -> tuple[Message, ...]:
        settings, asked, told = self._settings, log.asked, self._told(log)
        first = log.steps[: min(settings.keep_first, told + 1)]
        begin = told + 1 + dropped
        notes = unseen(told + 1, begin - 1)
        if log.blocks:
            notes = f"### Notes on steps {len(first)} to {told}\n{_notes(log)}" + (f"\n\n{notes}" if notes else "")
        prompt: tuple[Message, ...] = (*rendering.system(asked), Message(role="user", content=asked.question))
        prompt += rendering.steps_chat(first, native=asked.native, thinking=settings.thinking)
        if notes:
            prompt = rendering.and_user(prompt, notes)
        prompt += rendering.steps_chat(log.steps[begin:], native=asked.native, thinking=settings.thinking)
        return rendering.closed(log, prompt, native=asked.native)


def _notes(log: Log) -> str:
    """The summary so far, without what its author thought."""
    return tags.apart(log.blocks[-1].text)[0] if log.blocks else ""


def _summarised_since_the_last_step(log: Log) -> bool:
    for event in reversed(log.events):
        if isinstance(event, Planned | Result):
            return False
        if isinstance(event, Called) and event.purpose == "summary":
            return True
    return False


def _trimmed(notes: str, steps: Sequence[Step], room: int) -> str:
    """The notes' end and the beginning of each step's action and results, in at most so many characters (about)."""
    each = max(40, room // 2 // max(1, len(steps)))
    lines = [
        f"[Step {step.number}] {_cut(rendering.action_text(step), each // 3)}"
        f" -> {_cut(rendering.results_text(step), each)}"
        for step in steps
    ]
    kept = notes if len(notes) <= room // 2 else f"[...]{notes[-(room // 2) :]}"
    return "\n".join([*([kept] if kept else []), *lines])[: 2 * room]


def _cut(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]} [...]"
