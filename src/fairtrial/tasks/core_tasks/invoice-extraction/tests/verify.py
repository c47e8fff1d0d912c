"""Grades /app/invoices.json field by field; totals and dates are worked out here from the records behind the documents."""

import json
from collections import Counter
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import grading

TESTS = Path(__file__).resolve().parent
TEXTS = ["kind", "number", "issue_date", "due_date", "currency", "purchase_order", "supplier_tax_id"]
AMOUNTS = ["net", "tax", "gross"]


def expected(doc):
    sign = -1 if doc["kind"] == "credit_note" else 1
    bases = {}
    for _, quantity, price, rate in doc["lines"]:
        bases[rate] = bases.get(rate, Decimal(0)) + quantity * Decimal(price)
    # Freight and discount belong to the highest of the rates on the document.
    bases[max(bases, key=Decimal)] += Decimal(doc["freight"]) - Decimal(doc["discount"])
    net = sum(bases.values())
    tax = sum((base * Decimal(rate) / 100).quantize(Decimal("0.01"), ROUND_HALF_UP) for rate, base in bases.items())
    issued = date.fromisoformat(doc["issued"])
    return {
        "kind": doc["kind"],
        "number": doc["number"],
        "issue_date": doc["issued"],
        "due_date": None if sign < 0 else (issued + timedelta(days=doc["term"])).isoformat(),
        "currency": doc["currency"],
        "purchase_order": doc["order"],
        "supplier_tax_id": doc["tax_id"],
        "net": sign * net,
        "tax": sign * tax,
        "gross": sign * (net + tax),
        "lines": len(doc["lines"]),
    }


def equal(key, given, truth):
    if key in AMOUNTS:
        return grading.is_number(given) and abs(Decimal(repr(given)) - truth) < Decimal("0.005")
    if key == "lines":
        return grading.is_number(given) and given == truth
    if truth is None:
        return given is None
    if not isinstance(given, str):
        return False
    if key == "supplier_tax_id":
        # "MWST" behind a Swiss number says what the number is for; with and without are both fine.
        return given.replace(" ", "").removesuffix("MWST") == truth.removesuffix("MWST")
    return given.strip() == truth


def checks():
    records = json.loads((TESTS / "records.json").read_text(encoding="utf-8"))
    given = grading.want(grading.load_json(grading.APP / "invoices.json", 200_000), list, "invoices.json")
    for entry in given:
        grading.want(entry, dict, "an entry of invoices.json")
    names = Counter(str(entry.get("file"))[:100] for entry in given)
    by_file = {entry["file"]: entry for entry in given if isinstance(entry.get("file"), str)}
    found = []
    for doc in records:
        name, truth = doc["file"], expected(doc)
        entry = by_file.get(name)
        blocked = None
        if entry is None:
            blocked = "not listed"
        elif names[name] > 1:
            blocked = "listed more than once"
        elif not equal("number", entry.get("number"), truth["number"]):
            blocked = f"number is {grading.shown(entry.get('number'))}"
        for key, right in truth.items():
            if blocked:
                found.append((f"{name} {key}", 0.0, blocked))
            else:
                good = key in entry and equal(key, entry[key], right)
                found.append((f"{name} {key}", float(good), "" if good else grading.shown(entry.get(key))))
    return found


grading.grade(checks, grading.mean)
