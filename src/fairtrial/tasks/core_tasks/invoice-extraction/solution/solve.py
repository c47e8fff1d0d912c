"""Reads each supplier's layout with its own rules, checks the arithmetic of what was read, writes the list."""

import json
import re
import unicodedata
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

INBOX = Path("/app/inbox")
MONTHS = {
    "january": 1, "february": 2, "march": 3, "april": 4, "may": 5, "june": 6, "july": 7, "august": 8, "september": 9,
    "october": 10, "november": 11, "december": 12, "janvier": 1, "février": 2, "mars": 3, "avril": 4, "mai": 5, "juin": 6,
    "juillet": 7, "août": 8, "septembre": 9, "octobre": 10, "novembre": 11, "décembre": 12,
}  # fmt: skip


def amount(text, decimal):
    """A printed amount as Decimal; `decimal` is the decimal mark of the document."""
    negative = "(" in text or "-" in text or "\N{MINUS SIGN}" in text
    digits = re.sub(rf"[^\d{re.escape(decimal)}]", "", text).replace(decimal, ".")
    return -Decimal(digits) if negative else Decimal(digits)


def first(pattern, text, default=None):
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1).strip() if match else default


def last_column(label, text, decimal):
    """Amounts at the ends of the lines that begin with a label."""
    return [amount(found, decimal) for found in re.findall(rf"^\s*{label}.*?\s{{2,}}(\S[^\n]*)$", text, re.MULTILINE)]


def worded(text):
    day, month, year = text.split()
    return date(int(year), MONTHS[month.lower()], int(re.sub(r"\D", "", day)))


def german(text):
    decimal = "." if "Nettobetrag CHF" in text else ","
    day, month, year = first(r"\bDatum: (\S+)", text).split(".")
    term = first(r"innerhalb von (\d+) Tagen ohne Abzug", text)
    return {
        "number": first(r"-Nr\.: (\S+)", text),
        "credit": "GUTSCHRIFT" in text,
        "issued": date(int(year), int(month), int(day)),
        "due": term and int(term),
        "currency": first(r"Nettobetrag (\w+)", text),
        "net": sum(last_column("Nettobetrag", text, decimal)),
        "tax": sum(last_column("MwSt", text, decimal)),
        "gross": sum(last_column(r"(?:Rechnungs|Gutschrifts)betrag", text, decimal)),
        "order": first(r"Ihre Bestellung: (\S+)", text),
        "tax_id": first(r"USt-IdNr\. / UID: (.+?)\s{3,}", text),
        "lines": len(re.findall(r"^ +\d+  \S.*%", text, re.MULTILINE)),
    }


def english(text):
    credit = "CREDIT NOTE" in text
    term = first(r"strictly (\d+) days", text)
    due = first(r"no later than (\d+ \w+ \d+)", text)
    tax, gross = sum(last_column("VAT @", text, ".")), last_column("TOTAL", text, ".")[0]
    net = sum(sum(last_column(label, text, ".")) for label in ("Goods total", "Less trade discount", "Carriage"))
    body = text.split("=" * 70)[1]
    order = first(r"Your ref\. +(.+)$", text)
    return {
        "number": first(r"(?:Invoice|Credit) no\. +(\S+)", text),
        "credit": credit,
        "issued": worded(first(r"Tax point +(.+)$", text)),
        "due": worded(due) if due else term and int(term),
        "currency": "GBP",
        "net": net,
        "tax": tax,
        "gross": gross,
        "order": order if any(c.isdigit() for c in order) else None,
        "tax_id": first(r"VAT Reg\. No\. (.+)$", text),
        "lines": len([line for line in body.splitlines() if line.strip()]),
    }


def american(text):
    month, day, year = first(r"Invoice date (\S+)", text).split("/")
    order = first(r"P\.O\. # (\S+)", text)
    body = text.split("-" * 62)[1]
    net = sum(sum(last_column(label, text, ".")) for label in ("Subtotal", "Promo discount", "Shipping"))
    return {
        "number": first(r"Invoice # (\S+)", text),
        "credit": False,
        "issued": date(int(year), int(month), int(day)),
        "due": int(first(r"Terms: NET (\d+)", text)),
        "currency": "USD",
        "net": net,
        "tax": sum(last_column("Sales tax", text, ".")),
        "gross": last_column("Total", text, ".")[0],
        "order": None if order == "N/A" else order,
        "tax_id": first(r"EIN (.+)$", text),
        "lines": len(re.findall(r"^\S.*\.\d\d$", body, re.MULTILINE)),
    }


def french(text):
    body = text.split("." * 68)[1]
    due, term = first(r"Échéance : (\S+ \S+ \d{4})", text), first(r"Règlement à (\d+) jours", text)
    return {
        "number": first(r"^(?:FACTURE|AVOIR) N° (\S+)", text),
        "credit": bool(re.search(r"^AVOIR", text, re.MULTILINE)),
        "issued": worded(first(r"^Lyon, le (.+)$", text)),
        "due": worded(due) if due else term and int(term),
        "currency": "EUR",
        "net": sum(last_column("Total HT", text, ",")),
        "tax": sum(last_column("TVA \\d", text, ",")),
        "gross": sum(last_column("Total TTC", text, ",")),
        "order": first(r"Votre commande n° (\S+)", text),
        "tax_id": first(r"TVA intracommunautaire : (.+)$", text),
        "lines": body.count("€"),
    }


LAYOUTS = {"Kessler": german, "Alpwerk": german, "Northfield": english, "COBALT": american, "ATELIER ROUX": french}


def extract(path):
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    text = text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", "\N{PUNCTUATION SPACE}")
    text = unicodedata.normalize("NFC", text)
    read = next(layout for start, layout in LAYOUTS.items() if text.startswith(start))(text)
    assert read["net"] + read["tax"] == read["gross"], (path.name, read)
    assert (read["net"] < 0) == read["credit"], path.name
    due = read["due"]
    if isinstance(due, int):
        due = read["issued"] + timedelta(days=due)
    return {
        "file": path.name,
        "kind": "credit_note" if read["credit"] else "invoice",
        "number": read["number"],
        "issue_date": read["issued"].isoformat(),
        "due_date": None if read["credit"] else due.isoformat(),
        "currency": read["currency"],
        "net": float(read["net"]),
        "tax": float(read["tax"]),
        "gross": float(read["gross"]),
        "purchase_order": read["order"],
        "supplier_tax_id": read["tax_id"] and read["tax_id"].replace(" ", ""),
        "lines": read["lines"],
    }


def main():
    found = [extract(path) for path in sorted(INBOX.glob("doc-*.txt"))]
    Path("/app/invoices.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


main()
