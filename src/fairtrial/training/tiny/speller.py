"""The oracle, but what it says beside its actions is spelled out for a small reader: where each thing comes from.

A small model copies: it finds where the last few tokens stood before and says what followed there. So each thing that
is to be said is put behind words that stand before it in the prompt too. Before it looks up the next question it says
the last one again, for behind that one the next one stands; in its answer the question and all that leads from it stand
before each value. Where it makes many calls at once it says of each question what is known and what is asked now, and
then in a list what each call is about, so that a name is found behind its number or behind the name before it. Else it
notes down what the last results say, as a fold where its policy folds, else in plain text.

For questions of the family "multi" of the world "wiki" in plain style.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

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
        self._item = {step.id: at for at, chain in enumerate(self._chains, 1) for step in chain}

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
        """Of each question what is known of it, and what is asked; then each call's number and what it is about."""
        asked = {self._item[step.id]: step for step in steps}
        said = [part for item in self._lines for part in self._known(item, gold, beliefs, asked.get(item))]
        node = 1
        for step in steps:
            said.append(f"{'last ' * (step is steps[-1])}{node} {gold.asked(step, beliefs).partition(' ')[0]}")
            chain = self._chains[self._item[step.id] - 1]
            node += len(chain) - chain.index(step) if READ in voice.tools else 1
        return " ".join(said)

    def _known(self, item: int, gold: Gold, beliefs: Beliefs, asked: GoldStep | None) -> Iterator[str]:
        """A question, the facts on the way to its answer, and what a step asks."""
        yield self._lines[item]
        for step in self._chains[item - 1]:
            if step is asked:
                yield f"{gold.asked(step, beliefs)} ?"
                return
            yield f"{gold.asked(step, beliefs)} {beliefs.value(step.id)} ."

    def _answer(self, gold: Gold, beliefs: Beliefs, rng: random.Random) -> str:
        return " ; ".join(self._chain(number, gold, beliefs) for number in self._lines)

    def _noted(self, gold: Gold, messages: Sequence[Message]) -> list[str]:
        """What the messages behind the last turn say of what is needed."""
        begin = max((at + 1 for at, message in enumerate(messages) if message.role == "assistant"), default=None)
        if begin is None:
            return []
        results = "\n".join(text_of(message) for message in messages[begin:])
        return [f"{words}{value} ." for words, value in dict.fromkeys(Beliefs(gold, results).notes())]

    def _chain(self, number: int, gold: Gold, beliefs: Beliefs) -> str:
        """A question from its head to its answer, through every value between."""
        words = [f"{'last ' * (number == len(self._chains))}{number}"]
        for at, step in enumerate(self._chains[number - 1]):
            asked = gold.asked(step, beliefs)
            words += [asked if at == 0 else asked.partition(" ")[2], beliefs.value(step.id)]
        return " ".join(words)
