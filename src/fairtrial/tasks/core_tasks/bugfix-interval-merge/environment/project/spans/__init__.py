"""Sets of integers as lists of half-open intervals.

An interval is a pair (start, end) of integers, a tuple or a list, and stands for start, start + 1, ..., end - 1. With
start == end it is empty and stands for nothing; start > end raises ValueError, in every function and for every argument
(the window start, end of gaps and free_slots is an interval in this sense, too).

Arguments are lists of intervals in any order; they may overlap, touch, repeat or be empty, and are never modified.
Results are **canonical**: a list of tuples, sorted, none empty, with at least one integer missing between one and the next
(so intervals that touch come out as one). The same set always gives the same list.

    normalize(a)            the canonical list of a
    union(a, b)             integers in a or in b
    intersect(a, b)         integers in both
    subtract(a, b)          integers in a that are not in b
    gaps(a, start, end)     integers of start .. end - 1 that are not in a
    total(a)                how many integers a stands for, each counted once
    covers(a, b)            whether every integer of b is in a
    free_slots(a, start, end, length)   starts s of all slots of `length` >= 1 integers that fit: s, ..., s + length - 1 lie
                            in start .. end - 1 and none of them in a; as a canonical list of intervals of s. A length
                            below 1 raises ValueError.

Speed: each function takes time proportional to n log n for n intervals in all, however long the intervals are;
30,000 intervals must be a matter of a second.
"""

from .algebra import covers, free_slots, gaps, intersect, normalize, subtract, total, union

__all__ = ["covers", "free_slots", "gaps", "intersect", "normalize", "subtract", "total", "union"]
