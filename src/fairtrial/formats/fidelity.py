"""What a conversion did to a trajectory, counted by leaf field: kept, rewritten, dropped, invented.

A leaf is a text, number, truth value, null, or a list of such (token ids, a viewport). Items are aligned by their
content, so that one dropped item costs its own fields only. A leaf that is gone from its field and stands, equal, in
another one that was not there before (text that moved, code that became an argument) is rewritten.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from fairtrial.formats.format import Format, Notes, Numbered, Row, RowError, Skip, decode
from fairtrial.formats.items import Item

_TEXTS = ("content", "axtree", "html", "function")
_MISSING = object()


@dataclass(slots=True)
class Fidelity:
    """Counts of leaf fields by path, such as `api_action.kwargs` or `model_calls.usage.input_tokens`."""

    kept: Counter[str] = field(default_factory=Counter[str])
    rewritten: Counter[str] = field(default_factory=Counter[str])
    dropped: Counter[str] = field(default_factory=Counter[str])
    invented: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Fidelity) -> None:
        """Add another row's counts to these."""
        for name in ("kept", "rewritten", "dropped", "invented"):
            getattr(self, name).update(getattr(other, name))

    def vocabulary(self) -> Fidelity:
        """The counts without `extra`: what the trajectory itself says, not what a format keeps for itself."""
        return Fidelity(
            *(
                Counter({path: n for path, n in counts.items() if ".extra" not in f".{path}"})
                for counts in (self.kept, self.rewritten, self.dropped, self.invented)
            )
        )

    def shares(self) -> tuple[float, float, float, float]:
        """Kept, rewritten and dropped as shares of the fields before; invented as a share of the fields after."""
        kept, rewritten, dropped, invented = (
            counts.total() for counts in (self.kept, self.rewritten, self.dropped, self.invented)
        )
        before, after = kept + rewritten + dropped or 1, kept + rewritten + invented or 1
        return kept / before, rewritten / before, dropped / before, invented / after

    def is_exact(self) -> bool:
        """Whether every field came through and none was added."""
        return not (self.rewritten or self.dropped or self.invented)


def compare(before: Row, after: Row) -> Fidelity:
    """What became of the fields of `before` in `after`."""
    counts = Fidelity()
    gone: list[tuple[str, Any]] = []
    new: list[tuple[str, Any]] = []
    _compare_rows(before, after, counts, gone, new, "")
    _settle(counts, gone, new)
    return counts


def round_trip(format: Format, row: Row) -> Fidelity:
    """What writing a row in a format and reading it again does to it. Raises RowError where either fails."""
    return compare(row, there_and_back(format, row))


def there_and_back(format: Format, row: Row) -> Row:
    """The row as the format gives it back; several trajectories for one row (a record a step) are put in line."""
    if format.encode is None or format.decode is None:
        raise RowError(f"{format.name} cannot be written and read")
    back: Row | None = None
    for value in gathered(format, list(format.encode(row, Notes()))):
        read = decode(format, value, Notes())
        if isinstance(read, Skip):
            raise RowError(f"{format.name} leaves out what it wrote: {read.reason}")
        back = read if back is None else {**back, "content": [*back["content"], *read["content"]]}
    if back is None:
        raise RowError(f"{format.name} wrote nothing")
    return back


def gathered(format: Format, values: list[Any]) -> Iterator[Any]:
    """A file's values as `decode` takes them: grouped where the format groups them. Raises RowError for a problem."""
    numbered: Iterable[Numbered] = (Numbered(line, value) for line, value in enumerate(values, 1))
    for read in format.gather(iter(numbered)) if format.gather else numbered:
        if read.problem is not None:
            raise RowError(read.problem)
        yield read.value


def _compare_rows(
    before: Row, after: Row, counts: Fidelity, gone: list[tuple[str, Any]], new: list[tuple[str, Any]], path: str
) -> None:
    apart = {"content", "subagents"}
    _compare_leaves(
        _leaves({k: _tools(v) if k == "tools" else v for k, v in before.items() if k not in apart}, path),
        _leaves({k: _tools(v) if k == "tools" else v for k, v in after.items() if k not in apart}, path),
        counts,
        gone,
        new,
    )
    for old, fresh in _align(before.get("content", ()), after.get("content", ())):
        _compare_leaves(_item_leaves(old, path), _item_leaves(fresh, path), counts, gone, new)
    below = {row["id"]: row for row in after.get("subagents", ())}
    for row in before.get("subagents", ()):
        _compare_rows(row, below.pop(row["id"], {}), counts, gone, new, f"{path}subagents.")
    for row in below.values():
        _compare_rows({}, row, counts, gone, new, f"{path}subagents.")


def _tools(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools offered with each schema as one leaf: its size says nothing of what the agent did."""
    return [
        {**{key: value for key, value in function.items() if key != "parameters"}, "parameters": repr(schema)}
        if (schema := function.get("parameters")) is not None
        else dict(function)
        for tool in tools
        for function in (tool["function"] if isinstance(tool.get("function"), dict) else tool,)
    ]


def _item_leaves(item: Item | None, path: str) -> dict[str, tuple[str, Any]]:
    """Leaves of an item under the name of its class; keyed without it, so that items of two classes can be compared."""
    if item is None:
        return {}
    leaves = {}
    for key, (name, value) in _leaves(item, "").items():
        shown = "kwargs" if name.startswith("kwargs.") else name
        leaves[key] = (f"{path}{item['class_']}.{shown}", value)
    return leaves


def _leaves(value: Any, path: str) -> dict[str, tuple[str, Any]]:
    """Exact place -> (path without positions, value) of every leaf."""
    found: dict[str, tuple[str, Any]] = {}
    stack: list[tuple[str, str, Any]] = [("", path, value)]
    while stack:
        place, name, node = stack.pop()
        if isinstance(node, Mapping) and (node or not place):
            stack += [(f"{place}.{key}", _join(name, str(key)), below) for key, below in node.items()]
        elif isinstance(node, (list, tuple)) and any(isinstance(below, (Mapping, list, tuple)) for below in node):
            stack += [(f"{place}[{index}]", name, below) for index, below in enumerate(node)]
        else:
            found[place] = (name, list(node) if isinstance(node, tuple) else node)
    return found


def _join(path: str, key: str) -> str:
    return path + key if not path or path.endswith(".") else f"{path}.{key}"


def _compare_leaves(
    before: dict[str, tuple[str, Any]],
    after: dict[str, tuple[str, Any]],
    counts: Fidelity,
    gone: list[tuple[str, Any]],
    new: list[tuple[str, Any]],
) -> None:
    for key, (path, value) in before.items():
        _, other = after.get(key, (path, _MISSING))
        if other is _MISSING:
            gone.append((path, value))
        elif other == value and (other is value or type(other) is type(value)):
            counts.kept[path] += 1
        else:
            counts.rewritten[path] += 1
    new += [leaf for key, leaf in after.items() if key not in before]


def _settle(counts: Fidelity, gone: list[tuple[str, Any]], new: list[tuple[str, Any]]) -> None:
    """Texts that went from one field to another are rewritten; the rest is dropped and invented."""
    moved: defaultdict[str, list[int]] = defaultdict(list)
    for index, (_, value) in enumerate(new):
        if isinstance(value, str) and value:
            moved[value].append(index)
    found: set[int] = set()
    for path, value in gone:
        if isinstance(value, str) and (places := moved.get(value)):
            found.add(places.pop())
            counts.rewritten[path] += 1
        else:
            counts.dropped[path] += 1
    for index, (path, _) in enumerate(new):
        if index not in found:
            counts.invented[path] += 1


def _align(before: Iterable[Item], after: Iterable[Item]) -> Iterator[tuple[Item | None, Item | None]]:
    """Pairs of items by content; None where an item has no partner."""
    old, new = list(before), list(after)
    start = 0
    end = min(len(old), len(new))
    while start < end and _key(old[start]) == _key(new[start]):
        yield old[start], new[start]
        start += 1
    old, new = old[start:], new[start:]
    matcher = SequenceMatcher(None, [_key(item) for item in old], [_key(item) for item in new], autojunk=False)
    for what, a, b, c, d in matcher.get_opcodes():
        if what == "equal":
            yield from zip(old[a:b], new[c:d], strict=True)
        else:
            yield from _pair(old[a:b], new[c:d])


def _pair(old: list[Item], new: list[Item]) -> Iterator[tuple[Item | None, Item | None]]:
    """Partners within a stretch that differs: the same text, then the same class, then an action with an action."""
    partner: list[Item | None] = [None] * len(old)
    free = dict(enumerate(new))
    for same in (_key_without_class, _class, _is_action):
        waiting: defaultdict[Any, list[int]] = defaultdict(list)
        for index in reversed(free):
            waiting[same(free[index])].append(index)
        for place, item in enumerate(old):
            if partner[place] is None and (places := waiting.get(same(item))):
                partner[place] = free.pop(places.pop())
    yield from zip(old, partner, strict=True)
    yield from ((None, item) for item in free.values())


def _class(item: Item) -> str:
    return item["class_"]


def _is_action(item: Item) -> bool:
    return item["class_"].endswith("_action")


def _key(item: Item) -> tuple[Any, ...]:
    return item["class_"], _key_without_class(item)


def _key_without_class(item: Item) -> str:
    text = "\n".join(str(item[name]) for name in _TEXTS if name in item)
    return text + repr(sorted(item["kwargs"].items())) if "kwargs" in item else text
