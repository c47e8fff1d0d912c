"""Makes this task's data: environment/data (what the agent gets) and the pristine copies in tests/data.

Not part of the environment: run it by hand after a change, `python3 generate.py` (or `generate.py FOLDER` to write
elsewhere); the same data come out each time.
Keep in mind that a rota must exist: the oracle finds one by search. One of the wishes cannot come true.
"""

import json
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
MONDAY = date(2026, 3, 23)
DAYS = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]

STAFF = [
    # name, qualifications, min, max, last_shift_end, days_in_row, worked_last_weekend
    ("Amara Okafor", ["lead", "forklift"], 24, 41, "2026-03-20T22:00", 0, False),
    ("Bogdan Ilie", ["forklift"], 24, 40, "2026-03-22T22:00", 3, True),
    ("Carla Mendes", ["lead"], 24, 42, "2026-03-23T06:00", 4, True),
    ("Dilnoza Karimova", ["lead", "dangerous-goods"], 16, 34, "2026-03-21T14:00", 0, False),
    ("Erik Sandström", ["forklift", "dangerous-goods"], 24, 41, "2026-03-20T14:00", 0, False),
    ("Fatou Diallo", ["lead"], 16, 33, "2026-03-22T14:00", 2, True),
    ("Goran Babić", [], 16, 34, "2026-03-21T22:00", 0, False),
    ("Hana Novotná", ["lead", "forklift"], 24, 42, "2026-03-19T06:00", 0, False),
    ("Iñigo Etxeberria", ["dangerous-goods"], 8, 25, "2026-03-18T22:00", 0, False),
    ("Jyoti Rao", ["lead", "forklift"], 16, 34, "2026-03-22T06:00", 1, False),
]
ABSENCES = [
    ("Amara Okafor", "2026-03-25T00:00", "2026-03-26T00:00", "day off"),
    ("Carla Mendes", "2026-03-26T13:00", "2026-03-26T14:30", "dentist"),
    ("Dilnoza Karimova", "2026-03-23T00:00", "2026-03-24T14:00", "training elsewhere"),
    ("Erik Sandström", "2026-03-28T06:00", "2026-03-29T00:00", "wedding"),
    ("Goran Babić", "2026-03-27T05:30", "2026-03-27T12:00", "school meeting"),
    ("Hana Novotná", "2026-03-24T04:00", "2026-03-24T09:00", "blood donation"),
    ("Hana Novotná", "2026-03-29T12:00", "2026-03-30T00:00", "flight"),
    ("Jyoti Rao", "2026-03-26T22:00", "2026-03-27T22:00", "religious holiday"),
]
WISHES = [
    ("Amara Okafor", "MON-E", "want"),
    ("Bogdan Ilie", "FRI-L", "avoid"),
    ("Carla Mendes", "FRI-E", "want"),
    ("Dilnoza Karimova", "WED-N", "avoid"),
    ("Erik Sandström", "SUN-N", "avoid"),
    ("Fatou Diallo", "WED-E", "want"),
    ("Goran Babić", "SAT-L", "want"),
    ("Hana Novotná", "SAT-M", "want"),
    ("Iñigo Etxeberria", "SUN-E", "avoid"),
]


def shifts():
    rows = []
    for index, day in enumerate(DAYS):
        weekend = index >= 5
        at = datetime.combine(MONDAY + timedelta(days=index), datetime.min.time())
        early = "lead:1" if weekend else "lead:1;forklift:1"
        late = "lead:1;dangerous-goods:1" if day in ("TUE", "FRI") else "lead:1"
        plan = [("E", 6, 14, 1 if weekend else 2, early), ("L", 14, 22, 1 if weekend else 2, late)]
        if day == "SAT":
            plan.append(("M", 10, 16, 2, "forklift:1"))
        plan.append(("N", 21.5, 30, 1, "lead:1"))
        for kind, start, end, people, needs in plan:
            span = [(at + timedelta(hours=hour)).isoformat(timespec="minutes") for hour in (start, end)]
            rows.append([f"{day}-{kind}", *span, str(people), needs])
    return rows


def table(head, rows):
    return "\n".join(",".join(row) for row in [head, *rows]) + "\n"


def main():
    keys = ["name", "qualifications", "min_hours", "max_hours", "last_shift_end", "days_in_row", "worked_last_weekend"]
    people = ",\n".join("  " + json.dumps(dict(zip(keys, person, strict=True)), ensure_ascii=False) for person in STAFF)
    files = {
        "staff.json": f"[\n{people}\n]\n",
        "shifts.csv": table(["id", "start", "end", "people", "needs"], shifts()),
        "absences.csv": table(["name", "from", "until", "reason"], ABSENCES),
        "wishes.csv": table(["name", "shift", "wish"], WISHES),
    }
    for folder in (ROOT / "environment/data", ROOT / "tests/data"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
