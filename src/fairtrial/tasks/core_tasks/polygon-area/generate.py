"""Makes this task's data: environment/data (what the agent gets) and the pristine copies in tests/data.

Not part of the environment: run it by hand after a change, `python3 generate.py` (or `generate.py FOLDER` to write
elsewhere); the same data come out each time.
"""

import json
import math
import random
import sys
from pathlib import Path

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
METRES = {"m": 1.0, "ft": 0.3048, "ftUS": 1200 / 3937, "ch": 20.1168}
PLACES = {"m": 2, "ft": 2, "ftUS": 2, "ch": 4}
EAST, NORTH, CELL = 431_200.0, 178_400.0, 260.0


def ring(rng, x, y, low, high, corners):
    """A star-shaped ring around (x, y), all corners between the two radii, in metres."""
    turn, points = rng.random() * math.tau, []
    for place in range(corners):
        angle = turn + math.tau * (place + rng.uniform(-0.25, 0.25)) / corners
        radius = rng.uniform(low, high)
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return points


def part(rng, x, y, size, holes, island):
    rings = [ring(rng, x, y, size * 0.8, size, rng.randrange(7, 11))]
    if holes == 1:
        rings.append(ring(rng, x, y, size * 0.3, size * 0.45, rng.randrange(5, 8)))
        if island:
            rings.append(ring(rng, x, y, size * 0.08, size * 0.15, 4))
    for place in range(holes if holes > 1 else 0):
        angle = math.tau * place / holes + 0.4
        rings.append(ring(rng, x + size * 0.4 * math.cos(angle), y + size * 0.4 * math.sin(angle), size * 0.1, size * 0.2, 5))
    return rings


def recorded(rng, rings, unit):
    """Rings as the field software writes them: shuffled, turned either way, sometimes closed, points sometimes twice."""
    out = []
    for points in rings:
        points = [[round(x / METRES[unit], PLACES[unit]), round(y / METRES[unit], PLACES[unit])] for x, y in points]
        if rng.random() < 0.5:
            points.reverse()
        if rng.random() < 0.3:
            place = rng.randrange(len(points))
            points.insert(place, points[place])
        if rng.random() < 0.5:
            points.append(points[0])
        out.append(points)
    rng.shuffle(out)
    return out


def distance(x, y, a, b):
    (ax, ay), (bx, by) = a, b
    length = (bx - ax) ** 2 + (by - ay) ** 2
    at = 0 if length == 0 else max(0, min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length))
    return math.hypot(x - ax - at * (bx - ax), y - ay - at * (by - ay))


def clear(x, y, every, margin):
    return all(distance(x, y, a, b) >= margin for points in every for a, b in zip(points, points[1:] + points[:1]))


PLAN = [
    # parcel, unit, holes, island, parts
    ("A-07", "m", 1, False, 1), ("A-11", "ftUS", 1, True, 1), ("B-02", "ft", 0, False, 1), ("B-15", "ch", 2, False, 1),
    ("C-01", "ftUS", 0, False, 2), ("C-09", "m", 3, False, 1), ("D-04", "ft", 1, True, 1), ("D-18", "ftUS", 3, False, 1),
    ("E-03", "m", 0, False, 1), ("F-20", "ch", 1, True, 2),
]  # fmt: skip


def main():
    rng = random.Random(3937)
    records, all_rings, wells = [], [], []
    for index, (parcel, unit, holes, island, parts) in enumerate(PLAN):
        x, y = EAST + CELL * (index % 4), NORTH + CELL * (index // 4)
        centres = [(x, y)] if parts == 1 else [(x - 60, y), (x + 60, y + 10)]
        size = 115 if parts == 1 else 55
        shapes = [part(rng, *centre, size, holes if place == 0 else 0, island) for place, centre in enumerate(centres)]
        if parcel == "A-07":
            inner = part(rng, x, y, size * 0.25, 0, False)
            records.append({"parcel": "A-08", "revision": 1, "status": "valid", "unit": "ft", "parts": [recorded(rng, inner, "ft")]})
            all_rings += inner
        last = 1
        if parcel in ("B-02", "D-18", "E-03", "C-01"):
            last = rng.choice([2, 10])
            for revision in range(1, last, 4):
                other = [part(rng, *centre, size * 0.9, 0, False) for centre in centres]
                old_unit = rng.choice(["m", "ft"])
                old = [recorded(rng, rings, old_unit) for rings in other]
                records.append({"parcel": parcel, "revision": revision, "status": "valid", "unit": old_unit, "parts": old})
        status = "withdrawn" if parcel == "E-03" else "valid"
        records.append({"parcel": parcel, "revision": last, "status": status, "unit": unit, "parts": [recorded(rng, rings, unit) for rings in shapes]})
        every = [points for rings in shapes for points in rings]
        all_rings += every
        for cx, cy in centres:
            wells += [(cx + rng.uniform(-2, 2), cy + rng.uniform(-2, 2), 2.0)]
        for points in every:
            # Close to a line: where the wrong foot moves the line past the well.
            (ax, ay), (bx, by) = points[0], points[1]
            length, side = math.hypot(bx - ax, by - ay), rng.choice([-0.45, 0.45])
            wells.append(((ax + bx) / 2 - (by - ay) / length * side, (ay + by) / 2 + (bx - ax) / length * side, 0.3))
    kept = [(round(x, 2), round(y, 2)) for x, y, margin in wells if clear(x, y, all_rings, margin)]
    rng.shuffle(kept)
    rng.shuffle(records)
    table = "well,x,y\n" + "".join(f"W{number:02},{x:.2f},{y:.2f}\n" for number, (x, y) in enumerate(kept, 1))
    text = "[\n" + ",\n".join(json.dumps(entry) for entry in records) + "\n]\n"
    for folder in (ROOT / "environment/data", ROOT / "tests/data"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "parcels.json").write_text(text, encoding="utf-8", newline="")
        (folder / "wells.csv").write_text(table, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
