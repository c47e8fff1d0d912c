"""LRUCache: see README.md for the contract."""

import time
from collections import OrderedDict


class LRUCache:
    """A mapping of bounded size that forgets the least recently used entry first."""

    def __init__(self, maxsize, ttl=None, clock=time.monotonic):
        self._check(maxsize)
        self._maxsize = maxsize
        self._ttl = ttl
        self._clock = clock
        self._entries = OrderedDict()  # key -> (value, time written), least recently used first
        self._hits = 0
        self._misses = 0
        self._evictions = 0

    @staticmethod
    def _check(maxsize):
        if not isinstance(maxsize, int) or maxsize < 0:
            raise ValueError("maxsize must be an integer >= 1")

    def _expired(self, written):
        return self._ttl is not None and self._clock() - written > self._ttl

    def _lookup(self, key):
        """The live value, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, written = entry
        if self._expired(written):
            del self._entries[key]
            return None
        return value

    def get(self, key, default=None):
        """The value, made most recently used; `default` when absent."""
        value = self._lookup(key)
        if not value:
            self._misses += 1
            return default
        self._hits += 1
        self._entries.move_to_end(key)
        self._entries[key] = (value, self._clock())
        return value

    def peek(self, key, default=None):
        """The value, without touching recency or statistics."""
        value = self._lookup(key)
        return default if value is None else value

    def put(self, key, value):
        """Store a value; the least recently used entry goes when there is no room."""
        if len(self._entries) >= self._maxsize:
            self._evict()
        self._entries[key] = (value, self._clock())

    def _evict(self):
        self._entries.popitem(last=False)
        self._evictions += 1

    def delete(self, key):
        """Remove an entry; whether it was there."""
        if key in self._entries:
            del self._entries[key]
            return True
        return False

    def resize(self, maxsize):
        """Change the bound."""
        self._check(maxsize)
        self._maxsize = maxsize

    def keys(self):
        """Keys, least recently used first."""
        return list(self._entries)

    def __len__(self):
        return len(self._entries)

    def __contains__(self, key):
        return self.get(key) is not None

    def stats(self):
        """Counts of hits, misses and evictions."""
        return {"hits": self._hits, "misses": self._misses, "evictions": self._evictions}
