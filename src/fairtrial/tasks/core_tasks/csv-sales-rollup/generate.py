"""Makes this task's data: environment/data (what the agent gets) and tests/ledger.json (the clean ledger behind it).

Not part of the environment: run it by hand after a change, `python3 generate.py` (or `generate.py FOLDER` to write
elsewhere); the same data come out each time.
"""

import json
import random
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
DATA = ROOT / "environment" / "data"

CATALOG = [
    ("004171", "Trail bottle 0.7 l", "Outdoor"),
    ("00820A", "Head torch", "Outdoor"),
    ("031240", "Desk lamp", "Lighting"),
    ("031255", "LED strip, warm", "Lighting"),
    ("10450B", "Pour-over kettle", "Kitchen & Table"),
    ("10477C", 'Cutting board 14"', "Kitchen & Table"),
    ("204410", "Felt slippers", "Textiles"),
    ("204431", "Wool throw", "Textiles"),
    ("000093", "Gift card sleeve", "Paper"),
]
UNLISTED = "77310X"
PRICES = {
    "004171": "18.90", "00820A": "34.50", "031240": "59.00", "031255": "24.95", "10450B": "1149.00",
    "10477C": "41.20", "204410": "27.80", "204431": "1089.00", "000093": "0.85", UNLISTED: "12.40",
}  # fmt: skip
FX = [
    ("2025-11", "GBP", "1.1361"), ("2025-11", "USD", "0.8612"), ("2025-12", "GBP", "1.1418"), ("2025-12", "USD", "0.8547"),
    ("2026-01", "GBP", "1.1504"), ("2026-01", "USD", "0.8581"), ("2026-02", "USD", "0.8493"), ("2026-03", "GBP", "1.1472"),
    ("2026-04", "GBP", "1.1390"), ("2026-04", "USD", "0.8730"),
]  # fmt: skip


def sales(rng, shop, count, discounts):
    """Clean lines of one shop: receipt, pos, day, sku, signed units, price, discount in per cent, counted."""
    lines, receipt, day = [], rng.randrange(2000, 8000), date(2025, 12, 27)
    skus = [sku for sku, *_ in CATALOG] + [UNLISTED]
    weights = [5, 4, 3, 4, 2, 3, 4, 2, 6, 1]
    while len(lines) < count:
        receipt += rng.randrange(1, 9)
        day += timedelta(days=rng.choice([0, 1, 2, 3, 4, 6]))
        if day > date(2026, 4, 6):
            day = date(2025, 12, 28) + timedelta(days=rng.randrange(95))
        for pos in range(1, rng.choice([1, 1, 2, 3]) + 1):
            sku = rng.choices(skus, weights)[0]
            factor = Decimal(rng.choice(["1", "1", "1.05", "0.9"]))
            price = (Decimal(PRICES[sku]) * factor).quantize(Decimal("0.01"))
            units = rng.choice([1, 1, 1, 2, 3, 5, 12])
            if rng.random() < 0.12:
                units = -rng.choice([1, 1, 2])
            discount = rng.choice(discounts)
            lines.append(
                {"shop": shop, "receipt": receipt, "pos": pos, "day": day.isoformat(), "sku": sku, "units": units,
                 "price": str(price), "discount": discount, "counted": rng.random() > 0.07}
            )  # fmt: skip
    return lines


def named(sku):
    return next((name for known, name, _ in CATALOG if known == sku), "Sample article")


def messy(rng, sku):
    """The article number with the blemishes that the README tells of."""
    if rng.random() < 0.3:
        sku = sku.lower()
    return f" {sku} " if rng.random() < 0.2 else sku


def german(number):
    return f"{Decimal(number):,.2f}".translate(str.maketrans(",.", ".,"))


def berlin(rng, lines):
    rows, total = ["Belegnr;Pos;Datum;Artikel;Bezeichnung;Menge;Einzelpreis (€);Rabatt;Status"], Decimal(0)
    for line in lines:
        day = date.fromisoformat(line["day"]).strftime("%d.%m.%Y")
        status = "STORNO" if not line["counted"] else "RETOURE" if line["units"] < 0 else "OK"
        discount = "" if line["discount"] == "0" else line["discount"].replace(".", ",") + " %"
        name = named(line["sku"]).replace("Pour-over kettle", "Wasserkessel für Kaffee")
        total += line["units"] * Decimal(line["price"])
        if '"' in name:
            name = '"' + name.replace('"', '""') + '"'
        rows.append(
            f"{line['receipt']};{line['pos']};{day};{messy(rng, line['sku'])};{name};{abs(line['units'])};"
            f"{german(line['price'])};{discount};{status}"
        )
    rows.append(f"Summe;;;;;;{german(total)};;")
    (DATA / "exports" / "berlin.csv").write_bytes(("\r\n".join(rows) + "\r\n").encode("cp1252"))


def quoted(text):
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text


def leeds(rng, lines):
    exported = []
    for line in lines:
        night = datetime.fromisoformat(line["day"]) + timedelta(hours=23, minutes=30)
        valid = {**line, "at": night}
        if rng.random() < 0.22:
            wrong = {**valid, "units": line["units"] + rng.choice([1, 2, 10]), "counted": True}
            if rng.random() < 0.4:
                wrong["price"] = str(Decimal(line["price"]) * 10)
            valid = {**valid, "at": night + timedelta(days=rng.randrange(1, 12))}
            exported.append(wrong)
        exported.append(valid)
    exported.sort(key=lambda row: (row["at"] + timedelta(days=rng.choice([0, 0, 0, 0, 0, 13, 17])), row["receipt"], row["pos"]))
    rows = ["order,line,sold_on,sku,description,qty,unit_price,discount,state,exported_at"]
    for row in exported:
        day = date.fromisoformat(row["day"]).strftime("%d/%m/%Y")
        rows.append(
            ",".join(
                quoted(cell)
                for cell in [
                    f"L{row['receipt']}", str(row["pos"]), day, messy(rng, row["sku"]), named(row["sku"]), str(row["units"]),
                    f"£{Decimal(row['price']):,.2f}", f"{row['discount']}%", "ok" if row["counted"] else "void",
                    row["at"].isoformat(timespec="minutes"),
                ]
            )
        )  # fmt: skip
    (DATA / "exports" / "leeds.csv").write_bytes(("\n".join(rows) + "\n").encode("utf-8-sig"))


NOTES = ["", "", "", "", "paid cash", "gift wrap,\nred ribbon", 'customer said "keep the box"', "tax exempt\nform on file\n"]


def austin(rng, lines):
    rows = ["Receipt,Item #,Date,SKU,Product,Qty,Price,Disc,Note"]
    for line in lines:
        day = date.fromisoformat(line["day"])
        units = f"({-line['units']})" if line["units"] < 0 else str(line["units"])
        discount = "" if line["discount"] == "0" else str(Decimal(line["discount"]) / 100)
        row = ",".join(
            quoted(cell)
            for cell in [
                f"A-{line['receipt']}", str(line["pos"]), f"{day.month}/{day.day}/{day.year}", line["sku"].lstrip("0"),
                named(line["sku"]), units, f"${Decimal(line['price']):,.2f}", discount, rng.choice(NOTES),
            ]
        )  # fmt: skip
        rows += [row, row] if rng.random() < 0.1 else [row]
    (DATA / "exports" / "austin.csv").write_bytes(("\r\n".join(rows) + "\r\n").encode("utf-8"))


def main():
    rng = random.Random(20260331)
    (DATA / "exports").mkdir(parents=True, exist_ok=True)
    shops = {
        "berlin": sales(rng, "berlin", 62, ["0", "0", "0", "10", "2.5"]),
        "leeds": sales(rng, "leeds", 58, ["0", "0", "5", "12.5"]),
        "austin": sales(rng, "austin", 60, ["0", "0", "15", "7.5"]),
    }
    for line in shops["austin"]:
        line["counted"] = True
    berlin(rng, shops["berlin"])
    leeds(rng, shops["leeds"])
    austin(rng, shops["austin"])
    catalog = "sku,name,category\n" + "".join(f"{sku},{quoted(name)},{category}\n" for sku, name, category in CATALOG)
    (DATA / "catalog.csv").write_text(catalog, encoding="utf-8", newline="")
    fx = "month,currency,eur\n" + "".join(f"{m},{c},{v}\n" for m, c, v in FX)
    (DATA / "fx.csv").write_text(fx, encoding="utf-8", newline="")
    ledger = {
        "catalog": {sku: category for sku, _, category in CATALOG},
        "fx": FX,
        "lines": [line for lines in shops.values() for line in lines if line["counted"]],
    }
    (ROOT / "tests").mkdir(exist_ok=True)
    text = json.dumps(ledger, ensure_ascii=False).replace('{"shop"', '\n{"shop"')
    (ROOT / "tests" / "ledger.json").write_text(text + "\n", encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
