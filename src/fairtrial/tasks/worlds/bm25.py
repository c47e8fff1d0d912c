"""BM25 search over pages held in memory: a tantivy index whose results are the same every time.

The index is written by one thread and committed once, so that page numbers, and with them ties, do not depend on
timing. A query is a bag of words: no character of it is an operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ANALYSER = "en_stem"


@dataclass(frozen=True, slots=True)
class Page:
    """One document."""

    title: str
    """Unique in its index."""
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that was found."""

    page: Page
    score: float


class Bm25:
    """An index over pages; the score is that of the text plus `title_boost` times that of the title."""

    def __init__(self, pages: Sequence[Page], *, title_boost: float = 1.0) -> None:
        import tantivy

        self._pages, self._boost = tuple(pages), title_boost
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("number", stored=True)
        for name in ("title", "text"):
            builder.add_text_field(name, tokenizer_name=_ANALYSER, index_option="freq")
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        writer = self._index.writer(heap_size=64_000_000, num_threads=1)
        for number, page in enumerate(self._pages):
            writer.add_document(tantivy.Document(number=number, title=page.title, text=page.text))
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()
        self._words: Any = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        self._words = (
            self._words.filter(tantivy.Filter.remove_long(40))
            .filter(tantivy.Filter.lowercase())
            .filter(tantivy.Filter.stemmer("english"))
            .build()
        )

    def search(self, query: str, k: int) -> list[Hit]:
        """The best `k` pages, best first; equals in the order of the pages. Empty where no word occurs anywhere."""
        import tantivy

        clauses: list[Any] = []
        for word in dict.fromkeys(self._words.analyze(query)):
            for name, boost in (("title", self._boost), ("text", 1.0)):
                term = tantivy.Query.term_query(self._schema, name, word, index_option="freq")
                clauses.append((tantivy.Occur.Should, tantivy.Query.boost_query(term, boost)))
        if not clauses:
            return []
        found = self._searcher.search(tantivy.Query.boolean_query(clauses), limit=k).hits
        numbered = [(-float(score), int(self._searcher.doc(at)["number"][0])) for score, at in found]
        return [Hit(self._pages[number], -score) for score, number in sorted(numbered)]
