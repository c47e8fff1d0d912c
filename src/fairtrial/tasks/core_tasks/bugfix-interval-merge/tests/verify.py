"""Grades the repaired package: random calls and a few large ones, compared with sets of integers held here."""

import random
import secrets
from pathlib import Path

import grading
import model

TESTS = Path(__file__).resolve().parent
LARGE = 20_000


def ask(cases, **shared):
    code = (TESTS / "driver.py").read_text(encoding="utf-8")
    answers = grading.run_candidate(code, {"cases": cases, "shared": shared})
    if not isinstance(answers, list) or len(answers) != len(cases):
        raise grading.Refused(f"the code under test did not answer every case ({grading.shown(answers)})")
    if not all(isinstance(answer, list) and len(answer) == 2 for answer in answers):
        raise grading.Refused("the code under test answered out of form")
    return answers


def same(answer, truth):
    if isinstance(truth, list):
        truth = [list(pair) for pair in truth]
    return type(answer) is type(truth) and answer == truth


def small(rng):
    calls = [call for _ in range(150) for call in model.random_calls(rng)]
    good, untouched = {}, []
    for (name, args), (answer, kept) in zip(calls, ask(calls), strict=True):
        good.setdefault(name, []).append(same(answer, model.answer(name, args)))
        untouched.append(kept is True)
    found = [(name, float(all(marks)), f"{sum(marks)} of {len(marks)} random calls") for name, marks in good.items()]
    return [*found, ("arguments stay as they were", float(all(untouched)), f"{sum(untouched)} of {len(untouched)} calls")]


def large(rng):
    """Many intervals, and very long ones: with results that are short and known from how the input is made."""
    step = rng.randrange(7, 12)
    comb = [[k * step, k * step + step - 2] for k in range(LARGE)]
    teeth = [[k * step + step - 2, k * step + step - 1] for k in range(LARGE)]
    rng.shuffle(comb)
    rng.shuffle(teeth)
    span = LARGE * step
    far = 10**12
    cases = [
        (["total", ["comb"]], LARGE * (step - 2)),
        (["intersect", ["comb", "teeth"]], []),
        (["covers", ["comb", "comb"]], True),
        (["covers", ["comb", "teeth"]], False),
        (["free_slots", ["comb", 0, span, 3]], []),
        (["subtract", ["comb", [[1, span + 5]]]], [(0, 1)]),
        (["subtract", ["comb", "teeth"]], [(k * step, k * step + step - 2) for k in range(LARGE)]),
        (["subtract", [[[0, far]], [[1, far - 1]]]], [(0, 1), (far - 1, far)]),
        (["gaps", ["comb", 0, 2 * step]], [(step - 2, step), (2 * step - 2, 2 * step)]),
        (["total", [[[-far, far], [0, 1]]]], 2 * far),
    ]
    try:
        answers = ask([case for case, _ in cases], comb=comb, teeth=teeth)
    except grading.Refused as error:
        return [("large inputs", 0.0, str(error))]
    return [
        (f"large input: {case[0]}", float(same(answer, truth)), "")
        for (case, truth), (answer, _) in zip(cases, answers, strict=True)
    ]


def shipped_tests():
    code = (
        "import io,json,sys,unittest;w=sys.stdout.write;i=json.loads(sys.stdin.read());sys.path.insert(0,'/app');"
        "g={'__name__':'shipped','__file__':'/app/tests/x.py'};exec(i['source'],g);m=type(sys)('shipped');m.__dict__.update(g);"
        "r=unittest.TextTestRunner(stream=io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromModule(m));"
        "w(chr(10)+i['nonce']+' '+json.dumps([r.testsRun,len(r.failures)+len(r.errors)])+chr(10))"
    )
    source = (TESTS / "shipped.py").read_text(encoding="utf-8")
    return grading.run_candidate(code, {"source": source}) == [5, 0]


def checks():
    rng = random.Random(secrets.randbits(64))
    found = small(rng)
    if all(score for _, score, _ in found):
        found += large(rng)
    return [*found, ("the package's own tests", float(shipped_tests()), "")]


grading.grade(checks, grading.all_or_nothing)
