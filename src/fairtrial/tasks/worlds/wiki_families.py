"""The families of questions over a wiki; each plants what it asks for, so that exactly one answer is right.

chain: follow relations. compare: the same path from several heads, then the largest, the smallest, or whether all are
the same. wide: a table of everything that stands in a relation. inverse: the one that fulfils all constraints. multi:
several chains in one episode; with `age` a, question i begins at the answer of question i - a, which is needed that
much later. dead-end: candidates that fulfil all constraints but the last, which only their own pages tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fairtrial.tasks.worlds.wiki_graph import KINDS, RELATIONS, Graph, Relation, Style
from fairtrial.tasks.worlds.wiki_pages import lookup
from fairtrial.tasks.worlds.world import GoldStep

Family = Literal["chain", "compare", "wide", "inverse", "multi", "dead-end"]
Triple = tuple[str, str, str]
"""Subject, relation, value, as a page says it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a question is."""

    hops: int
    branches: int
    columns: int
    constraints: int
    questions: int
    age: int
    decoys: int


@dataclass(slots=True)
class Puzzle:
    """A question with its answer and gold plan."""

    style: Style
    question: str = ""
    answer: str = ""
    plan: list[GoldStep] = field(default_factory=list[GoldStep])
    evidence: dict[str, list[Triple]] = field(default_factory=dict[str, list[Triple]])
    """What the page of each step must have shown; nothing for a step that only weighs what others found."""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def step(self, ask: str, value: str, told: Sequence[Triple], deps: Sequence[str] = ()) -> str:
        """Add a step; its page is the subject of what it was told. Returns its id."""
        name = f"s{len(self.plan) + 1}"
        self.plan.append(GoldStep(name, ask, value, tuple(deps), told[0][0] if told else None))
        self.evidence[name] = list(told)
        return name

    def say(self, text: str, plain: str) -> None:
        """Set the question, in the words of the style."""
        self.question = plain if self.style == "plain" else text


def pose(graph: Graph, family: Family, shape: Shape) -> Puzzle:
    """A question of a family, planted into the graph (which is to be filled afterwards)."""
    puzzle = Puzzle(graph.style)
    _FAMILIES[family](graph, shape, puzzle)
    return puzzle


def _chain(graph: Graph, shape: Shape, puzzle: Puzzle) -> None:
    kind = graph.rng.choice(KINDS)
    path = _path(graph, kind, shape.hops, "any")
    head = graph.new(kind)
    puzzle.answer, _ = _follow(graph, puzzle, head, path)
    asked = _phrase(graph.style, head, path)
    puzzle.say(f"What is the {asked}?", f"{asked} ?")


def _compare(graph: Graph, shape: Shape, puzzle: Puzzle) -> None:
    how = graph.rng.choice(("largest", "smallest", "same"))
    kind = graph.rng.choice(KINDS)
    path = _path(graph, kind, shape.hops, "entity" if how == "same" else "number")
    heads = [graph.new(kind) for _ in range(shape.branches)]
    ends = _ends(graph, path[-1], how, shape.branches)
    last: list[str] = []
    for head, end in zip(heads, ends, strict=True):
        last.append(_follow(graph, puzzle, head, path, end)[1])
    listed, sources = _and(heads), _and([f"{{{name}}}" for name in last])
    if how == "same":
        puzzle.answer = "yes" if len(set(ends)) == 1 else "no"
        puzzle.step(f"whether {sources} are the same", puzzle.answer, (), last)
    else:
        best = (max if how == "largest" else min)(range(len(ends)), key=lambda at: int(ends[at]))
        puzzle.answer = heads[best]
        puzzle.step(f"which of {listed} has the {how} of {sources}", puzzle.answer, (), last)
    wanted = _phrase(graph.style, "each", path)
    plain = f"{how} : {' , '.join(heads)} : {' '.join(relation.name for relation in path)} ?"
    if how == "same":
        puzzle.say(f"Take the {wanted} of {listed}. Is it the same for all of them? Answer yes or no.", plain)
    else:
        puzzle.say(f"Take the {wanted} of {listed}. For which of them is it the {how}?", plain)
    puzzle.facts |= {"compare": how}


def _ends(graph: Graph, relation: Relation, how: str, branches: int) -> list[str]:
    """The last value of each branch: distinct numbers, or one entity that all share, or all but one."""
    if how == "same":
        assert relation.target is not None
        shared = graph.new(relation.target)
        ends = [shared] * branches
        if graph.rng.random() < 0.5:
            ends[graph.rng.randrange(branches)] = graph.new(relation.target)
        return ends
    numbers: dict[str, None] = {}
    while len(numbers) < branches:
        numbers[graph.number(relation.name)] = None
    return list(numbers)


def _wide(graph: Graph, shape: Shape, puzzle: Puzzle) -> None:
    kind = graph.rng.choice([kind for kind in KINDS if any(r.inverse for r in RELATIONS[kind])])
    link = graph.rng.choice([relation for relation in RELATIONS[kind] if relation.inverse])
    assert link.target is not None and link.inverse is not None
    others = [relation for relation in RELATIONS[kind] if relation is not link]
    columns = graph.rng.sample(others, min(shape.columns, len(others)))
    head = graph.new(link.target)
    graph.reserved.add((link.name, head))
    members = sorted(graph.new(kind) for _ in range(shape.branches))
    rows: list[list[str]] = []
    for member in members:
        graph.plant(member, link.name, head)
        rows.append([member, *(graph.plant(member, r.name, _fresh(graph, r)) for r in columns)])
    told = [(head, link.inverse, member) for member in members]
    first = puzzle.step(f"every {lookup(graph.style, head, link.inverse)}", ", ".join(members), told)
    names = [relation.name for relation in columns]
    for member, *values in rows:
        told = [(member, name, value) for name, value in zip(names, values, strict=True)]
        ask = f"{member} {' '.join(names)}" if graph.style == "plain" else f"{_and(names)} of {member}"
        puzzle.step(ask, " | ".join(values), told, (first,))
    puzzle.answer = (" ; " if graph.style == "plain" else "\n").join(" | ".join(row) for row in rows)
    puzzle.facts |= {"rows": rows, "header": [kind, *names]}
    shown = " | ".join([kind, *names])
    puzzle.say(
        f"List every {link.inverse} of {head} with {_and(names)}, one line for each: {shown}",
        f"each {head} {link.inverse} : {' '.join(names)} ?",
    )


def _inverse(graph: Graph, shape: Shape, puzzle: Puzzle) -> None:
    kind, links, values = _constraints(graph, shape.constraints)
    answer = graph.new(kind, near=False)
    found = {link.name: [answer] for link in links}
    for link, value in zip(links, values, strict=True):
        graph.plant(answer, link.name, value)
    for number in range(shape.decoys):
        decoy = graph.new(kind, near=False)
        for at, (link, value) in enumerate(zip(links, values, strict=True)):
            if at != number % len(links):
                graph.plant(decoy, link.name, value)
                found[link.name].append(decoy)
    lists: list[str] = []
    for link, value in zip(links, values, strict=True):
        assert link.inverse is not None
        names = sorted(found[link.name])
        told = [(value, link.inverse, name) for name in names]
        lists.append(puzzle.step(f"every {lookup(graph.style, value, link.inverse)}", ", ".join(names), told))
    puzzle.answer = answer
    puzzle.step("the one in " + _and([f"{{{name}}}" for name in lists]), answer, (), lists)
    _ask_which(puzzle, kind, [(link.name, value) for link, value in zip(links, values, strict=True)])


def _dead_end(graph: Graph, shape: Shape, puzzle: Puzzle) -> None:
    kind, links, values = _constraints(graph, shape.constraints - 1)
    last = next(relation for relation in RELATIONS[kind] if relation.target is None)
    number = graph.number(last.name)
    graph.reserved.add((last.name, number))
    answer, *decoys = (graph.new(kind, near=False) for _ in range(shape.decoys + 1))
    candidates = sorted([answer, *decoys])
    for candidate in candidates:
        for link, value in zip(links, values, strict=True):
            graph.plant(candidate, link.name, value)
        graph.plant(candidate, last.name, number if candidate == answer else graph.number(last.name))
    first, head = links[0], values[0]
    assert first.inverse is not None
    told = [(head, first.inverse, name) for name in candidates]
    listed = puzzle.step(f"every {lookup(graph.style, head, first.inverse)}", ", ".join(candidates), told)
    tried = [
        puzzle.step(
            lookup(graph.style, candidate, last.name),
            graph.facts[candidate][last.name],
            [(candidate, last.name, graph.facts[candidate][last.name])],
            (listed,),
        )
        for candidate in candidates
    ]
    puzzle.answer = answer
    puzzle.step(f"the one with {last.name} {number}", answer, (), tried)
    asked = [(link.name, value) for link, value in zip(links, values, strict=True)]
    _ask_which(puzzle, kind, [*asked, (last.name, number)])


def _constraints(graph: Graph, count: int) -> tuple[str, list[Relation], list[str]]:
    """A kind, relations of it that can be read from both sides, and a fresh value for each."""
    kind = graph.rng.choice([kind for kind in KINDS if sum(r.inverse is not None for r in RELATIONS[kind]) >= count])
    links = graph.rng.sample([relation for relation in RELATIONS[kind] if relation.inverse], count)
    values = [graph.new(link.target, near=False) for link in links if link.target]
    graph.reserved |= {(link.name, value) for link, value in zip(links, values, strict=True)}
    return kind, links, values


def _ask_which(puzzle: Puzzle, kind: str, asked: Sequence[tuple[str, str]]) -> None:
    told = _and([f"{name} {value}" for name, value in asked])
    puzzle.say(f"Which {kind} has {told}?", f"{kind} : {' , '.join(f'{name} {value}' for name, value in asked)} ?")


def _multi(graph: Graph, shape: Shape, puzzle: Puzzle) -> None:
    answers: list[str] = []
    sources: list[str] = []
    asked: list[str] = []
    for at in range(shape.questions):
        needed_later = 0 < shape.age < shape.questions - at
        earlier = at - shape.age if 0 < shape.age <= at else None
        if earlier is None:
            kind = graph.rng.choice(KINDS)
            head, subject, deps = (name := graph.new(kind)), name, ()
        else:
            head, kind, deps = answers[earlier], graph.kinds[answers[earlier]], (sources[earlier],)
            subject = f"answer {earlier + 1}" if graph.style == "plain" else f"the answer to question {earlier + 1}"
        path = _path(graph, kind, shape.hops, "entity" if needed_later else "any")
        answer, source = _follow(graph, puzzle, head, path, deps=deps)
        answers.append(answer)
        sources.append(source)
        asked.append(_phrase(graph.style, subject, path))
    puzzle.answer = (" ; " if graph.style == "plain" else "; ").join(answers)
    puzzle.facts |= {"items": answers, "item_steps": sources}
    puzzle.say(
        "Answer all questions.\n"
        + "\n".join(f"{number}. What is the {words}?" for number, words in enumerate(asked, 1))
        + "\nGive the answers in this order on one line, separated by semicolons.",
        " ".join(f"{'last ' * (at == len(asked))}{at} {words} ?" for at, words in enumerate(asked, 1)),
    )


def _path(graph: Graph, kind: str, hops: int, end: Literal["any", "entity", "number"]) -> list[Relation]:
    """Relations to follow from a kind, the last of them to an entity, a number, or either."""
    path: list[Relation] = []
    for hop in range(hops):
        last = hop == hops - 1
        allowed = [
            relation
            for relation in RELATIONS[kind]
            if (relation.target is not None and (not last or end != "number"))
            or (relation.target is None and last and end != "entity")
        ]
        path.append(graph.rng.choice(allowed))
        kind = path[-1].target or ""
    return path


def _follow(
    graph: Graph,
    puzzle: Puzzle,
    head: str,
    path: Sequence[Relation],
    end: str | None = None,
    deps: tuple[str, ...] = (),
) -> tuple[str, str]:
    """Plant a path and its steps; returns the last value and the id of the step that tells it."""
    value, source = head, deps[0] if deps else ""
    for hop, relation in enumerate(path):
        subject = value
        fixed = end if hop == len(path) - 1 else None
        value = graph.plant(subject, relation.name, fixed or _fresh(graph, relation))
        asked = f"{{{source}}}" if source else subject
        ask = lookup(graph.style, asked, relation.name)
        source = puzzle.step(ask, value, [(subject, relation.name, value)], (source,) if source else ())
    return value, source


def _fresh(graph: Graph, relation: Relation) -> str:
    return graph.number(relation.name) if relation.target is None else graph.new(relation.target)


def _phrase(style: Style, subject: str, path: Sequence[Relation]) -> str:
    if style == "plain":
        return " ".join([subject, *(relation.name for relation in path)])
    return " of the ".join(relation.name for relation in reversed(path)) + f" of {subject}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_FAMILIES = {
    "chain": _chain,
    "compare": _compare,
    "wide": _wide,
    "inverse": _inverse,
    "multi": _multi,
    "dead-end": _dead_end,
}
