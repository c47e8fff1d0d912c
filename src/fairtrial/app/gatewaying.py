"""The verb gateway: any model behind OpenAI's HTTP interface, every call recorded as an agent's trajectory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairtrial.app.serving import (
    Address,
    AsJson,
    ClientName,
    Concurrency,
    Host,
    KeyEnv,
    MaxBody,
    Port,
    Queue,
    Quiet,
    SetModel,
    model_spec,
    run_server,
)
from fairtrial.core.clock import SystemClock


def gateway(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="KIND:TEXT, e.g. openai:gpt-x.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trajectories; an old one is continued.")],
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
    """Serve a model to an agent written elsewhere and record its calls; Ctrl-C stops it.

    The header X-Fairtrial-Session names a session, and so does the base URL http://HOST:PORT/s/NAME/v1; without
    either, conversations are told apart. show and export read the folder at any time.
    """
    from fairtrial.models.gateway import app
    from fairtrial.models.gateway.sessions import Sessions
    from fairtrial.models.opening import open_model

    address = Address(host, port, api_key_env)
    serving = address.serving(name, concurrency, queue, max_body_mb)

    def make() -> tuple[Any, Callable[[], Awaitable[None]]]:
        opened = open_model(model_spec(model, tuple(set_ or ())), Path.cwd())
        sessions = Sessions(out, SystemClock())

        async def close() -> None:
            try:
                await opened.close()
            finally:
                sessions.close()

        return app.build(opened, sessions, serving, SystemClock()), close

    run_server(make, address, "model", name or model, quiet, as_json)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(gateway)
