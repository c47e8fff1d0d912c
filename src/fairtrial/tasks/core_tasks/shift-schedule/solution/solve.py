"""Finds a rota by local search: repair one person's place at a time, keep what breaks fewer rules, anneal."""

import csv
import json
import math
import random
from datetime import datetime, timedelta
from pathlib import Path

ROTA = Path("/app/rota")
REST = timedelta(hours=11)


def table(name):
    with open(ROTA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def load():
    shifts = {}
    for row in table("shifts.csv"):
        start, end = datetime.fromisoformat(row["start"]), datetime.fromisoformat(row["end"])
        needs = [need.split(":")[0] for need in row["needs"].split(";")]
        shifts[row["id"]] = {"start": start, "end": end, "people": int(row["people"]), "needs": needs}
    staff = {person["name"]: person for person in json.loads((ROTA / "staff.json").read_text(encoding="utf-8"))}
    for person in staff.values():
        person["away"] = []
        person["free_from"] = datetime.fromisoformat(person["last_shift_end"]) + REST
    for row in table("absences.csv"):
        staff[row["name"]]["away"].append((datetime.fromisoformat(row["from"]), datetime.fromisoformat(row["until"])))
    return shifts, staff, [(row["name"], row["shift"], row["wish"]) for row in table("wishes.csv")]


def possible(shift, person):
    """Whether this person can take this shift, whatever else is on the rota."""
    if shift["start"] < person["free_from"]:
        return False
    if person["worked_last_weekend"] and shift["start"].weekday() >= 5:
        return False
    return all(until <= shift["start"] or shift["end"] <= since for since, until in person["away"])


def personal_cost(person, mine):
    """Broken rules of one person's week; `mine` is sorted by start."""
    cost = sum(4 for one, two in zip(mine, mine[1:]) if two[1]["start"] - one[1]["end"] < REST)
    hours = sum((shift["end"] - shift["start"]).total_seconds() for _, shift in mine) / 3600
    cost += max(0, person["min_hours"] - hours) / 4 + max(0, hours - person["max_hours"]) / 4
    cost += max(0, sum(key.endswith("-N") for key, _ in mine) - 3)
    days = {shift["start"].weekday() for _, shift in mine}
    streak = person["days_in_row"]
    for day in range(7):
        streak = streak + 1 if day in days else 0
        cost += streak > 5
    return cost


def total_cost(rota, shifts, staff, wishes):
    weeks = {name: [] for name in staff}
    cost = 0.0
    for key, shift in shifts.items():
        names = rota[key]
        cost += 4 * (len(names) - len(set(names)))
        skills = {skill for name in names for skill in staff[name]["qualifications"]}
        cost += 2 * sum(need not in skills for need in shift["needs"])
        for name in set(names):
            weeks[name].append((key, shift))
    cost += sum(personal_cost(staff[name], mine) for name, mine in weeks.items())
    granted = sum((name in rota[key]) == (wish == "want") for name, key, wish in wishes)
    return cost + max(0, 7 - granted) * 0.5


def search(shifts, staff, wishes, rng):
    allowed = {key: [name for name in staff if possible(shift, staff[name])] for key, shift in shifts.items()}
    rota = {key: rng.sample(allowed[key], shift["people"]) for key, shift in shifts.items()}
    slots = [(key, place) for key, shift in shifts.items() for place in range(shift["people"])]
    cost, heat = total_cost(rota, shifts, staff, wishes), 1.0
    for _ in range(3_000):
        if cost == 0:
            return rota
        heat = max(0.3, heat * 0.998)
        key, place = rng.choice(slots)
        old = rota[key][place]
        rota[key][place] = rng.choice(allowed[key])
        new = total_cost(rota, shifts, staff, wishes)
        if new <= cost or rng.random() < math.exp((cost - new) / heat):
            cost = new
        else:
            rota[key][place] = old
    return None


def main():
    shifts, staff, wishes = load()
    for seed in range(80):
        rota = search(shifts, staff, wishes, random.Random(seed))
        if rota is not None:
            break
    else:
        raise SystemExit("no rota found")
    Path("/app/schedule.json").write_text(json.dumps(rota, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print("found with seed", seed)


main()
