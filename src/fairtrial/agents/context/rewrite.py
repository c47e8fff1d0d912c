"""The policy `rewrite`: in every turn the model writes its whole memory anew (MEM1, 2506.15841).

The next prompt holds the question, that memory and the last step; everything else is gone. It is the fold over
[0, t-1] at every step, so every fact goes through the model once in each turn. MEM1 merges memory and reasoning
(`<IS>`); here the memory is a part of its own (`<memory>`, plain text), so that thinking is dropped as in all others.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairtrial.agents.context import rendering
from fairtrial.agents.context.folding import MOTIVATION, Folding
from fairtrial.agents.context.window import PolicySettings, contained
from fairtrial.agents.log import Block, Folded, Log, Step


class Rewrite(Folding):
    """One block, rewritten at every step."""

    settings_type = PolicySettings
    tag = "memory"
    rules = (
        "You see the question, your memory, and only the latest step in full. In every turn but the first, write your "
        "memory anew before you act:\n<memory>all that is known now</memory>\n"
        "It replaces the old memory and the latest step; whatever it does not say is lost.\n"
        f"Then say in <{MOTIVATION}>...</{MOTIVATION}> why you do what you do next, and then act."
    )

    def _range(self, log: Log) -> tuple[int, int] | None:
        return 0, len(log.steps) - 1

    def _parse(self, inner: str) -> tuple[tuple[int, int] | None, str]:
        return None, inner.strip()

    def _written(self, fold: Folded) -> str:
        return contained(fold.text, self.tag)

    def _order(self, start: int, end: int) -> str:
        return "Write your memory anew now."

    def _past(self, blocks: Sequence[Block], latest: Step | None, told: str) -> str:
        memory = "\n\n".join(block.text for block in blocks) or rendering.EMPTY
        step = "" if latest is None else f"\n\n### Latest Step\n**[Step {latest.number}]**\n{told}"
        return f"### Memory\n{memory}{step}"
