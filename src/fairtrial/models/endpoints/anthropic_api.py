"""Models behind Anthropic's Messages API: `anthropic:claude-x` (extra `anthropic`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from fairtrial.core.clock import Clock, Timer
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.models.endpoints import anthropic_wire
from fairtrial.models.endpoints.anthropic_wire import AnthropicReader, Thoughts
from fairtrial.models.endpoints.endpoint import (
    Called,
    Caller,
    Endpoint,
    EndpointSettings,
    Provider,
    guess_tokens,
    read_key,
)
from fairtrial.models.model import Delta, Feature, Message, Pair, Reply, Request, Score, UnsupportedError

ANTHROPIC = Provider(
    "anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY", key_headers=("Authorization", "X-Api-Key")
)


class AnthropicSettings(EndpointSettings):
    """Settings of a model behind Anthropic's Messages API."""

    max_tokens: int = Field(default=4096, ge=1)
    """For requests that set none: the API wants a number."""


class Anthropic:
    """The kind `anthropic`."""

    settings_type: type[Config] = AnthropicSettings
    argument = "name"

    @staticmethod
    def check(settings: Any, base: Path) -> None:
        """Whether there is a key. Raises UserError naming the variable where it is missing."""
        del base
        read_key(settings, ANTHROPIC)

    @staticmethod
    def files(settings: Any, base: Path) -> tuple[Path, ...]:
        """None: the server has them."""
        del settings, base
        return ()

    @staticmethod
    def open(settings: Any, base: Path) -> AnthropicModel:
        """The model, its key read from the environment. Raises UserError naming the variable where it is missing."""
        return AnthropicModel(settings, read_key(settings, ANTHROPIC))


class AnthropicModel(Endpoint[AnthropicSettings]):
    """A model behind Anthropic's Messages API."""

    def __init__(
        self,
        settings: AnthropicSettings,
        key: str | None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        try:
            import anthropic
        except ImportError:
            raise UserError('models of kind "anthropic" need an extra: pip install "fairtrial[anthropic]"') from None
        caller = Caller(settings, ANTHROPIC, anthropic, anthropic.AsyncAnthropic, key, clock=clock, rng=rng)
        super().__init__(settings, caller)
        self._thoughts = Thoughts()

    @property
    def features(self) -> frozenset[Feature]:
        """No seeds, token ids, log-probabilities or scores; "grammar" is json_schema only."""
        return frozenset({"tools", "stream", "grammar"})

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """Answer (see `Model.generate`).

        Pieces go to `on_delta` when the try that they belong to has succeeded, or at once with the setting `live`.
        """
        fields = anthropic_wire.body(request, self.name, self._settings.max_tokens, self._thoughts)
        if on_delta is not None or self._settings.stream:
            fields["stream"] = True
        body = self._caller.body(fields)
        called = await self._caller.call(
            "/v1/messages",
            body,
            AnthropicReader,
            guess=guess_tokens(request),
            tokens=AnthropicReader.tokens,
            timer=timer,
            on_delta=on_delta,
        )
        return self._reply(called, body)

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Raises UnsupportedError: the API gives no log-probabilities."""
        raise UnsupportedError(f'"{self.name}" cannot score (no log-probabilities): use a native or hf model')

    def _reply(self, called: Called[AnthropicReader], body: dict[str, Any]) -> Reply:
        reader = called.reader
        used = {"temperature": 1.0, "top_p": 1.0} | {
            name: body[name]
            for name in ("temperature", "top_p", "top_k", "max_tokens", "stop_sequences")
            if name in body
        }
        message, finish = reader.message(), reader.finish()
        usage, notes = reader.usage(self._settings.price)
        if called.refused is not None:
            message, finish = Message(role="assistant", content=""), "content_filter"
            notes = (*notes, f"the provider refused the request: {called.refused}")
        elif message.tool_calls and (thinking := reader.thinking()):
            self._thoughts.keep(message.tool_calls[0].id, thinking)
        if reader.model is not None and reader.model != self.name:
            used["served_model"] = reader.model
        return Reply(
            message=message,
            finish=finish,
            model=self.name,
            usage=usage,
            sampling=used | ({"notes": list(notes)} if notes else {}),
            waited_s=called.waited_s,
            attempts=called.attempts,
        )
