"""memoize: see README.md for the contract."""

import functools
import time

from .lru import LRUCache

_ABSENT = object()


def _key(args, kwargs):
    named = frozenset((name, type(value), value) for name, value in kwargs.items())
    return tuple((type(value), value) for value in args), named


def memoize(maxsize=128, ttl=None, clock=time.monotonic):
    """Cache a function's results."""

    def decorate(function):
        cache = LRUCache(maxsize, ttl, clock)

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            try:
                key = _key(args, kwargs)
                result = cache.get(key, _ABSENT)
            except TypeError:
                return function(*args, **kwargs)
            if result is _ABSENT:
                result = function(*args, **kwargs)
                cache.put(key, result)
            return result

        wrapper.cache = cache
        return wrapper

    return decorate
