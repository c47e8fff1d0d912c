import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import spans


class SpansTest(unittest.TestCase):
    def test_overlapping_are_merged(self):
        self.assertEqual(spans.normalize([(5, 9), (1, 6)]), [(1, 9)])

    def test_union(self):
        self.assertEqual(spans.union([(0, 3)], [(2, 4), (7, 8)]), [(0, 4), (7, 8)])

    def test_subtract(self):
        self.assertEqual(spans.subtract([(0, 10)], [(3, 5)]), [(0, 3), (5, 10)])

    def test_gaps(self):
        self.assertEqual(spans.gaps([(2, 4)], 0, 6), [(0, 2), (4, 6)])

    def test_reversed_interval_is_refused(self):
        with self.assertRaises(ValueError):
            spans.normalize([(4, 2)])


if __name__ == "__main__":
    unittest.main()
