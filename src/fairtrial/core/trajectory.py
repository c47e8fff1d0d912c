"""Trajectory: the one record of what an agent did and saw.

Vocabulary: Agent Data Protocol (arXiv 2510.24702, section 3), plus what training and replay need: call ids, reasoning
apart from description, rewards, tools offered, and a side table of model calls whose token ids are stored as deltas.
What a foreign format says beyond this vocabulary is kept under `extra`, by the name of that format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, model_validator

from fairtrial.core.config import Config
from fairtrial.core.limits import Usage

Source = Literal["user", "agent", "environment", "system"]
"""ADP's three, and `system` for what an operator or harness told the agent (prompts, compaction notes)."""


class _Item(Config):
    call_id: str | None = None
    """Pairs an action with its observation."""
    reward: float | None = None
    joined: bool = False
    """Part of the same message (model response) as the item before it: a parallel call, text beside an image."""
    synthetic: bool = False
    """Written by a converter, not by the agent, the user or the environment."""
    loss: bool | None = None
    """Whether training may learn from it; None: as usual (actions yes, observations no)."""
    timestamp: str | None = None
    """ISO 8601, as the source gives it."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """What a foreign format says of this item and this vocabulary does not: format name -> fields."""


class _Action(_Item):
    description: str | None = None
    """The thought that the agent stated before it acted."""
    reasoning: str | None = None
    """The model's hidden reasoning, where a provider gives it."""
    model_call: int | None = Field(default=None, ge=0)
    """Index into `Trajectory.model_calls` of the call that produced this action."""


class ApiAction(_Action):
    """A named tool call; `kwargs` holds values (quoting is a matter of printing)."""

    class_: Literal["api_action"] = "api_action"
    function: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    malformed: str | None = None
    """The arguments as the model wrote them, where they are no JSON object; `kwargs` is empty then."""


class CodeAction(_Action):
    """Code that the agent had executed."""

    class_: Literal["code_action"] = "code_action"
    language: str
    content: str


class MessageAction(_Action):
    """Text that the agent addressed to its user."""

    class_: Literal["message_action"] = "message_action"
    content: str


class _Observation(_Item):
    is_error: bool | None = None
    """Whether the tool reported a failure, where the source says so."""
    subagents: tuple[str, ...] = ()
    """Ids, in `Trajectory.subagents`, of the sub-agent runs that this reports on."""


class TextObservation(_Observation):
    """Text that the agent saw."""

    class_: Literal["text_observation"] = "text_observation"
    content: str
    source: Source
    name: str | None = None


class BoundingBox(Config):
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


class ImageAnnotation(Config):
    """A labelled element of an image."""

    text: str
    element_type: str
    bounding_box: BoundingBox


class ImageObservation(_Observation):
    """An image, by path or blob digest."""

    class_: Literal["image_observation"] = "image_observation"
    content: str
    source: Source
    annotations: tuple[ImageAnnotation, ...] | None = None


class WebObservation(_Observation):
    """A web page."""

    class_: Literal["web_observation"] = "web_observation"
    html: str | None = None
    axtree: str | None = None
    url: str | None = None
    image_observation: ImageObservation | None = None
    viewport_size: tuple[int, int] | None = None


Action = ApiAction | CodeAction | MessageAction
Observation = TextObservation | WebObservation | ImageObservation
Item = Annotated[Action | Observation, Discriminator("class_")]


class TokenDelta(Config):
    """A prompt's token ids: the first `keep` ids of an earlier call's prompt + completion, then `append`."""

    base: int | None = Field(default=None, ge=0)
    """Index of the earlier call; None means that `append` is the whole prompt."""
    keep: int = Field(default=0, ge=0)
    append: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _keeps_something_of_something(self) -> TokenDelta:
        if self.base is None and self.keep:
            raise ValueError(f"keeps {self.keep} ids of no earlier call: name the call in `base`")
        return self


class ModelCall(Config):
    """One call of a model: everything needed to train on it without tokenising again."""

    model: str
    prompt: TokenDelta | None = None
    """None where the model gives no token ids."""
    completion_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """Of the completion ids, under the distribution that was sampled from; nats."""
    weights_version: str | None = None
    sampling: dict[str, Any] = Field(default_factory=dict)
    finish_reason: str | None = None
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _aligned(self) -> ModelCall:
        if self.logprobs is not None and len(self.logprobs) != len(self.completion_ids or ()):
            raise ValueError("logprobs and completion_ids differ in length")
        return self


class Trajectory(Config):
    """Ordered actions and observations of one agent run."""

    id: str
    content: tuple[Item, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    """Tools offered, as OpenAI function schemas."""
    model_calls: tuple[ModelCall, ...] = ()
    reward: float | None = None
    """Of the whole run, where the source gives one."""
    subagents: tuple[Trajectory, ...] = ()
    """Runs of agents that this agent started."""
    details: dict[str, Any] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)
    """What a foreign format says of the run and this vocabulary does not: format name -> fields."""

    @model_validator(mode="after")
    def _calls_exist(self) -> Trajectory:
        lengths: list[int | None] = []
        for index, call in enumerate(self.model_calls):
            delta = call.prompt
            if delta is not None and delta.base is not None:
                if delta.base >= index:
                    raise ValueError(
                        f"model call {index} is a delta against call {delta.base}, which is not an earlier one"
                    )
                if (known := lengths[delta.base]) is None:
                    raise ValueError(f"model call {index} is a delta against call {delta.base}, which has no token ids")
                if delta.keep > known:
                    raise ValueError(f"model call {index} keeps {delta.keep} ids of the {known} of call {delta.base}")
            lengths.append(None if delta is None else delta.keep + len(delta.append) + len(call.completion_ids or ()))
        for item in self.content:
            if isinstance(item, _Action) and item.model_call is not None and item.model_call >= len(self.model_calls):
                raise ValueError(f"an action names model call {item.model_call}, which does not exist")
        return self

    def prompt_ids(self, call: int) -> tuple[int, ...]:
        """The whole prompt of a model call as token ids. Raises ValueError where the call carries none."""
        chain = [call]
        while (prompt := self.model_calls[chain[-1]].prompt) is not None and prompt.base is not None:
            chain.append(prompt.base)
        ids: list[int] = []
        for index in reversed(chain):
            prompt = self.model_calls[index].prompt
            if prompt is None:
                raise ValueError(f"model call {index} carries no token ids")
            if prompt.base is not None:
                ids += self.model_calls[prompt.base].completion_ids or ()
            del ids[prompt.keep :]
            ids += prompt.append
        return tuple(ids)

    def actions(self) -> Iterator[Action]:
        """The agent's actions in order."""
        return (item for item in self.content if isinstance(item, ApiAction | CodeAction | MessageAction))


def token_delta(prompt_ids: Sequence[int], earlier: Sequence[Sequence[int]]) -> TokenDelta:
    """The shortest delta of `prompt_ids` against the earlier calls' prompt + completion sequences; latest wins ties.

    Linear in the prompt for an agent that appends: an earlier call is compared only where it can keep more.
    """
    best, keep = None, 0
    for index in range(len(earlier) - 1, -1, -1):
        sequence = earlier[index]
        if min(len(sequence), len(prompt_ids)) > keep and sequence[keep] == prompt_ids[keep]:
            common = _common_prefix(prompt_ids, sequence)
            if common > keep:
                best, keep = index, common
    return TokenDelta(base=best, keep=keep, append=tuple(prompt_ids[keep:]))


def _common_prefix(left: Sequence[int], right: Sequence[int], block: int = 1024) -> int:
    """How many ids two sequences share from the start; whole blocks are compared at once."""
    end, start = min(len(left), len(right)), 0
    while start < end and tuple(left[start : start + block]) == tuple(right[start : start + block]):
        start += block
    start = min(start, end)
    while start < end and left[start] == right[start]:
        start += 1
    return start
