"""The oracle, but what it says beside its actions is spelled out for a small reader: where each thing comes from.

A small model copies: it finds where the last few tokens stood before and says what followed there. So each thing that
is to be said is put behind words that stand before it in the prompt too. Before it looks up the next question it says
the last one again, for behind that one the next one stands; in its answer the question and all that leads from it stand
before each value. Where it makes many calls at once it says of each question what is known and what is asked now, and
then in a list what each call is about. Before a name stands there what stood before it a few words earlier: the number
of its question, or a letter where the name is a value that was found. Else it notes down what the last results say, as
a fold where its policy folds, else in plain text, each fact behind the number of its question.

For questions of the family "multi" of the world "wiki" in plain style.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fairtrial.agents.accounting import text_of
from fairtrial.agents.context.folding import Folding
from fairtrial.agents.context.policy import ContextPolicy
from fairtrial.agents.dialects import Voice
from fairtrial.agents.gold import Beliefs, Gold
from fairtrial.agents.oracle_player import OracleModel, OracleSettings
from fairtrial.agents.planners.planner import Planner
from fairtrial.agents.reader import NAME as READ
from fairtrial.models.model import Message
from fairtrial.tasks.worlds.world import Episode, GoldStep
from fairtrial.training.tiny.vocabulary import MARKS

_LINE = re.compile(r"(?:last )?(\d+) [^?]+\?")
DONE = "done"


class Speller(OracleModel):
    """Plays one episode."""

    name = "oracle-player, spelled out"

    def __init__(
        self,
        episode: Episode,
        settings: OracleSettings | None = None,
        *,
        planner: Planner | None = None,
        policy: ContextPolicy | None = None,
    ) -> None:
        """As the oracle."""
        super().__init__([episode], settings, planner=planner, policy=policy)
        self._lines = {int(found[1]): found[0] for found in _LINE.finditer(episode.question)}
        steps = {step.id: step for step in episode.plan}
        self._chains: list[list[GoldStep]] = []
        """The steps of each question."""
        for goal in episode.facts["item_steps"]:
            chain = [steps[goal]]
            while chain[0].deps:
                chain.insert(0, steps[chain[0].deps[0]])
            self._chains.append(chain)
        (gold,) = self._golds.values()
        self._item = {step.id: at for at, chain in enumerate(self._chains, 1) for step in chain}
        """The number of each step's question."""
        self._numbers = {fact.words: self._item[step] for step in self._item for fact in gold.facts[step]}
        """The number of the question that a fact is noted for, by its words."""
        self._first = {chain[0].id for chain in self._chains}

    def _folds(self, *, ends: bool) -> bool:
        return True

    def _why(
        self, voice: Voice, gold: Gold, beliefs: Beliefs, messages: Sequence[Message], steps: Sequence[GoldStep]
    ) -> str:
        if len(steps) > 1 or self.settings.plan == "parallel":
            return self._working(voice, gold, beliefs, steps)
        said = [] if isinstance(voice.policy, Folding) else self._noted(gold, messages)
        last = max((self._item[step.id] for step in gold.episode.plan if beliefs.settled(step.id)), default=None)
        following = self._item[steps[0].id] if steps else None
        told = [self._lines[item] for item in dict.fromkeys((last, following)) if item is not None]
        if steps and len(self._chains[0]) > 1:
            told.append(f"{gold.asked(steps[0], beliefs)} ?")
        if not steps:
            told.append(DONE)
        return " ".join([*said, *told])

    def _working(self, voice: Voice, gold: Gold, beliefs: Beliefs, steps: Sequence[GoldStep]) -> str:
        """Of each question what is known of it, and what is asked; then each call's mark and what it is about."""
        marks: dict[str, str] = {}
        node = 1
        later = iter(MARKS)
        for step in steps:
            marks[step.id] = f"{node} " if step.id in self._first else f"{next(later, node)} "
            chain = self._chains[self._item[step.id] - 1]
            node += len(chain) - chain.index(step) if READ in voice.tools else 1
        said = [part for item in self._lines for part in self._known(item, gold, beliefs, marks)]
        for step in steps:
            last = "last " * (step is steps[-1])
            said.append(f"{last}{marks[step.id]}{gold.asked(step, beliefs).partition(' ')[0]}")
        return " ".join(said)

    def _known(self, item: int, gold: Gold, beliefs: Beliefs, marks: Mapping[str, str]) -> Iterator[str]:
        """A question, the facts on the way to its answer, and what a step asks, behind its letter if it has one."""
        yield self._lines[item]
        for step in self._chains[item - 1]:
            asked = gold.asked(step, beliefs)
            if step.id in marks:
                yield f"{'' if step.id in self._first else marks[step.id]}{asked} ?"
                return
            yield f"{asked} {beliefs.value(step.id)} ."

    def _answer(self, gold: Gold, beliefs: Beliefs, rng: random.Random) -> str:
        return " ; ".join(self._chain(number, gold, beliefs) for number in self._lines)

    def _noted(self, gold: Gold, messages: Sequence[Message]) -> list[str]:
        """What the messages behind the last turn say of what is needed."""
        begin = max((at + 1 for at, message in enumerate(messages) if message.role == "assistant"), default=None)
        if begin is None:
            return []
        results = "\n".join(text_of(message) for message in messages[begin:])
        return [f"{words}{value} ." for words, value in self._needed(Beliefs(gold, results))]

    def _needed(self, beliefs: Beliefs) -> Iterable[tuple[str, str]]:
        return dict.fromkeys((f"{self._numbers[words]} {words}", value) for words, value in beliefs.notes())

    def _chain(self, number: int, gold: Gold, beliefs: Beliefs) -> str:
        """A question from its head to its answer, through every value between."""
        words = [f"{'last ' * (number == len(self._chains))}{number}"]
        for at, step in enumerate(self._chains[number - 1]):
            asked = gold.asked(step, beliefs)
            words += [asked if at == 0 else asked.partition(" ")[2], beliefs.value(step.id)]
        return " ".join(words)
