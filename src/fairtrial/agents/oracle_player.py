"""The kind of model "oracle-player": plays an episode's gold plan in the dialect of the arm's planner and policy.

It sees what a model would be given, and beside it the gold plan of the episode that it recognises by its question; but
it uses a fact only where the prompt still says it (`agents.gold`). So it is an upper bound that a policy can lose:
what was dropped is looked up again, what was noted down wrong stays wrong. It answers summaries and readers too, and
errs on demand, drawn from the request. Its runs are what small models are trained on. It weighs all that the gold plan
weighs: of dead ends it looks at every candidate, also behind the right one.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fairtrial.agents.accounting import text_of
from fairtrial.agents.context import rendering
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.dialects import Voice, offered, to_fold, to_read
from fairtrial.agents.gold import Beliefs, Gold
from fairtrial.agents.log import Block, Folded
from fairtrial.agents.planners.plan import Node, Plan, Ref
from fairtrial.agents.planners.planner import Move, Planner
from fairtrial.agents.reader import NAME as READ
from fairtrial.agents.scripted_player import PlayerSettings, Said, ScriptedPlayer
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.core.errors import UserError
from fairtrial.core.ids import canonical_json
from fairtrial.models.model import Message, Request, ToolCall
from fairtrial.tasks.worlds.world import Episode, GoldStep, World

_LOOKS = frozenset({"search", "visit"})
_NOTHING = "nothing found yet"
_QUESTION = "### Question\n"
_TOO_MANY = re.compile(r"\[rejected: (?:tool-limit|too-many-nodes)\]")
_SYLLABLES = ("ba", "de", "ki", "lo", "mu", "na", "re", "si", "to", "vu")


class OracleSettings(PlayerSettings):
    """How the oracle plays."""

    world: str | dict[str, Any] | None = None
    """The world whose episodes it knows, as in [suite]; a study that plays a world's own oracle needs none."""
    plan: Literal["parallel", "sequential"] = "parallel"
    """parallel: all calls at once that the planner can say, through readers where they are offered; sequential: one."""
    look: Literal["visit", "search"] = "visit"
    """search: a page is searched for first, and visited where the snippets do not tell."""
    width: int = Field(default=16, ge=1)
    """Steps looked up in one turn."""
    blocks: int = Field(default=8, ge=1)
    """`fold` consolidates everything when it has so many blocks; until then each step gets its own."""
    thinking: bool = False
    """Whether it writes down what it goes by, as thinking."""
    slip: float = Field(default=0.0, ge=0, le=1)
    """Probability that a turn breaks the format."""
    wrong: float = Field(default=0.0, ge=0, le=1)
    """Probability that a value is written down wrong: in notes, answers, and as a reader."""


class OraclePlayer:
    """The kind `oracle-player`."""

    settings_type = OracleSettings
    argument: ClassVar[str] = "world"

    @staticmethod
    def check(settings: OracleSettings, base: Path) -> None:
        """As `open`, which loads no weights."""
        OraclePlayer.open(settings, base)

    @staticmethod
    def files(settings: OracleSettings, base: Path) -> tuple[Path, ...]:
        """None: it is a script, and the world is in the settings."""
        del settings, base
        return ()

    @staticmethod
    def open(settings: OracleSettings, base: Path) -> OracleModel:
        """The model. Raises UserError for a planner, policy or world that there is not, or that it cannot play."""
        from fairtrial.agents.episode import open_world

        if settings.world is None:
            raise UserError('oracle-player: "world" is required: the oracle knows the gold plans of its episodes')
        world = open_world(settings.world, base)
        episodes = world.episodes()
        if (reason := unplayable(world, episodes)) is not None:
            raise UserError(f"oracle-player: {reason}")
        return OracleModel(episodes, settings)


def unplayable(world: World, episodes: Sequence[Episode]) -> str | None:
    """Why the oracle cannot play a world; None where it can: there are gold plans, and pages to look up."""
    if blind := [episode.info.id for episode in episodes if not episode.plan]:
        return f"{len(blind)} episodes have no gold plan, such as {blind[0]}"
    names = [function.name for function in world.functions(episodes[0], SimulatedClock(), 0)]
    if _LOOKS.isdisjoint(names):
        return (
            f"it looks pages up with search or visit, and the world's tools are {', '.join(names) or 'none'}; "
            'name a model that does without, such as kind = "follower" for the world "recipes"'
        )
    return None


class OracleModel(ScriptedPlayer):
    """A model that knows the episodes. `planner` and `policy` go before what the settings name."""

    name = "oracle-player"

    def __init__(
        self,
        episodes: Iterable[Episode],
        settings: OracleSettings | None = None,
        *,
        planner: Planner | None = None,
        policy: ContextPolicy | None = None,
    ) -> None:
        """Raises UserError where an episode has no gold plan, and for a planner or policy that there is not."""
        self.settings = settings or OracleSettings()
        super().__init__(self.settings, planner=planner, policy=policy)
        self._golds: dict[str, Gold] = {}
        self._steps: dict[str, list[tuple[Gold, GoldStep]]] = {}
        for episode in episodes:
            if not episode.plan:
                raise UserError(f'oracle-player: the episode "{episode.info.id}" has no gold plan to play')
            gold = self._golds[episode.question] = Gold(episode)
            for step in episode.plan:
                self._steps.setdefault(gold.asked(step), []).append((gold, step))

    def _draws_from(self, messages: Sequence[Message]) -> list[str]:
        """All that was said: each turn slips by itself."""
        return [json.dumps([text_of(message) for message in messages])]

    def _reply(self, request: Request, messages: Sequence[Message], rng: random.Random) -> Said:
        """The next turn, summary or reading. Raises UserError for a question that is not its world's."""
        first = next((message.content for message in messages if message.role == "user"), "")
        if (asked := to_read(first)) is not None:
            return self._read(*asked, rng), ()
        gold = self._gold(first)
        body = "\n".join(text_of(message) for message in messages if message.role != "system")
        body = body.replace(gold.episode.question, "", 1)
        beliefs = Beliefs(gold, body)
        system = "".join(message.content for message in messages if message.role == "system")
        if not system or not (tools := offered(system, request.tools)):
            return self._notes(gold, beliefs, rng), ()
        voice = self._voices.of(system, tools)
        last = rendering.LAST_TURN in messages[-1].content
        ends = last or not beliefs.open()
        steps: Sequence[GoldStep] = ()
        if ends:
            said, calls = voice.planner.write(Move(answer=self._answer(gold, beliefs, rng)))
        else:
            single = self.settings.plan == "sequential" or _TOO_MANY.search(messages[-1].content) is not None
            said, calls, steps = self._act(voice, gold, beliefs, body, single=single)
        fold = self._fold(voice.policy, gold, messages, rng) if self._folds(ends=ends) else None
        why = self._why(voice, gold, beliefs, messages, steps)
        thinking = f"Known so far: {self._stated(beliefs)}" if self.settings.thinking else ""
        text = voice.policy.write(fold, why, thinking) + said
        return self._slipped(text, calls, rng)

    def _answer(self, gold: Gold, beliefs: Beliefs, rng: random.Random) -> str:
        """The final answer from what is believed."""
        pieces = enumerate(gold.answer(beliefs))
        return "".join(self._said(piece, rng) if at % 2 else piece for at, piece in pieces)

    def _folds(self, *, ends: bool) -> bool:
        """Whether a turn folds, where its policy does: one that answers needs no fold."""
        return not ends

    def _why(
        self, voice: Voice, gold: Gold, beliefs: Beliefs, messages: Sequence[Message], steps: Sequence[GoldStep]
    ) -> str:
        """What it says beside what it does; `steps`: what it looks up, none where it answers."""
        del voice, messages
        if not steps:
            return "All that is asked for is known."
        return f"I look up {', '.join(gold.asked(step, beliefs) for step in steps)}."

    def _gold(self, first: str) -> Gold:
        """The episode that is played. Raises UserError."""
        parts = first.removeprefix(_QUESTION).split("\n\n")
        for count in range(1, len(parts) + 1):
            if (gold := self._golds.get("\n\n".join(parts[:count]))) is not None:
                return gold
        shown = " ".join(first.split())[:80]
        raise UserError(f'oracle-player: "{shown}" is no question of its world; give it the world of the suite')

    def _act(
        self, voice: Voice, gold: Gold, beliefs: Beliefs, body: str, *, single: bool
    ) -> tuple[str, tuple[ToolCall, ...], Sequence[GoldStep]]:
        """The largest plan that the planner can say, and what it looks up first."""
        level = beliefs.open()[: self.settings.width]
        plans = [] if single else [self._level(voice, gold, beliefs, body, level)]
        in_parts = any(_next_part(step.page or "", body) for step in level)
        if READ in voice.tools and "visit" in voice.tools and not in_parts and not single:
            plans.insert(0, self._graph(gold, beliefs))
        for plan in plans:
            try:
                return *voice.planner.write(Move(plan=plan)), level
            except ValueError:
                continue
        return *voice.planner.write(Move(plan=self._level(voice, gold, beliefs, body, level[:1]))), level[:1]

    def _level(self, voice: Voice, gold: Gold, beliefs: Beliefs, body: str, steps: Sequence[GoldStep]) -> Plan:
        """Calls that do not need each other, one for each step; a page that tells of several is visited once."""
        made: dict[bytes, Node] = {}
        for step in steps:
            query = gold.asked(step, beliefs)
            tool, args = "visit", {"title": step.page or step.value}
            searched = json.dumps(query)[1:-1] in body
            if "visit" not in voice.tools or (
                self.settings.look == "search" and "search" in voice.tools and not searched
            ):
                tool, args = "search", {"query": query}
            elif (part := _next_part(args["title"], body)) is not None:
                args = {**args, "part": part}
            made.setdefault(canonical_json([tool, args]), Node(f"s{len(made) + 1}", tool, args))
        return Plan(tuple(made.values()))

    def _graph(self, gold: Gold, beliefs: Beliefs) -> Plan:
        """Everything that can be said before anything is read: visits, and readers where a later step needs a value."""
        names: dict[str, str] = {}
        chosen: list[GoldStep] = []
        for step in beliefs.wanted():
            waiting = [dep for dep in step.deps if not beliefs.settled(dep)]
            if not gold.facts[step.id] or beliefs.settled(step.id) or len(chosen) >= self.settings.width:
                continue
            if not waiting or (len(waiting) == 1 and waiting[0] in names and _value(gold, waiting[0]) == step.page):
                chosen.append(step)
                names[step.id] = f"r{len(chosen)}"
        read = {dep for step in chosen for dep in step.deps if dep in names}
        nodes: list[Node] = []
        for number, step in enumerate(chosen, 1):
            waiting = [names[dep] for dep in step.deps if dep in names]
            title = Ref(waiting[0]) if waiting else step.page or step.value
            nodes.append(Node(f"v{number}", "visit", {"title": title}, tuple(waiting)))
            if step.id in read:
                question = gold.template(step, names, beliefs)
                args = {"question": question, "document": Ref(f"v{number}")}
                nodes.append(Node(names[step.id], READ, args, (*waiting, f"v{number}")))
        return Plan(tuple(nodes))

    def _fold(
        self, policy: ContextPolicy, gold: Gold, messages: Sequence[Message], rng: random.Random
    ) -> Folded | None:
        """The fold of this turn, if the policy wants one: what its range still holds of what is needed."""
        asked = to_fold(policy, messages)
        if asked is None:
            return None
        prompt, latest = messages[asked.at].content, asked.latest
        later = [text_of(message) for message in messages[asked.at + 1 :]]
        step = "\n".join([prompt[prompt.rindex(f"**[Step {latest}]**") :], *later])
        whole = "\n".join([prompt.replace(gold.episode.question, "", 1), *later])
        if asked.whole:
            return Folded(0, latest, self._notes(gold, Beliefs(gold, whole), rng))
        chosen = 0 if len(asked.blocks) >= self.settings.blocks else latest
        start = chosen if asked.imposed is None else asked.imposed
        if start == latest:
            return Folded(latest, latest, self._notes(gold, Beliefs(gold, step), rng))
        kept = "\n".join(_texts(asked.blocks, start))
        return Folded(start, latest, self._notes(gold, Beliefs(gold, f"{kept}\n{step}"), rng))

    def _notes(self, gold: Gold, beliefs: Beliefs, rng: random.Random) -> str:
        """The facts that are needed, one sentence each."""
        end = " ." if gold.episode.facts.get("style") == "plain" else "."
        told = [f"{words}{self._said(value, rng)}{end}" for words, value in self._needed(beliefs)]
        return " ".join(told) or _NOTHING

    def _needed(self, beliefs: Beliefs) -> Iterable[tuple[str, str]]:
        """(words, believed value) of the facts that are noted."""
        return dict.fromkeys(beliefs.notes())

    def _stated(self, beliefs: Beliefs) -> str:
        return "; ".join(f"{words}{value}" for words, value in self._needed(beliefs)) or _NOTHING

    def _read(self, question: str, document: str, rng: random.Random) -> str:
        """As a reader: the value, if the document says it."""
        for gold, step in self._steps.get(question, ()):
            if step.id in Beliefs(gold, document).known and gold.facts[step.id]:
                return self._said(step.value, rng)
        return "UNKNOWN"

    def _said(self, value: str, rng: random.Random) -> str:
        """The value, or now and then another one of its kind."""
        if rng.random() >= self.settings.wrong:
            return value
        if value.isdigit():
            return str(int(value) + 1 + rng.randrange(9))
        return value[:-2] + rng.choice([syllable for syllable in _SYLLABLES if syllable != value[-2:]])

    def _slipped(self, text: str, calls: tuple[ToolCall, ...], rng: random.Random) -> Said:
        """The turn, or now and then one that cannot be read: it breaks off."""
        if rng.random() >= self.settings.slip:
            return text, calls
        if calls:
            return text, (*calls[:-1], calls[-1].model_copy(update={"arguments": calls[-1].arguments[:-1]}))
        return text[: max(1, text.rfind("<"))] if text.rfind("<") > 0 else text[: len(text) // 2], calls


def _value(gold: Gold, step: str) -> str:
    return next(each.value for each in gold.episode.plan if each.id == step)


def _texts(blocks: Sequence[Block], start: int) -> Iterator[str]:
    return (block.text for block in blocks if block.start >= start)


def _next_part(title: str, body: str) -> int | None:
    """The part of a page to read next, after those that the prompt shows; None: it shows none."""
    seen = [(int(part), int(of)) for part, of in re.findall(rf"\({re.escape(title)}, part (\d+) of (\d+)\)", body)]
    return seen[-1][0] % seen[-1][1] + 1 if seen else None
