"""Grades /app/schedule.json by groups of rules; full coverage is the ticket to any grade at all."""

import csv
import io
import json
import unicodedata
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import grading

DATA = Path(__file__).resolve().parent / "data"
REST = timedelta(hours=11)


def table(name):
    return list(csv.DictReader(io.StringIO((DATA / name).read_text(encoding="utf-8"))))


def plain(name):
    return unicodedata.normalize("NFC", name).strip()


def read_rota(shifts, staff):
    """Shift id -> names; Refused when coverage is not full."""
    rota = grading.want(grading.load_json(grading.APP / "schedule.json", 200_000), dict, "schedule.json")
    if set(rota) != set(shifts):
        odd = sorted(set(shifts) ^ set(rota))
        raise grading.Refused(f"coverage: shifts missing or unknown: {grading.shown(odd)}")
    for key, names in rota.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise grading.Refused(f"coverage: {key} is not a list of names")
        names = [plain(name) for name in names]
        if not set(names) <= set(staff):
            raise grading.Refused(f"coverage: {key} names somebody unknown")
        if len(set(names)) != len(names) or len(names) != int(shifts[key]["people"]):
            raise grading.Refused(f"coverage: {key} has {len(set(names))} people, {shifts[key]['people']} needed")
        rota[key] = names
    return rota


def person_breaches(person, mine, away):
    """Breaches by group for one person; `mine` is a list of (start, end, id) in order."""
    found = Counter()
    earlier = datetime.fromisoformat(person["last_shift_end"])
    for start, end, key in mine:
        found["rest"] += start - earlier < REST
        earlier = max(earlier, end)
        found["absences"] += any(start < until and since < end for since, until in away)
        found["weekends"] += person["worked_last_weekend"] and start.weekday() >= 5
    hours = sum((end - start for start, end, _ in mine), timedelta()) / timedelta(hours=1)
    found["hours"] += not person["min_hours"] <= hours <= person["max_hours"]
    found["nights"] += sum(key.endswith("-N") for *_, key in mine) > 3
    days, streak = {start.weekday() for start, *_ in mine}, person["days_in_row"]
    for day in range(7):
        streak = streak + 1 if day in days else 0
        found["streaks"] += streak > 5
    return found


def checks():
    shifts = {row["id"]: row for row in table("shifts.csv")}
    staff = {plain(person["name"]): person for person in json.loads((DATA / "staff.json").read_text(encoding="utf-8"))}
    rota = read_rota(shifts, staff)
    away = {name: [] for name in staff}
    for row in table("absences.csv"):
        away[plain(row["name"])].append((datetime.fromisoformat(row["from"]), datetime.fromisoformat(row["until"])))
    weeks = {name: [] for name in staff}
    found = Counter({group: 0 for group in ["qualifications", "absences", "rest", "hours", "streaks", "nights", "weekends"]})
    for key, shift in shifts.items():
        skills = Counter(skill for name in rota[key] for skill in staff[name]["qualifications"])
        for need in shift["needs"].split(";"):
            skill, number = need.split(":")
            found["qualifications"] += skills[skill] < int(number)
        for name in rota[key]:
            weeks[name].append((datetime.fromisoformat(shift["start"]), datetime.fromisoformat(shift["end"]), key))
    for name, mine in weeks.items():
        found.update(person_breaches(staff[name], sorted(mine), away[name]))
    granted = sum((plain(row["name"]) in rota[row["shift"]]) == (row["wish"] == "want") for row in table("wishes.csv"))
    groups = [(group, float(count == 0), f"{count} breaches") for group, count in found.items()]
    return [("coverage", 1.0, "full"), *groups, ("wishes", float(granted >= 7), f"{granted} granted")]


grading.grade(checks, grading.mean)
