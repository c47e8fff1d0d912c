"""What a kind of trial adds to a report beside the verdicts: tables and curves, as data."""

from __future__ import annotations

from typing import Literal

from fairtrial.core.config import Config


class Estimate(Config):
    """A mean with its interval."""

    value: float
    low: float | None = None
    high: float | None = None


Cell = str | int | float | Estimate | None


class Table(Config):
    """A table; numbers stay numbers, a missing value is None."""

    kind: Literal["table"] = "table"
    title: str
    columns: tuple[str, ...]
    """The first column names the row."""
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


class Curves(Config):
    """Lines over a common axis, one for each name (usually an arm)."""

    kind: Literal["curves"] = "curves"
    title: str
    x: str
    """What the horizontal axis counts, with its unit."""
    y: str
    series: dict[str, tuple[tuple[float, float], ...]]
    """Points (x, y) in order of x."""
    note: str = ""


Finding = Table | Curves
