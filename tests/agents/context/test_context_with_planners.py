"""Every policy with every planner through the real loop: the same calls are run, once each, up to the answer."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from fairtrial.agents.context.folding import range_in
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.log import Called, Folded, Rejected
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.planners.planner import Move
from fairtrial.agents.runtime import Budget, Runtime
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import VirtualClock
from fairtrial.models.model import Message, Model, Reply, Request

STEPS = 6
IDS = {"react": ["1"], "native": ["a", "b"], "graph": ["s1", "s2"], "compiler": ["1", "2"], "rewoo": ["E1", "E2"]}
NAMES: dict[str, dict[str, Any]] = {
    "append": {"full": "drop_oldest", "window": 250},
    "last-n": {"n": 1},
    "clear-results": {"keep": 1},
    "summarise-at": {"trigger": 150},
    "rewrite": {},
    "fold": {"dialect": "released"},
    "fold-fixed": {"period": 2},
    "fold-random": {"deep": 0.5},
}
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}


class Player(Model):
    """Looks six times, folds as the policy asks, breaks its third fold once, and answers."""

    name, features, context = "player", frozenset(), None

    def __init__(self, policy, planner, ids) -> None:
        self.policy, self.planner, self.ids, self.broken, self.turn = policy, planner, ids, False, 0

    async def generate(self, request: Request, **_: Any) -> Reply:
        said, calls = self._said("\n".join(message.content for message in request.messages or ()))
        return Reply(Message(role="assistant", content=said, tool_calls=calls), "stop", self.name)

    def _said(self, prompt: str):
        if "Write the notes now." in prompt:
            return "<think>SECRET</think>notes", ()
        fold = None
        if self.turn and self.policy.rules and self.turn < STEPS:
            last = self.turn - 1
            imposed = (0, last) if "<memory>" in self.policy.rules else range_in(prompt)
            fold = Folded(*(imposed or (last, last)), f"block {self.turn}")
        move = Move(answer="it")
        if self.turn < STEPS:
            nodes = tuple(Node(name, "look", {"at": f"{self.turn}{name}"}) for name in self.ids)
            move = Move(plan=Plan(nodes))
        action, calls = self.planner.write(move)
        if fold is not None and self.turn == 3 and not self.broken:
            self.broken = True
            return "<folding>{</folding>" + action, calls
        self.turn += 1
        return self.policy.write(fold, "why", "SECRET") + action, calls

    async def score(self, pairs: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        return None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("planner_id", IDS)
def test_the_same_calls_run_once_each_and_the_answer_is_reached(name, planner_id, count):
    """Trap 2 and 4: a turn whose fold is broken has run nothing; thinking is in no prompt of any arm."""
    policy = open_policy({"id": name, **NAMES[name]}, count)
    ran: Counter[str] = Counter()

    async def look(args: Mapping[str, Any]) -> str:
        ran[args["at"]] += 1
        return f"page {args['at']} " + "x " * 20

    planner = open_planner(planner_id)
    player = Player(policy, planner, IDS[planner_id])
    tool = Tool("look", "Looks.", SCHEMA, look, effect="write")
    runtime = Runtime(player, policy, planner, [tool], VirtualClock(), Budget(turns=STEPS + 1))
    log = asyncio.run(runtime.play(runtime.begin("Who?", seed=1)))
    assert log.answer == "it" and len(log.steps) == STEPS + 1
    assert ran == Counter({f"{number}{name}": 1 for number in range(STEPS) for name in IDS[planner_id]})
    rejected = [event.code for event in log.events if isinstance(event, Rejected)]
    assert rejected == ([] if not policy.rules else [rejected[0]]) and set(rejected) <= {"fold-json", "fold-missing"}
    prompts = [event.request.messages for event in log.events if isinstance(event, Called)]
    assert "SECRET" not in str(prompts)
