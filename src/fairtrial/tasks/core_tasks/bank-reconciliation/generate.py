"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

The files are committed; running this is not needed to run the task.
"""

import csv
import random
import shutil
import sys
from datetime import date, timedelta
from pathlib import Path

RNG = random.Random(1207)
HOLIDAYS = [date(2026, 4, 3), date(2026, 4, 6), date(2026, 5, 1)]
FIRMS = ["Müller & Söhne", "Café Noir", "Hafen GmbH", "Nørrebro ApS", "Bäckerei Groß", "Tall Oaks Ltd", "Lumière SARL"]
STYLES = ["INV-{y}-{n:04d}", "inv {y}/{n}", "Inv.{y}.{n:05d}", "INV{y} {n:04d}", "RE INV: {y}-{n:03d}", "INV {y} {n}"]


def banking(day):
    while day.weekday() > 4 or day in HOLIDAYS:
        day += timedelta(days=1)
    return day


def later(day, count):
    day = banking(day)
    for _ in range(count):
        day = banking(day + timedelta(days=1))
    return day


def german(cents):
    """An amount as the bank prints it, in one of its moods."""
    text = f"{abs(cents) // 100:,}".replace(",", ".") + f",{abs(cents) % 100:02d}"
    if cents < 0:
        return RNG.choice([f"-{text}", f"{text}-", f"{text} S"])
    return RNG.choice([text, text, f"{text} H"])


def build():
    """Entries (date, text, cents, batch) and lines (date, text, cents)."""
    entries, lines = [], []
    days = [date(2026, 3, 23) + timedelta(days=index) for index in range(38)]
    for number in (7, 12, 18, 41, 42, 55, 63, 70, 81, 99, 120, 142):
        day, cents = RNG.choice(days), RNG.randrange(4000, 400000)
        firm = RNG.choice(FIRMS)
        entries.append((day, f"{firm} {RNG.choice(STYLES[:2] + STYLES[3:4]).format(y=2026, n=number)}", cents, ""))
        if number != 99:  # late payers: far outside of any window by date
            paid = later(day, RNG.choice([0, 2, 5, 9, 14]))
            amount = cents - 1500 if number == 63 else cents
            lines.append((paid, f"{RNG.choice(['SEPA', 'Gutschrift', ''])} {firm.upper()} {RNG.choice(STYLES).format(y=2026, n=number)} dankt", amount))
    # The same number in another year, and a purchase order with the number of an invoice.
    entries.append((date(2026, 3, 25), "Hafen GmbH INV-2025-0042", 81900, ""))
    lines.append((date(2026, 4, 16), "HAFEN GMBH inv 2025/42", 81900))
    entries.append((date(2026, 4, 8), "Tall Oaks Ltd PO 2026-0012", -81900, ""))
    lines.append((date(2026, 4, 20), "PO2026/12 TALL OAKS", -81900))
    # One invoice paid in two equal instalments.
    for index in (0, 1):
        entries.append((date(2026, 4, 1) + timedelta(days=14 * index), f"Café Noir INV-2026-0200 part {index + 1}", 25000, ""))
        lines.append((date(2026, 4, 9) + timedelta(days=13 * index), "CAFÉ NOIR INV 2026 200 RATE", 25000))
    # Batches: card takings. One holds an entry that is matched by its reference already; one is short.
    for batch, size in (("B7", 4), ("B17", 3), ("B18", 5), ("B21", 2)):
        total, day = 0, RNG.choice(days[:30])
        for _ in range(size):
            cents = RNG.randrange(500, 20000)
            entries.append((day, "card takings", cents, batch))
            total += cents
        if batch == "B17":
            entries.append((day, "card takings, Lumière SARL INV-2026-0300", 33300, batch))
            lines.append((later(day, 6), "LUMIÈRE INV2026-0300", 33300))
        lines.append((later(day, 1), f"KARTENUMSATZ {batch}. EINREICHUNG", total - (210 if batch == "B21" else 0)))
    # By amount and date: round sums that recur, over Easter, in the wrong direction, a day too late.
    for day, cents, wait in ((date(2026, 4, 2), -45000, 3), (date(2026, 4, 4), -45000, 0), (date(2026, 4, 3), -1990, 2), (date(2026, 4, 10), -1990, 3),
                             (date(2026, 4, 13), -1990, 1), (date(2026, 4, 17), -1990, 4), (date(2026, 4, 29), -120000, 3), (date(2026, 4, 24), 9900, 1),
                             (date(2026, 4, 25), 9900, 0), (date(2026, 4, 25), 9900, None), (date(2026, 4, 14), -7350, 2), (date(2026, 4, 22), -310055, 1)):
        text = RNG.choice(["rent", "software", "cleaning", "hardware, misc.", "refund, see mail"])
        entries.append((day, text, cents, ""))
        if wait is not None:
            lines.append((later(day, wait), RNG.choice(["DAUERAUFTRAG", "LASTSCHRIFT", "ÜBERWEISUNG"]), cents))
    lines.append((date(2026, 4, 14), "RÜCKLASTSCHRIFT", 7350))
    for day in (date(2026, 3, 31), date(2026, 4, 30)):
        lines.append((day, "KONTOFÜHRUNG, ENTGELT", -1290))
    lines.append((date(2026, 4, 12), "GUTSCHRIFT UNBEKANNT B7X", 1234567))
    return entries, lines


def main(root):
    data = root / "environment" / "data"
    data.mkdir(parents=True, exist_ok=True)
    entries, lines = build()
    RNG.shuffle(entries)
    entries.sort(key=lambda item: item[0].toordinal() // 9)  # roughly by date, as people book
    lines.sort(key=lambda item: item[0])
    with (data / "ledger.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("entry", "booked", "text", "debit", "credit", "batch"))
        for index, (day, text, cents, batch) in enumerate(entries, 1):
            amount = f"{abs(cents) // 100}.{abs(cents) % 100:02d}"
            writer.writerow((f"L{index:03d}", day.isoformat(), text, amount if cents > 0 else "", amount if cents < 0 else "", batch))
    with (data / "statement.csv").open("w", newline="", encoding="iso-8859-1") as stream:
        writer = csv.writer(stream, delimiter=";", lineterminator="\r\n")
        writer.writerow(("Zeile", "Valuta", "Verwendungszweck", "Betrag"))
        for index, (day, text, cents) in enumerate(lines, 1):
            writer.writerow((index, day.strftime("%d.%m.%Y"), text, german(cents)))
    (data / "holidays.txt").write_text("".join(f"{day.isoformat()}\n" for day in HOLIDAYS), encoding="utf-8")
    shutil.rmtree(root / "tests" / "data", ignore_errors=True)
    shutil.copytree(data, root / "tests" / "data")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
