"""Suite core-tasks: own Harbor-format tasks."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder that holds the suite: one task folder each."""
    return Path(__file__).resolve().parent
