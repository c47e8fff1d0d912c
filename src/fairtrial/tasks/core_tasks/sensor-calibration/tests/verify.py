"""Judges the calibration: ordinary least squares over the readings that the generator of the data did not disturb."""

import csv
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data"
TOLERANCE = {"offset": 0.01, "gain": 0.0005, "rmse": 0.003}


def table(name, delimiter):
    with (DATA / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def moment(text):
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def celsius(text, unit):
    value = Fraction(text.replace(",", "."))
    if value < -200:
        return None
    return {"C": value, "F": (value - 32) * 5 / 9, "K": value - Fraction("273.15")}[unit]


def expected():
    """In exact fractions."""
    bath = {moment(row["time"]): Fraction(row["bath_c"]) for row in table("reference.csv", ",")}
    disturbed = {int(row["id"]) for row in table("faulty.csv", ",")}
    readings = {}
    for row in table("readings.csv", ";"):
        value, time = celsius(row["value"], row["unit"]), moment(row["time"])
        if value is not None:
            before = time - time % 30
            true = bath[before] + (bath.get(before + 30, bath[before]) - bath[before]) * (time - before) / 30
            readings.setdefault(row["sensor"], {})[int(row["id"])] = (true, value)
    result = {}
    for sensor, points in readings.items():
        good = [point for key, point in points.items() if key not in disturbed]
        n = len(good)
        sx, sy = sum(x for x, _ in good), sum(y for _, y in good)
        gain = (n * sum(x * y for x, y in good) - sx * sy) / (n * sum(x * x for x, _ in good) - sx * sx)
        offset = (sy - gain * sx) / n
        square = sum((y - offset - gain * x) ** 2 for x, y in good) / n
        result[sensor] = {"offset": float(offset), "gain": float(gain), "n": n, "faulty": sorted(set(points) & disturbed), "rmse": float(square) ** 0.5}
    return result


TRUTH = expected()


def checks():
    found = grading.want(grading.load_json(grading.APP / "calibration.json"), dict, "the file")
    if set(found) != set(TRUTH):
        raise grading.Refused(f"keys should be the sensors, found {grading.shown(sorted(found))}")
    rows = []
    for sensor, truth in sorted(TRUTH.items()):
        entry, wrong = found[sensor], []
        if type(entry) is not dict or set(entry) != set(truth):
            wrong.append("keys")
        else:
            for key, tolerance in TOLERANCE.items():
                if not grading.is_number(entry[key]) or abs(entry[key] - truth[key]) > tolerance:
                    wrong.append(key)
            ids = entry["faulty"]
            if type(ids) is not list or any(type(item) is not int for item in ids) or ids != truth["faulty"]:
                wrong.append("faulty")
            if type(entry["n"]) is not int or entry["n"] != truth["n"]:
                wrong.append("n")
        rows.append((sensor, not wrong, "wrong: " + ", ".join(wrong)))
    return rows


grading.grade(checks, grading.mean)
