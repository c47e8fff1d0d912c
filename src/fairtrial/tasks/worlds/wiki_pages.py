"""The wiki's facts as pages: one sentence for each fact, its key right before its value, with filler around.

In the style "text" sentences vary and run on in English; in "plain" a page is `NAME kind .` and then for each fact
`SUBJECT RELATION VALUE .`, words of a small closed vocabulary apart from names and numbers.
"""

from __future__ import annotations

import random
import re

from fairtrial.tasks.worlds.wiki_graph import RELATIONS, Graph, Style

_FACT = (
    "The {relation} of {subject} is {value}.",
    "All registers agree that the {relation} of {subject} is {value}.",
    "Today the {relation} of {subject} is {value}.",
    "According to the almanac, the {relation} of {subject} is {value}.",
    "For as long as anyone can tell, the {relation} of {subject} has been {value}.",
    "In the archive the {relation} of {subject} is given as {value}.",
)
_INVERSE = (
    "One {relation} of {subject} is {value}.",
    "On record as {relation} of {subject}: {value}.",
    "A known {relation} of {subject} is {value}.",
)
_ADJECTIVES = (
    "quiet",
    "former",
    "narrow",
    "golden",
    "patient",
    "heavy",
    "bright",
    "distant",
    "modest",
    "crooked",
    "brisk",
)
_NOUNS = ("harbour", "archive", "meadow", "ledger", "corridor", "orchestra", "kitchen", "bridge", "letter", "season")
_VERBS = ("recalls", "follows", "surrounds", "outlasts", "resembles", "explains", "softens", "divides", "precedes")
_FILLER = (
    "The {a} {n} {v} the {b} {m}.",
    "Nobody knows why the {a} {n} {v} every {b} {m}.",
    "In spring a {b} {m} {v} the {a} {n}, and visitors stay until evening.",
    "Some say that each {a} {n} {v} a {b} {m} sooner or later.",
)
_PLAIN_FILLER = ("note", "see", "also", "calm", "river", "old", "map", "long", "road")
SENTENCE = re.compile(r"(?<=[.\n])\s+")


def fact(style: Style, subject: str, relation: str, value: str) -> str:
    """The shortest way to write a fact down, as the pages and good notes have it."""
    return f"{subject} {relation} {value}" if style == "plain" else f"the {relation} of {subject} is {value}"


def lookup(style: Style, subject: str, relation: str) -> str:
    """What is asked to get at a fact."""
    return f"{subject} {relation}" if style == "plain" else f"{relation} of {subject}"


def render(graph: Graph, seed: int, words: int, *, backlinks: bool) -> dict[str, str]:
    """Title -> text of every page, about `words` words long (longer where the facts alone are)."""
    links = graph.backlinks() if backlinks else {}
    return {
        name: _page(graph, name, links.get(name, []), random.Random(f"{seed} {name}"), words)  # noqa: S311
        for name in graph.kinds
    }


def _page(graph: Graph, name: str, links: list[tuple[str, str]], rng: random.Random, words: int) -> str:
    kind, facts = graph.kinds[name], graph.facts[name]
    triples = [(relation.name, facts[relation.name]) for relation in RELATIONS[kind]]
    if graph.style == "plain":
        sentences = [f"{name} {relation} {value} ." for relation, value in (*triples, *links)]
    else:
        sentences = [rng.choice(_FACT).format(relation=r, subject=name, value=v) for r, v in triples]
        sentences += [rng.choice(_INVERSE).format(relation=r, subject=name, value=v) for r, v in links]
    have = sum(sentence.count(" ") + 1 for sentence in sentences) + 4
    while have < words:
        sentences.append(_filler(graph.style, rng))
        have += sentences[-1].count(" ") + 1
    rng.shuffle(sentences)
    lead = f"{name} {kind} ." if graph.style == "plain" else f"{name} is a {kind}."
    return " ".join([lead, *sentences])


def _filler(style: Style, rng: random.Random) -> str:
    if style == "plain":
        return " ".join([*rng.choices(_PLAIN_FILLER, k=3), "."])
    a, b = rng.sample(_ADJECTIVES, 2)
    n, m = rng.sample(_NOUNS, 2)
    return rng.choice(_FILLER).format(a=a, b=b, n=n, m=m, v=rng.choice(_VERBS))
