"""Hindsight in plans: names and numbers in queries that nobody could know yet when the plan was written.

Plans that a language model rewrote from finished runs may hold what only the observations said (GAP, 2510.25320: its
converter is told to reverse-engineer queries from observations). The check is one of words: a capitalised word or a
number in a query of a plan must stand in the question, the rules, or an earlier result. A model that knows a name by
heart is refused as well; which of the two it was cannot be told from the text.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from fairtrial.agents.samples.runs import Run

_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_OPENERS = frozenset(
    {"a", "an", "and", "are", "as", "at", "by", "can", "did", "do", "does", "find", "for", "from", "give", "has"}
    | {"have", "how", "i", "in", "is", "it", "list", "look", "many", "much", "name", "of", "on", "or", "search"}
    | {"tell", "that", "the", "their", "this", "to", "was", "were", "what", "when", "where", "which", "who", "whom"}
    | {"whose", "why", "will", "with"}
)


def strangers(run: Run, tools: Container[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """For each plan with calls of these tools: its number, and the words in its level-0 queries not known before it."""
    known = set(_words(run.known))
    for number, act in enumerate(run.acts):
        asked = [call for call in act.calls if call.free and call.tool in tools]
        found = {word: None for call in asked for text in call.texts for word in names(text)}
        if asked:
            yield number, tuple(word for word in found if not _known(word, known))
        for text in act.results:
            known.update(_words(text))


def names(query: str) -> Iterator[str]:
    """Words of a query that may be names, and its numbers.

    A capital letter makes a name, except in the first word of a sentence of several words whose second is none.
    """
    words = list(_WORD.finditer(query))
    for index, match in enumerate(words):
        word = match[0]
        if any(letter.isdigit() for letter in word):
            yield word
        elif any(letter.isupper() for letter in word) and word.casefold() not in _OPENERS:
            first = index == 0 or query[: match.start()].rstrip()[-1:] in ".?!:\n"
            following = words[index + 1][0] if index + 1 < len(words) else ""
            if not first or not following or following[0].isupper() or word.isupper():
                yield word


def _words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text):
        word = match[0].casefold().replace("\u2019", "'")
        yield word
        if "-" in word:
            yield from word.split("-")
        if word.endswith("'s"):
            yield word[:-2]


def _known(word: str, known: set[str]) -> bool:
    """Whether a word is known, its possessive, its parts, or its other number."""
    plain = word.casefold().replace("\u2019", "'").removesuffix("'s")
    forms = {plain, f"{plain}s", plain.removesuffix("s"), plain.removesuffix("es")}
    return bool(forms & known) or ("-" in plain and all(part in known for part in plain.split("-")))
