"""A rule-based baseline: `solver.py`, one program of the standard library that the agent `command` runs in the box."""

from __future__ import annotations

from pathlib import Path


def program() -> Path:
    """The program's file, to be given to the agent `command` among its `files`."""
    return Path(__file__).resolve().with_name("solver.py")
