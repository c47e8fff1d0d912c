"""Orders over a plan's graph: which calls may go first, which must wait, and which are worth starting early."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


def topological(before: Sequence[Sequence[int]]) -> list[int]:
    """Nodes so that each comes after all that it waits for, otherwise in the order given; O(n log n), no recursion.

    `before[i]` are the nodes that i waits for, each once. Nodes on a cycle, and what waits for them, are left out.
    """
    missing, after = [len(each) for each in before], followers(before)
    ready = [index for index, count in enumerate(missing) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for follower in after[index]:
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(ready, follower)
    return order


def followers(before: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each node, the nodes that wait for it."""
    after: list[list[int]] = [[] for _ in before]
    for index, each in enumerate(before):
        for earlier in each:
            after[earlier].append(index)
    return after


def levels(order: Sequence[int], before: Sequence[Sequence[int]]) -> list[int]:
    """GAP's levels (2510.25320, algorithm 1): 0 without dependencies, else one more than the highest of them."""
    level = [0] * len(before)
    for index in order:
        level[index] = 1 + max((level[earlier] for earlier in before[index]), default=-1)
    return level


def upward_ranks(order: Sequence[int], before: Sequence[Sequence[int]], seconds: Sequence[float]) -> list[float]:
    """Expected seconds from a node's start to the end of the longest chain below; with few workers, high goes first."""
    rank, after = list(seconds), followers(before)
    for index in reversed(order):
        rank[index] += max((rank[follower] for follower in after[index]), default=0.0)
    return rank


@dataclass(slots=True)
class Latencies:
    """Mean seconds of each tool's calls so far. It decides the order of starts alone, never what a call comes to."""

    seen: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    """Calls and their seconds in all, by tool."""

    def add(self, tool: str, seconds: float) -> None:
        """Count one call."""
        calls, total = self.seen.get(tool, (0, 0.0))
        self.seen[tool] = (calls + 1, total + seconds)

    def mean(self, tool: str) -> float:
        """Expected seconds of a call; of a tool that was never called, the mean over all tools (1 before any call)."""
        calls, total = self.seen.get(tool) or (
            sum(calls for calls, _ in self.seen.values()),
            sum(total for _, total in self.seen.values()),
        )
        return total / calls if calls else 1.0


@dataclass(slots=True)
class Load:
    """Calls of each tool that are under way, over all plans of a run: what `Tool.concurrency` limits."""

    busy: Counter[str] = field(default_factory=Counter[str])
    left: Counter[str] = field(default_factory=Counter[str])
    """Of these, calls that did not stop when they were cancelled and were left behind; they keep their places."""
    bells: list[Callable[[str], None]] = field(default_factory=list[Callable[[str], None]])
    """Of the plans that run: told which tool has a place again."""

    def free(self, tool: str, *, left: bool) -> None:
        """A call has ended."""
        self.busy[tool] -= 1
        self.left[tool] -= left
        for bell in self.bells:
            bell(tool)


class WriteOrder:
    """Writes that touch the same run one by one in the plan's order, so that latencies cannot change what is left.

    A write's keys may be known only when its arguments are; the writes behind it wait until then.
    """

    def __init__(self, order: Sequence[int]) -> None:
        self._queue = deque(order)
        self._keys: dict[int, tuple[str, ...] | None] = {}
        self._last: dict[str, int] = {}
        self._alone: int | None = None
        self._since: list[int] = []

    def know(self, index: int, keys: tuple[str, ...] | None) -> None:
        """What write `index` touches; () for all, None for a write that will not run."""
        self._keys.setdefault(index, keys)

    def admit(self) -> Iterator[tuple[int, set[int]]]:
        """The writes whose turn is settled by now, each with the earlier writes that must have ended first."""
        while self._queue and self._queue[0] in self._keys:
            index = self._queue.popleft()
            keys = self._keys.pop(index)
            if keys is None:
                continue
            before = {self._last[key] for key in keys if key in self._last} if keys else set(self._since)
            if self._alone is not None:
                before.add(self._alone)
            if keys:
                self._last.update(dict.fromkeys(keys, index))
                self._since.append(index)
            else:
                self._last, self._since, self._alone = {}, [], index
            yield index, before
