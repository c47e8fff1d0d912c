"""The verbs verify and reindex."""

from __future__ import annotations

import sys
from pathlib import Path

from fairtrial.app.cli import print_json
from fairtrial.core.errors import UserError


def verify(path: Path, as_json: bool) -> int:
    """Check every byte of a run directory; returns the exit code (4 where something is wrong)."""
    from fairtrial.store import RunDir
    from fairtrial.store import verify as check

    if not RunDir.exists(path):
        raise UserError(f"{path} is no run directory: it has no manifest.json")
    problems = check(path)
    damage = [problem for problem in problems if not problem.harmless]
    if as_json:
        print_json(
            {
                "path": str(path),
                "ok": not damage,
                "problems": [str(problem) for problem in damage],
                "mended_by_a_resume": [str(problem) for problem in problems if problem.harmless],
            }
        )
    else:
        for problem in problems:
            sys.stdout.write(f"{problem}{' (the next resume mends it)' if problem.harmless else ''}\n")
        many = f"{len(damage)} problem{'s' if len(damage) != 1 else ''} found"
        sys.stdout.write(f"{path}: {many if damage else 'every acknowledged byte is as written'}\n")
    return 4 if damage else 0


def reindex(path: Path, as_json: bool) -> None:
    """Rebuild the index from the segments."""
    from fairtrial.store import reindex as rebuild

    count = rebuild(path).records
    if as_json:
        print_json({"path": str(path), "records": count})
    else:
        sys.stdout.write(f"{path}: index rebuilt from {count} records\n")
