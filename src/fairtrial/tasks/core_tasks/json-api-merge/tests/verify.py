"""Judges the merged list against one computed here from untouched copies of the exports."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data" / "exports"
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
TEXTS = ("name", "email", "phone", "plan", "country")


def micros(text):
    """An instant as microseconds since 1970."""
    return (datetime.fromisoformat(text.replace("Z", "+00:00")) - EPOCH) // timedelta(microseconds=1)


def versions():
    """(customer, instant, whether crm, fields) for each version that belongs to the current exports."""
    load = lambda path: json.loads(path.read_text(encoding="utf-8"))  # noqa: E731
    manifest = load(DATA / "manifest.json")
    for path in (DATA / "crm").iterdir():
        page = load(path)
        if page["export_id"] == manifest["crm"]["export_id"]:
            for row in page.get("data", ()):
                yield int(row["id"][2:]), micros(row["updated_at"]), True, row
    name = manifest["billing"]["first"]
    while name is not None:
        part = load(DATA / "billing" / name)
        for row in part["items"]:
            yield int(row["id"]), micros(row["updated_at"]), False, row
        name = part["next"]


def cents(text):
    """Cents of a decimal string with two places, without floats."""
    whole, _, rest = text.lstrip("-").partition(".")
    value = int(whole) * 100 + int((rest + "00")[:2])
    return -value if text.startswith("-") else value


def expected():
    everything = list(versions())
    result = []
    for customer in sorted({item[0] for item in everything}):
        mine = [item[1:] for item in everything if item[0] == customer]
        end = max((moment for moment, _, row in mine if row.get("deleted") is True), default=-1)
        mine = [item for item in mine if item[0] > end]
        if not mine:
            continue

        def decided(field):
            told = [(moment, crm, row[field]) for moment, crm, row in mine if field in row]
            return max(told, key=lambda item: item[:2])[2] if told else None

        entry = {"id": customer}
        for field in TEXTS:
            value = (decided(field) or "").strip() or None
            entry[field] = value.lower() if value and field == "email" else value
        balance = decided("balance")
        entry["balance_cents"] = None if balance is None else cents(balance)
        last = max(item[0] for item in mine) // 1_000_000
        entry["updated_at"] = (EPOCH + timedelta(seconds=last)).strftime("%Y-%m-%dT%H:%M:%SZ")
        result.append(entry)
    return result


TRUTH = expected()


def checks():
    found = grading.want(grading.load_json(grading.APP / "customers.json"), list, "the file")
    keys = set(TRUTH[0])
    form = all(type(item) is dict and set(item) == keys for item in found)
    ids = [item.get("id") if type(item) is dict else None for item in found]
    listed = ids == [item["id"] for item in TRUTH] and all(type(number) is int for number in ids)
    rows = [
        ("entries are objects with the right keys", form, f"the keys of an entry are {sorted(keys)}"),
        ("customers and their order", listed, grading.shown(ids, 200)),
    ]
    by_id = {item["id"]: item for item in found if type(item) is dict and type(item.get("id")) is int}
    for field in [*TEXTS, "balance_cents", "updated_at"]:
        wrong = []
        for truth in TRUTH:
            value = by_id.get(truth["id"], {}).get(field, "missing")
            if type(value) is not type(truth[field]) or value != truth[field]:
                wrong.append(truth["id"])
        rows.append((field, not wrong, f"wrong for {len(wrong)} of {len(TRUTH)} customers"))
    return rows


grading.grade(checks, grading.all_or_nothing)
