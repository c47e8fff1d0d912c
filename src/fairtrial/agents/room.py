"""Whether the least that an arm's prompts hold, its rules, its tools and a question, has room at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairtrial.agents.accounting import Estimate
from fairtrial.agents.context.policy import ContextPolicy, WindowFullError
from fairtrial.agents.planners.planner import Planner
from fairtrial.agents.runtime import begin
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.errors import UserError

_DOUBT = 2
"""An estimate of tokens may be so many times what a model counts."""


def refuse_cramped(
    questions: Mapping[str, str],
    tools: Sequence[Tool],
    policy: ContextPolicy,
    planner: Planner,
    count: Estimate,
    context: int | None,
    where: str,
) -> None:
    """Refuse (UserError) an arm that can do no task: even the shortest question leaves it no room.

    Args:
        questions: By the task's name.
        tools: What the prompt says of them counts.
        policy: With the arm's window.
        planner: The arm's.
        count: Of the tokens of prompts.
        context: Tokens that the model takes, as far as its settings say.
        where: What messages call the arm.
    """
    name, question = min(questions.items(), key=lambda each: len(each[1]))
    try:
        tokens = count(policy.render(begin(question, tools, planner, policy)))
    except WindowFullError as error:
        raise UserError(
            f"{where}: {error}, with the rules and the shortest question ({name}) alone: raise `window`"
        ) from None
    if context is not None and tokens > _DOUBT * context:
        raise UserError(
            f"{where}: the model takes {context} tokens, and the rules and the shortest question ({name}) "
            f"alone have about {tokens}: choose a model with more context"
        )
