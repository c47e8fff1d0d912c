"""Which runs and turns training data is made of: rejection sampling as published, settable, with its defaults stated.

Fold-Generator (AgentFold, 2510.24699, section 3.4) drops every step that breaks the format and every run with too many
environment errors (it does not say how many; here: more than `max_error_share` of the calls that were run). GAP
(2510.25320) drops runs of fewer than 3 searches and above about 2000 tokens, and keeps parallel and sequential runs at
6:4; its converter may plan with hindsight, which `hindsight = "refuse"` removes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from fairtrial.agents.samples.runs import Run
from fairtrial.agents.samples.sample import Sample, calls_text
from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError, did_you_mean


class Filters(Config):
    """What is kept. Turns that broke the format are never learned."""

    max_error_share: float | None = Field(default=0.3, ge=0, le=1)
    """Runs with a larger share of calls that failed or timed out are dropped; None: none is."""
    repairs: Literal["keep", "drop"] = "keep"
    """A turn behind one that could not be read; its prompt holds the broken turn and what was wrong."""
    score: str = Field(default="em", min_length=1)
    """Which score of a run `min_score` is about; a file's reward has the name "reward"."""
    min_score: float | None = None
    """Runs with less are dropped, and runs without this score; None: right and wrong answers are kept."""
    min_searches: int | None = Field(default=None, ge=0)
    """Runs with fewer calls of `search_tools` are dropped."""
    search_tools: tuple[str, ...] = ("search", "wiki_search", "web_search")
    query_tools: tuple[str, ...] = ("search", "visit", "read", "wiki_search", "web_search")
    """Tools whose arguments are queries: hindsight is looked for in these (code names things of its own)."""
    hindsight: Literal["keep", "refuse"] = "keep"
    """Runs with a plan whose level-0 calls name what nobody could know yet; their share is measured either way."""
    parallel_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of runs with a parallel plan among those that are kept, by drawing from the more frequent kind."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longer samples are dropped."""
    characters_per_token: float = Field(default=4.0, gt=0)
    """For samples without token ids."""
    seed: int = 0
    """Of the draw for `parallel_share`."""


PRESETS: dict[str, dict[str, object]] = {
    "fold-generator": {"max_error_share": 0.3, "repairs": "drop"},
    "gap": {"min_searches": 3, "hindsight": "refuse", "parallel_share": 0.6, "max_tokens": 2000},
    "right": {"min_score": 1.0},
}
"""Sets of filters by name; their fields may be set otherwise behind them."""


def read_filters(specs: Sequence[str]) -> Filters:
    """The filters that texts say: names of presets and NAME=VALUE, later ones first. Raises UserError."""
    table: dict[str, object] = {}
    for spec in specs:
        name, equals, value = spec.partition("=")
        if not equals:
            if name not in PRESETS:
                raise UserError(
                    f'filter "{name}": there is no such set{did_you_mean(name, PRESETS)}; '
                    f"take {', '.join(PRESETS)}, or NAME=VALUE"
                )
            table |= PRESETS[name]
        else:
            text = value.strip()
            listed = (
                [part.strip() for part in text.split(",")] if name.strip() in ("search_tools", "query_tools") else text
            )
            table[name.strip()] = None if text == "none" else listed
    return parse(Filters, table, where="filter")


def refusal(run: Run, filters: Filters, strange: Iterable[Sequence[str]]) -> str | None:
    """Why a run is dropped as a whole, or None. `strange`: the words that each of its plans could not know."""
    if run.problem is not None:
        return run.problem
    if filters.min_score is not None:
        score = run.scores.get(filters.score)
        if score is None:
            return f'no score "{filters.score}"'
        if score < filters.min_score:
            return f"{filters.score} below {filters.min_score:g}"
    if filters.max_error_share is not None and run.ran and run.failed / run.ran > filters.max_error_share:
        return f"more than {filters.max_error_share:g} of its calls failed"
    if filters.min_searches is not None and searches(run, filters.search_tools) < filters.min_searches:
        return f"fewer than {filters.min_searches} searches"
    if filters.hindsight == "refuse" and any(strange):
        return "hindsight in a plan"
    return None


def searches(run: Run, tools: Sequence[str]) -> int:
    """Calls of search tools."""
    return sum(call.tool in tools for act in run.acts for call in act.calls)


def parallel(run: Run) -> bool:
    """Whether a plan of the run has calls that could run at the same time: two with equally long chains before them."""
    return any(len({call.after for call in act.calls}) < len(act.calls) for act in run.acts)


def length(sample: Sample, filters: Filters) -> int:
    """Tokens of a sample; by its characters where it has no ids."""
    if sample.ids is not None:
        return len(sample.ids)
    characters = sum(
        len(message.content) + len(message.reasoning or "") + len(calls_text(message)) for message in sample.messages
    )
    return round(characters / filters.characters_per_token)


def balanced(runs: Sequence[tuple[str, bool]], share: float, seed: int) -> list[bool]:
    """Which of the runs (id, parallel) to keep so that this share of them is parallel: as many as possible.

    The draw depends on the seed and the ids, not on the order.
    """
    kinds = {kind: [index for index, run in enumerate(runs) if run[1] is kind] for kind in (True, False)}
    total = min(len(kinds[True]) / share, len(kinds[False]) / (1 - share))
    kept = [False] * len(runs)
    for kind, part in ((True, share), (False, 1 - share)):
        ranked = sorted(kinds[kind], key=lambda index: (_draw(runs[index][0], seed), index))
        for index in ranked[: round(total * part)]:
            kept[index] = True
    return kept


def _draw(id: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {id}".encode(), digest_size=16).digest()
