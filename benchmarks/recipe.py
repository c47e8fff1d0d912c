"""Run a study (or continue it) and save what it prints.

usage: python benchmarks/recipe.py recipes/dsa.toml --run runs/dsa [--set KEY=VALUE ...] [--save [--name NAME]]

As `fairtrial run`, with the machine and the CPU time beside it. Saved as NAME, or <name of the recipe>-recipe.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import time
from pathlib import Path

from machine import FAIRTRIAL, machine, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="the run directory, made or resumed")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--only-report", action="store_true", help="of what the run directory holds already")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--name")
    options = parser.parse_args()
    cost = ""
    if not options.only_report:
        started = time.monotonic()
        overrides = [part for override in options.overrides for part in ("--set", override)]
        command = [FAIRTRIAL, "run", str(options.recipe), "--out", str(options.run), *overrides]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1):
            raise SystemExit(done.returncode)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        cost = f"{time.monotonic() - started:.0f} s of wall time, {spent.ru_utime + spent.ru_stime:.0f} s of CPU; "
    shown = subprocess.run([FAIRTRIAL, "report", str(options.run)], check=True, capture_output=True, text=True)
    report = shown.stdout.split("\nReport: ")[0].strip()
    text = f"{report}\n\n{cost}{machine()}"
    print(text)
    if options.save:
        print(f"saved: {save(options.name or f'{options.recipe.stem}-recipe', text)}")


if __name__ == "__main__":
    main()
