"""fairtrial's own trajectories, one JSON object a line: what `import` writes and an agent may leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairtrial.formats.format import Format, Notes, Row, RowError

NAME = "fairtrial"
_KNOWN = frozenset(
    {"id", "content", "tools", "model_calls", "reward", "subagents", "details", "extra"},
)


def _likes(value: Any) -> int:
    if not isinstance(value, dict) or not isinstance(value.get("content"), list) or "id" not in value:
        return 0
    if value.keys() - _KNOWN:
        return 0
    own = value.keys() & {"tools", "model_calls", "reward", "subagents", "extra"} or any(
        isinstance(item, dict) and item.keys() & {"joined", "synthetic", "call_id", "reasoning", "extra", "timestamp"}
        for item in value["content"]
    )
    return 96 if own else 60


def _decode(value: Any, notes: Notes) -> Row:
    if not isinstance(value, dict):
        raise RowError("not a JSON object")
    return value


def _encode(row: Row, notes: Notes) -> Iterator[Row]:
    yield row


OWN = Format(name=NAME, title="fairtrial trajectories", likes=_likes, decode=_decode, encode=_encode)
