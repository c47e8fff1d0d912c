"""Judges a cutting plan: feasible on untouched copies of the input, and how many new bars it needs beyond the proven minimum."""

import csv
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data"
SCALE = {"mm": 1, "cm": 10, "m": 1000}
REWARD = {0: 1.0, 1: 0.5, 2: 0.25, 3: 0.1, 4: 0.1}
STOCK = json.loads((DATA / "stock.json").read_text(encoding="utf-8"))


def order():
    """Length and quantity of each position that is to be cut."""
    lengths, quantities = {}, Counter()
    with (DATA / "order.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter=";"):
            if row["note"] != "cancelled":
                value = Decimal(row["length"].replace(" ", "").replace(",", ".")) * SCALE[row["unit"]]
                lengths[row["position"]] = int(value)
                quantities[row["position"]] = int(row["quantity"])
    return lengths, quantities


LENGTHS, QUANTITIES = order()
ROOM = {item["id"]: item["length_mm"] - STOCK["trim_mm"] for item in STOCK["offcuts"]}
# Each piece takes its length and one kerf from a bar that is one kerf longer; no plan can do with less than the sum.
NEEDED = sum((LENGTHS[key] + STOCK["kerf_mm"]) * count for key, count in QUANTITIES.items()) - sum(room + STOCK["kerf_mm"] for room in ROOM.values())
LEAST = -(-NEEDED // (STOCK["new_bar_mm"] + STOCK["kerf_mm"]))


def checks():
    plan = grading.want(grading.load_json(grading.APP / "cuts.json"), list, "the file")
    cut, used, new = Counter(), set(), 0
    for index, bar in enumerate(plan):
        name, pieces = grading.want(bar, dict, f"bar {index}").get("bar"), grading.want(bar.get("pieces"), list, f"pieces of bar {index}")
        if type(name) is not str or (name != "new" and (name not in ROOM or name in used)):
            raise grading.Refused(f"bar {index}: {grading.shown(name)} does not exist or is used twice")
        if not pieces or any(type(piece) is not str or piece not in LENGTHS for piece in pieces):
            raise grading.Refused(f"bar {index}: no pieces, or pieces that are not in the order")
        used.add(name)
        new += name == "new"
        length = sum(LENGTHS[piece] for piece in pieces) + STOCK["kerf_mm"] * (len(pieces) - 1)
        room = STOCK["new_bar_mm"] if name == "new" else ROOM[name]
        if length > room:
            raise grading.Refused(f"bar {index} ({name}): {length} mm do not fit in {room} mm")
        cut.update(pieces)
    if cut != QUANTITIES:
        raise grading.Refused(f"not every piece is cut exactly once: {grading.shown(dict((QUANTITIES - cut) + (cut - QUANTITIES)), 200)}")
    return [("feasible", 1.0, ""), ("number of new bars", REWARD.get(new - LEAST, 0.0), f"{new - LEAST} more than needed")]


grading.grade(checks, min)
