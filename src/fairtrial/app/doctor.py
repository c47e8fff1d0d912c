"""The verb doctor: what is real on this machine, and how to get the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import asdict, dataclass

from fairtrial.app.cli import print_json
from fairtrial.core import registry

_EXTRAS = {
    "local": ("torch", "tokenizers", "safetensors"),
    "hf": ("transformers",),
    "anthropic": ("anthropic",),
    "mcp": ("mcp",),
    "ray": ("ray",),
    "parquet": ("pyarrow", "duckdb"),
    "hub": ("datasets",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    what: str
    ok: bool
    says: str
    remedy: str = ""


def doctor(as_json: bool) -> int:
    """Examine the machine; returns 1 when nothing can isolate an agent or a plugin is broken."""
    sandboxes, engines, extras = _sandboxes(), _engines(), _extras()
    plugins = [Finding(name, False, reason) for name, reason in registry.broken().items()]
    usable = any(item.ok for item in sandboxes if item.what != "none")
    if as_json:
        print_json(
            {
                "ok": usable and not plugins,
                "python": platform.python_version(),
                "system": platform.platform(),
                "cpus": os.cpu_count(),
                "sandboxes": [asdict(item) for item in sandboxes],
                "engines": [asdict(item) for item in engines],
                "extras": [asdict(item) for item in extras],
                "broken_plugins": [asdict(item) for item in plugins],
            }
        )
        return 0 if usable and not plugins else 1
    from fairtrial.studies.report.terminal import open_console

    console = open_console()
    console.print(
        f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs\n",
        markup=False,
        soft_wrap=True,
    )
    for title, found in (
        ("Sandboxes (in the order of choice)", sandboxes),
        ("Engines", engines),
        ("Extras", extras),
        ("Broken plugins", plugins),
    ):
        if not found:
            continue
        console.print(title, style="bold", markup=False, soft_wrap=True)
        for item in found:
            console.print(f"  {'✓' if item.ok else '✗'} {item.what:<12} {item.says}", markup=False, soft_wrap=True)
            if item.remedy and not item.ok:
                console.print(f"      {item.remedy}", style="dim", markup=False, soft_wrap=True)
        console.print()
    if not usable:
        sys.stderr.write("fairtrial: no sandbox can isolate an agent here; see the remedies above\n")
    return 0 if usable and not plugins else 1


def _sandboxes() -> list[Finding]:
    from fairtrial.tasks.sandbox.choose import survey

    unprotected = "no isolation; used only when a study asks for it by name"
    return [
        Finding(name, found.ok, unprotected if name == "none" else found.reason, found.remedy)
        for name, found in survey().items()
    ]


def _engines() -> list[Finding]:
    return [
        Finding(name, True, str(registry.load("engines", name).__doc__).split("\n", 1)[0])
        for name in registry.names("engines")
    ]


def _extras() -> list[Finding]:
    found: list[Finding] = []
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        says = "installed" if not missing else f"missing: {', '.join(missing)}"
        found.append(Finding(extra, not missing, says, f'pip install "fairtrial[{extra}]"'))
    return found
