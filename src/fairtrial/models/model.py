"""What a model is: requests, replies, and the protocol that every kind of model follows.

Loads without torch. A reply carries the token ids that were sampled and their log-probabilities under the distribution
they were sampled from, where the model can give them, so that nothing has to be tokenised again to train on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from fairtrial.core.clock import Timer
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.core.limits import Usage
from fairtrial.core.trajectory import ModelCall, token_delta

Role = Literal["system", "user", "assistant", "tool"]
Feature = Literal["score", "token-ids", "logprobs", "tools", "seed", "grammar", "stream"]
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class ToolCall(Config):
    """One call of a tool, as the model asked for it."""

    id: str
    name: str
    arguments: str = "{}"
    """JSON text, exactly as the model wrote it (it may not parse)."""


class Message(Config):
    """One message of a conversation."""

    role: Role
    content: str = ""
    reasoning: str | None = None
    """Hidden reasoning, where the model gives it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant."""
    tool_call_id: str | None = None
    """Of a tool: the call that it answers."""
    name: str | None = None
    token_ids: tuple[int, ...] | None = None
    """Of an assistant: the ids that the model sampled for this message. The model that made it puts these into later
    prompts instead of tokenising the text again; other models ignore them."""

    @model_validator(mode="after")
    def _fits_its_role(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f'tool_calls belong to an assistant\'s message, not to role "{self.role}"')
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError('a message of role "tool" needs tool_call_id: the call that it answers')
        return self


class Sampling(Config):
    """How a reply is drawn."""

    max_tokens: int | None = Field(default=None, ge=1)
    """None: until the model stops or its context is full (an endpoint: its own default)."""
    temperature: float = Field(default=1.0, ge=0)
    """0: the most likely token, the lowest id of equals."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0: all."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end the reply; they are not part of it."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """None: a fresh one where the model draws itself."""
    json_schema: dict[str, Any] | None = None
    """The reply must be JSON that fits this schema."""
    regex: str | None = None
    """The whole reply must match."""

    @model_validator(mode="after")
    def _one_grammar(self) -> Sampling:
        if self.json_schema is not None and self.regex is not None:
            raise ValueError("json_schema and regex exclude each other; give one")
        return self


class Request(Config):
    """What a model is asked: a conversation, a text to continue, or token ids to continue; exactly one of them."""

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    """OpenAI function schemas; with messages only."""
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _one_of_three(self) -> Request:
        given = [name for name in ("messages", "prompt", "prompt_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of messages, prompt, prompt_ids (got {', '.join(given) or 'none'})")
        if not getattr(self, given[0]):
            raise ValueError(f"{given[0]} is empty: there is nothing to answer")
        if self.tools and self.messages is None:
            raise ValueError("tools need messages")
        return self


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a provider that did not bring a reply."""

    cause: str
    """Short and machine-readable: "rate_limit", "server_error", "timeout", "connection", "truncated" ..."""
    status: int | None
    """HTTP status, where there was one."""
    waited_s: float
    """From the request to the failure, and then until the next try."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a streaming reply adds."""

    text: str = ""
    reasoning: str = ""
    token_ids: tuple[int, ...] = ()
    """Ids that were sampled since the last delta; text of an incomplete character follows later."""
    logprobs: tuple[float, ...] = ()
    token_bytes: tuple[bytes, ...] | None = None
    """Of `token_ids`: the bytes that each stands for, where the model tells."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered."""

    message: Message
    finish: Finish
    model: str
    prompt_ids: tuple[int, ...] | None = None
    """None where the model gives no token ids."""
    completion_ids: tuple[int, ...] | None = None
    """Every id that was sampled, the end mark included."""
    logprobs: tuple[float, ...] | None = None
    """Of `completion_ids`, in nats, under what was sampled from (temperature, top-p, top-k, grammar). An endpoint gives
    its own tokens' (perhaps without their ids), under what it says it does: see `sampling["logprobs"]`."""
    usage: Usage = field(default_factory=Usage)
    weights_version: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    """What was really used, the seed included."""
    waited_s: float = 0.0
    """Seconds spent waiting for a provider, failed tries included."""
    attempts: tuple[Attempt, ...] = ()
    """Tries that failed before this one."""
    token_bytes: tuple[bytes, ...] | None = None
    """Of `completion_ids`: the bytes that each stands for (none for a mark), where the model tells."""

    @property
    def text(self) -> str:
        """The message's text."""
        return self.message.content

    def call(self, earlier: Sequence[Sequence[int]] = ()) -> ModelCall:
        """The line of a trajectory's table of model calls.

        `earlier`: prompt + completion ids of the calls before it in the same trajectory, by index.
        """
        return ModelCall(
            model=self.model,
            prompt=None if self.prompt_ids is None else token_delta(self.prompt_ids, earlier),
            completion_ids=self.completion_ids,
            logprobs=None if self.completion_ids is None else self.logprobs,
            weights_version=self.weights_version,
            sampling=self.sampling,
            finish_reason=self.finish,
            usage=self.usage,
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """A continuation to be scored behind its context. Spaces between them belong to the continuation."""

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Score:
    """log p(continuation | context), in nats."""

    logprob: float
    token_logprobs: tuple[float, ...]
    characters: int
    """Of the continuation, as given."""
    bytes: int
    """Of the continuation in UTF-8, as given."""
    greedy: bool
    """Whether each of its tokens is the most likely one."""

    @property
    def tokens(self) -> int:
        """Tokens of the continuation."""
        return len(self.token_logprobs)

    @property
    def per_token(self) -> float:
        """Mean over tokens."""
        return self.logprob / max(1, self.tokens)

    @property
    def per_character(self) -> float:
        """Mean over characters (the harness's acc_norm)."""
        return self.logprob / max(1, self.characters)

    @property
    def per_byte(self) -> float:
        """Mean over bytes (the harness's acc_bytes)."""
        return self.logprob / max(1, self.bytes)


class ContextTooLongError(UserError):
    """A prompt has more tokens than the model takes. None where an endpoint does not say how many."""

    def __init__(self, tokens: int | None, limit: int | None, model: str) -> None:
        has = "the prompt has too many tokens" if tokens is None else f"the prompt has {tokens} tokens"
        takes = "" if limit is None else f" takes {limit}"
        super().__init__(f'{has}, "{model}"{takes or " takes fewer"}: shorten it or choose a model with more context')
        self.tokens, self.limit, self.model = tokens, limit, model

    def __reduce__(self) -> tuple[type[ContextTooLongError], tuple[int | None, int | None, str]]:
        return (ContextTooLongError, (self.tokens, self.limit, self.model))


class UnsupportedError(UserError):
    """A request needs what the model cannot do. The message names the feature and what to do."""


class Model(Protocol):
    """Whatever answers. Safe to call from many tasks of one event loop at once."""

    @property
    def name(self) -> str:
        """As in records and in /v1/models."""
        ...

    @property
    def features(self) -> frozenset[Feature]:
        """What it can do beside plain text."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens that prompt and reply may have together; None: not known."""
        ...

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """Answer. Cancelling the task ends the work at once and frees what it held.

        Args:
            request: What is asked.
            on_delta: Called on the event loop with each piece as it comes; the pieces' texts join to the reply's text.
            timer: Of the trial: time spent waiting for a provider is booked as waiting.

        Raises:
            ContextTooLongError: The prompt does not fit.
            UnsupportedError: The request needs a feature that the model does not have.
            InfraError: The provider failed beyond the retry budget (`cause`, `retryable` and `retry_after_s` say how).
        """
        ...

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Score each pair: log p(continuation | context), in order. Raises UnsupportedError where it cannot."""
        ...

    async def close(self) -> None:
        """Release what it holds; later calls fail."""
        ...


class ModelKind(Protocol):
    """A kind of model; registered under the entry-point group `fairtrial.models`."""

    settings_type: type[Config]
    argument: str
    """The setting that KIND:TEXT fills (`scripted:replies.toml` -> path)."""

    @staticmethod
    def check(settings: Any, base: Path) -> None:
        """Refuse (UserError) what can be seen without loading anything: a missing key, file or folder."""
        ...

    @staticmethod
    def files(settings: Any, base: Path) -> Sequence[Path]:
        """The local files that its replies follow from beside its settings; none where they are somewhere else."""
        ...

    @staticmethod
    def open(settings: Any, base: Path) -> Model:
        """The model, ready to answer; `base` is the folder that relative paths start from. Raises UserError."""
        ...
