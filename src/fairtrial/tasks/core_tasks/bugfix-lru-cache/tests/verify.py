"""Grades the repaired package: random operations, answers compared with a model of the contract held here."""

import random
import secrets
from pathlib import Path

import grading

TESTS = Path(__file__).resolve().parent
KEYS = ["a", "b", "c", "d", "e", "f"]
VALUES = [None, False, 0, "", 1, 2, "x", [1]]


class Model:
    """The contract, as plainly as it can be put: a list of [key, value, written], least recently used first."""

    def __init__(self, maxsize, ttl):
        self.maxsize, self.ttl, self.now, self.rows = maxsize, ttl, 0.0, []
        self.count = {"hits": 0, "misses": 0, "evictions": 0}

    def live(self):
        self.rows = [row for row in self.rows if self.ttl is None or self.now - row[2] < self.ttl]
        return self.rows

    def find(self, key):
        return next((row for row in self.live() if row[0] == key), None)

    def get(self, key, default=None):
        row = self.find(key)
        self.count["misses" if row is None else "hits"] += 1
        if row is None:
            return default
        self.rows.remove(row)
        self.rows.append(row)
        return row[1]

    def peek(self, key, default=None):
        row = self.find(key)
        return default if row is None else row[1]

    def put(self, key, value):
        self.delete(key)
        self.rows.append([key, value, self.now])
        self.trim()

    def trim(self):
        while len(self.live()) > self.maxsize:
            self.rows.pop(0)
            self.count["evictions"] += 1

    def delete(self, key):
        row = self.find(key)
        if row is not None:
            self.rows.remove(row)
        return row is not None

    def resize(self, maxsize):
        if not isinstance(maxsize, int) or maxsize < 1:
            raise ValueError
        self.maxsize = maxsize
        self.trim()

    def answers(self, ops):
        seen = []
        for name, *args in ops:
            if name == "tick":
                self.now += args[0]
            elif name == "len":
                seen.append(len(self.live()))
            elif name == "in":
                seen.append(self.find(args[0]) is not None)
            elif name == "keys":
                seen.append([row[0] for row in self.live()])
            elif name == "stats":
                seen.append(dict(self.count))
            else:
                try:
                    seen.append(getattr(self, name)(*args))
                except ValueError:
                    seen.append("ValueError")
        return seen


def cache_case(rng, ttl):
    ops = []
    for _ in range(60):
        key = rng.choice(KEYS)
        ops.append(
            rng.choice(
                [
                    ["put", key, rng.choice(VALUES)], ["put", key, rng.choice(VALUES)], ["put", key, rng.choice(VALUES)],
                    ["get", key, "no"], ["get", key], ["peek", key, "no"], ["in", key], ["len"], ["keys"], ["stats"],
                    ["delete", key], ["tick", rng.choice([0.5, 1, 2, 4])], ["tick", 1],
                    ["resize", rng.choice([0, 1, 2, 3, 4, 5])],
                ]
            )
        )  # fmt: skip
    ops += [["len"], ["keys"], ["stats"]]
    return {"kind": "cache", "maxsize": rng.randrange(1, 5), "ttl": ttl, "ops": ops}


def memo_case(rng, ttl):
    arguments = [[], [1], [1.0], [True], ["1"], [0], [False], [1, 2], [[1]], [None]]
    keywords = [[], [], [["a", 1], ["b", 2]], [["b", 2], ["a", 1]], [["a", 1.0], ["b", 2]], [["a", [1]]], [["fail", 1]]]
    calls = [[rng.choice([0, 0, 1, 3]), rng.choice(arguments), rng.choice(keywords)] for _ in range(70)]
    return {"kind": "memo", "maxsize": rng.choice([2, 5, 100]), "ttl": ttl, "calls": calls}


def typed(value):
    return type(value).__name__, repr(value)


def memo_answers(case):
    model, made, seen = Model(case["maxsize"], case["ttl"]), 0, []
    for tick, args, pairs in case["calls"]:
        model.now += tick
        cacheable = not any(isinstance(value, list) for value in [*args, *dict(pairs).values()])
        key = (tuple(map(typed, args)), frozenset((name, typed(value)) for name, value in pairs))
        if cacheable and model.find(key) is not None:
            seen.append([model.get(key), made])
            continue
        made += 1
        if dict(pairs).get("fail"):
            seen.append(["KeyError", made])
            continue
        answer = [made, type(args[0]).__name__] if args else None
        if cacheable:
            model.put(key, answer)
        seen.append([answer, made])
    return [*seen, ["function", len(model.live())]]


def exactly(one, other):
    """Equal, and of equal types all the way down (0 is not False)."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(exactly, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(exactly(one[key], other[key]) for key in one)
    return one == other


def shipped_tests():
    """The package's own tests, from a pristine copy, must pass: run beside the agent's code, counted here by nonce."""
    code = (
        "import io,json,sys,unittest;w=sys.stdout.write;i=json.loads(sys.stdin.read());sys.path.insert(0,'/app');"
        "g={'__name__':'shipped','__file__':'/app/tests/x.py'};exec(i['source'],g);m=type(sys)('shipped');m.__dict__.update(g);"
        "r=unittest.TextTestRunner(stream=io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromModule(m));"
        "w(chr(10)+i['nonce']+' '+json.dumps([r.testsRun,len(r.failures)+len(r.errors)])+chr(10))"
    )
    source = (TESTS / "shipped.py").read_text(encoding="utf-8")
    return grading.run_candidate(code, {"source": source}) == [4, 0]


def checks():
    rng = random.Random(secrets.randbits(64))
    cases = [cache_case(rng, ttl) for ttl in [None] * 40 + [5] * 40 + [1, 2.5, 3, 8] * 10]
    cases += [memo_case(rng, ttl) for ttl in [None] * 20 + [4] * 20]
    for maxsize, ttl in [(0, None), (-1, 3), (2, 0), (2, -1)]:
        cases.append({"kind": "cache", "maxsize": maxsize, "ttl": ttl, "ops": []})
    code = (TESTS / "driver.py").read_text(encoding="utf-8")
    answers = grading.run_candidate(code, {"cases": cases})
    if not isinstance(answers, list) or len(answers) != len(cases):
        raise grading.Refused("the code under test did not answer every case")
    groups = {}
    for case, answer in zip(cases, answers, strict=True):
        if not case.get("ops") and case["kind"] == "cache":
            name, truth = "bad arguments are refused", ["ValueError"]
        elif case["kind"] == "cache":
            name = "operations with expiry" if case["ttl"] else "operations without expiry"
            truth = Model(case["maxsize"], case["ttl"]).answers(case["ops"])
        else:
            name, truth = "memoize", memo_answers(case)
        groups.setdefault(name, []).append(exactly(answer, truth))
    found = [(name, float(all(good)), f"{sum(good)} of {len(good)} sequences") for name, good in groups.items()]
    return [*found, ("the package's own tests", float(shipped_tests()), "")]


grading.grade(checks, grading.all_or_nothing)
