"""Judges the build plan against one computed here by plain reachability from untouched copies of the input."""

import json
import re
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data"


def reach(graph):
    """For each node all nodes that can be reached from it by at least one edge."""
    result = {}
    for start in graph:
        seen, queue = set(), list(graph[start])
        while queue:
            node = queue.pop()
            if node not in seen:
                seen.add(node)
                queue.extend(graph[node])
        result[start] = seen
    return result


def expected():
    everything = json.loads((DATA / "packages.json").read_text(encoding="utf-8"))
    here = {name: entry for name, entry in everything.items() if "platforms" not in entry or "linux" in entry["platforms"]}

    def meet(name):
        if name in here:
            return name
        offers = [(-entry.get("priority", 0), other) for other, entry in here.items() if name in entry.get("provides", ())]
        return min(offers)[1] if offers else None

    text = re.sub(r"#.*", "", (DATA / "targets.txt").read_text(encoding="utf-8"))
    needs = {name: {meet(other) for other in entry.get("requires", ())} - {name} for name, entry in here.items()}
    wishes = {name: {meet(other) for other in entry.get("after", ())} - {name, None} for name, entry in here.items()}
    targets = {name for name in text.split() if name in here}
    closure = reach({**{name: others - {None} for name, others in needs.items()}})
    plan = targets.union(*(closure[name] for name in targets))
    needs = {name: needs[name] for name in plan}
    lacking = {name for name in plan if None in needs[name]}
    needs = {name: others - {None} for name, others in needs.items()}
    wishes = {name: wishes[name] & plan for name in plan}
    whole = reach({name: needs[name] | wishes[name] for name in plan})
    wishes = {name: {other for other in wishes[name] if name not in whole[other]} for name in plan}
    rest = reach({name: needs[name] | wishes[name] for name in plan})
    cycles = {tuple(sorted(other for other in rest[name] if name in rest[other])) for name in plan if name in rest[name]}
    circular = {name for cycle in cycles for name in cycle}
    below = reach(needs)
    blocked = {name for name in plan - circular if name in lacking or below[name] & (circular | lacking)}
    left, order = plan - circular - blocked, []
    while left:
        order.append(min(name for name in left if not (needs[name] | wishes[name]) & left))
        left.discard(order[-1])
    return order, sorted(map(list, cycles)), sorted(blocked)


ORDER, CYCLES, BLOCKED = expected()


def checks():
    found = grading.want(grading.load_json(grading.APP / "plan.json"), dict, "the file")
    if set(found) != {"order", "cycles", "blocked"}:
        raise grading.Refused(f"keys should be order, cycles, blocked; found {grading.shown(sorted(found))}")
    for key, values in found.items():
        inner = list if key == "cycles" else str
        if type(values) is not list or any(type(value) is not inner for value in values):
            raise grading.Refused(f"{key} has the wrong structure")
    right = len(set(found["order"]) & set(ORDER))
    return [
        ("order", found["order"] == ORDER, f"{right} of {len(ORDER)} packages right, or their order is not"),
        ("cycles", found["cycles"] == CYCLES, grading.shown(found["cycles"], 200)),
        ("blocked", found["blocked"] == BLOCKED, grading.shown(found["blocked"], 200)),
    ]


def combine(scores):
    order, cycles, blocked = scores
    return order / 2 + cycles / 4 + blocked / 4


grading.grade(checks, combine)
