"""Reconciles by the three rules, in integer cents."""

import csv
import json
import re
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path

APP = Path("/app")
holidays = set((APP / "holidays.txt").read_text(encoding="utf-8").split())


def cents(text):
    """Cents of a plain or German amount with its sign wherever the bank put it."""
    digits = re.sub(r"\D", "", text)
    return -int(digits) if "-" in text or text.rstrip().endswith("S") else int(digits)


def reference(text):
    found = re.search(r"\b(INV|PO)[\s\-/.:]*(\d{4})[\s\-/.:]*(\d+)\b", text, re.IGNORECASE)
    return (found[1].upper(), found[2], int(found[3])) if found else None


def banking(day):
    while day.weekday() > 4 or day.strftime("%Y-%m-%d") in holidays:
        day += timedelta(days=1)
    return day


def distance(start, end):
    start, end, count = banking(start), banking(end), 0
    if end < start:
        return -1
    while start < end:
        start, count = banking(start + timedelta(days=1)), count + 1
    return count


entries, lines = [], []
with (APP / "ledger.csv").open(newline="", encoding="utf-8") as stream:
    for row in csv.DictReader(stream):
        amount = cents(row["debit"]) if row["debit"] else -cents(row["credit"])
        entries.append((datetime.strptime(row["booked"], "%Y-%m-%d"), row["entry"], amount, row["text"], row["batch"]))
with (APP / "statement.csv").open(newline="", encoding="iso-8859-1") as stream:
    for row in csv.DictReader(stream, delimiter=";"):
        lines.append((datetime.strptime(row["Valuta"], "%d.%m.%Y"), int(row["Zeile"]), cents(row["Betrag"]), row["Verwendungszweck"]))
entries.sort()
lines.sort()
matches, used = [], set()


def take(names, line):
    matches.append({"entries": sorted(names), "line": line})
    used.update(names, [line])


pools = defaultdict(list)
for _, number, amount, text in lines:
    if reference(text):
        pools[reference(text), amount].append(number)
for _, name, amount, text, _ in entries:
    pool = pools.get((reference(text), amount))
    if pool:
        take([name], pool.pop(0))

batches = defaultdict(list)
for entry in entries:
    if entry[4] and entry[1] not in used:
        batches[entry[4]].append(entry)
for batch, members in batches.items():
    total = sum(entry[2] for entry in members)
    for _, number, amount, text in lines:
        if number not in used and amount == total and re.search(rf"(?<!\w){re.escape(batch)}(?!\w)", text):
            take([entry[1] for entry in members], number)
            break

for day, name, amount, _, _ in entries:
    if name not in used:
        for valuta, number, value, _ in lines:
            if number not in used and value == amount and 0 <= distance(day, valuta) <= 3:
                take([name], number)
                break

difference = sum(line[2] for line in lines) - sum(entry[2] for entry in entries)
report = {
    "matches": matches,
    "open_entries": sorted(entry[1] for entry in entries if entry[1] not in used),
    "open_lines": sorted(line[1] for line in lines if line[1] not in used),
    "difference": f"{'-' if difference < 0 else ''}{abs(difference) // 100}.{abs(difference) % 100:02d}",
}
(APP / "reconciliation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
print(len(matches), "matches,", len(report["open_entries"]), "open entries,", len(report["open_lines"]), "open lines,", report["difference"])
