"""The world "recipes": questions that name invented procedures, which only a skill's text defines.

A question gives a list and asks for the result of one or several recipes; what a recipe's steps are stands in its
skill and nowhere else. Recipes are drawn from a seed. Every recipe belongs to one of two splits by what it does and by
its name, so nothing that is asked in evaluation can have been trained on, whatever the seeds. Of every episode it is
known what the answer would be under other recipes' texts, so that it shows whether the text is what is followed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from fairtrial.core.clock import Clock
from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.core.ids import digest
from fairtrial.core.ids import seed as derive
from fairtrial.core.trial import TaskInfo
from fairtrial.tasks.worlds.leaks import holds
from fairtrial.tasks.worlds.names import Split, draw_name, split_of
from fairtrial.tasks.worlds.recipes_steps import ALPHABET, Domain, State, behaviour, draw_step, run_steps
from fairtrial.tasks.worlds.recipes_texts import Length, Recipe, write_skill
from fairtrial.tasks.worlds.wiki import Span
from fairtrial.tasks.worlds.wiki_graph import Style
from fairtrial.tasks.worlds.wiki_tools import Latency
from fairtrial.tasks.worlds.world import Episode, Function, GoldStep, SkillText

_VERSION = 1
"""Raised whenever the same settings give other recipes or questions."""
_TRIES = 400
_APART = 1_000_000
"""Numbers of the lists that are for practice."""
_EXTRA = 8
"""Recipes of each domain in the library that no episode asks for."""


class RecipesSettings(Config):
    """`world = {id = "recipes", ...}`."""

    n: int = Field(default=100, ge=1, le=1_000_000)
    """Episodes; the first ones stay the same when there are more."""
    seed: int = Field(default=0, ge=0)
    split: Split = "evaluation"
    """Which recipes may be drawn: the two have no name and no procedure in common."""
    domains: tuple[Domain, ...] = Field(default=("letters", "numbers", "items", "codes"), min_length=1)
    """Taken in turn."""
    steps: Span = 3
    """Of each recipe."""
    skills: Span = 1
    """Recipes that a question asks for, one after the other; each has its own skill."""
    items: Span = (4, 6)
    """Words of the list that is given."""
    each: int = Field(default=1, ge=1, le=1000)
    """Episodes that ask for the same recipes, with other lists. Statistics cluster on them."""
    length: tuple[Length, ...] = Field(default=("standard",), min_length=1)
    """Of the skills' texts; taken in turn."""
    in_file: bool = False
    """Whether the steps stand in a file of the skill, to which its body points."""
    style: Style = "text"
    """Of the questions. text: a sentence; plain: `NAME NAME : LIST ?`, for very small models."""
    latency: Latency = Latency()
    """Of the tool `lookup`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("steps", "skills", "items"):
            span = getattr(self, name)
            if isinstance(span, tuple) and span[0] > span[1]:
                raise ValueError(f"{name}: {list(span)} is [least, most]; put the smaller number first")
        for name, most in (("steps", 12), ("skills", _EXTRA), ("items", 12)):
            span = getattr(self, name)
            if (span if isinstance(span, int) else span[1]) > most:
                raise ValueError(f"{name}: at most {most}")
        if (self.items if isinstance(self.items, int) else self.items[0]) < 3:
            raise ValueError("items: at least 3, or there is nothing to reorder")
        return self


@dataclass(frozen=True, slots=True)
class Group:
    """Recipes that are asked for together, and what stands in for them where texts are swapped."""

    index: int
    domain: Domain
    length: Length
    recipes: tuple[Recipe, ...]
    others: tuple[Recipe, ...]


class Recipes:
    """The world "recipes"."""

    settings_type = RecipesSettings

    def __init__(self, settings: RecipesSettings, base: Path) -> None:
        del base
        self.settings = settings
        self._used: set[Any] = set()
        self._extra = {domain: self._spare(domain) for domain in settings.domains}
        self._groups: list[Group] = []
        self._skills: dict[tuple[str, Length], SkillText] = {}
        self._episodes: tuple[Episode, ...] | None = None

    def episodes(self) -> Sequence[Episode]:
        """All episodes in order. Raises UserError where so many different recipes cannot be drawn."""
        if self._episodes is None:
            each = self.settings.each
            self._episodes = tuple(
                self._episode(self._group(index // each), index % each, f"recipes-{index:06d}")
                for index in range(self.settings.n)
            )
        return self._episodes

    def library(self) -> Sequence[SkillText]:
        """The skills of all episodes, and of eight more recipes of each domain that no episode asks for."""
        groups = [self._group(index) for index in range(-(-self.settings.n // self.settings.each))]
        asked = [self._skill(recipe, group.length) for group in groups for recipe in group.recipes]
        lengths = self.settings.length
        extra = [
            self._skill(recipe, lengths[at % len(lengths)])
            for recipes in self._extra.values()
            for at, recipe in enumerate(recipes)
        ]
        return [*asked, *extra]

    def practice(self, episode: Episode, count: int) -> Sequence[Episode]:
        """Episodes with the same recipes and other lists."""
        group = self._group(episode.facts["group"])
        known = {tuple(each.facts["input"]) for each in self.episodes() if each.facts["group"] == group.index}
        found: list[Episode] = []
        for number in range(_APART, _APART + _TRIES + count):
            made = self._episode(group, number, f"{episode.info.id}-practice-{len(found)}")
            given = tuple(made.facts["input"])
            if len(found) == count:
                break
            if given not in known:
                known.add(given)
                found.append(made)
        return found

    def functions(self, episode: Episode, clock: Clock, seed: int) -> Sequence[Function]:
        """lookup(item) for lists of codes says what an item is in this episode (`key is jar`); no tool otherwise."""
        if episode.facts["domain"] != "codes":
            return ()
        table = self._table(episode.facts["draw"])

        async def call(args: Mapping[str, Any]) -> str:
            rng = random.Random(derive(seed, f"lookup {args['item']}", 0, "environment"))  # noqa: S311 - a simulation
            if (seconds := self.settings.latency.draw(rng)) > 0:
                await clock.sleep(seconds)
            item = str(args["item"]).strip()
            if item not in table:
                raise LookupError(f'there is no item "{item}"')
            return f"{item} is {table[item]}"

        parameters = {
            "type": "object",
            "properties": {"item": {"type": "string", "description": "One item."}},
            "required": ["item"],
            "additionalProperties": False,
        }
        return (Function("lookup", "Look up an item.", parameters, call),)

    def grade(self, episode: Episode, answer: str | None, visited: Sequence[str]) -> dict[str, float]:
        """em; items: the share of places that are right; swapped: the answer is that of the other recipes' texts."""
        del visited
        said, gold = _words(answer or ""), list(episode.facts["answer"])
        right = sum(mine == its for mine, its in zip(said, gold, strict=False))
        return {
            "em": float(said == gold),
            "items": right / max(len(said), len(gold)),
            "swapped": float(said == _words(episode.facts["swapped_answer"])),
        }

    def _group(self, index: int) -> Group:
        while len(self._groups) <= index:
            self._groups.append(self._draw_group(len(self._groups)))
        return self._groups[index]

    def _draw_group(self, index: int) -> Group:
        settings = self.settings
        turn, at = divmod(index, len(settings.domains))
        domain, length = settings.domains[at], settings.length[turn % len(settings.length)]
        rng, lists = self._rng(f"group {domain} {turn}"), self._rng(f"trial lists {domain} {turn}")
        for _ in range(_TRIES):
            recipes = tuple(self._recipe(domain, rng) for _ in range(_within(settings.skills, rng)))
            group = Group(index, domain, length, recipes, tuple(rng.sample(self._extra[domain], len(recipes))))
            if sum(self._case(group, lists).fair for _ in range(20)) >= 10:
                return group
        raise UserError("world recipes: what so many recipes leave of a list is too short; raise items")

    def _spare(self, domain: Domain) -> list[Recipe]:
        rng = self._rng(f"extra {domain}")
        return [self._recipe(domain, rng) for _ in range(_EXTRA)]

    def _recipe(self, domain: Domain, rng: random.Random) -> Recipe:
        """A recipe of the split that no other of this world behaves like or is called like, without idle steps."""
        settings = self.settings
        for _ in range(_TRIES):
            count = _within(settings.steps, rng)
            asking = rng.randrange(count) if domain == "codes" else None
            steps = tuple(draw_step(domain, rng, asks=at == asking) for at in range(count))
            made = behaviour(domain, steps)
            key = (domain, made)
            if split_of(repr(made)) != settings.split or key in self._used or any(len(state) < 2 for state in made):
                continue
            rest = (steps[:begin] + steps[end:] for end in range(count + 1) for begin in range(end))
            if all(behaviour(domain, left) != made for left in rest):
                break
        else:
            raise UserError(
                f'world recipes: so many different recipes of {settings.steps} steps in the domain "{domain}" cannot '
                "be drawn; lower n, or raise steps or each"
            )
        while (name := draw_name(rng, settings.split)) in self._used:
            pass
        self._used |= {key, name}
        return Recipe(name, domain, steps)

    def _skill(self, recipe: Recipe, length: Length) -> SkillText:
        key = recipe.name, length
        if key not in self._skills:
            rng = self._rng(f"text {recipe.name}")
            words = ALPHABET[recipe.domain]
            begin = tuple(rng.sample(words, 4))
            table = dict(zip(words, rng.sample(words, len(words)), strict=True))
            example = (begin, run_steps(recipe.steps, begin, partial(_known, table)))
            self._skills[key] = write_skill(recipe, length, example, rng, in_file=self.settings.in_file)
        return self._skills[key]

    def _episode(self, group: Group, number: int, id: str) -> Episode:
        settings = self.settings
        skills = tuple(self._skill(recipe, group.length) for recipe in group.recipes)
        # The longest texts, so that the lists are the same whatever the length.
        texts = [text for recipe in group.recipes for text in self._skill(recipe, "comprehensive").texts]
        rng = self._rng(f"list {group.domain} {group.index} {number}")
        best: tuple[int, _Case] | None = None
        for tried in range(_TRIES):
            case = self._case(group, rng)
            answer = " ".join(case.states[-1])
            if not case.fair or any(holds(text, answer) for text in texts):
                continue
            if best is None or case.moved > best[0]:
                best = (case.moved, case)
            if case.moved == len(case.states) or tried > _TRIES // 10:
                break
        if best is None:
            raise UserError(f"world recipes: no list shows what {' and '.join(r.name for r in group.recipes)} do; "
                            "raise items or take another seed")  # fmt: skip
        return self._told(group, number, id, skills, best[1], settings)

    def _case(self, group: Group, rng: random.Random) -> _Case:
        draw = rng.getrandbits(32)
        ask = partial(_known, self._table(draw))
        alphabet = ALPHABET[group.domain]
        begin = tuple(rng.sample(alphabet, min(len(alphabet), _within(self.settings.items, rng))))
        states = run_steps([step for recipe in group.recipes for step in recipe.steps], begin, ask)
        swapped = run_steps([step for recipe in group.others for step in recipe.steps], begin, ask)[-1]
        return _Case(begin, states, swapped, draw)

    def _told(self, group: Group, number: int, id: str, skills: tuple[SkillText, ...], case: _Case,
              settings: RecipesSettings) -> Episode:  # fmt: skip
        names = [recipe.name for recipe in group.recipes]
        given, answer = " ".join(case.begin), " ".join(case.states[-1])
        if settings.style == "plain":
            question = f"{' '.join(names)} : {given} ?"
        else:
            question = f"Do {', then '.join(names)} with this list: {given}. Answer with the list that comes out."
        lines = [step.line for recipe in group.recipes for step in recipe.steps]
        plan = tuple(
            GoldStep(
                f"s{at + 1}",
                f"{line} : {f'{{s{at}}}' if at else given}",
                " ".join(state),
                (f"s{at}",) if at else (),
            )
            for at, (line, state) in enumerate(zip(lines, case.states, strict=True))
        )
        facts = {
            "family": group.domain,
            "domain": group.domain,
            "style": settings.style,
            "split": settings.split,
            "group": group.index,
            "draw": case.draw,
            "recipes": names,
            "recipe_steps": [len(recipe.steps) for recipe in group.recipes],
            "length": group.length,
            "input": list(case.begin),
            "answer": list(case.states[-1]),
            "swapped_with": [recipe.name for recipe in group.others],
            "swapped_answer": " ".join(case.swapped),
        }
        defined = [_VERSION, question, answer, case.draw, [[s.name, s.texts] for s in skills], number]
        tags = (group.domain, f"skills-{len(names)}", f"steps-{len(lines)}", group.length)
        family = "-".join(names) if settings.each > 1 else None
        return Episode(TaskInfo(id, digest(defined), family, tags), question, (answer,), plan, facts, skills)

    def _table(self, draw: int) -> dict[str, str]:
        """What items stand for: never themselves, and not to be known without the tool."""
        rng = random.Random(f"recipes table {self.settings.seed} {draw}")  # noqa: S311 - a simulation
        items = ALPHABET["codes"]
        order = rng.sample(items, len(items))
        return dict(zip(order, [*order[1:], order[0]], strict=True))

    def _rng(self, what: str) -> random.Random:
        named = f"recipes {self.settings.split} {what}"
        return random.Random(derive(self.settings.seed, named, 0, "environment"))  # noqa: S311 - a simulation


@dataclass(frozen=True, slots=True)
class _Case:
    begin: State
    states: Sequence[State]
    swapped: State
    draw: int

    @property
    def fair(self) -> bool:
        """Nothing is empty, and neither the input nor the swapped texts' answer is the answer."""
        answer = self.states[-1]
        return all(self.states) and bool(self.swapped) and answer not in (self.begin, self.swapped) and len(answer) > 1

    @property
    def moved(self) -> int:
        """Steps that change the list."""
        return sum(after != before for before, after in zip((self.begin, *self.states), self.states, strict=False))


def _known(table: Mapping[str, str], word: str) -> str:
    return table.get(word, word)


def _words(text: str) -> list[str]:
    """The words of an answer; commas, brackets and quotes are as good as spaces."""
    return "".join(" " if char in ",;[](){}\"'`." else char for char in text.casefold()).split()


def _within(span: Any, rng: random.Random) -> int:
    return span if isinstance(span, int) else rng.randint(*span)
