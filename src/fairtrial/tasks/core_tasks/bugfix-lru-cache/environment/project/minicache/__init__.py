"""A bounded cache with optional expiry, and a memoising decorator."""

from .lru import LRUCache
from .memo import memoize

__all__ = ["LRUCache", "memoize"]
