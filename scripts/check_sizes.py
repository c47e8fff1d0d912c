"""The size rule: modules of at most 600 lines (400 is the aim), functions of at most 60, and no drawer modules."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE, AIM, FUNCTION = 600, 400, 60
DRAWERS = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
SHIPPED_TASKS = ROOT / "src" / "fairtrial" / "tasks" / "core_tasks"


def problems(path: Path) -> Iterator[str]:
    """What is too large in one module."""
    text = path.read_text("utf-8")
    lines = text.count("\n")
    name = path.relative_to(ROOT)
    if path.name in DRAWERS:
        yield f"{name}: name the module after what it does"
    if lines > MODULE:
        yield f"{name}: {lines} lines, at most {MODULE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION}"


def main() -> int:
    """Check the package, the scripts and the benchmarks; prints what breaks the rule."""
    paths = [
        path
        for folder in ("src", "scripts", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not (path.is_relative_to(SHIPPED_TASKS) and path.parent != SHIPPED_TASKS)
    ]
    found = [problem for path in paths for problem in problems(path)]
    long = [path for path in paths if AIM < path.read_text("utf-8").count("\n") <= MODULE]
    for problem in found:
        print(problem)
    for path in long:
        print(f"note: {path.relative_to(ROOT)} is over {AIM} lines")
    print(f"{len(paths)} modules, {len(found)} over the limits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
