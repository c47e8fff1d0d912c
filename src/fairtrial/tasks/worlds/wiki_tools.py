"""The tools over a wiki: search for pages and visit them, with latencies and errors that are drawn, not timed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from fairtrial.core.clock import Clock
from fairtrial.core.config import Config
from fairtrial.core.ids import canonical_json, seed
from fairtrial.tasks.worlds.answers import normalise
from fairtrial.tasks.worlds.bm25 import Bm25
from fairtrial.tasks.worlds.wiki_pages import SENTENCE
from fairtrial.tasks.worlds.world import Function

Snippet = Literal["best", "lead", "none"]
"""What a search shows of a page beside its title. best: the sentence that fits the query best; lead: the first."""
ToolName = Literal["search", "visit"]


class Latency(Config):
    """How long a call of a tool takes, in seconds of the run's clock."""

    law: Literal["constant", "exponential", "lognormal"] = "constant"
    mean_s: float = Field(default=0.0, ge=0, le=3600)
    sigma: float = Field(default=1.0, ge=0, le=4)
    """Of the logarithm; lognormal only."""

    def draw(self, rng: random.Random) -> float:
        """Seconds."""
        if self.law == "exponential":
            return rng.expovariate(1.0) * self.mean_s
        if self.law == "lognormal":
            return rng.lognormvariate(-(self.sigma**2) / 2, self.sigma) * self.mean_s
        return self.mean_s


@dataclass(frozen=True, slots=True)
class Library:
    """The pages of one wiki, their index, and how the tools treat them."""

    pages: Mapping[str, str]
    index: Bm25
    snippet: Snippet = "best"
    top_k: int = 5
    chunk_words: int | None = None

    def search(self, query: str) -> list[dict[str, str]]:
        """The best pages as titles and snippets."""
        hits = self.index.search(query, self.top_k)
        return [{"title": hit.page.title, "snippet": self._snippet(hit.page.text, query)} for hit in hits]

    def visit(self, title: str, part: int = 1) -> str:
        """The text of a page or of one part of it. Raises LookupError for a page or a part that there is not."""
        text = self.pages.get(title)
        if text is None:
            same = [known for known in self.pages if normalise(known) == normalise(title)]
            if not same:
                raise LookupError(f'there is no page "{title}"; visit takes the exact title of a page')
            title, text = same[0], self.pages[same[0]]
        parts = self._parts(text)
        if not 1 <= part <= len(parts):
            raise LookupError(f'"{title}" has parts 1 to {len(parts)}, not {part}')
        more = f"\n({title}, part {part} of {len(parts)})" if len(parts) > 1 else ""
        return parts[part - 1] + more

    def _parts(self, text: str) -> list[str]:
        if self.chunk_words is None:
            return [text]
        parts: list[list[str]] = [[]]
        room = self.chunk_words
        for sentence in SENTENCE.split(text):
            words = sentence.count(" ") + 1
            if words > room and parts[-1]:
                parts.append([])
                room = self.chunk_words
            parts[-1].append(sentence)
            room -= words
        return [" ".join(part) for part in parts]

    def _snippet(self, text: str, query: str) -> str:
        if self.snippet == "none":
            return ""
        sentences = SENTENCE.split(text)
        if self.snippet == "lead":
            return sentences[0]
        wanted = set(normalise(query).split())
        return max(sentences, key=lambda sentence: len(wanted & set(normalise(sentence).split())))


@dataclass(slots=True)
class Bench:
    """The tools of one run. What a call costs depends on the run's seed, its arguments, and how often it was made."""

    library: Library
    clock: Clock
    seed: int
    latency: Latency
    errors: float
    _made: Counter[bytes] = field(default_factory=Counter[bytes])

    def functions(self, names: Sequence[ToolName]) -> list[Function]:
        """The tools of these names, in this order."""
        return [self._search() if name == "search" else self._visit() for name in names]

    def _search(self) -> Function:
        async def call(args: Mapping[str, Any]) -> Any:
            await self._charge("search", args)
            return self.library.search(str(args["query"]))

        shown = "titles" if self.library.snippet == "none" else "titles and snippets"
        return Function(
            "search",
            f"Search the wiki. Gives the {shown} of the {self.library.top_k} best pages.",
            _schema({"query": ("string", "Words to look for.")}, ["query"]),
            call,
        )

    def _visit(self) -> Function:
        async def call(args: Mapping[str, Any]) -> Any:
            await self._charge("visit", args)
            return self.library.visit(str(args["title"]), int(args.get("part", 1)))

        fields = {"title": ("string", "Exact title of the page.")}
        if self.library.chunk_words is not None:
            fields["part"] = ("integer", "Which part of the page, from 1.")
        return Function("visit", "Read a page of the wiki.", _schema(fields, ["title"]), call)

    async def _charge(self, tool: str, args: Mapping[str, Any]) -> None:
        """Take the call's time; fail if it is drawn to. Raises ConnectionError."""
        key = canonical_json([tool, dict(args)])
        self._made[key] += 1
        rng = random.Random(seed(self.seed, key.decode(), self._made[key], "environment"))  # noqa: S311 - a simulation
        fails = rng.random() < self.errors
        if (seconds := self.latency.draw(rng)) > 0:
            await self.clock.sleep(seconds)
        if fails:
            raise ConnectionError(f"{tool} did not answer; call it again")


def _schema(fields: Mapping[str, tuple[str, str]], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": kind, "description": text} for name, (kind, text) in fields.items()},
        "required": list(required),
        "additionalProperties": False,
    }
