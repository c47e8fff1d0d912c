"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

The files are committed; this script says how they came about and is not needed to run the task.
"""

import json
import random
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

RNG = random.Random(20260311)
START = datetime(2026, 2, 1, 8, 0, tzinfo=timezone.utc)
FIRST = ["Ada", "Bruno", "Chiara", "Dmitri", "Elif", "Femi", "Greta", "Hiro", "Ines", "Jonas", "Kaya", "Lior"]
LAST = ["Okafor", "Lindqvist", "Moreau", "Tanaka", "Silva", "Novak", "Haddad", "Byrne", "Petrov", "Ruiz"]
COUNTRIES = ["DE", "FR", "PT", "SE", "NG", "JP", "TR", "IE"]
PLANS = ["free", "basic", "team", "enterprise"]


def stamp(moment, system):
    """A time as one of the systems would write it."""
    if system == "crm":
        text = moment.astimezone(timezone(timedelta(hours=RNG.choice([-5, 1, 2, 9])))).isoformat(timespec="seconds")
        return text
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{moment.microsecond // 1000:03d}Z" if moment.microsecond or RNG.random() < 0.3 else "Z")


def version(number, system, moment, fields):
    if system == "crm":
        identifier = f"C-{number:04d}"
    else:
        identifier = RNG.choice([number, str(number)])
    return {"id": identifier, "updated_at": stamp(moment, system), **fields}


def money():
    return f"{RNG.choice([0, 4, 19, 35, 64, 129, 1140, 2310])}.{RNG.choice(['07', '10', '29', '57', '58', '99', '00'])}"


def customers():
    """Versions by system, in no particular order."""
    crm, billing = [], []
    for number in range(3, 33):
        name = f"{RNG.choice(FIRST)} {RNG.choice(LAST)}"
        mail = f"{name.split()[0]}.{name.split()[1]}@example.com"
        moment = START + timedelta(minutes=RNG.randrange(0, 20000), seconds=RNG.randrange(60))
        crm.append(version(number, "crm", moment, {"name": name, "email": RNG.choice([mail, mail.lower(), f" {mail} "]),
                                                   "phone": f"+{RNG.randrange(10**10, 10**11)}", "country": RNG.choice(COUNTRIES)}))
        after = moment + timedelta(minutes=RNG.randrange(-300, 300), milliseconds=RNG.choice([0, 0, 250]))
        billing.append(version(number, "billing", after, {"plan": RNG.choice(PLANS), "balance": money(), "email": mail.upper() if number % 4 == 0 else mail}))
        if number % 3 == 0:
            later = moment + timedelta(minutes=RNG.randrange(30, 110))
            billing.append(version(number, "billing", later, RNG.choice([{"balance": money(), "phone": None}, {"plan": RNG.choice(PLANS)}, {"country": "CH"}])))
        if number % 5 == 0:
            later = moment + timedelta(minutes=RNG.randrange(40, 120))
            crm.append(version(number, "crm", later, RNG.choice([{"phone": "  "}, {"name": name + " "}, {"email": None}, {"country": RNG.choice(COUNTRIES)}])))
        if number in (8, 14, 21, 27):
            gone = moment + timedelta(days=2)
            (crm if number % 2 else billing).append(version(number, "crm" if number % 2 else "billing", gone, {"deleted": True}))
            if number in (14, 21):
                back = gone + timedelta(hours=1 if number == 14 else 5)
                crm.append(version(number, "crm", back, {"name": name, "email": f"new.{mail}"}))
            if number == 27:
                billing.append(version(number, "billing", gone, {"balance": "88.88", "plan": "team"}))
        if number in (11, 19, 30):
            same = moment + timedelta(days=1)
            crm.append(version(number, "crm", same, {"country": "AT", "plan": "team"}))
            billing.append(version(number, "billing", same, {"country": "BE", "plan": "enterprise", "balance": "1.15"}))
        if number in (6, 17):
            # By the text of the time the first looks later; as an instant it is earlier.
            tie = datetime(2026, 3, 1, 0, 30, tzinfo=timezone.utc)
            crm.append({"id": f"C-{number:04d}", "updated_at": "2026-03-01T08:45:00+09:00", "phone": "+4930111", "plan": "free"})
            billing.append(version(number, "billing", tie, {"phone": "+4930222", "plan": "team"}))
        if number == 23:
            base = datetime(2026, 3, 3, 9, 0, tzinfo=timezone.utc)
            billing.append({"id": 23, "updated_at": "2026-03-03T09:00:00.750Z", "plan": "enterprise", "balance": "-0.29"})
            billing.append({"id": "23", "updated_at": "2026-03-03T09:00:00.500Z", "plan": "basic", "balance": "310.10"})
            crm.append(version(23, "crm", base, {"plan": "free"}))
    RNG.shuffle(crm)
    RNG.shuffle(billing)
    return crm, billing


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")


def main(root):
    data = root / "environment" / "data" / "exports"
    crm, billing = customers()
    size = -(-len(crm) // 5)
    pages = [crm[start:start + size] for start in range(0, len(crm), size)]
    for index in range(1, len(pages)):  # pages overlap: a row moved while the export ran
        pages[index].insert(0, pages[index - 1][-1])
    for index, rows in enumerate(pages, 1):
        page = {"export_id": "crm-7f31", "page": index, "total_pages": len(pages), "data": rows}
        if index == 3:
            write(data / "crm" / "page-3.json", {"export_id": "crm-7f31", "page": 3, "error": {"status": 503, "message": "upstream timed out"}})
            write(data / "crm" / "page-3.retry.json", page)
        else:
            write(data / "crm" / f"page-{index}.json", page)
    old = [version(4, "crm", datetime(2026, 6, 1, tzinfo=timezone.utc), {"name": "Old Name", "phone": "+000"}),
           version(40, "crm", START, {"name": "Gone Long Ago", "email": "gone@example.com"})]
    write(data / "crm" / f"page-{len(pages) + 1}.json", {"export_id": "crm-6c02", "page": len(pages) + 1, "total_pages": len(pages) + 1, "data": old})
    size = -(-len(billing) // 4)
    parts = [billing[start:start + size] for start in range(0, len(billing), size)]
    names = ["part-a.json", "part-d.json", "part-b.json", "part-e.json"][:len(parts)]
    for index, (name, rows) in enumerate(zip(names, parts)):
        after = names[index + 1] if index + 1 < len(names) else None
        write(data / "billing" / name, {"export_id": "bil-0192", "next": after, "items": rows})
    write(data / "billing" / "part-c.json", {"export_id": "bil-0192", "next": "part-e.json", "items": [
        version(5, "billing", datetime(2026, 5, 1, tzinfo=timezone.utc), {"plan": "basic", "balance": "0.01"})]})
    write(data / "manifest.json", {"crm": {"export_id": "crm-7f31"}, "billing": {"export_id": "bil-0192", "first": "part-a.json"}})
    shutil.rmtree(root / "tests" / "data", ignore_errors=True)
    shutil.copytree(root / "environment" / "data", root / "tests" / "data")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
