import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from minicache import LRUCache, memoize


class CacheTest(unittest.TestCase):
    def test_least_recently_used_goes(self):
        cache = LRUCache(2)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.get("a")
        cache.put("c", 3)
        self.assertEqual(cache.keys(), ["a", "c"])

    def test_expiry(self):
        now = [0.0]
        cache = LRUCache(2, ttl=10, clock=lambda: now[0])
        cache.put("a", 1)
        now[0] = 9.0
        self.assertEqual(cache.peek("a"), 1)
        now[0] = 30.0
        self.assertEqual(cache.get("a", "gone"), "gone")

    def test_statistics(self):
        cache = LRUCache(1)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.get("a")
        cache.get("b")
        self.assertEqual(cache.stats(), {"hits": 1, "misses": 1, "evictions": 1})


class MemoTest(unittest.TestCase):
    def test_called_once(self):
        calls = []

        @memoize()
        def double(x):
            calls.append(x)
            return 2 * x

        self.assertEqual([double(2), double(2), double(3)], [4, 4, 6])
        self.assertEqual(calls, [2, 3])


if __name__ == "__main__":
    unittest.main()
