"""fairtrial: a lab for LLM agents where every claim ships with its control arm.

`fairtrial.Study(...).run("runs/x").effect("mine")` is the way from a question to a verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairtrial.core.errors import InfraError, UserError
    from fairtrial.core.record import Outcome, Record
    from fairtrial.core.trajectory import Trajectory
    from fairtrial.studies.run import Run
    from fairtrial.studies.study import Study

__version__ = "0.1.0"
__all__ = ["InfraError", "Outcome", "Record", "Run", "Study", "Trajectory", "UserError", "__version__"]

_HOMES = {
    "InfraError": "fairtrial.core.errors",
    "UserError": "fairtrial.core.errors",
    "Outcome": "fairtrial.core.record",
    "Record": "fairtrial.core.record",
    "Trajectory": "fairtrial.core.trajectory",
    "Run": "fairtrial.studies.run",
    "Study": "fairtrial.studies.study",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing fairtrial costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fairtrial' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
