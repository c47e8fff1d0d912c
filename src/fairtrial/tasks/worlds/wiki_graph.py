"""The facts behind a generated wiki: typed entities, functional relations between them, numbers, and made-up names.

Every (subject, relation) has exactly one value. Names are drawn from syllables, so nothing can be known beforehand. In
the style "text" a name has two words and near names share one of them; in "plain" it is one word.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from fairtrial.tasks.worlds.names import SYLLABLES, Split, split_of

Style = Literal["text", "plain"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A functional relation; `inverse` names its reading from the other side, which may have many values."""

    name: str
    target: str | None
    """Kind of its values; None: a number."""
    inverse: str | None = None
    low: int = 0
    high: int = 0
    """Range of a number in the style "text"."""


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "person": (
        Relation("birthplace", "town", "native"),
        Relation("employer", "firm", "employee"),
        Relation("teacher", "person", "pupil"),
        Relation("masterpiece", "book"),
        Relation("birthyear", None, None, 1810, 1990),
    ),
    "town": (
        Relation("mayor", "person"),
        Relation("twin", "town"),
        Relation("festival", "fair"),
        Relation("population", None, None, 1200, 98000),
    ),
    "book": (
        Relation("author", "person", "work"),
        Relation("publisher", "firm", "imprint"),
        Relation("setting", "town", "story"),
        Relation("printrun", None, None, 200, 9000),
    ),
    "firm": (
        Relation("founder", "person", "foundation"),
        Relation("seat", "town", "tenant"),
        Relation("rival", "firm", "challenger"),
        Relation("staff", None, None, 10, 9900),
    ),
    "fair": (
        Relation("venue", "town", "show"),
        Relation("sponsor", "firm", "sponsorship"),
        Relation("winner", "person", "victory"),
        Relation("attendance", None, None, 100, 60000),
    ),
}
KINDS = tuple(RELATIONS)
BY_NAME = {relation.name: relation for relations in RELATIONS.values() for relation in relations}
_SHARE = {"person": 0.32, "town": 0.2, "book": 0.16, "firm": 0.16, "fair": 0.16}
_LEAST = 4
"""Entities of each kind: a value can always be drawn that is neither the subject nor reserved."""
_SECOND = {
    "town": ("Port", "Old", "Upper", "Lower", "New", "East", "West", "Great", "North", "South", "Market", "Little"),
    "book": ("Song", "Letters", "Garden", "Winter", "Journey", "Mirror", "Elegy", "Orchard", "Lantern", "Voyage"),
    "firm": ("Works", "Mills", "Lines", "Foundry", "Press", "Brothers", "Glass", "Tools", "Shipping", "Paper"),
    "fair": ("Fair", "Regatta", "Games", "Cup", "Carnival", "Derby", "Parade", "Tournament", "Gala", "Feast"),
}


class TooSmallError(ValueError):
    """The question needs more pages than the wiki may have; `least` would do."""

    def __init__(self, least: int) -> None:
        super().__init__(f"at least {least} pages are needed")
        self.least = least


@dataclass(slots=True)
class Graph:
    """Entities and facts. Questions plant what they need with `new` and `plant`; `fill` draws all the rest."""

    rng: random.Random
    style: Style
    decoys: int = 0
    """Near names for each entity that is made with `near=True`."""
    split: Split | Literal["any"] = "any"
    """Of the words of names."""
    facts: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    """subject -> relation -> value."""
    kinds: dict[str, str] = field(default_factory=dict[str, str])
    members: dict[str, list[str]] = field(default_factory=lambda: {kind: list[str]() for kind in KINDS})
    reserved: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """(relation, value) that only planted facts may have."""
    _words: set[str] = field(default_factory=set[str])

    def new(self, kind: str, *, near: bool = True) -> str:
        """A fresh entity, with its near-named decoys."""
        name = self._add(self._name(kind), kind)
        for _ in range(self.decoys if near else 0):
            self._add(self._near(name, kind), kind)
        return name

    def plant(self, subject: str, relation: str, value: str) -> str:
        """Set a fact; returns its value."""
        self.facts[subject][relation] = value
        return value

    def number(self, relation: str) -> str:
        """A number that the relation can have and that is not reserved."""
        known = BY_NAME[relation]
        low, high = (10, 99) if self.style == "plain" else (known.low, known.high)
        while True:
            value = str(low + int(self.rng.random() * (high - low + 1)))
            if (relation, value) not in self.reserved:
                return value

    def fill(self, pages: int) -> None:
        """Add entities up to `pages` and draw every fact that nobody planted. Raises TooSmallError."""
        missing = {kind: max(0, _LEAST - len(self.members[kind])) for kind in KINDS}
        least = len(self.kinds) + sum(missing.values())
        if pages < least:
            raise TooSmallError(least)
        for kind in KINDS:
            for _ in range(missing[kind]):
                self.new(kind, near=False)
        for kind in self.rng.choices(KINDS, [_SHARE[kind] for kind in KINDS], k=pages - least):
            self.new(kind, near=False)
        for name, kind in self.kinds.items():
            facts = self.facts[name]
            for relation in RELATIONS[kind]:
                if relation.name not in facts:
                    facts[relation.name] = self._value(name, relation)

    def backlinks(self) -> dict[str, list[tuple[str, str]]]:
        """Entity -> (inverse reading, subject) of every fact whose value it is and that has an inverse reading."""
        found: dict[str, list[tuple[str, str]]] = {}
        for subject, facts in self.facts.items():
            for relation, value in facts.items():
                if (inverse := BY_NAME[relation].inverse) is not None:
                    found.setdefault(value, []).append((inverse, subject))
        return found

    def _value(self, subject: str, relation: Relation) -> str:
        if relation.target is None:
            return self.number(relation.name)
        members = self.members[relation.target]
        while True:
            value = members[int(self.rng.random() * len(members))]
            if value != subject and (relation.name, value) not in self.reserved:
                return value

    def _add(self, name: str, kind: str) -> str:
        self.kinds[name] = kind
        self.facts[name] = {}
        self.members[kind].append(name)
        return name

    def _word(self) -> str:
        """A word that no other name has."""
        while True:
            parts = [SYLLABLES[int(self.rng.random() * len(SYLLABLES))] for _ in range(3)]
            word = "".join(parts).capitalize()
            if word not in self._words and self._allows(word):
                self._words.add(word)
                return word

    def _allows(self, word: str) -> bool:
        return self.split == "any" or self.split == split_of(word.lower())

    def _name(self, kind: str) -> str:
        return self._compose(self._word(), kind)

    def _compose(self, word: str, kind: str) -> str:
        if self.style == "plain":
            return word
        if kind == "person":
            return f"{self._word()} {word}"
        second = self.rng.choice(_SECOND[kind])
        return f"{second} {word}" if kind == "town" else f"{word} {second}"

    def _near(self, name: str, kind: str) -> str:
        """A name that is easily taken for `name`: it shares a word with it, or in plain style two syllables."""
        for attempt in range(128):
            if self.style == "plain":
                other = self.rng.choice(SYLLABLES)
                near = name[:4] + other if attempt < 64 else name[:2] + other + name[4:]
                if not self._allows(near):
                    continue
            else:
                near = self._compose(name.split()[0 if kind in ("book", "firm", "fair") else 1], kind)
            if near not in self.kinds and near not in self._words:
                if self.style == "plain":
                    self._words.add(near)
                return near
        return self._name(kind)
