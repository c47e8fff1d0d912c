"""Prefixes that were read before: states by token ids, the longest one that a new prompt starts with is continued.

A state is kept where a conversation can branch or go on: at the end of a prompt, at the end of a reply, and at the last
message border of a prompt. Kept states count by the bytes that they hold; the least recently used ones go first.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from fairtrial.nn.state import State


class Prefixes:
    """A bounded cache of states. Not safe for several threads: the engine's worker owns it."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes`: of states and keys together; 0 keeps nothing."""
        self._limit = limit_bytes
        self._kept: OrderedDict[bytes, State] = OrderedDict()
        self._lengths: dict[int, int] = {}
        self.nbytes = 0
        """Bytes held now."""

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, ids: Sequence[int]) -> State | None:
        """The state after the longest kept prefix of `ids` that leaves at least one id to read."""
        whole = key(ids)
        for length in sorted(self._lengths, reverse=True):
            if length < len(ids):
                found = self._kept.get(whole[: 8 * length])
                if found is not None:
                    self._kept.move_to_end(whole[: 8 * length])
                    return found
        return None

    def shared(self, ids: Sequence[int]) -> int:
        """Ids at the start of `ids` that some kept prefix starts with too: where conversations branch."""
        whole, best = key(ids), 0
        for other in self._kept:
            if whole[: 8 * best + 8] == other[: 8 * best + 8]:
                low, high = best, min(len(whole), len(other)) // 8
                while low < high:
                    middle = (low + high + 1) // 2
                    same = whole[8 * low : 8 * middle] == other[8 * low : 8 * middle]
                    low, high = (middle, high) if same else (low, middle - 1)
                best = low
        return best

    def keep(self, ids: Sequence[int], state: State) -> None:
        """Keep the state of one sequence after `ids`; it must share no memory with one that goes on."""
        name = key(ids)
        size = state.allocated + len(name)
        if not ids or size > self._limit or name in self._kept:
            return
        while self.nbytes + size > self._limit:
            old, gone = self._kept.popitem(last=False)
            self._count(len(old) // 8, -1)
            self.nbytes -= gone.allocated + len(old)
        self._kept[name] = state
        self._count(len(ids), 1)
        self.nbytes += size

    def clear(self) -> None:
        """Forget everything (the weights changed)."""
        self._kept.clear()
        self._lengths.clear()
        self.nbytes = 0

    def _count(self, length: int, more: int) -> None:
        left = self._lengths.get(length, 0) + more
        if left:
            self._lengths[length] = left
        else:
            del self._lengths[length]


def key(ids: Sequence[int]) -> bytes:
    """Token ids as bytes: one prefix's key is a prefix of the other's."""
    return array("q", ids).tobytes()
