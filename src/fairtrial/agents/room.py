"""Whether the least that an arm's prompts hold, its rules, its tools and a question, has room at all."""

from __future__ import annotations

from collections.abc import Sequence

from fairtrial.agents.accounting import Estimate
from fairtrial.agents.context.policy import ContextPolicy, WindowFullError
from fairtrial.agents.planners.planner import Planner
from fairtrial.agents.runtime import begin
from fairtrial.agents.simulated import SimulatedClock
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.errors import UserError
from fairtrial.tasks.worlds.world import Episode, World

_DOUBT = 2
"""An estimate of tokens may be so many times what a model counts."""


def refuse_cramped(
    world: World,
    episodes: Sequence[Episode],
    policy: ContextPolicy,
    planner: Planner,
    count: Estimate,
    context: int | None,
    where: str,
) -> None:
    """Refuse (UserError) an arm that can play no episode: even the shortest question leaves it no room.

    Args:
        world: What is played.
        episodes: Those that are.
        policy: With the arm's window.
        planner: The arm's.
        count: Of the tokens of prompts.
        context: Tokens that the model takes, as far as its settings say.
        where: What messages call the arm.
    """
    episode = min(episodes, key=lambda each: len(each.question))
    tools = [
        Tool(each.name, each.description, each.parameters, each.call)
        for each in world.functions(episode, SimulatedClock(), 0)
    ]
    try:
        tokens = count(policy.render(begin(episode.question, tools, planner, policy)))
    except WindowFullError as error:
        raise UserError(
            f"{where}: {error}, with the rules and the shortest question ({episode.info.id}) alone: raise `window`"
        ) from None
    if context is not None and tokens > _DOUBT * context:
        raise UserError(
            f"{where}: the model takes {context} tokens, and the rules and the shortest question ({episode.info.id}) "
            f"alone have about {tokens}: choose a model with more context"
        )
