"""The recipe that `tiny` is made by, and the worlds that it is tested on."""

from __future__ import annotations

from typing import Any

from fairtrial.nn.schedule import Schedule
from fairtrial.training.tiny.playing import Habit
from fairtrial.training.tiny.recipe import Course, Recipe

_MULTI: dict[str, Any] = {
    "families": ["multi"],
    "hops": 1,
    "decoys": 1,
    "tools": ["visit"],
    "backlinks": False,
    "page_words": 1,
    "pages": 40,
}

RECIPE = Recipe(
    model={
        "hidden": 96, "layers": 3, "pattern": "WFK", "intermediate": 192, "tied": True, "init_std": 0.06,
        "heads": 3, "head_dim": 32, "window": 4, "kda_heads": 3, "kda_key_dim": 32, "kda_gate_rank": 16,
    },
    habits=(Habit(name="append", spelled=True), Habit(name="fold", policy="fold", spelled=True)),
    courses=(Course(world={**_MULTI, "questions": [2, 6]}, episodes=2000, habits=("append", "fold")),),
    steps=8000,
    schedule=Schedule(warmup=30, decay=2500, floor=0.05),
)  # fmt: skip
"""Multi-question episodes of one hop, one call at a time."""

TESTS: dict[str, dict[str, Any]] = {f"multi K={k}": {**_MULTI, "questions": k} for k in (2, 4, 6)}
"""Name -> settings of the world, without n and seed."""
