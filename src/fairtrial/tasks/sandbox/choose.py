"""Which sandbox to use: the best that works here, or the one asked for by name."""

from __future__ import annotations

from fairtrial.core import registry
from fairtrial.core.errors import UserError
from fairtrial.tasks.sandbox.api import Availability, Sandbox

ORDER = ("bubblewrap", "unshare", "docker", "podman")
"""Tried in this order. `none` isolates nothing and is used only when asked for by name."""


def choose(name: str | None = None) -> Sandbox:
    """The sandbox called `name`, or the first of `ORDER` that works on this machine.

    Raises UserError naming what was tried, why it does not work and how to get it.
    """
    if name is not None:
        sandbox: Sandbox = registry.load("sandboxes", name)()
        found = sandbox.available()
        if not found.ok:
            raise UserError(f'the sandbox "{name}" does not work here: {_explained(found)}')
        return sandbox
    tried: list[str] = []
    for candidate in ORDER:
        sandbox = registry.load("sandboxes", candidate)()
        found = sandbox.available()
        if found.ok:
            return sandbox
        tried.append(f"{candidate}: {_explained(found)}")
    raise UserError(
        f"no sandbox works on this machine ({'; '.join(tried)}); "
        'to run programs that you trust without any isolation, ask for the sandbox "none"'
    )


def survey() -> dict[str, Availability]:
    """Every registered sandbox and whether it works here; a plugin that cannot be loaded counts as not working."""
    found: dict[str, Availability] = {}
    for name in sorted(
        registry.names("sandboxes"), key=lambda name: (ORDER.index(name) if name in ORDER else 99, name)
    ):
        try:
            found[name] = registry.load("sandboxes", name)().available()
        except UserError as error:
            found[name] = Availability(False, str(error))
    return found


def _explained(found: Availability) -> str:
    return f"{found.reason}; {found.remedy}" if found.remedy else found.reason
