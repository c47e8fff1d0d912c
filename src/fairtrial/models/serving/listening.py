"""An ASGI application on a socket, until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

from fairtrial.core.errors import UserError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: a free one. Raises UserError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f'--host: "{host}" cannot be used: {error.strerror}') from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port (0: any free one)"
        ) from None
    return sock


def url(sock: socket.socket) -> str:
    """Where a listening socket is reached, without path."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def run(app: Any, sock: socket.socket, stop: asyncio.Event, *, grace_s: int = 10) -> None:
    """Serve `app` (ASGI) on `sock` until `stop` is set; requests then have `grace_s` seconds to end.

    The socket is closed. No signal handlers are installed: whoever calls decides what stops the server.
    """
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=grace_s,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
        await serving
        sock.close()


def run_until_stopped(
    make: Callable[[], tuple[Any, Callable[[], Awaitable[None]]]],
    sock: socket.socket,
    on_ready: Callable[[str], None],
    stop_on: tuple[int, ...],
) -> None:
    """`run` in an event loop of its own until one of the signals `stop_on` comes; `make` builds the app inside it.

    `make` returns the application and a function to await when the server has stopped. The same signal a second time
    does what it does elsewhere: it ends the process at once.
    """

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        app, close = make()

        def told(number: int) -> None:
            loop.remove_signal_handler(number)
            stop.set()

        for number in stop_on:
            loop.add_signal_handler(number, told, number)
        try:
            on_ready(url(sock))
            await run(app, sock, stop)
        finally:
            for number in stop_on:
                loop.remove_signal_handler(number)
            await close()

    asyncio.run(main())
