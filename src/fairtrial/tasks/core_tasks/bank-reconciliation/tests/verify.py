"""Judges the reconciliation against one computed here from untouched copies of the books."""

import csv
import re
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data"
RULES = ("reference", "batch", "amount and date")
SEPARATORS = str.maketrans("", "", " -/.:")


def amount(text):
    """A bank amount: decimal comma, sign in front or behind, or a letter."""
    text = text.strip()
    negative = text.startswith("-") or text.endswith(("-", "S"))
    value = Decimal(text.strip("-SH ").replace(".", "").replace(",", "."))
    return -value if negative else value


def references(text):
    found = re.search(r"(?i)(?<![a-z0-9])(inv|po)([ \-/.:]*\d[\d \-/.:]*)", text)
    if not found:
        return None
    digits = found[2].translate(SEPARATORS)
    return found[1].lower(), digits[:4], digits[4:].lstrip("0")


def load():
    with (DATA / "ledger.csv").open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        entries = [(date.fromisoformat(r["booked"]), r["entry"], Decimal(r["debit"] or 0) - Decimal(r["credit"] or 0), r["text"], r["batch"]) for r in rows]
    with (DATA / "statement.csv").open(newline="", encoding="iso-8859-1") as stream:
        rows = csv.DictReader(stream, delimiter=";")
        lines = [(date(*map(int, r["Valuta"].split(".")[::-1])), int(r["Zeile"]), amount(r["Betrag"]), r["Verwendungszweck"]) for r in rows]
    return sorted(entries), sorted(lines)


def calendar():
    """For each date the number of its banking day (a date that is none has the number of the next one)."""
    holidays = {date.fromisoformat(word) for word in (DATA / "holidays.txt").read_text(encoding="utf-8").split()}
    numbers, count, day = {}, 0, date(2026, 1, 1)
    while day.year == 2026:
        numbers[day] = count
        count += day.isoweekday() <= 5 and day not in holidays
        day += timedelta(days=1)
    return numbers


def expected():
    """Matches as {(frozenset of entries, line): rule}, plus entries, lines and the difference."""
    entries, lines = load()
    days = calendar()
    result, gone = {}, set()

    def match(names, line, rule):
        result[frozenset(names), line] = rule
        gone.update(names)
        gone.add(line)

    for _, name, value, text, _ in entries:
        key = references(text)
        fitting = [line for _, line, other, words in lines if key and line not in gone and other == value and references(words) == key]
        if fitting:
            match([name], fitting[0], 0)
    for batch in sorted({entry[4] for entry in entries} - {""}):
        members = [entry for entry in entries if entry[4] == batch and entry[1] not in gone]
        total = sum(entry[2] for entry in members)
        fitting = [line for _, line, value, text in lines if line not in gone and value == total and batch in re.findall(r"\w+", text)]
        if members and fitting:
            match([entry[1] for entry in members], fitting[0], 1)
    for booked, name, value, _, _ in entries:
        fitting = [line for day, line, other, _ in lines if line not in gone and other == value and 0 <= days[day] - days[booked] <= 3]
        if name not in gone and fitting:
            match([name], fitting[0], 2)
    difference = sum(line[2] for line in lines) - sum(entry[2] for entry in entries)
    return result, [e[1] for e in entries], [line[1] for line in lines], difference


MATCHES, ENTRIES, LINES, DIFFERENCE = expected()
OPEN_ENTRIES = sorted(set(ENTRIES) - {name for names, _ in MATCHES for name in names})
OPEN_LINES = sorted(set(LINES) - {line for _, line in MATCHES})
PART_OF = {**{name: rule for (names, _), rule in MATCHES.items() for name in names}, **{line: rule for (_, line), rule in MATCHES.items()}}


def checks():
    found = grading.want(grading.load_json(grading.APP / "reconciliation.json"), dict, "the file")
    seen, right, wrong = set(), [0, 0, 0], [0, 0, 0]
    for item in grading.want(found.get("matches"), list, "matches"):
        names = grading.want(grading.want(item, dict, "a match").get("entries"), list, "entries of a match")
        line = grading.want(item.get("line"), int, "line of a match")
        if not names or any(type(name) is not str for name in names):
            raise grading.Refused("entries of a match should be a non-empty list of strings")
        if len(set(names)) != len(names) or seen & {*names, line}:
            raise grading.Refused(f"{grading.shown(item)} uses an entry or a line twice")
        if not set(names) <= set(ENTRIES) or line not in LINES:
            raise grading.Refused(f"{grading.shown(item)} names an entry or a line that is not there")
        seen.update(names, [line])
        rule = MATCHES.get((frozenset(names), line))
        if rule is not None:
            right[rule] += 1
        else:
            wrong[PART_OF.get(names[0], PART_OF.get(line, 2))] += 1
    rows = []
    for index, rule in enumerate(RULES):
        total = sum(value == index for value in MATCHES.values())
        share = max(0.0, (right[index] - wrong[index]) / total)
        rows.append((rule, share, f"{right[index]} of {total} right, {wrong[index]} wrong"))
    same = found.get("open_entries") == OPEN_ENTRIES and found.get("open_lines") == OPEN_LINES
    same = same and all(type(line) is int for line in found["open_lines"])
    text = found.get("difference")
    same = same and type(text) is str and text == f"{DIFFERENCE:.2f}"
    return [*rows, ("open items and difference", same, f"difference {grading.shown(text)}, or one of the open lists, is wrong")]


grading.grade(checks, grading.mean)
