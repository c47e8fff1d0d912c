"""Plans the build: closure, strongly connected components twice, then a heap."""

import heapq
import json
from pathlib import Path

APP = Path("/app")
packages = {
    name: entry
    for name, entry in json.loads((APP / "packages.json").read_text(encoding="utf-8")).items()
    if "linux" in entry.get("platforms", ["linux"])
}
lines = (APP / "targets.txt").read_text(encoding="utf-8").splitlines()
targets = [word for word in (line.split("#")[0].strip() for line in lines) if word in packages]
providers = {}
for name in sorted(packages, key=lambda name: (-packages[name].get("priority", 0), name)):
    for virtual in packages[name].get("provides", []):
        providers.setdefault(virtual, name)


def resolve(name):
    return name if name in packages else providers.get(name)


def edges(name, key):
    found = {resolve(other) for other in packages[name].get(key, [])}
    return found - {name}


def components(nodes, graph):
    """Strongly connected components (Kosaraju, without recursion)."""
    def visit(start, links, seen, leave):
        stack = [(start, iter(sorted(links[start])))]
        seen.add(start)
        while stack:
            node, rest = stack[-1]
            for other in rest:
                if other not in seen:
                    seen.add(other)
                    stack.append((other, iter(sorted(links[other]))))
                    break
            else:
                leave.append(node)
                stack.pop()

    order, seen = [], set()
    for node in sorted(nodes):
        if node not in seen:
            visit(node, graph, seen, order)
    back = {node: set() for node in nodes}
    for node in nodes:
        for other in graph[node]:
            back[other].add(node)
    number, seen = {}, set()
    for node in reversed(order):
        if node not in seen:
            group = []
            visit(node, back, seen, group)
            number.update(dict.fromkeys(group, node))
    return number


plan, missing, queue = set(), set(), list(targets)
while queue:
    name = queue.pop()
    if name in plan:
        continue
    plan.add(name)
    for other in edges(name, "requires"):
        if other is None:
            missing.add(name)
        else:
            queue.append(other)

hard = {name: edges(name, "requires") & plan for name in plan}
soft = {name: edges(name, "after") & plan for name in plan}
group = components(plan, {name: hard[name] | soft[name] for name in plan})
soft = {name: {other for other in soft[name] if group[other] != group[name]} for name in plan}
group = components(plan, {name: hard[name] | soft[name] for name in plan})
members = {}
for name in plan:
    members.setdefault(group[name], []).append(name)
cycles = sorted(sorted(names) for names in members.values() if len(names) > 1)
dead = {name for cycle in cycles for name in cycle}
blocked = missing - dead
while True:
    more = {name for name in plan - dead - blocked if hard[name] & (dead | blocked)}
    if not more:
        break
    blocked |= more

alive = plan - dead - blocked
waiting = {name: (hard[name] | soft[name]) & alive for name in alive}
heap = sorted(name for name in alive if not waiting[name])
order = []
while heap:
    name = heapq.heappop(heap)
    order.append(name)
    for other in alive:
        if name in waiting[other]:
            waiting[other].discard(name)
            if not waiting[other]:
                heapq.heappush(heap, other)

(APP / "plan.json").write_text(json.dumps({"order": order, "cycles": cycles, "blocked": sorted(blocked)}, indent=1) + "\n", encoding="utf-8")
print(len(order), "built,", len(cycles), "cycles,", len(blocked), "blocked")
