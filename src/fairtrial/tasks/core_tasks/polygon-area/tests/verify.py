"""Grades /app/parcels.csv against areas and well positions worked out here in exact fractions."""

import csv
import io
import json
import math
from fractions import Fraction
from pathlib import Path

import grading

DATA = Path(__file__).resolve().parent / "data"
METRES = {"m": Fraction(1), "ft": Fraction("0.3048"), "ftUS": Fraction(1200, 3937), "ch": Fraction("20.1168")}
TOLERANCE = 0.1001


def edges(ring, metres):
    points = [(Fraction(str(x)) * metres, Fraction(str(y)) * metres) for x, y in ring]
    return [(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True) if a != b]


def crossings(x, y, lines):
    """How many edges a ray from the point to the east crosses."""
    count = 0
    for (ax, ay), (bx, by) in lines:
        if (ay > y) != (by > y):
            count += x < ax + (y - ay) * (bx - ax) / (by - ay)
    return count


def area(part):
    """Even-odd area: each ring counts with the sign that the number of rings around it gives."""
    total = Fraction(0)
    for ring in part:
        doubled = sum(a[0] * b[1] - b[0] * a[1] for a, b in ring)
        around = sum(crossings(*ring[0][0], other) % 2 for other in part if other is not ring)
        total += abs(doubled) / 2 * (-1) ** around
    return total


def expected():
    latest = {}
    for entry in json.loads((DATA / "parcels.json").read_text(encoding="utf-8")):
        if entry["revision"] > latest.get(entry["parcel"], {"revision": 0})["revision"]:
            latest[entry["parcel"]] = entry
    wells = list(csv.DictReader(io.StringIO((DATA / "wells.csv").read_text(encoding="utf-8"))))
    table = {}
    for name, entry in sorted(latest.items()):
        if entry["status"] == "withdrawn":
            continue
        parts = [[edges(ring, METRES[entry["unit"]]) for ring in part] for part in entry["parts"]]
        lines = [line for part in parts for ring in part for line in ring]
        inside = [well["well"] for well in wells if crossings(Fraction(well["x"]), Fraction(well["y"]), lines) % 2]
        length = sum(math.hypot(b[0] - a[0], b[1] - a[1]) for a, b in lines)
        table[name] = (float(sum(map(area, parts))), length, sorted(inside))
    return table


def read_rows():
    text = grading.read_text(grading.APP / "parcels.csv", 100_000)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise grading.Refused(f"parcels.csv: {error}") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["parcel", "area_m2", "boundary_m", "wells"]:
        raise grading.Refused("parcels.csv: the first line is not the header asked for")
    if any(len(row) != 4 for row in rows):
        raise grading.Refused("parcels.csv: a row does not have four cells")
    return [[cell.strip() for cell in row] for row in rows[1:]]


def near(text, truth):
    try:
        return abs(float(text) - truth) <= TOLERANCE
    except ValueError:
        return False


def checks():
    truth, rows = expected(), read_rows()
    names = [row[0] for row in rows]
    found = [("parcels", float(names == list(truth)), grading.shown(names))]
    given = {row[0]: row for row in rows}
    for name, (size, length, wells) in truth.items():
        row = given.get(name, ["", "", "", "-"])
        found.append((f"{name} area", float(near(row[1], size)), grading.shown(row[1])))
        found.append((f"{name} boundary", float(near(row[2], length)), grading.shown(row[2])))
        found.append((f"{name} wells", float(row[3].split() == wells), grading.shown(row[3])))
    return found


grading.grade(checks, grading.all_or_nothing)
