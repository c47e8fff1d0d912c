"""Grades /app/rollup.csv against the clean ledger that the exports were made from."""

import csv
import io
import json
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

import grading

TESTS = Path(__file__).resolve().parent
CURRENCY = {"berlin": "EUR", "leeds": "GBP", "austin": "USD"}


def expected():
    ledger = json.loads((TESTS / "ledger.json").read_text(encoding="utf-8"))
    rates = {}
    for month, currency, value in ledger["fx"]:
        rates.setdefault(currency, []).append((month, Fraction(value)))
    sums = {}
    for line in ledger["lines"]:
        month = line["day"][:7]
        if not "2026-01" <= month <= "2026-03":
            continue
        currency = CURRENCY[line["shop"]]
        known = [value for since, value in sorted(rates.get(currency, [])) if since <= month]
        rate = known[-1] if currency != "EUR" else Fraction(1)
        amount = line["units"] * Fraction(line["price"]) * (1 - Fraction(line["discount"]) / 100) * rate
        total = sums.setdefault((month, ledger["catalog"].get(line["sku"], "UNLISTED")), [0, Fraction(0)])
        total[0] += line["units"]
        total[1] += amount
    return dict(sorted(sums.items()))


def cents(amount):
    exact = Decimal(amount.numerator) / Decimal(amount.denominator)
    return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


def number(text, what):
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise grading.Refused(f"{what} is not a number: {grading.shown(text)}") from None
    if not value.is_finite() or abs(value) > Decimal(10) ** 12:
        raise grading.Refused(f"{what} is not a sensible number: {grading.shown(text)}")
    return value


def read_rows():
    text = grading.read_text(grading.APP / "rollup.csv", 100_000)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise grading.Refused(f"rollup.csv: {error}") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["month", "category", "units", "revenue_eur"]:
        raise grading.Refused("rollup.csv: the first line is not the header asked for")
    if any(len(row) != 4 for row in rows):
        raise grading.Refused("rollup.csv: a row does not have four cells")
    return [
        ((month.strip(), category.strip()), number(units, "units"), number(revenue, "revenue_eur"))
        for month, category, units, revenue in rows[1:]
    ]


def checks():
    truth, rows = expected(), read_rows()
    keys = [key for key, *_ in rows]
    found = [("rows", float(keys == list(truth)), f"{len(rows)} rows, {len(truth)} expected, in order of month and category")]
    got = {key: (units, revenue) for key, units, revenue in rows}
    for key, (units, amount) in truth.items():
        have = got.get(key)
        name = " ".join(key)
        found.append((f"units {name}", float(have is not None and have[0] == units), grading.shown(str(have and have[0]))))
        good = have is not None and abs(have[1] - cents(amount)) <= Decimal("0.01")
        found.append((f"revenue {name}", float(good), grading.shown(str(have and have[1]))))
    return found


grading.grade(checks, grading.all_or_nothing)
