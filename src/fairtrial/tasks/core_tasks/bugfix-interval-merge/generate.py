"""This task's environment (environment/project) is written by hand; its hidden cases are drawn in tests/verify.py.

Not part of the environment. Run by hand, `python3 generate.py` shows on how many of 1,000 random inputs each shipped
function is wrong, so that a change of the task can be seen to keep its bugs.
"""

import copy
import importlib.util
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def load(name, path):
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main():
    shipped = load("spans", HERE / "environment/project/spans/__init__.py")
    model = load("model", HERE / "tests/model.py")
    rng = random.Random(1)
    wrong = {}
    for _ in range(1000):
        for name, args in model.random_calls(rng):
            truth = model.answer(name, copy.deepcopy(args))
            try:
                given = getattr(shipped, name)(*args)
            except ValueError:
                given = "ValueError"
            wrong[name] = wrong.get(name, 0) + (given != truth)
    for name, count in wrong.items():
        print(f"{name:12} {count:4} of 1000 wrong")


if __name__ == "__main__":
    main()
