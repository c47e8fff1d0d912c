"""The gateway's app: the server's, behind a layer that reads which session a request belongs to.

A session is named by the header `X-Fairtrial-Session`, or by the path (base URL `http://HOST:PORT/s/NAME/v1`), for
agents that cannot send headers; the path goes before the header. The answer's header of the same name says where the
call was recorded (a stream that begins before its session is known has none).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from starlette.requests import HTTPConnection

from fairtrial.core.clock import Clock
from fairtrial.core.errors import UserError, one_line
from fairtrial.core.ids import check_name
from fairtrial.models.gateway.recorder import Failure
from fairtrial.models.gateway.recording import Recording, Route
from fairtrial.models.gateway.sessions import Sessions
from fairtrial.models.model import Model
from fairtrial.models.serving.answers import error_body
from fairtrial.models.serving.server import Service, Serving, api_routes, application, status_routes

HEADER = b"x-fairtrial-session"
_ROUTE = "fairtrial.route"
"""Where a request's `Route` is in its scope."""
_STRANGERS = frozenset({401, 403})
"""Answers to those who may not ask at all: they write nothing."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build(model: Model, sessions: Sessions, serving: Serving, clock: Clock) -> App:
    """The gateway of one model, as an ASGI application."""

    def recording(connection: HTTPConnection) -> Model:
        return Recording(model, sessions, connection.scope[_ROUTE])

    service = Service(model, serving, clock, recording)
    return _with_sessions(application([*api_routes(service), *status_routes(service)]), sessions)


def _with_sessions(server: App, sessions: Sessions) -> App:
    """`server`, told of each request's session."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await server(scope, receive, send)
            return
        try:
            name, inner = _named(scope)
        except UserError as error:
            await _refuse(send, one_line(error))
            return
        route = Route(name)

        async def receiving() -> MutableMapping[str, Any]:
            message = await receive()
            route.gone = route.gone or message["type"] == "http.disconnect"
            return message

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and status not in _STRANGERS:
                    reason = f"the server answered {status} before asking the model"
                    _note(route, inner, sessions, Failure(f"http_{status}", reason))
                if (session := route.session or route.name) is not None:
                    headers = [*message.get("headers", ()), (HEADER, session.encode())]
                    message = {**message, "headers": headers}
            await send(message)

        await server({**inner, _ROUTE: route}, receiving, sending)
        if route.gone:
            _note(route, inner, sessions, Failure("hang_up", "the agent hung up before the model was asked"))

    return app


def _named(scope: Scope) -> tuple[str | None, Scope]:
    """The session that a request names, and the request as the server knows it. Raises UserError."""
    path: str = scope["path"]
    if path.startswith("/s/"):
        name, slash, rest = path[3:].partition("/")
        if not slash:
            raise UserError("a session's address is /s/NAME/v1/...")
        inner = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}
        return check_name(name, "session"), inner
    given = dict(scope["headers"]).get(HEADER)
    return (None if given is None else check_name(given.decode("latin-1"), "session")), scope


def _note(route: Route, scope: Scope, sessions: Sessions, failure: Failure) -> None:
    """Record that a call of a named session did not reach the model."""
    asked = scope["method"] == "POST" and scope["path"].endswith("/completions")
    if asked and route.session is None and route.name is not None:
        sessions.refused(route.name, failure)
        route.session = route.name


async def _refuse(send: Send, message: str) -> None:
    body = orjson.dumps(error_body(message, "invalid_request_error", "session"))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
