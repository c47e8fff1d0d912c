"""The steps of recipes: small operations on a list of words, each said in one short line of a closed vocabulary.

Every operation is total (it does something sensible to any list) and exact. `read_step` reads every line that a step
is written as, so a text alone defines what is to be done, and a script can follow it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_lowercase
from typing import Literal

Domain = Literal["letters", "numbers", "items", "codes"]
"""What the lists hold. codes: items too, and each recipe has steps that ask the tool `lookup`."""
State = tuple[str, ...]
Ask = Callable[[str], str]
"""The tool `lookup`: item -> item."""

LETTERS = tuple("aeioklmnrstu")
ITEMS = ("apple", "bell", "coin", "drum", "egg", "fork", "gem", "hat", "ink", "jar", "key", "lamp")
NUMBERS = tuple(str(number) for number in range(1, 13))
ALPHABET: Mapping[Domain, tuple[str, ...]] = {"letters": LETTERS, "numbers": NUMBERS, "items": ITEMS, "codes": ITEMS}
LONGEST = 24
"""Words that a list may grow to; what would make it longer is cut off."""


def _number(word: str) -> int:
    return int(word) if re.fullmatch(r"-?\d{1,9}", word) else 0


def _order(word: str) -> tuple[int, str]:
    return (_number(word), word)


def _shifted(word: str) -> str:
    return ascii_lowercase[(ascii_lowercase.index(word) + 1) % 26] if re.fullmatch("[a-z]", word) else word


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of step. In `line`, w1, w2 ... stand for words of the domain's alphabet, k for a place."""

    line: str
    run: Callable[[State, Sequence[str], Ask], Sequence[str]]
    domains: tuple[Domain, ...] = ("letters", "numbers", "items", "codes")
    places: tuple[int, int] = (2, 4)
    """Of k."""

    @property
    def holes(self) -> list[str]:
        """w1, k ... in the order of the line."""
        return re.findall(r"\b(?:w\d|k)\b", self.line)


def _at(state: State, place: str, made: Callable[[str], str]) -> Sequence[str]:
    index = int(place) - 1
    return [made(word) if at == index else word for at, word in enumerate(state)]


def _picked(state: State, place: str) -> Sequence[str]:
    index = int(place) - 1
    return state if index >= len(state) else (state[index], *state[:index], *state[index + 1 :])


def _table(state: State, pairs: Sequence[str]) -> Sequence[str]:
    """All changes at the same time."""
    table = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return [table.get(word, word) for word in state]


_ITEM_LIKE: tuple[Domain, ...] = ("letters", "items", "codes")
_SUMS: tuple[Domain, ...] = ("numbers",)
KINDS: tuple[Kind, ...] = (
    Kind("reverse", lambda s, a, ask: s[::-1]),
    Kind("drop the first", lambda s, a, ask: s[1:]),
    Kind("drop the last", lambda s, a, ask: s[:-1]),
    Kind("move the first to the end", lambda s, a, ask: (*s[1:], *s[:1])),
    Kind("move the last to the front", lambda s, a, ask: (*s[-1:], *s[:-1])),
    Kind("swap the first and the last", lambda s, a, ask: s if len(s) < 2 else (s[-1], *s[1:-1], s[0])),
    Kind("repeat the first", lambda s, a, ask: (*s[:1], *s)),
    Kind("repeat the last", lambda s, a, ask: (*s, *s[-1:])),
    Kind("keep the first k", lambda s, a, ask: s[: int(a[0])], places=(3, 4)),
    Kind("keep the last k", lambda s, a, ask: s[-int(a[0]) :], places=(3, 4)),
    Kind("move number k to the front", lambda s, a, ask: _picked(s, a[0])),
    Kind("sort", lambda s, a, ask: sorted(s, key=_order)),
    Kind("sort down", lambda s, a, ask: sorted(s, key=_order, reverse=True)),
    Kind("put w1 at the end", lambda s, a, ask: (*s, a[0])),
    Kind("put w1 in front", lambda s, a, ask: (a[0], *s)),
    Kind("change w1 to w2", lambda s, a, ask: _table(s, a), _ITEM_LIKE),
    Kind("change w1 to w2 and w3 to w4", lambda s, a, ask: _table(s, a), _ITEM_LIKE),
    Kind("drop every w1", lambda s, a, ask: [word for word in s if word != a[0]]),
    Kind("change each to the next letter", lambda s, a, ask: [_shifted(word) for word in s], ("letters",)),
    Kind("add w1 to each", lambda s, a, ask: [str(_number(word) + int(a[0])) for word in s], _SUMS),
    Kind("double each", lambda s, a, ask: [str(2 * _number(word)) for word in s], _SUMS),
    Kind("double number k", lambda s, a, ask: _at(s, a[0], lambda word: str(2 * _number(word))), _SUMS),
    Kind("put the sum at the end", lambda s, a, ask: (*s, str(sum(map(_number, s)))), _SUMS),
    Kind("drop the largest", lambda s, a, ask: _without(s, max), _SUMS),
    Kind("drop the smallest", lambda s, a, ask: _without(s, min), _SUMS),
    Kind("look up the first", lambda s, a, ask: [ask(word) if at == 0 else word for at, word in enumerate(s)],
         ("codes",)),
    Kind("look up number k", lambda s, a, ask: _at(s, a[0], ask), ("codes",)),
    Kind("look up the last", lambda s, a, ask: [*s[:-1], *map(ask, s[-1:])], ("codes",)),
)  # fmt: skip


def _without(state: State, chosen: Callable[..., str]) -> Sequence[str]:
    if not state:
        return state
    index = state.index(chosen(state, key=_number))
    return state[:index] + state[index + 1 :]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its line is all that there is to know."""

    kind: Kind
    words: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """As a skill says it."""
        line = self.kind.line
        for hole, word in zip(self.kind.holes, self.words, strict=True):
            line = re.sub(rf"\b{hole}\b", word, line, count=1)
        return line

    @property
    def asks(self) -> bool:
        """Whether the step needs the tool."""
        return self.kind.domains == ("codes",)

    def run(self, state: State, ask: Ask) -> State:
        """The list after the step."""
        return tuple(self.kind.run(state, self.words, ask))[:LONGEST]


def draw_step(domain: Domain, rng: random.Random, *, asks: bool = False) -> Step:
    """A step of the domain; with `asks` one that needs the tool."""
    kinds = [kind for kind in KINDS if domain in kind.domains and (kind.domains == ("codes",)) == asks]
    kind = rng.choice(kinds)
    # A table whose words differ means the same whatever order it is read in.
    words = iter(rng.sample(ALPHABET[domain], sum(hole != "k" for hole in kind.holes)))
    return Step(kind, tuple(str(rng.randint(*kind.places)) if hole == "k" else next(words) for hole in kind.holes))


def _pattern(kind: Kind) -> re.Pattern[str]:
    parts = re.split(r"\b(w\d|k)\b", kind.line)
    number = kind.domains == _SUMS
    shapes = {"k": r"([1-9]\d{0,2})"}
    return re.compile(
        "".join(
            shapes.get(part, r"(\d{1,9})" if number else r"(\w+)") if at % 2 else re.escape(part)
            for at, part in enumerate(parts)
        )
    )


_PATTERNS = tuple((_pattern(kind), kind) for kind in KINDS)


def read_step(line: str) -> Step | None:
    """The step that a line says; None where it says none."""
    text = " ".join(line.split())
    for pattern, kind in _PATTERNS:
        if (match := pattern.fullmatch(text)) is not None:
            return Step(kind, match.groups())
    return None


def run_steps(steps: Sequence[Step], state: State, ask: Ask) -> list[State]:
    """The list after each step."""
    states: list[State] = []
    for step in steps:
        state = step.run(state, ask)
        states.append(state)
    return states


def behaviour(domain: Domain, steps: Sequence[Step]) -> tuple[tuple[str | int, ...], ...]:
    """What the steps come to on fixed inputs: procedures that always do the same behave the same here.

    Words are told by their rank in the domain's order, so that the same procedure in another domain does too.
    """
    ranks, table, probes = _probes(domain)
    ends = [[probe, *run_steps(steps, probe, lambda word: table.get(word, word))][-1] for probe in probes]
    return tuple(tuple(ranks.get(word, word) for word in end) for end in ends)


@cache
def _probes(domain: Domain) -> tuple[Mapping[str, int], Mapping[str, str], Sequence[State]]:
    """Rank of each word, what it stands for, and the inputs; of the same ranks in all domains."""
    rng = random.Random("recipes probes")  # noqa: S311 - fixed inputs, not a secret
    words = sorted(ALPHABET[domain], key=_order)
    table = dict(zip(words, rng.sample(words, len(words)), strict=True))
    return (
        {word: rank for rank, word in enumerate(words)},
        table,
        [tuple(rng.choices(words, k=3 + at % 6)) for at in range(24)],
    )
