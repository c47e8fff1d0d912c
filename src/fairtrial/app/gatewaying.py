"""The verb gateway: any model behind OpenAI's HTTP interface, every call recorded as an agent's trajectory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairtrial.app.serving import Address, Host, KeyEnv, Port, SetModel, model_spec, run_server
from fairtrial.core.clock import SystemClock


def gateway(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="KIND:TEXT, e.g. openai:gpt-x.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trajectories; an old one is continued.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; default its own name.")] = None,
    api_key_env: KeyEnv = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 429.")] = 256,
    max_body_mb: Annotated[float, typer.Option("--max-body-mb", min=0.001, help="Longest request, in MB.")] = 8.0,
    set_: SetModel = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line about the address.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON on standard output.")] = False,
) -> None:
    """Serve a model to an agent written elsewhere and record its calls; Ctrl-C stops it.

    The header X-Fairtrial-Session names a session, and so does the base URL http://HOST:PORT/s/NAME/v1; without
    either, conversations are told apart. show and export read the folder at any time.
    """
    from fairtrial.models.gateway import app
    from fairtrial.models.gateway.sessions import Sessions
    from fairtrial.models.opening import open_model
    from fairtrial.models.serving.server import Serving

    address = Address(host, port, api_key_env)
    serving = Serving(
        name=name,
        api_key=address.key(),
        hosts=address.hosts(),
        max_body=int(max_body_mb * 1e6),
        concurrency=concurrency,
        queue=queue,
    )

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
