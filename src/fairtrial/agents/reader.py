"""Reading as a node of a plan: `read(question, document)` asks a model for the short value that a later node needs.

A page is no argument: `search("population of {s1}")` needs a name. With readers inside a graph no turn of the agent is
needed between its levels (ReWOO's LLM worker does the same; the public code of GAP, 2510.25320, has none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairtrial.agents.log import Called
from fairtrial.agents.simulated import SimulatedClock, held
from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.core.clock import Clock, Timer
from fairtrial.core.errors import LimitExceeded
from fairtrial.core.ids import canonical_json, digest
from fairtrial.core.limits import Meter, Usage
from fairtrial.models.model import ContextTooLongError, Message, Model, Request, Sampling

NAME = "read"
_RULES = (
    "You read a document to answer one question. Reply with the answer alone: a name, a number or a short phrase, "
    "without a sentence around it. Reply with UNKNOWN if the document does not say it."
)


def derived_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one place of a run: from the run's seed and the place, never from the order of completion."""
    return int(digest(canonical_json([seed, *path]))[:16], 16) >> 1


@dataclass(slots=True)
class Reader:
    """A model that reads documents for one run."""

    model: Model
    seed: int
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    clock: Clock | None = None
    """The run's; needed for `seconds`."""
    seconds: float = 0.0
    """What a reading takes on a simulated clock, where the model's own time does not count."""
    meter: Meter | None = None
    timer: Timer | None = None
    overrun: LimitExceeded | None = None
    """The trial's limit that a call overran."""
    owed: list[Usage] | None = None
    """While a turn is not yet whole: what was spent ahead of it, to be charged behind the turn itself."""
    _calls: list[tuple[str, Called]] = field(default_factory=list[tuple[str, Called]])

    @property
    def tool(self) -> Tool:
        """The tool that plans name."""
        parameters = {
            "type": "object",
            "properties": {
                "question": {"type": "string", "description": "What to find out; short and complete."},
                "document": {"type": "string", "description": "Text to read, usually the result of another call."},
            },
            "required": ["question", "document"],
            "additionalProperties": False,
        }
        description = "Answer a question from a document with a name, a number or a short phrase."
        return Tool(NAME, description, parameters, self._read, effect="read")

    async def _read(self, args: Mapping[str, Any]) -> str:
        text = f"Document:\n{args['document']}\n\nQuestion: {args['question']}"
        messages = (Message(role="system", content=_RULES), Message(role="user", content=text))
        key = digest(text.encode("utf-8", "surrogatepass"))
        seed = derived_seed(self.seed, NAME, key) if "seed" in self.model.features else None
        request = Request(messages=messages, sampling=self.sampling.model_copy(update={"seed": seed}))
        try:
            with held(self.clock):
                reply = await self.model.generate(request, timer=self.timer)
        except ContextTooLongError as error:
            raise ToolError(f"the document is too long to be read: {error}") from None
        self._calls.append((key, Called(request, reply, "reader")))
        if self.owed is None:
            self._charge(reply.usage)
        else:
            self.owed.append(reply.usage)
        if self.seconds and isinstance(self.clock, SimulatedClock):
            await self.clock.sleep(self.seconds)
        answer = reply.text.strip()
        if not answer or answer == "UNKNOWN":
            raise ToolError("the document does not say it")
        return answer

    def settle(self) -> None:
        """Charge what is owed; from now on everything at once."""
        owed, self.owed = self.owed or (), None
        for usage in owed:
            self._charge(usage)

    def _charge(self, usage: Usage) -> None:
        try:
            if self.meter is not None:
                self.meter.charge(usage)
        except LimitExceeded as error:
            self.overrun = error

    def drain(self) -> list[Called]:
        """The calls since the last drain, in an order that does not depend on which of them came back first."""
        calls, self._calls = sorted(self._calls, key=lambda call: call[0]), []
        return [call for _, call in calls]
