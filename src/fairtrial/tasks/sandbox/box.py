"""The box of the backends that use namespaces: a folder and rules; each execution makes the namespaces anew."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fairtrial.core.errors import FairtrialError, InfraError, one_line
from fairtrial.tasks.sandbox import gate, supervise
from fairtrial.tasks.sandbox.api import BoxSpec, End, Execution
from fairtrial.tasks.sandbox.layout import Place, environment, plan
from fairtrial.tasks.sandbox.watch import Disk

Render = Callable[[BoxSpec, Sequence[Place], Mapping[str, str]], tuple[list[str], bytes]]
"""(spec, places, environment) -> (outer command, to which the program is appended; what it reads from descriptor 4)."""


class NamespaceBox:
    """An open box. It holds no process between executions."""

    def __init__(self, spec: BoxSpec, name: str, render: Render) -> None:
        self.spec = spec
        self._name, self._render = name, render
        self._disk: Disk | None = None

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> Execution:
        """See `api.Box.exec`."""
        if (refused := refusal(argv)) is not None:
            return refused
        places, values = plan(self.spec), environment(self.spec, env)
        check_text([*values, *values.values(), *(text for place in places for text in (place.target, place.source))])
        outer, given = self._render(self.spec, places, values)
        if self._disk is None and self.spec.limits.disk_mb is not None:
            self._disk = Disk(self.spec.files)
        outer += gate.command(argv, workdir or self.spec.workdir)
        launch = supervise.Launch(outer, given, self.spec.limits, self._disk, self._name, quiet=self._name == "unshare")
        return await supervise.run(launch, stdin, timeout_s)


def refusal(argv: Sequence[str]) -> Execution | None:
    """What running `argv` comes to where no system call can take it: a mistake, answered as a shell would."""
    if all(_sayable(text) for text in argv):
        return None
    said = b"the command has a character that no argument may have\n"
    return Execution(exit_code=126, end=End.EXIT, stdout=b"", stderr=said, wall_s=0.0, cpu_s=0.0)


def check_text(texts: Sequence[str]) -> None:
    """Raise InfraError for text of the specification with a NUL, which could end an option and begin another."""
    for text in texts:
        if not _sayable(text):
            raise InfraError(
                f"the box cannot have {text!r}: a character is not allowed", cause="sandbox", retryable=False
            )


def _sayable(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def probe(name: str, render: Render) -> str:
    """Run a program in a box of this kind; what went wrong, or "". Works inside and outside of an event loop."""
    said = ["it could not be tried"]

    def attempt() -> None:
        with tempfile.TemporaryDirectory() as folder:
            box = NamespaceBox(BoxSpec(Path(folder)), name, render)
            try:
                done = asyncio.run(box.exec(["/bin/sh", "-c", "exit 7"], timeout_s=30))
            except (FairtrialError, OSError) as error:
                said[0] = one_line(error)
                return
        said[0] = (
            "" if done.exit_code == 7 else f"exit {done.exit_code}, {done.stderr.decode(errors='replace').strip()}"
        )

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return said[0]
