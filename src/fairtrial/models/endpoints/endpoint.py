"""What every endpoint shares: settings, the key, and one call through rate limits and retries."""

from __future__ import annotations

import ipaddress
import os
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from fairtrial.core.clock import Clock, SystemClock, Timer
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.models.endpoints.failures import FilteredError, Whose
from fairtrial.models.endpoints.prices import Price
from fairtrial.models.endpoints.rates import Rates, Ticket, Waits
from fairtrial.models.endpoints.retrying import Budget, TryFailedError, retrying
from fairtrial.models.endpoints.transport import Exchange, Reader
from fairtrial.models.model import Attempt, Delta, Request

CHARACTERS_PER_TOKEN = 4  # only to guess, before a call, what it takes from tokens_per_minute
R = TypeVar("R", bound=Reader)


class EndpointSettings(Config):
    """Settings of a model behind an HTTP API."""

    name: str = Field(min_length=1)
    """The model's name at the provider."""
    base_url: str | None = None
    """None: the provider's own. The SDK's variables for it are not read."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None: the provider's usual one; empty: no key is sent."""
    timeout_s: float = Field(default=600.0, gt=0)
    """For one try, whole."""
    stall_s: float = Field(default=180.0, gt=0)
    """Longest silence of a stream: before its first piece and between pieces."""
    max_concurrent: int = Field(default=16, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Input and output together."""
    retry: Budget = Budget()
    price: Price | None = None
    """None: cost_usd stays 0 and the reply says so."""
    context: int | None = Field(default=None, ge=1)
    """Tokens that prompt and reply may have together, where you know."""
    max_reply_mb: float = Field(default=64.0, gt=0)
    """Largest body of a reply, in MiB."""
    stream: bool = False
    """Stream from the provider although nobody listens, so that a stall is noticed early."""
    live: bool = False
    """Pass pieces on as they come. Off: they are passed on once their try has succeeded, so that a broken try can be
    repeated. On: a reply that breaks after its first piece has been passed on is not repeated, it fails."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Fields added to each request's body; they win over ours."""
    omit: tuple[str, ...] = ()
    """Fields never sent, for servers that refuse them ("top_p")."""

    @model_validator(mode="after")
    def _safe(self) -> EndpointSettings:
        # without the value: somebody may have written the key itself here
        if self.api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError('"api_key_env": give the name of an environment variable, not the key itself')
        if self.base_url is not None:
            try:
                parts = urlsplit(self.base_url)
            except ValueError:
                parts = urlsplit("")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError('"base_url": give a URL like https://host/v1')
            if parts.username or parts.password:
                raise ValueError('"base_url": leave name and password out of it; a key belongs into a variable')
        return self


def read_key(
    settings: EndpointSettings, provider: Provider, environment: Mapping[str, str] | None = None
) -> str | None:
    """The key from the environment; None where none is needed. Raises UserError naming the variable.

    A server on this machine or in a private network may do without a key; one that is set is sent nevertheless.
    """
    if settings.api_key_env == "":
        return None
    variable = settings.api_key_env or provider.key
    key = (os.environ if environment is None else environment).get(variable, "").strip()
    if key:
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"{variable}: the key has characters that no HTTP header can carry; set it again")
        return key
    if settings.api_key_env is None and _is_near(settings.base_url):
        return None
    raise UserError(f'"{settings.name}" needs a key: set the environment variable {variable}, or "api_key_env"')


def _is_near(base_url: str | None) -> bool:
    host = urlsplit(base_url).hostname if base_url else None
    if host is None:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or "." not in host
    return address.is_loopback or address.is_private


@dataclass(frozen=True, slots=True)
class Called(Generic[R]):
    """What a call brought."""

    reader: R
    """Fed with the whole reply; untouched where the content was refused."""
    refused: str | None
    """Why the provider refused the content, if it did."""
    waited_s: float
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Provider:
    """Where an endpoint's calls go."""

    kind: str
    own_url: str
    key: str
    """The usual variable of the key."""
    key_headers: tuple[str, ...]
    """What the SDK puts the key into; left away where no key is sent."""


class Caller:
    """Calls a provider: admission, tries, exchange."""

    def __init__(
        self,
        settings: EndpointSettings,
        provider: Provider,
        sdk: Any,
        client: Callable[..., Any],
        key: str | None,
        *,
        clock: Clock | None,
        rng: random.Random | None,
    ) -> None:
        """`sdk`: the provider's module; `client`: makes its asynchronous client. No clock and no rng: the real ones."""
        self._settings, self._clock, self._rng = settings, clock or SystemClock(), rng or _jitter()
        self._exchange = Exchange(
            client(api_key=key or "none", base_url=settings.base_url or provider.own_url, max_retries=0),
            sdk,
            Whose(settings.name, settings.context, key, settings.api_key_env or provider.key),
            self._clock,
            settings.timeout_s,
            settings.stall_s,
            int(settings.max_reply_mb * 2**20),
            {} if key else {header: sdk.Omit() for header in provider.key_headers},
        )
        self._who = f'{provider.kind} "{settings.name}"'
        self._closed = False
        self._rates = Rates(
            self._clock,
            concurrent=settings.max_concurrent,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )

    def body(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent: our fields without the omitted ones, and the user's extra ones."""
        return {name: value for name, value in ours.items() if name not in self._settings.omit} | (
            self._settings.extra_body
        )

    async def call(
        self,
        path: str,
        body: Mapping[str, Any],
        new_reader: Callable[[], R],
        *,
        guess: int,
        tokens: Callable[[R], int | None],
        timer: Timer | None,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> Called[R]:
        """One request, with as many tries as the budget allows.

        Args:
            path: Below the base URL.
            body: JSON; has `stream` where the provider shall stream.
            new_reader: Makes the reader of a try.
            guess: Tokens that it will probably take, for the rate limit.
            tokens: What it really took, from the reader.
            timer: Of the trial.
            on_delta: Where pieces go (see `EndpointSettings.live`).

        Raises:
            ProviderError: Beyond the budget.
            ContextTooLongError, UnsupportedError: As the provider says.
        """
        if self._closed:
            raise UserError(f"{self._who} is closed")
        waits = Waits(self._clock, timer)

        async def once(ticket: Ticket) -> tuple[R, str | None]:
            reader, pieces = new_reader(), Pieces(on_delta, self._settings.live)
            try:
                await self._exchange.run(path, body, reader, pieces.take, stream=bool(body.get("stream")), waits=waits)
            except FilteredError as error:
                return reader, str(error)
            except TryFailedError as error:
                if pieces.delivered:
                    error.retryable = False
                    error.detail += "; pieces of it were passed on already, so it is not repeated"
                raise
            ticket.tokens = tokens(reader) or ticket.tokens
            pieces.flush()
            return reader, None

        (reader, refused), attempts = await retrying(
            once,
            admit=lambda: self._rates.slot(guess, waits),
            budget=self._settings.retry,
            clock=self._clock,
            rng=self._rng,
            waits=waits,
            who=self._who,
        )
        return Called(reader, refused, waits.seconds, attempts)

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._exchange.client.close()


S = TypeVar("S", bound=EndpointSettings)


class Endpoint(Generic[S]):
    """What the models behind HTTP APIs have in common."""

    def __init__(self, settings: S, caller: Caller) -> None:
        self._settings, self._caller = settings, caller

    @property
    def name(self) -> str:
        """As the provider calls it."""
        return self._settings.name

    @property
    def context(self) -> int | None:
        """As the settings say."""
        return self._settings.context

    async def close(self) -> None:
        """Close the connections."""
        await self._caller.close()


class Pieces:
    """Keeps the pieces of a try until it has succeeded, or passes them on at once."""

    def __init__(self, on_delta: Callable[[Delta], None] | None, live: bool) -> None:
        self._on_delta, self._live = on_delta, live
        self._kept: list[Delta] = []
        self.delivered = False

    def take(self, delta: Delta) -> None:
        """One piece."""
        if self._on_delta is None:
            return
        if self._live:
            self.delivered = True
            self._on_delta(delta)
        else:
            self._kept.append(delta)

    def flush(self) -> None:
        """The try has succeeded: pass on what was kept."""
        if self._on_delta is not None:
            for delta in self._kept:
                self._on_delta(delta)
        self._kept.clear()


def guess_tokens(request: Request) -> int:
    """About how many tokens a request takes: its characters by four, and the longest reply that it allows."""
    if request.prompt_ids is not None:
        prompt = len(request.prompt_ids)
    elif request.prompt is not None:
        prompt = len(request.prompt) // CHARACTERS_PER_TOKEN
    else:
        prompt = sum(len(message.content) for message in request.messages or ()) // CHARACTERS_PER_TOKEN
    return 1 + prompt + (request.sampling.max_tokens or 0)


def _jitter() -> random.Random:
    """A generator for pauses, different in each process: they must not fall together, and change no result."""
    return random.Random()  # noqa: S311
