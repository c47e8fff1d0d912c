"""Reads the three exports as their notes describe them and writes the roll-up."""

import csv
from bisect import bisect_right
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

SALES = Path("/app/sales")


def rows(name, encoding, delimiter=","):
    with open(SALES / name, encoding=encoding, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def sku(text):
    return text.strip().upper().zfill(6)


def berlin():
    for row in rows("exports/berlin.csv", "cp1252", ";"):
        if row["Status"] not in ("OK", "RETOURE"):
            continue
        price = Decimal(row["Einzelpreis (€)"].replace(".", "").replace(",", "."))
        discount = Decimal((row["Rabatt"].rstrip(" %") or "0").replace(",", "."))
        sign = -1 if row["Status"] == "RETOURE" else 1
        yield datetime.strptime(row["Datum"], "%d.%m.%Y"), sku(row["Artikel"]), sign * int(row["Menge"]), price, discount, "EUR"


def leeds():
    latest = {}
    for row in rows("exports/leeds.csv", "utf-8-sig"):
        key = row["order"], row["line"]
        if key not in latest or row["exported_at"] > latest[key]["exported_at"]:
            latest[key] = row
    for row in latest.values():
        if row["state"] == "void":
            continue
        price = Decimal(row["unit_price"].lstrip("£").replace(",", ""))
        discount = Decimal(row["discount"].rstrip("%"))
        yield datetime.strptime(row["sold_on"], "%d/%m/%Y"), sku(row["sku"]), int(row["qty"]), price, discount, "GBP"


def austin():
    lines = {(row["Receipt"], row["Item #"]): row for row in rows("exports/austin.csv", "utf-8")}
    for row in lines.values():
        quantity = row["Qty"]
        units = -int(quantity.strip("()")) if quantity.startswith("(") else int(quantity)
        price = Decimal(row["Price"].lstrip("$").replace(",", ""))
        discount = Decimal(row["Disc"] or "0") * 100
        yield datetime.strptime(row["Date"], "%m/%d/%Y"), sku(row["SKU"]), units, price, discount, "USD"


def main():
    categories = {row["sku"]: row["category"] for row in rows("catalog.csv", "utf-8")}
    months, values = {}, {}
    for row in sorted(rows("fx.csv", "utf-8"), key=lambda row: row["month"]):
        months.setdefault(row["currency"], []).append(row["month"])
        values.setdefault(row["currency"], []).append(Decimal(row["eur"]))
    table = {}
    for shop in (berlin, leeds, austin):
        for day, article, units, price, discount, currency in shop():
            month = day.strftime("%Y-%m")
            if not "2026-01" <= month <= "2026-03":
                continue
            rate = Decimal(1) if currency == "EUR" else values[currency][bisect_right(months[currency], month) - 1]
            cell = table.setdefault((month, categories.get(article, "UNLISTED")), [0, Decimal(0)])
            cell[0] += units
            cell[1] += units * price * (1 - discount / 100) * rate
    with open("/app/rollup.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["month", "category", "units", "revenue_eur"])
        for (month, category), (units, revenue) in sorted(table.items()):
            writer.writerow([month, category, units, revenue.quantize(Decimal("0.01"), ROUND_HALF_UP)])


main()
