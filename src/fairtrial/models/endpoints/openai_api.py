"""Models behind an OpenAI-compatible API: `openai:gpt-x`, or any server by its `base_url`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from fairtrial.core.clock import Clock, Timer
from fairtrial.core.config import Config
from fairtrial.models.endpoints import openai_wire
from fairtrial.models.endpoints.echo import echo_score
from fairtrial.models.endpoints.endpoint import (
    CHARACTERS_PER_TOKEN,
    Called,
    Caller,
    Endpoint,
    EndpointSettings,
    Provider,
    guess_tokens,
    read_key,
)
from fairtrial.models.endpoints.openai_wire import OpenAIReader
from fairtrial.models.model import Delta, Feature, Message, Pair, Reply, Request, Score, UnsupportedError

OPENAI = Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", key_headers=("Authorization",))
Want = Literal["no", "ask", "require"]


class OpenAISettings(EndpointSettings):
    """Settings of a model behind an OpenAI-compatible API."""

    logprobs: Want = "no"
    """ask: None where the server gives none; require: an error there."""
    ids: Want = "no"
    """Token ids, asked for with vLLM's `return_token_ids`."""
    score: bool = False
    """Whether the server's /completions echoes the prompt with log-probabilities (vLLM does, OpenAI does not)."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """None: the newer one for OpenAI itself, the older one for a `base_url`."""


class OpenAI:
    """The kind `openai`."""

    settings_type: type[Config] = OpenAISettings
    argument = "name"

    @staticmethod
    def check(settings: Any, base: Path) -> None:
        """Whether there is a key. Raises UserError naming the variable where it is missing."""
        del base
        read_key(settings, OPENAI)

    @staticmethod
    def files(settings: Any, base: Path) -> tuple[Path, ...]:
        """None: the server has them."""
        del settings, base
        return ()

    @staticmethod
    def open(settings: Any, base: Path) -> OpenAIModel:
        """The model, its key read from the environment. Raises UserError naming the variable where it is missing."""
        return OpenAIModel(settings, read_key(settings, OPENAI))


class OpenAIModel(Endpoint[OpenAISettings]):
    """A model behind an OpenAI-compatible API."""

    def __init__(
        self,
        settings: OpenAISettings,
        key: str | None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        import openai

        super().__init__(settings, Caller(settings, OPENAI, openai, openai.AsyncOpenAI, key, clock=clock, rng=rng))
        newer = settings.base_url is None or settings.base_url.rstrip("/") == OPENAI.own_url
        self._max_tokens = settings.max_tokens_field or ("max_completion_tokens" if newer else "max_tokens")
        self._compatible = not newer

    @property
    def features(self) -> frozenset[Feature]:
        """What settings and provider give together; "grammar" is json_schema only."""
        found: set[Feature] = {"tools", "seed", "stream", "grammar"}
        if self._settings.score:
            found.add("score")
        if self._settings.logprobs != "no":
            found.add("logprobs")
        if self._settings.ids != "no":
            found.add("token-ids")
        return frozenset(found)

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """Answer (see `Model.generate`).

        Pieces go to `on_delta` when the try that they belong to has succeeded, or at once with the setting `live`.
        """
        self._refuse(request)
        body = self._body(request, stream=on_delta is not None or self._settings.stream)
        called = await self._caller.call(
            "/chat/completions" if request.messages is not None else "/completions",
            body,
            OpenAIReader,
            guess=guess_tokens(request),
            tokens=OpenAIReader.tokens,
            timer=timer,
            on_delta=on_delta,
        )
        return self._reply(called, body)

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Score through /completions with `echo`, one request for each pair. Raises UnsupportedError where it cannot.

        A token that begins in the context and ends in the continuation counts as the continuation's.
        """
        if not self._settings.score:
            raise UnsupportedError(
                f'"{self.name}" cannot score: set score = true if its server echoes log-probabilities, '
                "or use a native or hf model"
            )
        return list(await asyncio.gather(*(self._score(pair) for pair in pairs)))

    async def _score(self, pair: Pair) -> Score:
        text = pair.context + pair.continuation
        if not pair.continuation:
            raise UnsupportedError(f'"{self.name}" cannot score an empty continuation')
        called = await self._caller.call(
            "/completions",
            self._caller.body(
                {
                    "model": self.name,
                    "prompt": text,
                    "echo": True,
                    "logprobs": 1,
                    "max_tokens": 1,
                    "temperature": 0,
                }
            ),
            OpenAIReader,
            guess=1 + len(text) // CHARACTERS_PER_TOKEN,
            tokens=OpenAIReader.tokens,
            timer=None,
        )
        return echo_score(called.reader.echoed, pair, self.name)

    def _refuse(self, request: Request) -> None:
        if request.sampling.regex is not None:
            raise UnsupportedError(f'"{self.name}" takes no regex: use json_schema, or extra_body for your server')
        if request.sampling.top_k and not self._compatible:
            raise UnsupportedError(f'"{self.name}" takes no top_k: leave it 0')

    def _body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        fields = openai_wire.body(request, self.name, self._max_tokens)
        if self._settings.logprobs != "no":
            # 1, not 0, for /completions: some servers take 0 for "none"
            fields |= {"logprobs": True} if request.messages is not None else {"logprobs": 1}
        if self._settings.ids != "no":
            fields["return_token_ids"] = True
        if stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return self._caller.body(fields)

    def _reply(self, called: Called[OpenAIReader], body: dict[str, Any]) -> Reply:
        reader = called.reader
        used = {
            name: body[name]
            for name in ("temperature", "top_p", "top_k", "seed", "stop", "max_tokens", "max_completion_tokens")
            if name in body
        }
        if called.refused is not None:
            return Reply(
                message=Message(role="assistant", content=""),
                finish="content_filter",
                model=self.name,
                sampling=used | {"notes": [f"the provider refused the request: {called.refused}"]},
                waited_s=called.waited_s,
                attempts=called.attempts,
            )
        ids, logprobs = reader.ids, reader.logprobs
        self._demand("logprobs", logprobs)
        self._demand("ids", ids)
        usage, notes = reader.usage(self._settings.price)
        if reader.model is not None and reader.model != self.name:
            used["served_model"] = reader.model
        if reader.fingerprint is not None:
            used["system_fingerprint"] = reader.fingerprint
        if logprobs is not None:
            used["logprobs"] = "as the endpoint gives them"
        return Reply(
            message=reader.message().model_copy(update={"token_ids": ids}),
            finish=reader.finish(),
            model=self.name,
            prompt_ids=reader.prompt_ids,
            completion_ids=ids,
            logprobs=logprobs,
            token_bytes=reader.token_bytes,
            usage=usage,
            sampling=used | ({"notes": list(notes)} if notes else {}),
            waited_s=called.waited_s,
            attempts=called.attempts,
        )

    def _demand(self, what: Literal["logprobs", "ids"], given: object) -> None:
        if given is None and getattr(self._settings, what) == "require":
            raise UnsupportedError(
                f'the server of "{self.name}" gives no usable {what}: set {what} = "ask" to go on without, '
                "or choose a server that gives them"
            )
