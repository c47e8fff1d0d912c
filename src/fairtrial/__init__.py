"""fairtrial: a lab for LLM agents where every claim ships with its control arm."""

from __future__ import annotations

__version__ = "0.1.0"
