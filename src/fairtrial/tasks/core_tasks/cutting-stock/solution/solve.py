"""Fills one bar after the other with the best subset that holds the longest piece left; restarts with some randomness until the bound is met."""

import csv
import json
import random
import time
from pathlib import Path

APP = Path("/app")
stock = json.loads((APP / "stock.json").read_text(encoding="utf-8"))
kerf = stock["kerf_mm"]
pieces = []
with (APP / "order.csv").open(newline="", encoding="utf-8") as stream:
    for row in csv.DictReader(stream, delimiter=";"):
        if row["note"].strip() != "cancelled":
            scale = {"mm": 1, "cm": 10, "m": 1000}[row["unit"]]
            length = round(float(row["length"].replace(" ", "").replace(",", ".")) * scale)
            pieces += [(length + kerf, row["position"])] * int(row["quantity"])
pieces.sort(reverse=True)
room = stock["new_bar_mm"] + kerf
offcuts = {item["id"]: item["length_mm"] - stock["trim_mm"] + kerf for item in stock["offcuts"]}
need = sum(size for size, _ in pieces) - sum(offcuts.values())
bound = max(0, -(-need // room))
rng = random.Random(1)


def best_fill(items, capacity, first):
    """A subset (indices) of the sizes with the largest sum up to capacity, holding item 0 if `first`; ties broken at random."""
    reach = {0: ()}
    order = list(range(1 if first else 0, len(items)))
    rng.shuffle(order)
    if first:
        reach = {items[0][0]: (0,)}
    for index in order:
        for total, chosen in list(reach.items()):
            new = total + items[index][0]
            if new <= capacity and new not in reach:
                reach[new] = (*chosen, index)
    return reach[max(reach)]


best, until = None, time.monotonic() + 60
while time.monotonic() < until and (best is None or best[0] > bound):
    left, plan = list(pieces), []
    for name, capacity in sorted(offcuts.items(), key=lambda item: rng.random()):
        chosen = best_fill(left, capacity, False)
        if chosen:
            plan.append({"bar": name, "pieces": [left[index][1] for index in chosen]})
        left = [item for index, item in enumerate(left) if index not in chosen]
    new = 0
    while left and (best is None or new < best[0]):
        chosen = best_fill(left, room - rng.choice([0, 0, 1, 2, 3, 5]), True)
        plan.append({"bar": "new", "pieces": [left[index][1] for index in chosen]})
        left = [item for index, item in enumerate(left) if index not in chosen]
        new += 1
    if not left and (best is None or new < best[0]):
        best = new, plan

(APP / "cuts.json").write_text(json.dumps(best[1], indent=1) + "\n", encoding="utf-8")
print(best[0], "new bars, at least", bound, "are needed")
