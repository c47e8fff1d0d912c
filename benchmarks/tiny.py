"""The embedded model in worlds that it has never seen, beside weights of the same shape that were never trained.

usage: python benchmarks/tiny.py [--folder runs/tiny] [--retrain [--seed N]] [--episodes 100] [--save]

Without --folder the weights that ship are tested. --retrain makes the folder first, from nothing: an hour to an hour
and a half, by the machine; what is in it already is kept. Saved as "tiny", or with --seed as "tiny-seed-N".
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from machine import machine, save

from fairtrial.models.embedded.kind import WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--retrain", action="store_true")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if options.retrain and options.folder == WEIGHTS:
        parser.error("--retrain needs --folder: what ships stays as it is")
    command = [
        sys.executable,
        "-m",
        "fairtrial.training.tiny",
        str(options.folder),
        "--episodes",
        str(options.episodes),
    ]
    command += [] if options.retrain else ["--test-only"]
    command += [] if options.seed is None else ["--seed", str(options.seed)]
    started = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or done.returncode)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    text = (
        f"{done.stdout.strip()}\n\n{size / 1e6:.1f} MB in all; {time.monotonic() - started:.0f} s of wall time, "
        f"{spent.ru_utime + spent.ru_stime:.0f} s of CPU; {machine()}"
    )
    print(text)
    if options.save:
        print(f"saved: {save('tiny' if options.seed is None else f'tiny-seed-{options.seed}', text)}")


if __name__ == "__main__":
    main()
