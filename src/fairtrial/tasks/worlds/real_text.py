"""The world "documents": multi-hop questions over real text, as in MuSiQue and HotpotQA files, or a user's own.

The pages are the paragraphs that come with the questions (all of them together, or each question's own, which is the
data sets' distractor setting) and the text files of a folder. Tools: `search`, BM25 over the pages, and `visit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from fairtrial.core.clock import Clock
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.ids import digest
from fairtrial.core.trial import TaskInfo
from fairtrial.tasks.worlds.answers import Parts, exact_match, f1, normalise
from fairtrial.tasks.worlds.bm25 import Bm25, Page
from fairtrial.tasks.worlds.decomposition import fill, levels
from fairtrial.tasks.worlds.questions import Question, read_questions
from fairtrial.tasks.worlds.wiki_tools import Bench, Latency, Library, Snippet
from fairtrial.tasks.worlds.world import Episode, Function, GoldStep

_TEXT_FILES = (".txt", ".md", ".rst", ".text")


class DocumentsSettings(Config):
    """The world "documents"."""

    questions: tuple[str, ...] = Field(min_length=1)
    """Files of questions (see `worlds.questions`); one or a list."""
    documents: str | None = None
    """Folder of text files (.txt, .md, .rst); a page's title is its path in the folder."""
    search_in: Literal["all", "own"] = "all"
    """all: every page of the files and the folder; own: the paragraphs that come with the question."""
    n: int | None = Field(default=None, ge=1)
    """The first n questions; None: all."""
    top_k: int = Field(default=5, ge=1, le=50)
    """Pages that a search returns."""
    snippet: Snippet = "best"
    """What a search shows of each beside its title."""
    part_words: int | None = Field(default=1500, ge=50)
    """Longer pages are visited in parts of about so many words; None: whole."""
    parts: Parts = "whole"
    """What `|` in an answer means (see `worlds.answers`)."""
    latency: Latency = Latency()
    """Of every call of a tool."""
    errors: float = Field(default=0.0, ge=0, le=1)
    """Share of tool calls that fail and may be made again."""

    @field_validator("questions", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


@dataclass(frozen=True, slots=True)
class Followed:
    """Where a gold plan leads with this world's search."""

    values: Mapping[str, str]
    """Of the steps whose page was found."""
    answer: str | None
    """None: a page that the plan needs was not found."""


class Documents:
    """Questions over documents. Registered as the world "documents"."""

    settings_type: type[Config] = DocumentsSettings

    def __init__(self, settings: DocumentsSettings, base: Path) -> None:
        self._settings, self._base = settings, base
        self._apart: dict[str, Library] = {}

    def episodes(self) -> Sequence[Episode]:
        """The questions, in the files' order. Raises UserError for files that cannot be used."""
        return self._episodes

    def functions(self, episode: Episode, clock: Clock, seed: int) -> Sequence[Function]:
        """`search` and `visit`. Latencies and errors are drawn from the seed and the arguments."""
        bench = Bench(self._library(episode), clock, seed, self._settings.latency, self._settings.errors)
        search, visit = bench.functions(("search", "visit"))
        return (
            replace(search, description=search.description.replace("the wiki", "the documents")),
            replace(visit, description="Read a document."),
        )

    def grade(self, episode: Episode, answer: str | None, visited: Sequence[str]) -> dict[str, float]:
        """em, f1, and where it is known what says the answer, provenance: the share of those pages that were opened."""
        parts, golds = self._settings.parts, episode.answers
        scores = {
            "em": exact_match(answer, golds, parts),
            "f1": f1(answer, golds, parts, yes_no=episode.facts["data"] == "hotpotqa"),
        }
        if supporting := episode.facts["supporting"]:
            seen = {normalise(title) for title in visited}
            scores["provenance"] = sum(normalise(title) in seen for title in supporting) / len(supporting)
        return scores

    def find(self, episode: Episode, query: str, k: int) -> list[str]:
        """Titles of the best k pages that this episode's search covers."""
        return [hit.page.title for hit in self._library(episode).index.search(query, k)]

    def page(self, title: str) -> str:
        """The text of a page. Raises KeyError for a title that no page has."""
        return self._pages[title].text

    def follow(self, episode: Episode) -> Followed:
        """What the decomposition allows: search each step's question, with values in place, and open its page.

        A step without a page follows from the steps that it needs.
        """
        values: dict[str, str] = {}
        for step in episode.plan:
            if all(dep in values for dep in step.deps) and (step.page is None or self._finds(episode, step, values)):
                values[step.id] = step.value
        last = episode.plan[-1].id if episode.plan else None
        return Followed(values, values.get(last) if last is not None else None)

    def _finds(self, episode: Episode, step: GoldStep, values: Mapping[str, str]) -> bool:
        return step.page in self.find(episode, fill(step, values), self._settings.top_k)

    def _library(self, episode: Episode) -> Library:
        if self._settings.search_in == "all":
            return self._everything
        if (own := self._apart.get(episode.info.id)) is None:
            question = next(each for each in self._questions if each.id == episode.info.id)
            titles = dict.fromkeys(self._titles[page] for page in question.pages)
            own = self._apart[episode.info.id] = self._shelved([self._pages[title] for title in titles])
        return own

    def _shelved(self, pages: Sequence[Page]) -> Library:
        settings = self._settings
        texts = {page.title: page.text for page in pages}
        return Library(texts, Bm25(pages), settings.snippet, settings.top_k, settings.part_words)

    @cached_property
    def _everything(self) -> Library:
        return self._shelved(list(self._pages.values()))

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        return read_questions([self._base / name for name in self._settings.questions])[: self._settings.n]

    @cached_property
    def _titles(self) -> Mapping[Page, str]:
        """The unique title of each paragraph: where other text has the same, " (2)" and so on behind it."""
        titles: dict[Page, str] = {}
        taken: set[str] = {page.title for question in self._questions for page in question.pages}
        first: set[str] = set()
        for page in (page for question in self._questions for page in question.pages):
            if page in titles:
                continue
            title, number = page.title, 1
            while title in first or (number > 1 and title in taken):
                number += 1
                title = f"{page.title} ({number})"
            first.add(title)
            titles[page] = title
        return titles

    @cached_property
    def _pages(self) -> Mapping[str, Page]:
        pages = {title: Page(title, page.text) for page, title in self._titles.items()}
        if self._settings.documents is not None:
            for page in _folder(self._base / self._settings.documents):
                if page.title in pages:
                    raise UserError(f"{page.title}: a question's paragraph has this title too; rename the file")
                pages[page.title] = page
        if not pages:
            raise UserError("documents: the questions bring no paragraphs; name a folder of text files")
        return pages

    @cached_property
    def _episodes(self) -> tuple[Episode, ...]:
        if self._settings.search_in == "own" and (bare := [each.id for each in self._questions if not each.pages]):
            raise UserError(f'search_in: question "{bare[0]}" brings no paragraphs of its own; use search_in = "all"')
        pool = digest([[page.title, page.text] for page in self._pages.values()])
        shown = self._settings.model_dump(mode="json", exclude={"questions", "documents", "n"})
        return tuple(self._episode(question, pool, shown) for question in self._questions)

    def _episode(self, question: Question, pool: str, shown: Mapping[str, Any]) -> Episode:
        def title(page: int | str) -> str:
            if question.kind != "own":
                return self._titles[question.pages[int(page)]]
            if page not in self._pages:
                near = did_you_mean(str(page), self._pages)
                hint = near if near.startswith("; did") else "; a title is a file's path in the folder of documents"
                raise UserError(f'question "{question.id}": no document has the title "{page}"{hint}')
            return str(page)

        plan = tuple(
            GoldStep(step.id, step.question, step.value, step.deps, None if step.page is None else title(step.page))
            for step in question.plan
        )
        own = [self._titles[page] for page in question.pages]
        plain = [[step.id, step.question, step.value, list(step.deps), step.page] for step in plan]
        whole = digest([question.question, question.answers, plain, own, pool, shown])
        tags = tuple(tag for tag in (question.kind, question.form) if tag)
        facts = {
            "data": question.kind,
            "form": question.form,
            "plan": "derived" if question.derived else "gold" if plan else "none",
            "levels": [len(level) for level in levels(plan)],
            "supporting": [title(page) for page in question.supporting],
        }
        return Episode(TaskInfo(question.id, whole, tags=tags), question.question, question.answers, plan, facts)


def _folder(folder: Path) -> list[Page]:
    """The text files of a folder and its sub-folders, in the order of their names. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"documents: {folder} is not a folder")
    pages: list[Page] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _TEXT_FILES and path.is_file()):
        try:
            pages.append(Page(path.relative_to(folder).as_posix(), path.read_text("utf-8-sig")))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not pages:
        raise UserError(f"documents: {folder} has no text file ({', '.join(_TEXT_FILES)})")
    return pages
