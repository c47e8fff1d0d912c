"""Any `Model` behind OpenAI's HTTP interface: models, chat completions, completions, health and metrics.

A request waits for a slot, runs, and is cancelled as soon as its client is gone. Nothing is shared between requests
but the model. Where the server listens on loopback, requests must name a loopback host and send JSON as JSON, so that
a web page in the user's browser cannot reach the model.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fairtrial.core.clock import Clock
from fairtrial.core.errors import FairtrialError
from fairtrial.models.model import Delta, Model, Reply
from fairtrial.models.serving import answers, wire
from fairtrial.models.serving.metrics import CONTENT_TYPE, Metrics
from fairtrial.models.serving.slots import QueueFullError, Slots
from fairtrial.models.serving.wire import Asked, WireError

_log = logging.getLogger(__name__)
_DONE = b"data: [DONE]\n\n"
_DRAIN = 4
"""A body over the limit is read to its end, unless it is this many times the limit: then the connection is closed."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a server behaves."""

    name: str | None = None
    """What clients call the model; None: the model's own name."""
    api_key: str | None = None
    """What clients must send as bearer token; None: nothing."""
    hosts: frozenset[str] | None = None
    """The host names under which requests may come, without port; None: any."""
    max_body: int = 8 << 20
    """Bytes."""
    concurrency: int = 32
    queue: int = 256

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "***"
        return f"Serving(name={self.name!r}, api_key={key}, max_body={self.max_body}, concurrency={self.concurrency})"


class ClientGoneError(Exception):
    """The client closed the connection before its reply was whole."""


class Service:
    """What the routes of one server share. `choose` gives the model for a request (a gateway: one for each session)."""

    def __init__(
        self, model: Model, serving: Serving, clock: Clock, choose: Callable[[HTTPConnection], Model] | None = None
    ) -> None:
        self.model, self.serving, self.clock = model, serving, clock
        self.choose = choose or (lambda _: model)
        self.slots = Slots(serving.concurrency, serving.queue)
        self.metrics = Metrics(self.slots)
        self.name = serving.name or model.name

    def admit(self, connection: HTTPConnection) -> None:
        """Raise WireError for a request that may not be made."""
        hosts, key = self.serving.hosts, self.serving.api_key
        if hosts is not None and _host(connection) not in hosts:
            raise WireError("this server answers to loopback host names only; see --host", status=403)
        if key is not None:
            scheme, _, given = connection.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
                raise WireError(
                    "a valid API key is needed: Authorization: Bearer ...", status=401, code="invalid_api_key"
                )

    async def generate(self, model: Model, asked: Asked, on_delta: Callable[[Delta], None] | None) -> Reply:
        """The model's reply, once there is a slot for it."""
        async with self.slots.take():
            reply = await model.generate(asked.request, on_delta=on_delta)
        self.metrics.count_tokens(reply)
        return reply


class _Sent:
    """What has been sent of a response."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.started = send, 500, False

    async def start(self, status: int, content_type: bytes, headers: dict[str, str]) -> None:
        self.status, self.started = status, True
        raw = [(b"content-type", content_type), *((k.encode(), v.encode()) for k, v in headers.items())]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        data = orjson.dumps(body)
        await self.start(status, b"application/json", headers | {"content-length": str(len(data))})
        await self.body(data, more=False)


class _Generating:
    """The ASGI application of one route that generates."""

    def __init__(self, service: Service, kind: Literal["chat", "completion"]) -> None:
        self._service, self._kind = service, kind
        self._read = wire.read_chat if kind == "chat" else wire.read_completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, sent = self._service, _Sent(send)
        began = service.clock.monotonic()
        try:
            await self._respond(HTTPConnection(scope), receive, sent)
        except ClientGoneError:
            sent.status = 499
        except asyncio.CancelledError:
            sent.status = 503
            raise
        except Exception as error:
            status, body, headers = _failure(error)
            if sent.started:
                sent.status = status
                raise
            await sent.whole(status, body, headers)
        finally:
            service.metrics.count(self._kind, sent.status, service.clock.monotonic() - began)

    async def _respond(self, connection: HTTPConnection, receive: Receive, sent: _Sent) -> None:
        service = self._service
        service.admit(connection)
        if connection.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise WireError("content-type: must be application/json", status=415)
        raw = await _body(connection, receive, service.serving.max_body)
        try:
            asked = self._read(orjson.loads(raw))
        except orjson.JSONDecodeError as error:
            raise WireError(f"the body is not valid JSON: {error}") from None
        del raw
        if asked.model not in (None, service.name):
            known = f'the model "{asked.model[:80]}" is not served here; "{service.name}" is'
            raise WireError(known, param="model", status=404, code="model_not_found")
        model = service.choose(connection)
        wire.check_features(asked, model.features, model.name)
        ident, created = secrets.token_hex(12), int(service.clock.now().timestamp())
        if asked.stream:
            chunks = answers.Chunks(asked, ident, created, model.name)
            await _unless_gone(receive, self._stream(model, asked, chunks, sent))
        else:
            reply = await _unless_gone(receive, service.generate(model, asked, None))
            await sent.whole(200, answers.answer(reply, asked, ident, created), {})

    async def _stream(self, model: Model, asked: Asked, chunks: answers.Chunks, sent: _Sent) -> None:
        """Server-sent events; an error before the first piece is an HTTP error, a later one an event without [DONE]."""
        pieces: asyncio.Queue[Delta | None] = asyncio.Queue()
        work = asyncio.create_task(self._service.generate(model, asked, pieces.put_nowait))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            piece = await pieces.get()
            if piece is None:
                work.result()
            await sent.start(200, b"text/event-stream; charset=utf-8", {"cache-control": "no-cache"})
            while piece is not None:
                events: list[bytes] = []
                while piece is not None:
                    if (chunk := chunks.delta(piece)) is not None:
                        events.append(_event(chunk))
                    piece = None if pieces.empty() else pieces.get_nowait()
                if events:
                    await sent.body(b"".join(events), more=True)
                piece = None if work.done() and pieces.empty() else await pieces.get()
            try:
                last = b"".join(_event(chunk) for chunk in chunks.end(work.result())) + _DONE
            except Exception as error:  # noqa: BLE001 - told as an event, a bug is logged with its traceback
                sent.status, body, _ = _failure(error)
                last = _event(body)
            await sent.body(last, more=False)
        finally:
            await _stop(work)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, which is cancelled when the client goes. Raises ClientGoneError."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        await _stop(task)
        await _stop(gone)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has let go of what it holds."""
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # seen: asyncio need not warn of it


async def _body(connection: HTTPConnection, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises WireError (413) and ClientGoneError."""
    length = connection.headers.get("content-length", "")
    declared = int(length) if length.isdecimal() else 0
    parts, size, more = [], 0, declared <= _DRAIN * limit
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > _DRAIN * limit:
            break
    if max(size, declared) > limit:
        raise WireError(f"the body is longer than {limit} bytes", status=413, code="body_too_large")
    return b"".join(parts)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _failure(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    if not isinstance(error, FairtrialError):
        _log.error("a request failed", exc_info=error)
    status, body, headers = answers.failure(error)
    if isinstance(error, QueueFullError):
        headers["retry-after"] = str(error.retry_after_s)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return status, body, headers


def _host(connection: HTTPConnection) -> str:
    """The host that a request names, without the port."""
    host = connection.headers.get("host", "").lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def api_routes(service: Service, prefix: str = "/v1") -> list[Route]:
    """The routes of OpenAI's interface below `prefix` (which may hold path parameters for `choose`)."""
    created = int(service.clock.now().timestamp())

    async def models(_: Request) -> Response:
        return JSONResponse(answers.model_list([service.name], created))

    async def one_model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            raise WireError("there is no such model; see /v1/models", status=404, code="model_not_found")
        return JSONResponse(answers.model_entry(service.name, created))

    return [
        Route(f"{prefix}/models", _admitted(service, models), methods=["GET"]),
        Route(f"{prefix}/models/{{name:path}}", _admitted(service, one_model), methods=["GET"]),
        Route(f"{prefix}/chat/completions", _Generating(service, "chat"), methods=["POST"]),
        Route(f"{prefix}/completions", _Generating(service, "completion"), methods=["POST"]),
    ]


def status_routes(service: Service) -> list[Route]:
    """Health (open to all) and metrics."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "model": service.name})

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE)

    return [
        Route("/health", health, methods=["GET"]),
        Route("/metrics", _admitted(service, metrics), methods=["GET"]),
    ]


def application(routes: list[Route]) -> Starlette:
    """The application of these routes; what has no route is answered in JSON too."""

    async def told(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            body = answers.error_body(f"{error.detail}; see /v1/models", "invalid_request_error")
            return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))
        status, body, headers = _failure(error)
        return JSONResponse(body, status, headers=headers)

    return Starlette(routes=routes, exception_handlers={HTTPException: told, WireError: told})


def build(model: Model, serving: Serving, clock: Clock) -> Starlette:
    """The whole server of one model, as an ASGI application."""
    service = Service(model, serving, clock)
    return application([*api_routes(service), *status_routes(service)])


def _admitted(
    service: Service, handler: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def checked(request: Request) -> Response:
        service.admit(request)
        return await handler(request)

    return checked
