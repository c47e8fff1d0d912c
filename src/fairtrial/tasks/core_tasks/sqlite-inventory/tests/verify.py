"""Grades six queries by their results on the database handed out and on others; what is right is worked out in Python."""

import secrets
from pathlib import Path

import fill
import grading

TESTS = Path(__file__).resolve().parent
SHIPPED = 20260630
TODAY = fill.TODAY.isoformat()


def effective(base):
    """Movements that count, as (product, warehouse, day, signed quantity)."""
    void = {row[6] for row in base["movements"]} | {row[0] for row in base["movements"] if row[6] is not None}
    return [
        (row[1], row[2], row[5][:10], -row[4] if row[3] == "out" else row[4])
        for row in base["movements"]
        if row[0] not in void and row[4] is not None
    ]


def stock(base):
    total = {row[0]: 0 for row in base["products"]}
    for product, _, _, quantity in effective(base):
        total[product] += quantity
    return total


def q1(base):
    total = stock(base)
    return sorted([row[1], total[row[0]]] for row in base["products"])


def q2(base):
    total = stock(base)
    rows = []
    for number, sku, _, _, point, gone in base["products"]:
        if (gone is None or gone > TODAY) and point is not None and total[number] < point:
            rows.append([sku, total[number], point - total[number]])
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def q3(base):
    live = {row[0] for row in base["orders"] if row[3] != "cancelled"}
    sold = {row[2] for row in base["order_lines"] if row[1] in live}
    return sorted([row[1]] for row in base["products"] if row[0] not in sold)


def q4(base):
    first = {}
    for _, order, day in base["shipments"]:
        first[order] = min(day, first.get(order, day))
    live = {row[0] for row in base["orders"] if row[3] != "cancelled"}
    category = {row[0]: row[3] for row in base["products"]} | {None: "other"}
    sums = {}
    for _, order, product, quantity, cents in base["order_lines"]:
        if order in live and order in first:
            key = (first[order][:7], category[product])
            sums[key] = sums.get(key, 0) + quantity * cents
    return [[*key, revenue] for key, revenue in sorted(sums.items())]


def q5(base):
    total, rows = stock(base), []
    for number, sku, *_ in base["products"]:
        if total[number] > 0:
            valid = [row[1] for row in base["prices"] if row[0] == number and row[2] <= TODAY and (row[3] is None or TODAY < row[3])]
            rows.append([sku, total[number] * valid[0] if valid else None])
    return sorted(rows, key=lambda row: (row[1] is None, -(row[1] or 0), row[0]))


def q6(base):
    rows = []
    for house, name in base["warehouses"]:
        days = {}
        for _, where, day, quantity in effective(base):
            if where == house:
                days[day] = days.get(day, 0) + quantity
        level, best = 0, None
        for day in sorted(days):
            level += days[day]
            if best is None or level > best[2]:
                best = [name, day, level]
        if best:
            rows.append(best)
    return sorted(rows)


QUERIES = {"q1": q1, "q2": q2, "q3": q3, "q4": q4, "q5": q5, "q6": q6}


def telling(base):
    """Whether every question has something to find in this database."""
    return all(query(base) for query in QUERIES.values()) and any(row[1] is None for row in q5(base))


def bases():
    """The database handed out, and four that the agent has not seen."""
    found = [fill.inventory(SHIPPED)]
    while len(found) < 5:
        base = fill.inventory(secrets.randbits(64))
        if telling(base):
            found.append(base)
    return found


def same(rows, truth):
    def cell(one, other):
        if isinstance(other, int):
            return grading.is_number(one) and one == other
        return type(one) is type(other) and one == other

    return isinstance(rows, list) and len(rows) == len(truth) and all(
        len(row) == len(right) and all(map(cell, row, right)) for row, right in zip(rows, truth, strict=True)
    )


def ask(queries, tables, timeout_s):
    """For each query its rows (or an error's words) on each database."""
    code = (TESTS / "driver.py").read_text(encoding="utf-8")
    payload = {"schema": fill.SCHEMA, "bases": tables, "queries": queries}
    answers = grading.run_candidate(code, payload, timeout_s)
    if not isinstance(answers, list) or [len(answer) for answer in answers if isinstance(answer, list)] != [len(tables)] * len(queries):
        raise grading.Refused("the queries gave no usable answer")
    return answers


def answers_of(queries, tables):
    """All at once; one by one when some query brings the whole run down, so that it spoils only itself."""
    try:
        return ask(queries, tables, 12)
    except grading.Refused:
        pass
    found = []
    for query in queries[:6]:
        try:
            found += ask([query], tables, 6)
        except grading.Refused as error:
            found.append([str(error)] * len(tables))
    return found


def checks():
    found, names, queries = [], [], []
    for name in QUERIES:
        try:
            queries.append(grading.read_text(grading.APP / "queries" / f"{name}.sql", 20_000))
            names.append(name)
        except grading.Refused as error:
            found.append((name, 0.0, str(error)))
    tables = bases()
    for name, answers in zip(names, answers_of(queries, tables) if queries else [], strict=True):
        marks = [same(rows, QUERIES[name](base)) for rows, base in zip(answers, tables, strict=True)]
        words = next((rows for rows in answers if isinstance(rows, str)), "")
        told = f"this database {'right' if marks[0] else 'wrong'}, {sum(marks[1:])} of {len(marks) - 1} others right {words}"
        found.append((name, float(all(marks)), grading.shown(told, 300)))
    return found


grading.grade(checks, grading.mean)
