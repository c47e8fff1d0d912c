"""memoize: see README.md for the contract."""

import functools
import time

from .lru import LRUCache


def memoize(maxsize=128, ttl=None, clock=time.monotonic):
    """Cache a function's results."""

    def decorate(function):
        cache = LRUCache(maxsize, ttl, clock)

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            key = args + tuple(kwargs.items())
            result = cache.get(key)
            if result is None:
                result = function(*args, **kwargs)
                cache.put(key, result)
            return result

        wrapper.cache = cache
        return wrapper

    return decorate
