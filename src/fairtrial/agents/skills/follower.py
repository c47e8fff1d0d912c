"""The kind of model "follower": a script that does what the skill texts in its prompt say, and knows nothing else.

For the world "recipes". It reads skills by the tool where the prompt lists one of the asked name, follows the steps to
the letter, and where it finds none it guesses. It cannot tell arms apart: what an arm shows decides what it answers. So
it is the upper bound of following texts, in every planner's and policy's dialect, and what small models learn from.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fairtrial.agents.accounting import text_of
from fairtrial.agents.context import rendering
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.dialects import Voice, offered, to_fold
from fairtrial.agents.log import Folded
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.planners.planner import Move
from fairtrial.agents.scripted_player import PlayerSettings, Said, ScriptedPlayer
from fairtrial.agents.skills.disclosure import NAME as READ_SKILL
from fairtrial.core.errors import UserError
from fairtrial.models.model import Message, Request
from fairtrial.tasks.worlds.recipes_steps import ITEMS, Ask, State, Step
from fairtrial.tasks.worlds.recipes_texts import STEPS_FILE, read_recipe

_TEXT = re.compile(r"Do ([a-z]+(?:, then [a-z]+)*) with this list: ([^.\n]+)\.")
_PLAIN = re.compile(r"(?m)^((?:[a-z]+ )+): ([a-z0-9 ]+) \?")
_IS = re.compile(rf"\b({'|'.join(ITEMS)}) is ({'|'.join(ITEMS)})\b")
_NONE = "nothing found yet"


class FollowerSettings(PlayerSettings):
    """How the follower plays."""

    slip: float = Field(default=0.0, ge=0, le=1)
    """Probability that a step is passed over."""
    working: bool = True
    """Whether it writes down the list after each step, as thinking."""


class Follower:
    """The kind `follower`."""

    settings_type = FollowerSettings
    argument: ClassVar[str] = "planner"

    @staticmethod
    def check(settings: FollowerSettings, base: Path) -> None:
        """As `open`, which loads no weights."""
        Follower.open(settings, base)

    @staticmethod
    def files(settings: FollowerSettings, base: Path) -> tuple[Path, ...]:
        """None: it is a script."""
        del settings, base
        return ()

    @staticmethod
    def open(settings: FollowerSettings, base: Path) -> FollowerModel:
        """The model. Raises UserError for a planner or policy that there is not."""
        del base
        return FollowerModel(settings)


class _Lacking(Exception):  # noqa: N818 - something to look up, not an error
    """An item that must be looked up first."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the prompt says: the question, the steps of the asked recipes, what items are, what was done."""

    names: tuple[str, ...]
    given: State
    recipes: Mapping[str, tuple[Step, ...]]
    table: Mapping[str, str]
    acted: str
    """What is behind the question: calls, results, notes."""
    working: list[str] = field(default_factory=list[str])

    def ask(self, item: str) -> str:
        """What an item is. Raises _Lacking where the prompt does not say it."""
        if item not in self.table:
            raise _Lacking(item)
        return self.table[item]

    def notes(self) -> str:
        """All of it that is not in the question."""
        texts = [
            "\n".join([f"Steps of {name}:", *(f"{number}. {step.line}" for number, step in enumerate(steps, 1))])
            for name, steps in self.recipes.items()
        ]
        texts += [
            f"The text of {name} was read ."
            for name in self.names
            if name not in self.recipes and re.search(rf"\b{name}\b", self.acted)
        ]
        return "\n".join([*texts, *(f"{item} is {value} ." for item, value in self.table.items())]) or _NONE


class FollowerModel(ScriptedPlayer):
    """A model that follows texts."""

    name = "follower"

    def __init__(self, settings: FollowerSettings | None = None) -> None:
        """Raises UserError for a planner or policy that there is not."""
        self.settings = settings or FollowerSettings()
        super().__init__(self.settings)

    def _reply(self, request: Request, messages: Sequence[Message], rng: random.Random) -> Said:
        """The next turn or summary. Raises UserError for a question that is not of recipes."""
        said = "\n".join(text_of(message) for message in messages)
        first = next(index for index, message in enumerate(messages) if message.role == "user")
        known = _read(said, "\n".join(text_of(message) for message in messages[first:]))
        system = "".join(message.content for message in messages if message.role == "system")
        if "file SKILL.md" in system and not request.tools and "<answer>" not in system:
            return self._skill(known), ()
        if "<answer>" not in system:
            return known.notes(), ()
        voice = self._voices.of(system, offered(system, request.tools))
        plan = None if rendering.LAST_TURN in messages[-1].content else self._plan(known, voice, said)
        if plan is not None:
            text, calls = _said(voice, plan)
            fold = self._fold(voice.policy, known, messages)
            return voice.policy.write(fold, "I look up what I need.", "") + text, calls
        state = self._follow(known, lambda item: known.table.get(item, item), rng)
        text, calls = voice.planner.write(Move(answer=" ".join(state)))
        thinking = "\n".join(known.working) if self.settings.working else ""
        return voice.policy.write(None, "This is what the steps come to.", thinking) + text, calls

    def _plan(self, known: _Known, voice: Voice, said: str) -> Plan | None:
        """What to read or look up next; None where nothing is left that could be."""
        if READ_SKILL in voice.tools:
            wanted: list[dict[str, str]] = []
            for name in known.names:
                offered_here = f"<name>{name}</name>" in said or f'<skill name="{name}">' in said
                if name in known.recipes or not offered_here:
                    continue
                if f"Read {STEPS_FILE} for the steps of {name}" in said:
                    if re.search(rf'\b{name}\b[^{{}}\n]{{0,40}}{STEPS_FILE}"', known.acted) is None:
                        wanted.append({"name": name, "file": STEPS_FILE})
                elif re.search(rf"\b{name}\b", known.acted) is None:
                    wanted.append({"name": name})
            if wanted:
                return Plan(tuple(Node(f"s{at}", READ_SKILL, args) for at, args in enumerate(wanted, 1)))
        if "lookup" not in voice.tools:
            return None
        try:
            self._follow(known, known.ask, random.Random(0))  # noqa: S311 - the path to the next item
        except _Lacking as lacking:
            return Plan((Node("s1", "lookup", {"item": str(lacking)}),))
        return None

    def _follow(self, known: _Known, ask: Ask, rng: random.Random) -> State:
        """The list after all steps. Of a recipe without steps in the prompt: a guess."""
        state = known.given
        known.working.clear()
        for name in known.names:
            steps = known.recipes.get(name)
            if steps is None:
                state = tuple(rng.sample(state, len(state)))
                known.working.append(f"{name} is not known to me, a guess: {' '.join(state)}")
            for number, step in enumerate(steps or (), 1):
                if rng.random() >= self.settings.slip:
                    state = step.run(state, ask)
                known.working.append(f"{number}. {step.line} : {' '.join(state)}")
        return state

    def _fold(self, policy: ContextPolicy, known: _Known, messages: Sequence[Message]) -> Folded | None:
        """Everything that is known, wherever the policy wants it."""
        asked = to_fold(policy, messages)
        if asked is None:
            return None
        return Folded(0 if asked.whole else asked.imposed or 0, asked.latest, known.notes())

    @staticmethod
    def _skill(known: _Known) -> str:
        """As a creator: it knows no procedure, and says so in the form that is asked for."""
        name = known.names[0]
        return (
            f"---\nname: {name}\ndescription: How to do {' and '.join(known.names)} with a list.\n---\n"
            "Work with care and keep the words of the list in order. The steps are not known."
        )


def _read(said: str, after: str) -> _Known:
    """What a prompt says; `after` is that from the question on. Raises UserError where it asks for no recipe."""
    match = _TEXT.search(after) or _PLAIN.search(after)
    if match is None:
        raise UserError('follower: the prompt asks for no recipe; it plays the world "recipes" only')
    names = tuple(re.findall(r"[a-z]+", match[1].replace(", then", " ")))
    found = {name: read_recipe(said, name) for name in dict.fromkeys(names)}
    recipes = {name: steps for name, steps in found.items() if steps}
    acted = after[match.end() :].replace("\\", "")
    return _Known(names, tuple(match[2].split()), recipes, dict(_IS.findall(acted)), acted)


def _said(voice: Voice, plan: Plan) -> Said:
    """The plan in the planner's words; its first call where the planner makes one at a time."""
    try:
        return voice.planner.write(Move(plan=plan))
    except ValueError:
        return voice.planner.write(Move(plan=Plan(plan.nodes[:1])))
