"""Is a short answer right: exact match and token F1 as published, and the conventions in which they differ.

Normalisation is SQuAD's (1606.05250, evaluation script): lower case, no ASCII punctuation, no articles, single spaces.
F1 is over the bag of normalised words, the best over all accepted answers (MuSiQue's aliases). Papers that report "EM"
of several answers joined by `|` do not mean the same: see `Parts`.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Parts = Literal["whole", "every", "first"]
"""What a `|` in an answer means. whole: nothing, it is punctuation (SQuAD, MuSiQue, HotpotQA). every: each part must
be an accepted answer (GAP's reward in training). first: only the first part counts (GAP's evaluation). Empty parts are
passed over, as GAP does."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = frozenset(("yes", "no", "noanswer"))
_NUMBER = re.compile(r"[-+\u2212]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, without ASCII punctuation and articles, words joined by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str | None, golds: Sequence[str], parts: Parts = "whole") -> float:
    """1.0 where the normalised answer is one of the normalised golds, else 0.0; no answer (None) scores 0.0."""
    if answer is None:
        return 0.0
    accepted = {normalise(gold) for gold in golds}
    said = _split(answer, parts)
    return float(bool(said) and all(normalise(part) in accepted for part in said))


def f1(answer: str | None, golds: Sequence[str], parts: Parts = "whole", *, yes_no: bool = False) -> float:
    """The best F1 of the answer's words over all golds, 0 to 1.

    Args:
        answer: None (there was none) scores 0.
        golds: Accepted answers.
        parts: With "every", the mean over the answer's parts.
        yes_no: HotpotQA's rule (1809.09600, evaluation script): where the answer or the gold is yes, no or noanswer,
            the other must be the same.
    """
    if answer is None:
        return 0.0
    scored = [max((_overlap(part, gold, yes_no) for gold in golds), default=0.0) for part in _split(answer, parts)]
    return sum(scored) / max(1, len(scored))


def within(answer: str | None, label: str | float, margin: float = 0.1) -> float:
    """1.0 where the answer's number is no further from the label than `margin` times its size, else 0.0.

    LLMCompiler (2312.04511) accepts 10 %. Its test, 0.9 label < answer < 1.1 label, refuses every answer where the
    label is negative or zero; here the distance counts, and a label of zero must be met exactly. An answer with no
    number or more than one is wrong: which of them is meant is not guessed.
    """
    target = numbers(label) if isinstance(label, str) else [float(label)]
    given = [] if answer is None else numbers(answer)
    if len(given) != 1 or len(target) != 1:
        return 0.0
    return float(abs(given[0] - target[0]) <= margin * abs(target[0]) + 1e-12)


def numbers(text: str) -> list[float]:
    """The finite numbers that a text names, in order; commas group thousands."""
    found = [float(hit[0].replace(",", "").replace("\u2212", "-")) for hit in _NUMBER.finditer(text)]
    return [number for number in found if math.isfinite(number)]


def _split(answer: str, parts: Parts) -> list[str]:
    """The parts of an answer that are scored."""
    if parts == "whole":
        return [answer]
    pieces = [piece for piece in answer.split("|") if piece]
    return pieces[:1] if parts == "first" else pieces


def _overlap(answer: str, gold: str, yes_no: bool) -> float:
    said, right = normalise(answer), normalise(gold)
    if yes_no and said != right and (said in _CLOSED or right in _CLOSED):
        return 0.0
    words, wanted = said.split(), right.split()
    if not words or not wanted:
        return float(words == wanted)
    same = sum((Counter(words) & Counter(wanted)).values())
    return 2 * same / (len(words) + len(wanted))
