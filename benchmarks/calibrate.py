"""False alarms and power of the three recipes of the embedded model, at the sizes that they have.

usage: python benchmarks/calibrate.py --runs runs/calibrations [--save]

Plays one arm of each against itself (kept in the folder, and gone on with), then simulates 1,000 studies for each line.
"""

from __future__ import annotations

import argparse
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import FAIRTRIAL, machine, save

RECIPES = Path(__file__).parent.parent / "recipes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda name: _calibrated(name, options.runs / name), ("graph", "fold", "skills"))
        text = "\n\n".join([*parts, machine()])
    print(text)
    if options.save:
        print(f"saved: {save('calibrate', text)}")


def _calibrated(name: str, out: Path) -> str:
    command = [FAIRTRIAL, "calibrate", str(RECIPES / f"{name}.toml"), "--out", str(out), "--quiet"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr.strip() or done.returncode)
    told = done.stdout.strip().replace(str(out), out.name)
    return f"$ fairtrial calibrate recipes/{name}.toml\n{told}"


if __name__ == "__main__":
    main()
