"""Judges the schedule against one computed here, in whole minutes since 2025-01-01 UTC, from untouched copies of the tables."""

import csv
from datetime import date, datetime, timedelta
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data"
ORIGIN = datetime(2025, 1, 1)


def table(name):
    with (DATA / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def minutes(text):
    """Minutes from the origin of `YYYY-MM-DDTHH:MM`, with or without the final Z."""
    return (datetime.strptime(text.rstrip("Z"), "%Y-%m-%dT%H:%M") - ORIGIN) // timedelta(minutes=1)


def clock(value):
    return (ORIGIN + timedelta(minutes=value)).strftime("%Y-%m-%dT%H:%M")


def offsets():
    """For each zone a list of (UTC minute from which, offset in minutes, its text)."""
    result = {}
    for row in table("zones.csv"):
        text = row["offset"]
        value = int(text[0] + "1") * (int(text[1:3]) * 60 + int(text[4:6]))
        result.setdefault(row["zone"], []).append((minutes(row["from_utc"]), value, text))
    return {zone: sorted(steps) for zone, steps in result.items()}


ZONES = offsets()


def step_at(zone, instant):
    current = ZONES[zone][0]
    for step in ZONES[zone]:
        if step[0] <= instant:
            current = step
    return current


def instant(zone, wall):
    """First occurrence of a wall-clock minute; in a gap, with the offset before it. The smallest instant whose clock shows
    at least the wall time is right except in a gap, where the clock jumps past it."""
    candidates = sorted({wall - value for _, value, _ in ZONES[zone]})
    for candidate in candidates:
        if candidate + step_at(zone, candidate)[1] == wall:
            return candidate
    for before, after in zip(ZONES[zone], ZONES[zone][1:]):
        if after[0] + before[1] <= wall < after[0] + after[1]:
            return wall - before[1]
    raise AssertionError("the tables do not cover this time")


def free_minutes(person, busy, span):
    """For each working day of a person inside `span`, (start, end) and the busy intervals."""
    work = []
    day = date(2026, 1, 1)
    while day <= date(2026, 12, 1):
        if day.strftime("%a") in person["days"].split() and day.isoformat() not in person["days_off"].split():
            tail = day if person["end"] > person["start"] else day + timedelta(days=1)
            work.append((instant(person["zone"], minutes(f"{day}T{person['start']}")), instant(person["zone"], minutes(f"{tail}T{person['end']}"))))
        day += timedelta(days=1)
    taken = []
    for row in busy:
        start, end = minutes(row["start"]), minutes(row["end"])
        until = minutes(row["until"] + "T23:59") if row["repeat"] else start
        while start <= until:
            taken.append((instant(row["zone"], start), instant(row["zone"], end)))
            start, end = start + 7 * 1440, end + 7 * 1440
    return [item for item in work if item[1] >= span[0] and item[0] <= span[1]], taken


def expected():
    people = {row["name"]: row for row in table("people.csv")}
    busy = table("busy.csv")
    result = {}
    for request in table("requests.csv"):
        names = request["participants"].split(";")
        span = minutes(request["not_before"]), minutes(request["not_after"])
        length = int(request["minutes"])
        rules = [free_minutes(people[name], [row for row in busy if row["name"] == name], span) for name in names]
        answer = None
        for start in range(-(-span[0] // 15) * 15, span[1] - length + 1, 15):
            end = start + length
            if all(any(a <= start and end <= b for a, b in work) and all(end <= a or b <= start for a, b in taken) for work, taken in rules):
                local = {}
                for name in names:
                    _, value, text = step_at(people[name]["zone"], start)
                    local[name] = clock(start + value) + text
                answer = {"start_utc": clock(start) + "Z", "local": local}
                break
        result[request["id"]] = answer
    return result


TRUTH = expected()


def checks():
    found = grading.want(grading.load_json(grading.APP / "schedule.json"), dict, "the file")
    rows = [("one key per request", set(found) == set(TRUTH), grading.shown(sorted(found), 200))]
    for key, truth in TRUTH.items():
        right = key in found and found[key] == truth
        rows.append((key, right, "not the earliest possible start, or its local times are wrong"))
    return rows


grading.grade(checks, grading.all_or_nothing)
