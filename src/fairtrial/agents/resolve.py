"""References in a node's arguments become values: the last thing before a call, and the first that can go wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from fairtrial.agents.planners.plan import Ref, Template


class UnresolvedError(ValueError):
    """A reference that leads nowhere; the message is one line for the model."""


def resolve(args: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with every `Ref` and `Template` replaced, nothing in them shared with `values`.

    Args:
        args: JSON with Ref and Template as leaves.
        values: What each node that ended ok came to, by id.

    Raises:
        UnresolvedError: A reference to a part that the value does not have.
    """
    return {key: _resolved(value, values) for key, value in args.items()}


def as_text(value: Any) -> str:
    """A value as a model reads it: text as it is, anything else as JSON. Raises ValueError or TypeError for others."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Ref):
        return copy.deepcopy(_part(value, values))
    if isinstance(value, Template):
        return "".join(part if isinstance(part, str) else as_text(_part(part, values)) for part in value.parts)
    if isinstance(value, Mapping):
        return {key: _resolved(inner, values) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(inner, values) for inner in value]
    return value


def _part(ref: Ref, values: Mapping[str, Any]) -> Any:
    if ref.node not in values:
        raise UnresolvedError(f'there is no value of "{ref.node}": name it among what this call depends on')
    value = values[ref.node]
    for place in ref.path:
        if not _holds(value, place):
            raise UnresolvedError(f'the result of "{ref.node}" has no {place!r}{_has(value)}')
        value = value[place]
    return value


def _holds(value: Any, place: str | int) -> bool:
    if isinstance(place, str):
        return isinstance(value, dict) and place in value
    return isinstance(value, list) and 0 <= place < len(value)


def _has(value: Any) -> str:
    if isinstance(value, dict):
        return f"; it has {', '.join(map(repr, list(value)[:12])) or 'nothing'}"
    if isinstance(value, list):
        return f"; it has {len(value)} entries"
    return "; it is one value without parts" if not isinstance(value, str) else "; it is text"


def deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested more than so deep; without recursion."""
    layer = [value]
    for _ in range(levels + 1):
        boxes = [item for item in layer if isinstance(item, dict | list)]
        if not boxes:
            return False
        layer = [item for box in boxes for item in (box.values() if isinstance(box, dict) else box)]
    return True
