"""The policy `fold`: AgentFold (2510.24699, section 3). The model folds as it acts, and chooses the range itself.

[k, t-1] with k = t-1 makes a block of the last step (granular condensation); with k < t-1 one block replaces all from
step k on (deep consolidation). Two published dialects: the paper's figures (`<folding>{"range": [6, 16], "summary":
..}</folding>`) and the released code's (`<compress>{"compress_range": [6, .., 16], "compress_text": ..}</compress>`, of
whose range only the first and the last number count).
"""

from __future__ import annotations

import json
from typing import Any, Literal

from fairtrial.agents.context.folding import MOTIVATION, Folding
from fairtrial.agents.context.policy import Count
from fairtrial.agents.context.window import PolicySettings
from fairtrial.agents.log import Folded
from fairtrial.agents.planners.planner import RejectedTurn

_KEYS = {"paper": ("folding", "range", "summary"), "released": ("compress", "compress_range", "compress_text")}


class FoldSettings(PolicySettings):
    """Settings of `fold`."""

    dialect: Literal["paper", "released"] = "paper"
    """The tags and keys of a fold."""


class Fold(Folding):
    """Blocks at several scales."""

    settings_type = FoldSettings

    def __init__(self, settings: FoldSettings, count: Count) -> None:
        super().__init__(settings, count)
        self._dialect = settings.dialect
        self.tag, self._range_key, self._text_key = _KEYS[settings.dialect]
        example = self._written(Folded(6, 8, "what is known now"))
        self.rules = (
            "You see the question, summaries of your earlier steps, and only the latest step in full. In every turn "
            "but the first, fold before you act: write\n"
            f"<{self.tag}>{example}</{self.tag}>\n"
            "The range ends at the latest step. If it holds the latest step alone, your summary becomes a block of its "
            "own: do this as long as details matter. If it starts at an earlier block, your summary replaces all "
            "blocks from there on together with the latest step: do this when a piece of work is done or led nowhere. "
            "Whatever the summary does not say is lost. Never start a range inside of a block.\n"
            f"Then say in <{MOTIVATION}>...</{MOTIVATION}> why you do what you do next, and then act."
        )

    def _parse(self, inner: str) -> tuple[tuple[int, int] | None, str]:
        wanted = f'write {{"{self._range_key}": [first, last], "{self._text_key}": "..."}} in <{self.tag}>'
        directive = read_object(inner, wanted)
        numbers, text = directive.get(self._range_key), directive.get(self._text_key)
        if not isinstance(text, str) or not isinstance(numbers, list) or not numbers or not all(map(_whole, numbers)):
            raise RejectedTurn("fold-json", f"The fold has no range of whole numbers or no text: {wanted}.")
        if self._dialect == "paper" and len(numbers) > 2:
            raise RejectedTurn("fold-json", f"The range has {len(numbers)} numbers: {wanted}.")
        return (numbers[0], numbers[-1]), text

    def _written(self, fold: Folded) -> str:
        numbers = [fold.start, fold.end] if self._dialect == "paper" else list(range(fold.start, fold.end + 1))
        return escaped({self._range_key: numbers, self._text_key: fold.text})


def read_object(inner: str, wanted: str) -> dict[str, Any]:
    """The JSON object of a fold. Raises RejectedTurn ("fold-json") with what is wanted."""
    try:
        value = json.loads(inner, strict=False)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RejectedTurn("fold-json", f"The fold is not valid JSON ({reason}): {wanted}.") from None
    if not isinstance(value, dict):
        raise RejectedTurn("fold-json", f"The fold is not a JSON object: {wanted}.")
    return value


def escaped(directive: dict[str, Any]) -> str:
    """JSON in which no `</` can end the tag around it."""
    return json.dumps(directive, ensure_ascii=False).replace("</", "<\\/")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9
