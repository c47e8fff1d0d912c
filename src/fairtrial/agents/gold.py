"""What of an episode's gold plan a text shows: the memory of the oracle player.

A fact counts as known only where the text says it, so a fact that a policy dropped has to be looked up again. Where
the text says something else for a fact (a note that was written down wrong), that is believed, and all that follows
from it is lost: this is how errors of rewriting compound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairtrial.agents.planners.plan import Ref, Template
from fairtrial.tasks.worlds.world import Episode, GoldStep

UNKNOWN = "unknown"
_REFERENCE = re.compile(r"\{(s\d+)\}")
_VALUE = r"([A-Z]\w+(?: [A-Z]\w+)?|\d+)(?!\w)"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a page says and the plan needs."""

    words: str
    """How to write it down, up to the value."""
    value: str
    says: re.Pattern[str]
    """Where a text speaks of it; the group is the value."""
    siblings: frozenset[str]
    """All right values where there are several."""

    def believed(self, text: str) -> str | None:
        """The value that a text gives it: the right one if it is there at all."""
        found = self.says.findall(text)
        if self.value in found:
            return self.value
        others = [value for value in found if value not in self.siblings]
        return others[-1] if others else None


class Beliefs:
    """The state of a plan after reading a text."""

    def __init__(self, gold: Gold, text: str) -> None:
        self._gold = gold
        self.values = {name: [fact.believed(text) for fact in facts] for name, facts in gold.facts.items()}
        self.known: set[str] = set()
        self.lost: set[str] = set()
        """Steps of which something wrong is believed, and those that therefore cannot be looked up."""
        for step in gold.episode.plan:
            facts, values = gold.facts[step.id], self.values[step.id]
            if all(value is not None for value in values) and (facts or self.known.issuperset(step.deps)):
                self.known.add(step.id)
            wrong = any(v is not None and v != fact.value for v, fact in zip(values, facts, strict=True))
            if wrong or (step.id not in self.known and self.lost.intersection(step.deps)):
                self.lost.add(step.id)

    def settled(self, step: str) -> bool:
        """Whether there is nothing more to look up for a step."""
        return step in self.known or step in self.lost

    def wanted(self) -> list[GoldStep]:
        """Steps that the answer still rests on, in the order of the plan: the goals, and what unsettled ones need."""
        steps = {step.id: step for step in self._gold.episode.plan}
        found: set[str] = set()
        stack = list(self._gold.goals)
        while stack:
            step = steps[stack.pop()]
            if step.id in found:
                continue
            found.add(step.id)
            if not self._gold.facts[step.id] or not self.settled(step.id):
                stack += step.deps
        return [step for step in self._gold.episode.plan if step.id in found]

    def open(self) -> list[GoldStep]:
        """Steps that can be looked up now."""
        return [
            step
            for step in self.wanted()
            if self._gold.facts[step.id] and not self.settled(step.id) and all(map(self.settled, step.deps))
        ]

    def value(self, step: str) -> str:
        """What is believed of a step, in words."""
        at = next(each for each in self._gold.episode.plan if each.id == step)
        values, facts = self.values[step], self._gold.facts[step]
        wrong = [v for v, fact in zip(values, facts, strict=True) if v is not None and v != fact.value]
        if step not in self.lost:
            return at.value if step in self.known else UNKNOWN
        return wrong[0] if wrong else next(self.value(dep) for dep in at.deps if dep in self.lost)

    def notes(self) -> list[tuple[str, str]]:
        """(words, believed value) of every fact that is still needed."""
        return [
            (fact.words, value)
            for step in self.wanted()
            for fact, value in zip(self._gold.facts[step.id], self.values[step.id], strict=True)
            if value is not None
        ]


class Gold:
    """An episode's plan with the patterns by which its facts are recognised."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        evidence: Mapping[str, Sequence[Mapping[str, str]]] | None = episode.facts.get("evidence")
        self.facts = {
            step.id: _anywhere(step) if evidence is None else _facts(evidence.get(step.id, ())) for step in episode.plan
        }
        needed = {dep for step in episode.plan for dep in step.deps}
        sinks = [step.id for step in episode.plan if step.id not in needed]
        self.goals: list[str] = list(episode.facts.get("item_steps", sinks))

    def asked(self, step: GoldStep, beliefs: Beliefs | None = None) -> str:
        """The step's question with values in it: those that are believed, or the right ones."""
        right = {each.id: each.value for each in self.episode.plan}
        return _REFERENCE.sub(lambda at: beliefs.value(at[1]) if beliefs else right[at[1]], step.question)

    def template(self, step: GoldStep, names: Mapping[str, str], beliefs: Beliefs) -> str | Template:
        """The step's question with references to the nodes in `names`, and values for all others."""
        parts: list[str | Ref] = []
        for at, part in enumerate(_REFERENCE.split(step.question)):
            if at % 2 and part in names:
                parts.append(Ref(names[part]))
            elif text := beliefs.value(part) if at % 2 else part:
                parts.append(text)
        return Template(tuple(parts)) if any(isinstance(part, Ref) for part in parts) else "".join(map(str, parts))

    def answer(self, beliefs: Beliefs) -> list[str]:
        """The pieces of the answer, every second a value: what is between the values is as the world wants it."""
        plan, facts, right = self.episode.plan, self.episode.facts, self.episode.answers[0]
        if "item_steps" in facts:
            values = [beliefs.value(name) for name in self.goals]
            return _woven(right, list(facts["items"]), values)
        if "rows" in facts:
            gold = [cell for row in facts["rows"] for cell in row]
            rows = [
                [row[0], *(value or UNKNOWN for value in beliefs.values[step.id])]
                for row, step in zip(facts["rows"], plan[1:], strict=True)
            ]
            return _woven(right, gold, [cell for row in rows for cell in row])
        goal = self.goals[-1]
        return ["", right if goal in beliefs.known and goal not in beliefs.lost else beliefs.value(goal), ""]


def _woven(text: str, old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The text in pieces with its values replaced; values stand at the odd places."""
    pieces: list[str] = []
    for before, after in zip(old, new, strict=True):
        head, _, text = text.partition(before)
        pieces += [head, after]
    return [*pieces, text]


def _facts(told: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """Patterns for what pages say: SUBJECT RELATION VALUE, or RELATION of SUBJECT ... VALUE within a sentence."""
    values: dict[tuple[str, str], set[str]] = {}
    for each in told:
        values.setdefault((each["subject"], each["relation"]), set()).add(each["value"])
    facts: list[Fact] = []
    for each in told:
        subject, relation = re.escape(each["subject"]), re.escape(each["relation"])
        said = rf"{subject} {relation}" if each["fact"].startswith(each["subject"]) else rf"{relation} of {subject}"
        link = r"(?: is given as| is| has been|:)?"
        siblings = frozenset(values[each["subject"], each["relation"]])
        words = each["fact"].removesuffix(each["value"])
        facts.append(Fact(words, each["value"], re.compile(rf"(?<!\w){said}{link} {_VALUE}"), siblings))
    return facts


def _anywhere(step: GoldStep) -> list[Fact]:
    """Where a world has no evidence of its own, the value counts as known wherever it stands."""
    says = re.compile(rf"(?<!\w)({re.escape(step.value)})(?!\w)")
    return [Fact(f"{step.question}: ", step.value, says, frozenset((step.value,)))]
