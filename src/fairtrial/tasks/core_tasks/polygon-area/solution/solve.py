"""Measures each valid parcel: rings in metres, nesting by even-odd, wells by the same rule."""

import csv
import json
import math
from pathlib import Path

SURVEY = Path("/app/survey")
METRES = {"m": 1.0, "ft": 0.3048, "ftUS": 1200 / 3937, "ch": 20.1168}


def cleaned(ring, metres):
    points = []
    for x, y in ring:
        if not points or points[-1] != (x * metres, y * metres):
            points.append((x * metres, y * metres))
    if points[0] == points[-1]:
        points.pop()
    return points


def inside(point, ring):
    x, y = point
    answer = False
    for (ax, ay), (bx, by) in zip(ring, ring[1:] + ring[:1]):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            answer = not answer
    return answer


def unsigned_area(ring):
    """Shoelace about the first corner: far from the origin, differences of large products lose digits."""
    ox, oy = ring[0]
    return abs(math.fsum((ax - ox) * (by - oy) - (bx - ox) * (ay - oy) for (ax, ay), (bx, by) in zip(ring, ring[1:]))) / 2


def main():
    latest = {}
    for entry in json.loads((SURVEY / "parcels.json").read_text(encoding="utf-8")):
        if entry["parcel"] not in latest or entry["revision"] > latest[entry["parcel"]]["revision"]:
            latest[entry["parcel"]] = entry
    with open(SURVEY / "wells.csv", encoding="utf-8", newline="") as file:
        wells = {row["well"]: (float(row["x"]), float(row["y"])) for row in csv.DictReader(file)}
    with open("/app/parcels.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["parcel", "area_m2", "boundary_m", "wells"])
        for name in sorted(latest):
            if latest[name]["status"] == "withdrawn":
                continue
            area = length = 0.0
            on = set()
            for part in latest[name]["parts"]:
                rings = [cleaned(ring, METRES[latest[name]["unit"]]) for ring in part]
                for ring in rings:
                    depth = sum(inside(ring[0], other) for other in rings if other is not ring)
                    area += unsigned_area(ring) * (-1) ** depth
                    length += sum(math.dist(a, b) for a, b in zip(ring, ring[1:] + ring[:1]))
                on |= {well for well, at in wells.items() if sum(inside(at, ring) for ring in rings) % 2}
            writer.writerow([name, f"{area:.1f}", f"{length:.1f}", " ".join(sorted(on))])


main()
