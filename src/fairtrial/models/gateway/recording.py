"""The Model that records: it stands in front of any other model and is served like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairtrial.core.clock import Timer
from fairtrial.core.errors import InfraError, UserError, one_line
from fairtrial.models.gateway.recorder import Failure, asked
from fairtrial.models.gateway.sessions import Sessions
from fairtrial.models.model import (
    ContextTooLongError,
    Delta,
    Feature,
    Model,
    Pair,
    Reply,
    Request,
    Score,
    UnsupportedError,
)


@dataclass(slots=True)
class Route:
    """Where one request's record goes, and what is known of its agent."""

    name: str | None = None
    """As the agent named its session."""
    session: str | None = None
    """The session, once a call of the model has begun."""
    gone: bool = False
    """The agent closed the connection."""


class Recording:
    """A model whose calls, those of one request, are recorded."""

    def __init__(self, model: Model, sessions: Sessions, route: Route) -> None:
        self._model, self._sessions, self._route = model, sessions, route

    @property
    def name(self) -> str:
        """The name of the model behind."""
        return self._model.name

    @property
    def features(self) -> frozenset[Feature]:
        """What the model behind can do."""
        return self._model.features

    @property
    def context(self) -> int | None:
        """Of the model behind."""
        return self._model.context

    async def generate(
        self, request: Request, *, on_delta: Callable[[Delta], None] | None = None, timer: Timer | None = None
    ) -> Reply:
        """Ask the model behind, with the token ids of its earlier messages put back, and record what comes of it."""
        one = asked(request)
        session = self._sessions.begin(self._route.name, one)
        self._route.session = session.id
        try:
            continued = session.with_ids(one, self.name)
            reply = await self._model.generate(continued, on_delta=on_delta, timer=timer)
        except BaseException as error:
            self._sessions.failed(session, one, self._failure(error))
            raise
        await self._sessions.answered(session, one, reply)
        return reply

    def _failure(self, error: BaseException) -> Failure:
        if isinstance(error, asyncio.CancelledError):
            if self._route.gone:
                return Failure("hang_up", "the agent hung up before the reply was complete")
            return Failure("stopped", "the gateway was stopped before the reply was complete")
        if isinstance(error, InfraError):
            return Failure(error.cause, one_line(error))
        if isinstance(error, ContextTooLongError):
            return Failure("context", one_line(error))
        if isinstance(error, UnsupportedError):
            return Failure("unsupported", one_line(error))
        return Failure("request" if isinstance(error, UserError) else "bug", one_line(error))

    async def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """The scores of the model behind; nothing is recorded."""
        return await self._model.score(pairs)

    async def close(self) -> None:
        """Nothing: the model behind serves other requests."""
