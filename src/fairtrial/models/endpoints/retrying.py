"""Retries under a budget: exponential back-off with full jitter, the provider's retry-after respected.

Full jitter: the n-th pause is uniform between 0 and base * 2^n (Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015). The clock and the generator are arguments.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from pydantic import Field

from fairtrial.core.clock import Clock
from fairtrial.core.config import Config
from fairtrial.core.errors import InfraError
from fairtrial.models.endpoints.rates import Ticket, Waits
from fairtrial.models.model import Attempt

T = TypeVar("T")
log = logging.getLogger("fairtrial.models")
_TOLD = 3
"""Failed tries of a request from which on people are told; before that it is everyday life."""


class Budget(Config):
    """How much one request may try."""

    tries: int = Field(default=6, ge=1)
    """In all, the first included."""
    seconds: float = Field(default=300.0, ge=0)
    """Spent on failed tries and the pauses behind them; no further try starts beyond it. Queueing for our own limits
    does not count."""
    base_s: float = Field(default=0.5, gt=0)
    """Upper end of the first pause; it doubles with each further one."""
    longest_s: float = Field(default=60.0, gt=0)
    """Longest pause of our own (a provider's retry-after may be longer)."""


class TryFailedError(Exception):
    """One try failed. Internal: `retrying` turns it into an Attempt, and the last one into a ProviderError."""

    def __init__(
        self,
        cause: str,
        detail: str,
        *,
        status: int | None = None,
        retryable: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail, self.status = cause, detail, status
        self.retryable, self.retry_after_s = retryable, retry_after_s


class ProviderError(InfraError):
    """A provider failed beyond the retry budget, or in a way that another try cannot help."""

    def __init__(
        self,
        message: str,
        *,
        cause: str = "provider",
        retryable: bool = True,
        retry_after_s: float | None = None,
        status: int | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> None:
        super().__init__(message, cause=cause, retryable=retryable, retry_after_s=retry_after_s)
        self.status = status
        """HTTP status of the last try, where there was one."""
        self.attempts = attempts
        """Every try."""


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that `retry-after-ms` or `retry-after` (seconds or an HTTP date) asks for; None where it says nothing.

    `headers` must find names in lower case.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


def pause_s(budget: Budget, failures: int, asked_s: float | None, rng: random.Random) -> float:
    """The pause after the given number of failures (from 1): full jitter, or what was asked plus a little jitter."""
    if asked_s is not None:
        return asked_s + rng.uniform(0.0, budget.base_s)
    return rng.uniform(0.0, min(budget.longest_s, budget.base_s * 2.0 ** min(failures - 1, 60)))


async def retrying(
    once: Callable[[Ticket], Awaitable[T]],
    *,
    admit: Callable[[], AbstractAsyncContextManager[Ticket]],
    budget: Budget,
    clock: Clock,
    rng: random.Random,
    waits: Waits,
    who: str,
) -> tuple[T, tuple[Attempt, ...]]:
    """What `once` returns, and the tries that failed before.

    Args:
        once: One try; a TryFailedError is retried where it says that it may be, everything else passes through.
        admit: Entered around each try: our own rate limits. Left during the pauses.
        budget: Tries and seconds.
        clock: Sleeps through the pauses.
        rng: Draws the jitter.
        waits: Where the pauses are booked.
        who: Begins the error message.

    Raises:
        ProviderError: The budget is used up (`retryable` stays true), or another try cannot help.
    """
    failed: list[Attempt] = []
    spent = 0.0
    while True:
        async with admit() as ticket:
            began = clock.monotonic()
            try:
                return await once(ticket), tuple(failed)
            except TryFailedError as caught:
                error, took = caught, clock.monotonic() - began
        pause = pause_s(budget, len(failed) + 1, error.retry_after_s, rng)
        last = not error.retryable or len(failed) + 1 >= budget.tries or spent + took + pause > budget.seconds
        failed.append(Attempt(error.cause, error.status, took if last else took + pause))
        spent += took + (0.0 if last else pause)
        if last:
            raise _gives_up(who, error, tuple(failed), spent) from None
        if len(failed) >= _TOLD:
            tried = f"{len(failed)} of {budget.tries} tries"
            log.warning("%s: %s: %s; %s failed, the next one in %.0f s", who, error.cause, error.detail, tried, pause)
        with waits.waiting():
            await clock.sleep(pause)


def _gives_up(who: str, error: TryFailedError, failed: tuple[Attempt, ...], spent: float) -> ProviderError:
    status = "" if error.status is None else f" (HTTP {error.status})"
    tries = f" after {len(failed)} tries in {spent:.1f} s" if len(failed) > 1 else ""
    asked = "" if error.retry_after_s is None else f"; it asks to wait {error.retry_after_s:g} s"
    return ProviderError(
        f"{who}: {error.cause}{status}{tries}: {error.detail}{asked}",
        cause=error.cause,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
        status=error.status,
        attempts=failed,
    )
