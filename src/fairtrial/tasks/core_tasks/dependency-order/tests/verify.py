"""Judges the build plan against one computed here by plain reachability from untouched copies of the input."""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from guard import Refused, check, read_json, short, verdict, want  # noqa: E402

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


def judge(checks):
    found = want(read_json("/app/plan.json"), dict, "the file")
    if set(found) != {"order", "cycles", "blocked"}:
        raise Refused(f"keys should be order, cycles, blocked; found {short(sorted(found))}")
    for key, values in found.items():
        inner = list if key == "cycles" else str
        if type(values) is not list or any(type(value) is not inner for value in values):
            raise Refused(f"{key} has the wrong structure")
    same = check(checks, "order", found["order"] == ORDER, f"{len(set(found['order']) & set(ORDER))} of {len(ORDER)} packages right, or their order is not", 0.5)
    same += check(checks, "cycles", found["cycles"] == CYCLES, short(found["cycles"], 200), 0.25)
    return same + check(checks, "blocked", found["blocked"] == BLOCKED, short(found["blocked"], 200), 0.25)


if __name__ == "__main__":
    verdict(judge)
