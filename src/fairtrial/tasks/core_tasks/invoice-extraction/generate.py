"""Makes this task's data: the documents in environment/data and the records behind them in tests/records.json.

Not part of the environment: run it by hand after a change, `python3 generate.py` (or `generate.py FOLDER` to write
elsewhere); the same data come out each time.
Records hold what the document is made from (lines, rates, terms); totals are worked out by the verifier on its own.
"""

import json
import random
import sys
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
CENT = Decimal("0.01")
MONTHS_FR = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split()
MONTHS_EN = "January February March April May June July August September October November December".split()
GOODS = {
    "de": ["Sechskantschraube M8x40", "Spannzange ER32", "Kühlschmierstoff 5 l", "Dichtungssatz FKM", "Fachbuch Zerspanung", "Messschieber digital"],
    "en": ["Ball bearing 6204-2RS", "Shrink film 500 mm", "Hex key set", "Safety gloves, size 9", "Label rolls", "Pallet wrap"],
    "us": ["Data logger DL-20", "Calibration service", "USB-C cable 2 ft", "Rack shelf 1U", "Annual support plan", "Sensor probe K"],
    "fr": ["Plaque gravée laiton", "Étui cuir sur mesure", "Pose sur site", "Vis inox A4", "Gabarit de perçage", "Peinture époxy"],
}


def amounts(doc):
    """Net, tax by rate and gross as printed (positive)."""
    by_rate = {}
    for _, quantity, price, rate in doc["lines"]:
        by_rate[rate] = by_rate.get(rate, Decimal(0)) + quantity * Decimal(price)
    main = max(by_rate, key=Decimal)
    goods = sum(by_rate.values())
    by_rate[main] += Decimal(doc["freight"]) - Decimal(doc["discount"])
    tax = {rate: (net * Decimal(rate) / 100).quantize(CENT, ROUND_HALF_UP) for rate, net in by_rate.items()}
    return goods, by_rate, tax, sum(by_rate.values()), sum(tax.values())


def comma(value, group="."):
    return f"{Decimal(value):,.2f}".replace(",", "_").replace(".", ",").replace("_", group)


def german(doc, swiss):
    goods, nets, taxes, net, tax = amounts(doc)
    money = (lambda value: f"{Decimal(value):,.2f}".replace(",", "'")) if swiss else comma
    credit = doc["kind"] == "credit_note"
    minus = "-" if credit else ""
    unit = "CHF" if swiss else "EUR"
    day = lambda value: date.fromisoformat(value).strftime("%d.%m.%Y")
    seller = "Alpwerk Präzision AG, Hauptstrasse 4, 8400 Winterthur" if swiss else "Kessler Werkzeughandel GmbH, Am Gleis 17, 44145 Dortmund"
    out = [seller, "", "Meridian Components B.V.", "Havenweg 12, 3011 Rotterdam", ""]
    out += [f"{'GUTSCHRIFT' if credit else 'RECHNUNG'}        {'Gutschrift' if credit else 'Rechnungs'}-Nr.: {doc['number']}"]
    if credit:
        out += [f"zu Rechnung Nr. {doc['refers']} vom {day(doc['refers_date'])}"]
    out += [f"Kunden-Nr.: 20391      Lieferschein: LS-{doc['noise']}", f"Lieferdatum: {day(doc['delivered'])}      Datum: {day(doc['issued'])}"]
    if doc["order"]:
        out += [f"Ihre Bestellung: {doc['order']} vom {day(doc['ordered'])}"]
    out += ["", "Pos  Artikel                          Menge    E-Preis      MwSt        Betrag", "-" * 78]
    running = Decimal(0)
    for place, (name, quantity, price, rate) in enumerate(doc["lines"], 1):
        running += quantity * Decimal(price)
        out.append(f"{place:>3}  {name:<30} {quantity:>7} {money(price):>10} {rate.replace('.', ','):>6} % {minus + money(quantity * Decimal(price)):>13}")
        if place % 3 == 1:
            out.append(f"     Charge {doc['noise'] + place}, Lagerort 2")
        if place == 4 and len(doc["lines"]) > 4:
            out += [f"{'Übertrag':>64} {minus + money(running):>13}", "", "\f" + f"Seite 2 zu {doc['number']}", f"{'Übertrag':>64} {minus + money(running):>13}"]
    out.append("-" * 78)
    if Decimal(doc["discount"]):
        out.append(f"{'abzgl. Rabatt':>64} {'-' + money(doc['discount']):>13}")
    if Decimal(doc["freight"]):
        out.append(f"{'Versand und Verpackung':>64} {money(doc['freight']):>13}")
    out.append(f"{'Nettobetrag ' + unit:>64} {minus + money(net):>13}")
    for rate, amount in taxes.items():
        out.append(f"{'MwSt ' + rate.replace('.', ',') + ' % auf ' + money(nets[rate]):>64} {minus + money(amount):>13}")
    out.append(f"{('Gutschriftsbetrag ' if credit else 'Rechnungsbetrag ') + unit:>64} {minus + money(net + tax):>13}")
    out.append("")
    if not credit:
        out.append(f"Zahlbar innerhalb von 10 Tagen mit 2 % Skonto, innerhalb von {doc['term']} Tagen ohne Abzug.")
    out += [f"USt-IdNr. / UID: {doc['tax_id_printed']}    Ihre USt-IdNr.: NL 8123 45 678 B01", "Steuer-Nr. des Finanzamts auf Anfrage"]
    return out


def english(doc):
    goods, nets, taxes, net, tax = amounts(doc)
    credit = doc["kind"] == "credit_note"
    money = lambda value: (f"(£{Decimal(value):,.2f})" if credit else f"£{Decimal(value):,.2f}")
    issued = date.fromisoformat(doc["issued"])
    written = lambda value: f"{value.day} {MONTHS_EN[value.month - 1]} {value.year}"
    out = ["Northfield Supplies Ltd", "Unit 6, Canal Road, Leeds LS12 2PU", f"VAT Reg. No. {doc['tax_id_printed']}", ""]
    out += [f"{'CREDIT NOTE' if credit else 'INVOICE':^70}", "", f"{'To: Meridian Components B.V.':<40}{'Credit no.' if credit else 'Invoice no.':<14}{doc['number']}"]
    out += [f"{'    Havenweg 12':<40}{'Tax point':<14}{written(issued)}", f"{'    3011 Rotterdam':<40}{'Account':<14}MER{doc['noise']}"]
    if credit:
        out.append(f"{'':<40}{'Against inv.':<14}{doc['refers']}")
    if doc["order"]:
        out.append(f"{'':<40}{'Your ref.':<14}{doc['order']}")
    else:
        out.append(f"{'':<40}{'Your ref.':<14}by telephone")
    out += ["", "Description                      Qty   Unit price   VAT         Amount", "=" * 70]
    for name, quantity, price, rate in doc["lines"]:
        out.append(f"{name:<30} {quantity:>5} {Decimal(price):>12,.2f} {rate + '%':>5} {money(quantity * Decimal(price)):>14}")
    out.append("=" * 70)
    out.append(f"{'Goods total':>54} {money(goods):>15}")
    if Decimal(doc["discount"]):
        out.append(f"{'Less trade discount':>54} {'-' + money(doc['discount']):>15}")
    if Decimal(doc["freight"]):
        out.append(f"{'Carriage':>54} {money(doc['freight']):>15}")
    for rate, amount in taxes.items():
        out.append(f"{'VAT @ ' + rate + '% on ' + format(nets[rate], ',.2f'):>54} {money(amount):>15}")
    out += [f"{'TOTAL CREDIT' if credit else 'TOTAL':>54} {money(net + tax):>15}", ""]
    if not credit and doc["printed_due"]:
        due = issued + timedelta(days=doc["term"])
        out.append(f"Payment to reach us no later than {written(due)}. 1.5% discount if paid within 7 days.")
    elif not credit:
        out.append(f"Terms: strictly {doc['term']} days net from tax point.")
    return [*out, "Registered in England 0311 9274. Goods remain our property until paid."]


def american(doc):
    goods, nets, taxes, net, tax = amounts(doc)
    issued = date.fromisoformat(doc["issued"])
    us = lambda value: f"{value.month:02}/{value.day:02}/{value.year}"
    out = ["COBALT DATA INC.   2200 Ridge Ave   Austin TX 78704", "", f"Invoice # {doc['number']}            Customer # {doc['noise']}"]
    out += [f"Ship date {us(date.fromisoformat(doc['delivered']))}       Invoice date {us(issued)}"]
    out += [f"P.O. # {doc['order'] or 'N/A'}          Terms: NET {doc['term']}", "Bill to: Meridian Components B.V., Rotterdam NL", ""]
    out += ["ITEM                              QTY      RATE          EXT", "-" * 62]
    for name, quantity, price, _ in doc["lines"]:
        out.append(f"{name:<30} {quantity:>6} {Decimal(price):>10,.2f} {quantity * Decimal(price):>12,.2f}")
        if "service" in name or "plan" in name:
            out.append("    (see statement of work 4 for scope; qty in units)")
    out += ["-" * 62, f"{'Subtotal':>48} {'$' + format(goods, ',.2f'):>13}"]
    if Decimal(doc["discount"]):
        out.append(f"{'Promo discount':>48} {'($' + format(Decimal(doc['discount']), ',.2f') + ')':>13}")
    if Decimal(doc["freight"]):
        out.append(f"{'Shipping & handling':>48} {'$' + format(Decimal(doc['freight']), ',.2f'):>13}")
    rate = next(iter(taxes))
    out.append(f"{'Sales tax ' + rate + '%':>48} {'$' + format(tax, ',.2f'):>13}")
    out.append(f"{'Total':>48} {'$' + format(net + tax, ',.2f'):>13}")
    if Decimal(doc["deposit"]):
        out.append(f"{'Deposit received':>48} {'($' + format(Decimal(doc['deposit']), ',.2f') + ')':>13}")
        out.append(f"{'BALANCE DUE':>48} {'$' + format(net + tax - Decimal(doc['deposit']), ',.2f'):>13}")
    return [*out, "", "Remit in US dollars. Questions? billing desk, ext. 12", *([f"EIN {doc['tax_id']}"] if doc["tax_id"] else [])]


def french(doc):
    goods, nets, taxes, net, tax = amounts(doc)
    credit = doc["kind"] == "credit_note"
    money = lambda value: ("\N{MINUS SIGN}" if credit else "") + comma(value, "\N{NARROW NO-BREAK SPACE}") + "\N{NO-BREAK SPACE}€"
    def written(value):
        return f"{'1er' if value.day == 1 else value.day} {MONTHS_FR[value.month - 1]} {value.year}"
    issued = date.fromisoformat(doc["issued"])
    out = ["ATELIER ROUX SARL au capital de 8\N{NARROW NO-BREAK SPACE}000,00\N{NO-BREAK SPACE}€", "9 rue des Forges, 69007 Lyon", f"N° TVA intracommunautaire : {doc['tax_id_printed']}", ""]
    out += [f"{'AVOIR' if credit else 'FACTURE'} N° {doc['number']}", f"Lyon, le {written(issued)}", "Client : Meridian Components B.V. (TVA NL812345678B01)"]
    if credit:
        out.append(f"Annule partiellement la facture N° {doc['refers']} du {written(date.fromisoformat(doc['refers_date']))}")
    if doc["order"]:
        out.append(f"Votre commande n° {doc['order']} du {written(date.fromisoformat(doc['ordered']))}")
    out += ["", "Désignation                     Qté        P.U. HT     Montant HT", "." * 68]
    for name, quantity, price, _ in doc["lines"]:
        first, _, second = name.partition(" sur ")
        out.append(f"{first:<28} {quantity:>6} {comma(price, ' '):>14} {money(quantity * Decimal(price)):>16}")
        if second:
            out.append(f"  sur {second}")
    out.append("." * 68)
    if Decimal(doc["discount"]):
        out.append(f"{'Remise exceptionnelle':>50} {chr(0x2212) + comma(doc['discount'], chr(0x202F)) + chr(0xA0) + '€':>17}")
    if Decimal(doc["freight"]):
        out.append(f"{'Frais de port':>50} {money(doc['freight']):>17}")
    out.append(f"{'Total HT':>50} {money(net):>17}")
    for rate, amount in taxes.items():
        out.append(f"{'TVA ' + rate.replace('.', ',') + ' %':>50} {money(amount):>17}")
    out.append(f"{'Total TTC':>50} {money(net + tax):>17}")
    if Decimal(doc["deposit"]):
        out.append(f"{'Acompte versé':>50} {chr(0x2212) + comma(doc['deposit'], chr(0x202F)) + chr(0xA0) + '€':>17}")
        out.append(f"{'Net à payer':>50} {money(net + tax - Decimal(doc['deposit'])):>17}")
    if not credit and doc["printed_due"]:
        out += ["", f"Échéance : {written(issued + timedelta(days=doc['term']))}. Escompte pour paiement sous 8 jours : 1 %."]
    elif not credit:
        out += ["", f"Règlement à {doc['term']} jours date de facture."]
    return out


STYLES = {
    # style: (renderer, currency, rates, number of documents, credit notes among them, goods)
    "german": (lambda doc: german(doc, False), "EUR", ["19", "19", "7"], 4, 1, "de"),
    "swiss": (lambda doc: german(doc, True), "CHF", ["8.1", "8.1", "2.6"], 2, 0, "de"),
    "english": (english, "GBP", ["20", "20", "5", "0"], 4, 1, "en"),
    "american": (american, "USD", ["8.25"], 3, 0, "us"),
    "french": (french, "EUR", ["20"], 3, 1, "fr"),
}
TAX_IDS = {
    "german": ("DE 811 907 344", "DE811907344"), "swiss": ("CHE-114.902.551 MWST", "CHE-114.902.551MWST"),
    "english": ("GB 427 1180 93", "GB427118093"), "american": (None, None), "french": ("FR 27 482 991 036", "FR27482991036"),
}  # fmt: skip
NUMBERS = {
    "german": "RE-2026-{:04}", "swiss": "26{:05}", "english": "NS/{:05}", "american": "{:06}-A", "french": "F2026-{:03}",
}  # fmt: skip


def record(rng, style, credit):
    _, currency, rates, _, _, goods = STYLES[style]
    issued = date(2026, 1, 5) + timedelta(days=rng.randrange(140))
    count = rng.choice([1, 2, 3, 4, 5, 6])
    lines = []
    for name in rng.sample(GOODS[goods], count):
        price = Decimal(rng.choice([85, 1290, 3475, 24900, 131250, 9999])) / 100 + Decimal(rng.randrange(0, 99)) / 100
        lines.append([name, rng.choice([1, 2, 6, 12, 50]), str(price), rng.choice(rates)])
    goods_total = sum(quantity * Decimal(price) for _, quantity, price, _ in lines)
    share = Decimal(rng.choice(["0", "0", "0.05", "0.1"])) if not credit else Decimal(0)
    number = NUMBERS[style].format(rng.randrange(100, 999))
    printed, tax_id = TAX_IDS[style]
    if credit:
        number = {"german": "GS-{}", "english": "CN/{}", "french": "A2026-{}"}[style].format(rng.randrange(100, 999))
    return {
        "style": style,
        "kind": "credit_note" if credit else "invoice",
        "number": number,
        "issued": issued.isoformat(),
        "delivered": (issued - timedelta(days=rng.randrange(1, 25))).isoformat(),
        "ordered": (issued - timedelta(days=rng.randrange(26, 60))).isoformat(),
        "refers": NUMBERS[style].format(rng.randrange(10, 99)),
        "refers_date": (issued - timedelta(days=rng.randrange(20, 50))).isoformat(),
        "order": rng.choice([None, f"PO-{rng.randrange(4400, 4999)}", f"45000{rng.randrange(10000, 99999)}"]),
        "currency": currency,
        "lines": lines,
        "discount": str((goods_total * share).quantize(CENT, ROUND_HALF_UP)),
        "freight": rng.choice(["0", "0", "14.90", "85.00"]) if not credit else "0",
        "deposit": rng.choice(["0", "250.00"]) if goods_total > 500 and not credit else "0",
        "term": rng.choice([14, 30, 45, 60]),
        "printed_due": rng.random() < 0.5,
        "tax_id": tax_id,
        "tax_id_printed": printed,
        "noise": rng.randrange(1000, 9000),
    }


def main():
    rng = random.Random(81907)
    documents = []
    for style, (_, _, _, count, credits, _) in STYLES.items():
        documents += [record(rng, style, place < credits) for place in range(count)]
    rng.shuffle(documents)
    folder = ROOT / "environment/data"
    folder.mkdir(parents=True, exist_ok=True)
    for place, doc in enumerate(documents, 1):
        doc["file"] = f"doc-{place:02}.txt"
        ending = "\r\n" if place % 5 == 0 else "\n"
        text = ending.join(STYLES[doc["style"]][0](doc)) + ending
        (folder / doc["file"]).write_bytes(text.encode("utf-8"))
    (ROOT / "tests").mkdir(exist_ok=True)
    keep = ["file", "kind", "number", "issued", "order", "currency", "lines", "discount", "freight", "term", "tax_id"]
    rows = ",\n".join(json.dumps({key: doc[key] for key in keep}, ensure_ascii=False) for doc in documents)
    (ROOT / "tests/records.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
