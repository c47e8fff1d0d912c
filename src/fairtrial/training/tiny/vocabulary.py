"""The vocabulary of `tiny`: constant stretches of its dialects are one token each, names are cut into syllables.

A prompt consists mostly of texts that never change (rules, schemas, headings, tags) around names and numbers that are
always new. Whatever stands unchanged between names, numbers and the words of the world is a stretch, and one token; so
a prompt costs a few hundred ids instead of a thousand. Everything else is byte-level BPE. It stays a `Tokenizer`:
`decode(encode(x)) == x` for every text, because stretches are ordinary tokens that are spelled in bytes.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from fairtrial.nn.tokenizer import SPECIALS, Tokenizer
from fairtrial.tasks.worlds.names import SYLLABLES
from fairtrial.tasks.worlds.recipes_steps import ITEMS
from fairtrial.tasks.worlds.recipes_steps import KINDS as STEPS
from fairtrial.tasks.worlds.wiki_graph import KINDS, RELATIONS

_SMALL = r"[bdfgklmnprstvz][aeiou]"
_FIRST = r"[BDFGKLMNPRSTVZ][aeiou]"
_NAME = rf"(?:{_FIRST}|{_SMALL})(?:{_SMALL}){{2}}(?![A-Za-z0-9])"
_ASKS = r"(?<= )\?"
"""The end of a question: a token of its own, so that what follows it is decided behind it."""
MARKS = "abcdefgh"
"""Letters that a script puts before the names that it looks up in later hops."""
_MARK = rf"(?<![A-Za-z0-9'_])[{MARKS}] (?={_FIRST}(?:{_SMALL}){{2}})"
"""Such a letter with the space behind it, as digits have it."""
_LAST = rf"(?<![A-Za-z])last (?=\d|{_MARK})"
"""What stands before the number or letter of the last one: a token of its own for the same reason."""
_ALONE = r"(?![A-Za-z0-9_])"
_THING = rf"(?:(?:[b-z]|{'|'.join(ITEMS)}){_ALONE}|a(?= (?:[a-z]{_ALONE}|{'|'.join(ITEMS)}|[?:;]|to|and|at|in)|\n|<|$))"
"""A word of the lists that recipes work on; "a" only where it is no article."""
_LISTED = rf"(?! ?{_MARK}) ?(?<![A-Za-z0-9'_]){_THING}"
_LEAST = 8
"""Times that a stretch must be seen."""
_LONGEST = 2000


def world_words() -> list[str]:
    """Kinds and relations of the wiki, in both readings."""
    names = {relation.name for relations in RELATIONS.values() for relation in relations}
    inverse = {relation.inverse for relations in RELATIONS.values() for relation in relations if relation.inverse}
    return sorted({*KINDS, *names, *inverse})


def step_words() -> list[str]:
    """What steps on letters and items are said with, beside the words of the list and numbers; the longest first."""
    kinds = [kind for kind in STEPS if {"letters", "items"} & {*kind.domains}]
    parts = {part for kind in kinds for part in re.split(r"(?: |\b)w\d|(?<= )k ?", kind.line) if part}
    return sorted(parts, key=lambda part: (-len(part), part))


def _open_places() -> str:
    """What differs from text to text, each a token or a few: steps, words of lists, the world's words, names."""
    steps = "|".join(map(re.escape, step_words()))
    words = "|".join(sorted(map(re.escape, world_words()), key=len, reverse=True))
    return "|".join(
        (
            _MARK,
            rf"(?:{steps})(?= (?:{_THING}|:)|\n|\d|$)",
            _LISTED,
            rf" ?(?<![A-Za-z])(?:{words})(?![A-Za-z]) ?",
            rf"(?<![A-Za-z0-9]){_NAME}",
            _ASKS,
            _LAST,
        )
    )


def stretches(texts: Iterable[str], most: int) -> list[str]:
    """What stands unchanged between names, numbers and the words of the world: the `most` frequent, by length.

    A stretch ends with its line, so that dialects share what they have in common.
    """
    open_places = re.compile(rf"{_open_places()}|\d{{1,2}} ?")
    found: Counter[str] = Counter()
    for text in texts:
        for between in open_places.split(text):
            found.update(re.findall(r"[^\n]*\n+|[^\n]+", between))
    kept = [(count, text) for text, count in found.items() if count >= _LEAST and 1 < len(text) <= _LONGEST]
    kept = sorted((-count, text) for count, text in kept if text.strip() or "\n" in text)[:most]
    return sorted((text for _, text in kept), key=lambda text: (-len(text), text))


def lines(texts: Iterable[str]) -> list[str]:
    """The lines of texts that never change, such as rules, each with its line breaks."""
    return sorted({line for text in texts for line in re.findall(r"[^\n]+\n*", text)})


def make(
    texts: Sequence[str], *, constant: Sequence[str] = (), most: int = 600, words: Sequence[str] = ()
) -> Tokenizer:
    """The tokenizer.

    Args:
        texts: Messages of runs.
        constant: Texts that are stretches however seldom they are seen.
        most: Stretches at most.
        words: Texts that are cut into pieces of words.
    """
    known = sorted({*stretches(texts, most), *constant}, key=lambda text: (-len(text), text))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        Tokenizer.train([*known, *words], vocab_size=len(SPECIALS) + 256 + (512 if words else 256)).save(path)
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    vocabulary: dict[str, int] = document["model"]["vocab"]
    for token in map(_spelled, dict.fromkeys([*known, *_single()])):
        vocabulary.setdefault(token, len(vocabulary))
    document["model"]["ignore_merges"] = True
    document["pre_tokenizer"] = _cutting(known)
    return Tokenizer(json.dumps(document, ensure_ascii=False))


def _single() -> Iterator[str]:
    """What is one token beside stretches: words of the world with the spaces around them, syllables, digits."""
    for word in world_words():
        yield from _forms(word)
    for syllable in SYLLABLES:
        yield from (syllable.capitalize(), syllable)
    for thing in (*ascii_lowercase, *ITEMS):
        yield from (thing, f" {thing}")
    yield from step_words()
    yield "last "
    yield from (f"{mark} " for mark in MARKS)
    for digit in range(10):
        yield from (f"{digit} ", f"{digit}")


def values(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of syllables, digits, marks and relations, what facts are written with, and of "last " before a number."""
    texts = [s for syllable in SYLLABLES for s in (syllable, syllable.capitalize())]
    texts += [f"{digit}{end}" for digit in range(10) for end in ("", " ")]
    texts += [f"{mark} " for mark in MARKS]
    found = [*(tokenizer.encode(text) for text in texts), tokenizer.encode("last 1")[:1]]
    known = {ids[0] for ids in found if len(ids) == 1}
    return frozenset(known.union(*relation_forms(tokenizer)))


def relation_forms(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """For each relation that is read from its subject the ids of its forms, in one order of forms."""
    names = sorted({relation.name for relations in RELATIONS.values() for relation in relations})
    return [tuple(tokenizer.encode(form)[0] for form in _forms(name)) for name in names]


def syllable_pairs(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """For each syllable the id that begins a name with it and the id inside of a name."""
    first = [tokenizer.encode(syllable.capitalize() + "baba")[0] for syllable in SYLLABLES]
    return [(first[at], tokenizer.encode(f"Ba{syllable}ba")[1]) for at, syllable in enumerate(SYLLABLES)]


def _forms(word: str) -> tuple[str, ...]:
    return word, f" {word}", f"{word} ", f" {word} "


def _cutting(known: Sequence[str]) -> dict[str, Any]:
    """The cutting into pieces, of which those in the vocabulary are tokens as they are."""
    pieces = [
        *(f"(?:{_bounded(text)})" for text in known),
        _open_places(),
        rf" (?=last \d|last {_MARK}|{_MARK})",
        r"\p{N} ?",
        rf" ?(?!{_NAME})\p{{L}}+",
        r" ?[^\s\p{L}\p{N}]+",
        r"\s*[\r\n]+",
        r"\s+",
    ]
    return {
        "type": "Sequence",
        "pretokenizers": [
            _split("|".join(pieces)),
            _split(rf"^(?:{_FIRST}|{_SMALL})(?=(?:{_SMALL}){{2}}$)"),
            _split(rf"^{_SMALL}(?={_SMALL}$)"),
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bounded(text: str) -> str:
    """The text as a pattern; where it begins or ends with a letter or a digit, no other may stand beside it."""
    quoted = re.sub(r"([^A-Za-z0-9\s])", r"\\\1", text)
    return rf"(?<!{_like(text[0])})" * text[0].isalnum() + quoted + rf"(?!{_like(text[-1])})" * text[-1].isalnum()


def _like(char: str) -> str:
    return "[0-9]" if char.isdigit() else "[A-Za-z]"


def _spelled(text: str) -> str:
    """A token as byte-level BPE writes it down."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
