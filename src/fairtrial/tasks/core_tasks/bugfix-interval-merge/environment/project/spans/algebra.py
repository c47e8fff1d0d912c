"""The functions of the package; the contract is in __init__.py."""


def normalize(a):
    a.sort()
    merged = []
    for start, end in a:
        if start > end:
            raise ValueError(f"interval ends before it starts: {start}, {end}")
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def union(a, b):
    return normalize(a + b)


def intersect(a, b):
    a, b = normalize(a), normalize(b)
    result = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start <= end:
            result.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return result


def subtract(a, b):
    result = []
    holes = normalize(b)
    for start, end in normalize(a):
        for low, high in holes:
            if low >= end or high <= start:
                continue
            if low > start:
                result.append((start, low))
            start = high
        result.append((start, end))
    return result


def gaps(a, start, end):
    result = []
    at = start
    for low, high in normalize(a):
        if low > at:
            result.append((at, low))
        at = high
    if at < end:
        result.append((at, end))
    return result


def total(a):
    return sum(end - start for start, end in a)


def covers(a, b):
    a = normalize(a)
    return all(any(low <= start and end <= high for low, high in a) for start, end in b)


def free_slots(a, start, end, length):
    return [(low, high - length) for low, high in gaps(a, start, end) if high - low > length]
