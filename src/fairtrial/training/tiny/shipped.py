"""The recipe that `tiny` is made by, and the worlds that it is tested on."""

from __future__ import annotations

from typing import Any

from fairtrial.models.embedded.index import TEXT
from fairtrial.nn.schedule import OptimConfig, Schedule
from fairtrial.training.tiny.playing import Play
from fairtrial.training.tiny.recipe import Habit, Recipe, Worlds

WINDOW = 560
"""Tokens, of four characters each, at which a run in one context is full after five or six steps."""
_WIKI: dict[str, Any] = {
    "families": ["multi"],
    "decoys": 1,
    "tools": ["visit"],
    "backlinks": False,
    "page_words": 1,
    "pages": 80,
}
_STEPS: dict[str, Any] = {**_WIKI, "hops": 1, "questions": [2, 9]}
_BRANCHES: dict[str, Any] = {**_WIKI, "hops": 2, "questions": [1, 8]}
_TEXTS: dict[str, Any] = {
    "id": "recipes",
    "domains": ["letters", "items"],
    "steps": [1, 3],
    "items": [3, 5],
    "length": ["compact", "standard"],
}
_PROSE: dict[str, Any] = {
    "families": ["multi"],
    "hops": 1,
    "questions": [2, 8],
    "decoys": 1,
    "backlinks": False,
    "page_words": 40,
    "pages": 80,
}
_LONG = ("append", "summarise-at", "rewrite", "fold", "fold-fixed", "fold-random")
_BROAD = ("react", "native", "graph", "graph-read")

RECIPE = Recipe(
    model={
        "hidden": 96, "layers": 3, "pattern": "FFK", "softmax_conv": True, "conv_width": 7, "intermediate": 192,
        "tied": True, "init_std": 0.06, "heads": 3, "head_dim": 32, "kda_heads": 3, "kda_key_dim": 32,
        "kda_gate_rank": 16,
    },
    worlds={"steps": _STEPS, "branches": _BRANCHES, "texts": _TEXTS, "prose": _PROSE},
    habits=(
        Habit(name="react", plays=(Play(),), worlds=("branches",)),
        Habit(name="native", plays=(Play(planner="native", plan="parallel"),), worlds=("branches",)),
        Habit(name="graph", plays=(Play(planner="graph", plan="parallel"),), worlds=("branches",)),
        Habit(
            name="graph-read", plays=(Play(planner="graph", plan="parallel", reader=True),), worlds=("branches",),
            purposes=("turn", "summary", "reader"),
        ),
        Habit(
            name="append",
            plays=(
                Play(),
                Play(policy={"id": "append", "window": WINDOW}),
                Play(policy={"id": "last-n", "n": 4}, turns=12),
            ),
            worlds=("steps",),
        ),
        Habit(name="rewrite", plays=(Play(policy="rewrite"),), worlds=("steps",)),
        Habit(name="fold", plays=(Play(policy="fold"),), worlds=("steps",)),
        Habit(name="fold-fixed", plays=(Play(policy={"id": "fold-fixed", "period": 5}),), worlds=("steps",)),
        Habit(name="fold-random", plays=(Play(policy={"id": "fold-random", "deep": 0.2}),), worlds=("steps",)),
        Habit(
            name="summarise-at",
            plays=(Play(policy={"id": "summarise-at", "trigger": 440, "window": WINDOW}),),
            worlds=("steps",),
        ),
        Habit(
            name="texts",
            plays=(Play(skills="forced"), Play(skills="curated"), Play(skills={"id": "distractors", "n": 3})),
            worlds=("texts",),
        ),
        Habit(name=TEXT, worlds=("prose",)),
    ),
    tests={
        **{f"steps {k}": Worlds(world={**_STEPS, "questions": k}, habits=_LONG) for k in (3, 6, 9)},
        **{f"branches {k}": Worlds(world={**_BRANCHES, "questions": k}, habits=_BROAD) for k in (1, 4, 8)},
        "prose": Worlds(world=_PROSE, habits=(TEXT,)),
        **{f"texts {k}": Worlds(world={**_TEXTS, "steps": k}, habits=("texts",)) for k in (2, 3)},
    },
    default="append",
    episodes=2000,
    own_episodes=300,
    base_steps=4000,
    steps=2000,
    optim=OptimConfig(lr=6e-3, betas=(0.9, 0.98), weight_decay=0.01),
    schedule=Schedule(warmup=30, decay=1700, floor=0.05),
)  # fmt: skip
"""Each habit a model of 0.41 M parameters: two layers of full attention with a short convolution, then KDA. With one
layer of full attention runs of many steps in one context were not learned."""
