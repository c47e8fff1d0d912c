"""Which habit a request is for: the one whose rules are most like the request's own.

A habit was trained under certain rules: the lines that a planner and a policy put into the system message. They say
what form a reply has, so they say which habit can give it. Tools are another matter: their schemas differ from world
to world under the same rules, and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from fairtrial.models.model import Request


def rule_lines(texts: Iterable[str]) -> tuple[str, ...]:
    """The lines of system messages that say how to reply, each once, in order.

    Left out are empty lines and schemas of tools: a line that is a JSON object with `name` and `parameters`.
    """
    lines = (line.strip() for text in texts for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line and not _schema(line)))


def asked_lines(request: Request) -> tuple[str, ...]:
    """The rules of a request's system messages; none where it is a text or ids to continue."""
    return rule_lines(message.content for message in request.messages or () if message.role == "system")


def choose(lines: Collection[str], habits: Mapping[str, Collection[str]], default: str) -> str:
    """The habit whose lines overlap most with `lines`: those in both, divided by those in either (Jaccard).

    Args:
        lines: Of the request.
        habits: Name -> the lines that it was trained with.
        default: The name to return where no line is shared, or where two habits overlap alike.
    """
    asked = frozenset(lines)
    overlaps = {name: _overlap(asked, frozenset(known)) for name, known in habits.items()}
    most = max(overlaps.values(), default=0.0)
    best = [name for name, overlap in overlaps.items() if overlap == most]
    return best[0] if most > 0 and len(best) == 1 else default


def _overlap(left: frozenset[str], right: frozenset[str]) -> float:
    either = len(left | right)
    return len(left & right) / either if either else 0.0


def _schema(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "name" in value and "parameters" in value
