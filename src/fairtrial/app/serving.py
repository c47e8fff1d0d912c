"""The verb serve: any model behind OpenAI's HTTP interface."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairtrial.core.clock import SystemClock
from fairtrial.core.errors import UserError

if TYPE_CHECKING:
    from fairtrial.models.serving.server import Serving


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and what clients must show."""

    host: str
    port: int
    api_key_env: str | None

    def key(self) -> str | None:
        """The key, read from its variable. Raises UserError, which names the variable, where it is not set."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UserError(f"--api-key-env: the variable {self.api_key_env} is not set (or empty); set it to the key")
        return key

    def hosts(self) -> frozenset[str] | None:
        """The host names under which requests may come: on loopback only loopback's, elsewhere any."""
        from fairtrial.models.serving.listening import LOOPBACK_NAMES, is_loopback

        return LOOPBACK_NAMES | {self.host.lower()} if is_loopback(self.host) else None

    def serving(self, name: str | None, concurrency: int, queue: int, max_body_mb: float) -> Serving:
        """The server's settings, here and with these options. Raises UserError as `key` does."""
        from fairtrial.models.serving.server import Serving

        return Serving(
            name=name,
            api_key=self.key(),
            hosts=self.hosts(),
            max_body=int(max_body_mb * 1e6),
            concurrency=concurrency,
            queue=queue,
        )

    def warn(self) -> None:
        """Say so where others can reach the model."""
        from fairtrial.models.serving.listening import is_loopback

        if not is_loopback(self.host):
            keyless = "" if self.api_key_env else " without a key (--api-key-env NAME asks for one)"
            sys.stderr.write(f"warning: whoever reaches {self.host} on this network can use the model{keyless}\n")


Host = Annotated[str, typer.Option(help="Address to listen on; anything but loopback lets other machines in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one, which is printed.")]
KeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help="Clients must send the key that this variable holds."),
]
ClientName = Annotated[str | None, typer.Option("--name", help="What clients call the model; default its own name.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests that run at once.")]
Queue = Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 429.")]
MaxBody = Annotated[float, typer.Option("--max-body-mb", min=0.001, help="Longest request, in MB.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No line about the address.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the address as JSON on standard output.")]
SetModel = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one of the model's settings, e.g. max_batch=8."),
]


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="KIND:TEXT, e.g. native:runs/model.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: ClientName = None,
    api_key_env: KeyEnv = None,
    concurrency: Concurrency = 32,
    queue: Queue = 256,
    max_body_mb: MaxBody = 8.0,
    set_: SetModel = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Serve a model with OpenAI's HTTP interface; Ctrl-C stops it."""
    from fairtrial.models.opening import open_model
    from fairtrial.models.serving import server

    address = Address(host, port, api_key_env)
    serving = address.serving(name, concurrency, queue, max_body_mb)

    def make() -> tuple[Any, Callable[[], Awaitable[None]]]:
        opened = open_model(model_spec(model, tuple(set_ or ())), Path.cwd())
        return server.build(opened, serving, SystemClock()), opened.close

    run_server(make, address, "model", name or model, quiet, as_json)


def model_spec(text: str, overrides: tuple[str, ...]) -> str | dict[str, Any]:
    """What `open_model` takes, from KIND:TEXT and settings as KEY=VALUE. Raises UserError."""
    kind, _, argument = text.partition(":")
    if not overrides:
        return text
    from fairtrial.core import registry
    from fairtrial.studies.study import apply_override

    table: dict[str, Any] = {"kind": kind}
    if argument:
        table[registry.load("models", kind).argument] = argument
    for override in overrides:
        apply_override(table, override)
    return table


def run_server(
    make: Callable[[], tuple[Any, Callable[[], Awaitable[None]]]],
    address: Address,
    what: str,
    name: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Listen, build the application, say where it is, and serve until SIGINT or SIGTERM.

    `make`: gives the application and what to await at the end; `what`, `name`: for the line that says where it is.
    """
    from fairtrial.models.serving import listening

    def ready(url: str) -> None:
        if as_json:
            import orjson

            sys.stdout.write(orjson.dumps({what: name, "url": f"{url}/v1"}).decode() + "\n")
            sys.stdout.flush()
        elif not quiet:
            sys.stderr.write(f"serving {name} at {url}/v1 (Ctrl-C stops)\n")

    sock = listening.listen(address.host, address.port)
    try:
        address.warn()
        listening.run_until_stopped(make, sock, ready, (signal.SIGINT, signal.SIGTERM))
    finally:
        sock.close()


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)
