"""Robust calibration: a line through the pair of readings that the most others agree with, then least squares on those."""

import bisect
import csv
import itertools
import json
import math
from datetime import datetime
from pathlib import Path

APP = Path("/app")


def seconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


with (APP / "reference.csv").open(newline="", encoding="utf-8") as stream:
    reference = sorted((seconds(row["time"]), float(row["bath_c"])) for row in csv.DictReader(stream))
times = [time for time, _ in reference]


def bath(moment):
    right = min(max(bisect.bisect_right(times, moment), 1), len(times) - 1)
    (t0, b0), (t1, b1) = reference[right - 1], reference[right]
    return b0 + (b1 - b0) * (moment - t0) / (t1 - t0)


points = {}
with (APP / "readings.csv").open(newline="", encoding="utf-8") as stream:
    for row in sorted({tuple(sorted(row.items())) for row in csv.DictReader(stream, delimiter=";")}):
        row = dict(row)
        value = float(row["value"].replace(",", "."))
        if value < -200:
            continue
        value = {"C": value, "F": (value - 32) * 5 / 9, "K": value - 273.15}[row["unit"]]
        points.setdefault(row["sensor"], []).append((bath(seconds(row["time"])), value, int(row["id"])))


def line(data):
    mx, my = (math.fsum(column) / len(data) for column in ([p[0] for p in data], [p[1] for p in data]))
    slope = math.fsum((p[0] - mx) * (p[1] - my) for p in data) / math.fsum((p[0] - mx) ** 2 for p in data)
    return my - slope * mx, slope


report = {}
for sensor, data in sorted(points.items()):
    best = []
    for first, second in itertools.combinations(data, 2):
        if abs(second[0] - first[0]) > 3:
            slope = (second[1] - first[1]) / (second[0] - first[0])
            offset = first[1] - slope * first[0]
            close = [p for p in data if abs(p[1] - offset - slope * p[0]) < 0.5]
            best = max(best, close, key=len)
    for _ in range(5):
        offset, slope = line(best)
        best = [p for p in data if abs(p[1] - offset - slope * p[0]) < 1]
    residuals = [p[1] - offset - slope * p[0] for p in best]
    good = {p[2] for p in best}
    report[sensor] = {
        "offset": round(offset, 5), "gain": round(slope, 6), "n": len(best), "faulty": sorted(p[2] for p in data if p[2] not in good),
        "rmse": round(math.sqrt(math.fsum(r * r for r in residuals) / len(residuals)), 5),
    }
    print(sensor, len(best), "good of", len(data))
(APP / "calibration.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
