"""LRUCache: see README.md for the contract."""

import time
from collections import OrderedDict

_ABSENT = object()


class LRUCache:
    """A mapping of bounded size that forgets the least recently used entry first."""

    def __init__(self, maxsize, ttl=None, clock=time.monotonic):
        self._check(maxsize)
        if ttl is not None and not ttl > 0:
            raise ValueError("ttl must be > 0 or None")
        self._maxsize = maxsize
        self._ttl = ttl
        self._clock = clock
        self._entries = OrderedDict()  # key -> (value, time written), least recently used first
        self._hits = 0
        self._misses = 0
        self._evictions = 0

    @staticmethod
    def _check(maxsize):
        if not isinstance(maxsize, int) or isinstance(maxsize, bool) or maxsize < 1:
            raise ValueError("maxsize must be an integer >= 1")

    def _purge(self):
        """Forget every expired entry, so that what is left is what counts."""
        if self._ttl is None:
            return
        now = self._clock()
        for key in [key for key, (_, written) in self._entries.items() if now - written >= self._ttl]:
            del self._entries[key]

    def _lookup(self, key):
        self._purge()
        entry = self._entries.get(key, _ABSENT)
        return _ABSENT if entry is _ABSENT else entry[0]

    def get(self, key, default=None):
        """The value, made most recently used; `default` when absent."""
        value = self._lookup(key)
        if value is _ABSENT:
            self._misses += 1
            return default
        self._hits += 1
        self._entries.move_to_end(key)
        return value

    def peek(self, key, default=None):
        """The value, without touching recency or statistics."""
        value = self._lookup(key)
        return default if value is _ABSENT else value

    def put(self, key, value):
        """Store a value; the least recently used entry goes when there is no room."""
        self._purge()
        self._entries[key] = (value, self._clock())
        self._entries.move_to_end(key)
        self._shrink()

    def _shrink(self):
        while len(self._entries) > self._maxsize:
            self._entries.popitem(last=False)
            self._evictions += 1

    def delete(self, key):
        """Remove an entry; whether a live one was there."""
        self._purge()
        return self._entries.pop(key, _ABSENT) is not _ABSENT

    def resize(self, maxsize):
        """Change the bound; surplus entries go."""
        self._check(maxsize)
        self._maxsize = maxsize
        self._purge()
        self._shrink()

    def keys(self):
        """Live keys, least recently used first."""
        self._purge()
        return list(self._entries)

    def __len__(self):
        self._purge()
        return len(self._entries)

    def __contains__(self, key):
        return self._lookup(key) is not _ABSENT

    def stats(self):
        """Counts of hits, misses and evictions."""
        return {"hits": self._hits, "misses": self._misses, "evictions": self._evictions}
