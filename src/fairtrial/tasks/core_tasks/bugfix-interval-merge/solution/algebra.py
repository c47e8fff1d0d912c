"""The functions of the package; the contract is in __init__.py."""


def normalize(a):
    merged = []
    for start, end in sorted(map(tuple, a)):
        if start > end:
            raise ValueError(f"interval ends before it starts: {start}, {end}")
        if start == end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def union(a, b):
    return normalize([*a, *b])


def intersect(a, b):
    a, b = normalize(a), normalize(b)
    result = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            result.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return result


def gaps(a, start, end):
    if start > end:
        raise ValueError(f"interval ends before it starts: {start}, {end}")
    result = []
    at = start
    for low, high in normalize(a):
        if high <= at:
            continue
        if low >= end:
            break
        if low > at:
            result.append((at, low))
        at = high
    if at < end:
        result.append((at, end))
    return result


def subtract(a, b):
    a, b = normalize(a), normalize(b)
    if not a:
        return []
    return intersect(a, gaps(b, a[0][0], a[-1][1]))


def total(a):
    return sum(end - start for start, end in normalize(a))


def covers(a, b):
    return not subtract(b, a)


def free_slots(a, start, end, length):
    if length < 1:
        raise ValueError(f"a slot has at least one integer, not {length}")
    return [(low, high - length + 1) for low, high in gaps(a, start, end) if high - low >= length]
