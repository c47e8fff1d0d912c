"""Random inventories of the task's schema: rows for every table, from a seed. Used by generate.py and by the verifier."""

import random
from datetime import date, datetime, timedelta

SCHEMA = """
CREATE TABLE products(id INTEGER PRIMARY KEY, sku TEXT NOT NULL UNIQUE, name TEXT NOT NULL, category TEXT NOT NULL,
  reorder_point INTEGER, discontinued_on TEXT);
CREATE TABLE warehouses(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE movements(id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL, warehouse_id INTEGER NOT NULL, kind TEXT NOT NULL,
  quantity INTEGER, at TEXT NOT NULL, cancels INTEGER);
CREATE TABLE prices(product_id INTEGER NOT NULL, cents INTEGER NOT NULL, valid_from TEXT NOT NULL, valid_until TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer TEXT NOT NULL, ordered_on TEXT NOT NULL, status TEXT NOT NULL);
CREATE TABLE order_lines(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, product_id INTEGER, quantity INTEGER NOT NULL,
  cents INTEGER NOT NULL);
CREATE TABLE shipments(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, shipped_on TEXT NOT NULL);
"""
TODAY = date(2026, 6, 30)
FIRST = date(2026, 1, 2)
NAMES = ["bolt", "bracket", "cable tie", "clamp", "dowel", "filter", "gasket", "hinge", "hose", "lamp", "nut", "pulley", "seal", "valve"]
CUSTOMERS = ["Ahlberg & Co", "Brightside", "Café Nord", "Delta Works", "Elm Street Garage", "O'Neill Marine"]


def some_day(rng, since=FIRST, until=TODAY):
    return since + timedelta(days=rng.randrange((until - since).days + 1))


def products(rng):
    rows = []
    for number, name in enumerate(rng.sample(NAMES, len(NAMES)), 1):
        gone = None
        if rng.random() < 0.3:
            gone = rng.choice([TODAY, TODAY + timedelta(days=1), TODAY - timedelta(days=40), TODAY + timedelta(days=20)]).isoformat()
        point = None if rng.random() < 0.2 else rng.choice([0, 5, 10, 20, 40])
        rows.append([number, f"{name[:3].upper().strip()}-{rng.randrange(100, 999)}", name, rng.choice(["fixings", "plumbing", "light"]), point, gone])
    return rows


def movements(rng, goods, houses):
    drafts = []
    quiet = {row[0] for row in rng.sample(goods, 2)}
    for row in goods:
        if row[0] in quiet:
            continue
        for _ in range(rng.randrange(2, 8)):
            moment = datetime.combine(some_day(rng), datetime.min.time()) + timedelta(minutes=rng.randrange(360, 1200))
            kind = rng.choice(["in", "in", "in", "out", "out", "adjust"])
            quantity = rng.choice([-3, -1, 2, 4]) if kind == "adjust" else rng.choice([1, 2, 5, 10, 20, 30])
            drafts.append([row[0], rng.choice(houses)[0], kind, None if rng.random() < 0.07 else quantity, moment])
    drafts.sort(key=lambda draft: draft[4])
    rows = [[number, *draft[:4], draft[4].strftime("%Y-%m-%d %H:%M"), None] for number, draft in enumerate(drafts, 1)]
    for victim in rng.sample(rows, len(rows) // 9):
        again = datetime.fromisoformat(victim[5]) + timedelta(hours=rng.choice([0, 1, 30]))
        again = min(again, datetime.combine(TODAY, datetime.max.time()))
        rows.append([len(rows) + 1, *victim[1:5], again.strftime("%Y-%m-%d %H:%M"), victim[0]])
    return rows


def prices(rng, goods):
    rows = []
    for row in goods:
        start, cents = date(2025, 11, 1) + timedelta(days=rng.randrange(60)), rng.randrange(80, 9000)
        end = rng.choice([None, TODAY, TODAY + timedelta(days=1), TODAY - timedelta(days=25)])
        if end is None:
            rows.append([row[0], cents, start.isoformat(), None])
            continue
        rows.append([row[0], cents, start.isoformat(), end.isoformat()])
        if rng.random() < 0.6:
            rows.append([row[0], cents + rng.randrange(1, 300), max(end, TODAY).isoformat(), None])
    return rows


def trade(rng, goods):
    orders, lines, shipments = [], [], []
    unsold = {row[0] for row in rng.sample(goods, 3)}
    for number in range(1, 25):
        placed = some_day(rng, FIRST, TODAY - timedelta(days=12))
        status = rng.choice(["open", "closed", "closed", "closed", "cancelled"])
        orders.append([number, rng.choice(CUSTOMERS), placed.isoformat(), status])
        for _ in range(rng.choice([1, 2, 3])):
            product = None if rng.random() < 0.12 else rng.choice(goods)[0]
            if product in unsold and status != "cancelled":
                product = None
            lines.append([len(lines) + 1, number, product, rng.choice([1, 2, 4, 10]), rng.randrange(80, 9000)])
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            day = placed + timedelta(days=rng.randrange(0, 12))
            shipments.append([len(shipments) + 1, number, day.isoformat()])
    return orders, lines, shipments


def inventory(seed):
    """Table name -> rows."""
    rng = random.Random(seed)
    goods = products(rng)
    houses = [[number, name] for number, name in enumerate(rng.sample(["Harbour", "Airport", "Old Mill", "Annex"], 4), 1)]
    orders, lines, shipments = trade(rng, goods)
    return {
        "products": goods,
        "warehouses": houses,
        "movements": movements(rng, goods, houses[:3]),
        "prices": prices(rng, goods),
        "orders": orders,
        "order_lines": lines,
        "shipments": shipments,
    }
