"""Searches the earliest common quarter of an hour, with all wall-clock times turned into instants first."""

import csv
import json
from datetime import datetime, timedelta
from pathlib import Path

APP = Path("/app")
WEEK = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def table(name):
    with (APP / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def offset_of(text):
    hours, minutes = int(text[1:3]), int(text[4:6])
    return timedelta(hours=hours, minutes=minutes) * (-1 if text[0] == "-" else 1)


zones = {}
for row in table("zones.csv"):
    zones.setdefault(row["zone"], []).append((datetime.strptime(row["from_utc"], "%Y-%m-%dT%H:%MZ"), offset_of(row["offset"])))
for steps in zones.values():
    steps.sort()


def offset_at(zone, moment):
    return [offset for since, offset in zones[zone] if since <= moment][-1]


def to_utc(zone, wall):
    """Wall clock to UTC (both naive): earliest offset in force that reproduces the wall time, else the one before the gap."""
    steps = zones[zone]
    for _, offset in steps:
        if offset_at(zone, wall - offset) == offset:
            return wall - offset
    for (_, before), (since, after) in zip(steps, steps[1:]):
        if since + before <= wall < since + after:
            return wall - before
    raise ValueError(f"{wall} in {zone}")


def working(person):
    day = datetime(2026, 1, 1)
    while day < datetime(2026, 7, 1):
        if WEEK[day.weekday()] in person["days"].split() and day.strftime("%Y-%m-%d") not in person["days_off"].split():
            start = datetime.strptime(f"{day:%Y-%m-%d} {person['start']}", "%Y-%m-%d %H:%M")
            end = datetime.strptime(f"{day:%Y-%m-%d} {person['end']}", "%Y-%m-%d %H:%M")
            if end <= start:
                end += timedelta(days=1)
            yield to_utc(person["zone"], start), to_utc(person["zone"], end)
        day += timedelta(days=1)


def occupied(name):
    for row in table("busy.csv"):
        if row["name"] != name:
            continue
        start, end = (datetime.strptime(row[key], "%Y-%m-%dT%H:%M") for key in ("start", "end"))
        while True:
            yield to_utc(row["zone"], start), to_utc(row["zone"], end)
            start, end = start + timedelta(days=7), end + timedelta(days=7)
            if row["repeat"] != "weekly" or start.strftime("%Y-%m-%d") > row["until"]:
                break


people = {row["name"]: row for row in table("people.csv")}
work = {name: list(working(row)) for name, row in people.items()}
busy = {name: list(occupied(name)) for name in people}
schedule = {}
for request in table("requests.csv"):
    names = request["participants"].split(";")
    first, last = (datetime.strptime(request[key], "%Y-%m-%dT%H:%MZ") for key in ("not_before", "not_after"))
    length = timedelta(minutes=int(request["minutes"]))
    start = first + (datetime(2026, 1, 1) - first) % timedelta(minutes=15)
    schedule[request["id"]] = None
    while start + length <= last:
        end = start + length
        if all(any(a <= start and end <= b for a, b in work[n]) and not any(a < end and start < b for a, b in busy[n]) for n in names):
            local = {}
            for name in names:
                offset = offset_at(people[name]["zone"], start)
                minutes = int(offset.total_seconds()) // 60
                sign = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
                local[name] = (start + offset).strftime("%Y-%m-%dT%H:%M") + sign
            schedule[request["id"]] = {"start_utc": start.strftime("%Y-%m-%dT%H:%MZ"), "local": local}
            break
        start += timedelta(minutes=15)

(APP / "schedule.json").write_text(json.dumps(schedule, indent=1) + "\n", encoding="utf-8")
print(sum(value is not None for value in schedule.values()), "of", len(schedule), "meetings placed")
