"""The world "wiki": generated wikis with typed entities, questions of six families, exact answers and gold plans.

Every episode has a wiki of its own, with names of its own, so nothing can be known beforehand. All of it follows from
the settings: the same settings give the same pages, questions and search results in every process.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fairtrial.core.clock import Clock
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.core.ids import digest
from fairtrial.core.ids import seed as derive
from fairtrial.core.trial import TaskInfo
from fairtrial.tasks.worlds.bm25 import Bm25, Page
from fairtrial.tasks.worlds.names import Split
from fairtrial.tasks.worlds.wiki_families import Family, Puzzle, Shape, pose
from fairtrial.tasks.worlds.wiki_grading import grade
from fairtrial.tasks.worlds.wiki_graph import Graph, Style, TooSmallError
from fairtrial.tasks.worlds.wiki_pages import fact, render
from fairtrial.tasks.worlds.wiki_tools import Bench, Latency, Library, Snippet, ToolName
from fairtrial.tasks.worlds.world import Episode, Function

_VERSION = 3
"""Raised whenever the same settings give other pages or questions."""
_WORDS: dict[Style, int] = {"text": 120, "plain": 30}
_KEPT = 16
"""Wikis with their index that are kept in memory."""
_PAGES = 40_000
"""For which the names of one split are enough, decoys and two-word names included."""
_LISTED = ("wide", "inverse", "dead-end")
Small = Annotated[int, Field(ge=1, le=64)]
Span = Small | tuple[Small, Small]
"""A number, or the least and the most of a range that each episode draws from."""


class WikiSettings(Config):
    """`world = {id = "wiki", ...}`."""

    n: int = Field(default=100, ge=1, le=1_000_000)
    """Episodes; the first ones stay the same when there are more."""
    seed: int = Field(default=0, ge=0)
    split: Split | Literal["any"] = "evaluation"
    """Of the words that names are made of: no name of one split is in the other one; "any": of both."""
    families: tuple[Family, ...] = Field(
        default=("chain", "compare", "wide", "inverse", "multi", "dead-end"), min_length=1
    )
    """Taken in turn."""
    style: Style = "text"
    """text: English in varied sentences, two-word names. plain: a mini-language for very small models; a fact is
    `SUBJECT RELATION VALUE .`, a question `SUBJECT RELATION RELATION ?`, the last of several `last 3 SUBJECT
    RELATION ?`. Of several answers the last word of each counts there, so that the question may stand before it."""
    hops: Span = 2
    """Relations to follow: chain, each branch of compare, each question of multi."""
    branches: Span = 3
    """Heads to compare, rows of a wide table."""
    columns: int = Field(default=2, ge=1, le=3)
    """Of a wide table, beside the name."""
    constraints: int = Field(default=3, ge=2, le=3)
    """Of inverse and dead-end."""
    questions: Span = 4
    """Of one multi episode."""
    age: int = Field(default=0, ge=0, le=63)
    """multi: question i begins at the answer of question i - age, which is needed so much later; 0: independent."""
    decoys: int = Field(default=2, ge=0, le=32)
    """Pages with a near name beside each page that the question needs; of inverse and dead-end, entities that fulfil
    all constraints but one."""
    pages: int = Field(default=100, ge=20, le=100_000)
    """Of each episode's wiki."""
    page_words: int | None = Field(default=None, ge=1, le=20_000)
    """Filler is added to a page until it has so many words. None: 120 (text), 30 (plain)."""
    backlinks: bool = True
    """Whether pages also tell relations from the other side (a town's natives)."""
    tools: tuple[ToolName, ...] = Field(default=("search", "visit"), min_length=1)
    snippet: Snippet = "best"
    top_k: int = Field(default=5, ge=1, le=100)
    """Results of a search."""
    chunk_words: int | None = Field(default=None, ge=10)
    """Pages come in parts of so many words; None: whole."""
    latency: Latency = Latency()
    tool_errors: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a call fails; the same call again is drawn anew."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("hops", "branches", "questions"):
            span = getattr(self, name)
            if isinstance(span, tuple) and span[0] > span[1]:
                raise ValueError(f"{name}: {list(span)} is [least, most]; put the smaller number first")
        if self.age and "multi" not in self.families:
            raise ValueError('age belongs to the family "multi": add it to families or leave age out')
        if self.split != "any" and self.pages > _PAGES:
            raise ValueError(f'a split has names for {_PAGES} pages: set split = "any", or lower pages')
        needs = [family for family in self.families if family in _LISTED]
        if needs and not self.backlinks:
            raise ValueError(f'the family "{needs[0]}" needs backlinks = true')
        if len(set(self.tools)) < len(self.tools):
            raise ValueError("tools: each tool is named once")
        return self


class Wiki:
    """The world "wiki"."""

    settings_type = WikiSettings

    def __init__(self, settings: WikiSettings, base: Path) -> None:
        del base
        self.settings = settings
        self._episodes: tuple[Episode, ...] | None = None
        self._libraries: OrderedDict[str, Library] = OrderedDict()

    def episodes(self) -> Sequence[Episode]:
        """All episodes in order; no two have the same question. Raises UserError where `pages` is too small."""
        if self._episodes is None:
            asked: set[str] = set()
            self._episodes = tuple(self._episode(index, asked) for index in range(self.settings.n))
        return self._episodes

    def functions(self, episode: Episode, clock: Clock, seed: int) -> Sequence[Function]:
        """search(query) and visit(title), as far as `tools` names them.

        search gives [{"title", "snippet"}]. visit gives the page's text and raises LookupError where there is no
        such page. Both raise ConnectionError as often as `tool_errors` says.
        """
        settings = self.settings
        bench = Bench(self._library(episode), clock, seed, settings.latency, settings.tool_errors)
        return bench.functions(settings.tools)

    def grade(self, episode: Episode, answer: str | None, visited: Sequence[str]) -> dict[str, float]:
        """em, f1, provenance; of several questions also items, of a table rows."""
        return grade(episode, answer, visited)

    def pages(self, episode: Episode) -> dict[str, str]:
        """Title -> text of the episode's whole wiki, by title."""
        graph, _ = self._draw(episode.facts["index"], episode.facts["draw"])
        words = self.settings.page_words or _WORDS[self.settings.style]
        pages = render(graph, self._seed(episode.facts["index"], "pages"), words, backlinks=self.settings.backlinks)
        return dict(sorted(pages.items()))

    def _episode(self, index: int, asked: set[str]) -> Episode:
        """Draw until the question is a new one."""
        for draw in range(1000):
            graph, puzzle = self._draw(index, draw)
            if puzzle.question not in asked:
                break
        else:
            raise UserError("world wiki: so many different questions cannot be drawn; lower n or raise hops")
        asked.add(puzzle.question)
        settings = self.settings.model_dump(mode="json", exclude={"n"})
        defined = [_VERSION, settings, index, graph.facts, puzzle.question, puzzle.answer]
        family = self.settings.families[index % len(self.settings.families)]
        evidence = {
            step: [
                {"subject": s, "relation": r, "value": v, "fact": fact(puzzle.style, s, r, v)} for s, r, v in triples
            ]
            for step, triples in puzzle.evidence.items()
        }
        about = {"family": family, "style": puzzle.style, "index": index, "draw": draw, "pages": len(graph.kinds)}
        return Episode(
            TaskInfo(f"wiki-{family}-{index:06d}", digest(defined), None, (family,)),
            puzzle.question,
            (puzzle.answer,),
            tuple(puzzle.plan),
            {**about, **puzzle.facts, "evidence": evidence},
        )

    def _draw(self, index: int, draw: int) -> tuple[Graph, Puzzle]:
        settings = self.settings
        rng = random.Random(self._seed(index, f"draw {draw}"))  # noqa: S311 - a simulation
        family = settings.families[index % len(settings.families)]
        shape = Shape(
            hops=_within(settings.hops, rng),
            branches=_within(settings.branches, rng),
            columns=settings.columns,
            constraints=settings.constraints,
            questions=_within(settings.questions, rng),
            age=settings.age,
            decoys=settings.decoys,
        )
        graph = Graph(rng, settings.style, settings.decoys, settings.split)
        puzzle = pose(graph, family, shape)
        puzzle.facts |= asdict(shape)
        try:
            graph.fill(settings.pages)
        except TooSmallError as error:
            raise UserError(
                f'world wiki: pages = {settings.pages} is too small for this "{family}" question; '
                f"set pages to at least {error.least}, or lower hops, branches, questions or decoys"
            ) from None
        return graph, puzzle

    def _library(self, episode: Episode) -> Library:
        key = episode.info.digest
        if key not in self._libraries:
            pages = self.pages(episode)
            searched = pages if "search" in self.settings.tools else {}
            index = Bm25([Page(title, text) for title, text in searched.items()])
            settings = self.settings
            self._libraries[key] = Library(pages, index, settings.snippet, settings.top_k, settings.chunk_words)
            while len(self._libraries) > _KEPT:
                self._libraries.popitem(last=False)
        self._libraries.move_to_end(key)
        return self._libraries[key]

    def _seed(self, index: int, what: str) -> int:
        return derive(self.settings.seed, f"wiki {index} {what}", 0, "environment")


def _within(span: Any, rng: random.Random) -> int:
    """The number, or one drawn from the range."""
    return span if isinstance(span, int) else rng.randint(*span)
