"""The contract over Python sets of integers, with no interval arithmetic in it, and random calls to compare."""

LOW, HIGH = -4, 26
FUNCTIONS = ["normalize", "union", "intersect", "subtract", "gaps", "total", "covers", "free_slots"]


def members(intervals):
    found = set()
    for start, end in intervals:
        if start > end:
            raise ValueError
        found |= set(range(start, end))
    return found


def canonical(numbers):
    out = []
    for number in sorted(numbers):
        if out and out[-1][1] == number:
            out[-1] = (out[-1][0], number + 1)
        else:
            out.append((number, number + 1))
    return out


def answer(name, args):
    """What the contract says; "ValueError" where it must be raised."""
    try:
        return _answer(name, *args)
    except ValueError:
        return "ValueError"


def _answer(name, a, *rest):
    first = members(a)
    if name == "normalize":
        return canonical(first)
    if name == "total":
        return len(first)
    if name in ("gaps", "free_slots"):
        start, end = rest[:2]
        free = members([(start, end)]) - first
        if name == "gaps":
            return canonical(free)
        if rest[2] < 1:
            raise ValueError
        return canonical(s for s in range(start, end) if all(n in free for n in range(s, s + rest[2])))
    second = members(rest[0])
    if name == "covers":
        return second <= first
    return canonical({"union": first | second, "intersect": first & second, "subtract": first - second}[name])


def intervals(rng, bad):
    out = []
    for _ in range(rng.choice([0, 1, 2, 3, 5, 8])):
        start = rng.randrange(LOW, HIGH)
        out.append((start, start + rng.choice([0, 0, 1, 1, 2, 3, 5, 9])))
    if out and rng.random() < 0.3:
        out.append((out[-1][1], out[-1][1] + 2))
    if bad:
        out.insert(rng.randrange(len(out) + 1), (7, rng.randrange(0, 7)))
    return out


def random_calls(rng):
    """One call of each function: (name, arguments); now and then a reversed interval is in one of them."""
    calls = []
    for name in FUNCTIONS:
        flaw = rng.choice([None] * 14 + [0, 1])
        args = [intervals(rng, flaw == 0)]
        if name in ("union", "intersect", "subtract", "covers"):
            args.append(intervals(rng, flaw == 1))
        if name in ("gaps", "free_slots"):
            start = rng.randrange(LOW, HIGH)
            args += [start, start - 3 if flaw == 1 else start + rng.randrange(0, 22)]
        if name == "free_slots":
            args.append(rng.choice([0, -2, 1, 1, 1, 2, 2, 3, 4, 6]))
        calls.append((name, args))
    return calls
