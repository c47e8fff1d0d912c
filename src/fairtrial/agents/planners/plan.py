"""The plan of one step: a graph of tool calls that all planners' dialects are read into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of another node, or a part of it (`path`: keys and indices into its JSON value)."""

    node: str
    path: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """Text with values in it. A value that is no text is put in as JSON."""

    parts: tuple[str | Ref, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One call of a tool. A leaf of `args` that is a `Ref` becomes that node's value; in a `Template`, text."""

    id: str
    tool: str
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON, with Ref and Template as leaves where another node's value belongs."""
    deps: tuple[str, ...] = ()
    """Nodes that must end ok first; includes every node that `args` refers to."""
    malformed: str | None = None
    """Arguments as the model wrote them where they are no JSON object (native calls)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes in the order in which the model wrote them. Empty in the step that answers."""

    nodes: tuple[Node, ...] = ()


def refs(value: Any) -> Iterator[Ref]:
    """Every reference in an argument, from left to right."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Template):
        yield from (part for part in value.parts if isinstance(part, Ref))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from refs(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for inner in value:
            yield from refs(inner)
