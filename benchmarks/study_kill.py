"""kill -9 at random moments of whole studies, resume, compare with an unbroken run.

usage: python benchmarks/study_kill.py [--kills 200] [--save]

Studies of planted trials with records of about 200 bytes and 6 kB run in a child process that is killed at a random
moment, again and again on the same directory, until the wanted kills are done; a new study begins whenever one
finishes. The child writes every acknowledged key to a side file. Counted: acknowledged records that are lost, trials
recorded twice, kills after which the directory did not open, and whether the finished records equal, bit for bit, those
of an unbroken run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, save

from fairtrial import Study
from fairtrial.core.errors import FairtrialError
from fairtrial.store import RunDir, verify

DRIVER = """
import asyncio, os, sys
from pathlib import Path
from fairtrial import Study
from fairtrial.studies.runner import Silent, execute
from fairtrial.studies.study import bind, study_toml

acks = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Acknowledge(Silent):
    def started(self, planned, done):
        os.write(acks, b"started\\n")
    def record(self, record):
        os.write(acks, (str(record.key) + "\\n").encode())

study = Study.model_validate_json(Path(sys.argv[1]).read_text())
asyncio.run(execute(bind(study, Path.cwd()), Path(sys.argv[2]), study_toml(study), progress=Acknowledge()))
"""


def study(filler: int, seed: int) -> Study:
    return Study.model_validate(
        {
            "title": "kill",
            "kind": "planted",
            "suite": {"n": 400 if filler else 700, "filler": filler},
            "seed": seed,
            "repeats": 2,
            "arms": {
                "base": {"control": True, "seconds": 0.004},
                "more": {"effect": 0.2, "errors": 0.05, "seconds": 0.004},
            },
            "engine": {"backoff_s": 0.001, "in_flight": 16},
        }
    )


def canonical(path: Path) -> list[str]:
    with RunDir.open(path) as run:
        return sorted(record.model_dump_json(exclude={"timings", "provenance"}) for record in run.records(latest=True))


def acknowledged(file: Path) -> list[str]:
    if not file.exists():
        return []
    lines = file.read_text().splitlines()
    return [line for line in lines if line != "started"]


def kill_one(spec: Path, run: Path, acks: Path, rng: random.Random) -> bool:
    """Start a driver, kill it at a random moment after it began its trials; True when it had finished before."""
    before = acks.stat().st_size if acks.exists() else 0
    child = subprocess.Popen([sys.executable, "-c", DRIVER, str(spec), str(run), str(acks)], stderr=subprocess.PIPE)
    if rng.random() < 0.85:
        while child.poll() is None and (not acks.exists() or acks.stat().st_size == before):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.5)
    else:
        time.sleep(rng.random() * 1.0)  # while it still opens, recovers or plans
    child.send_signal(signal.SIGKILL)
    _, err = child.communicate()
    if child.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"a driver failed by itself: {err.decode()[-2000:]}")
    return child.returncode == 0


def campaign(filler: int, kills: int, rng: random.Random, root: Path) -> dict[str, object]:
    counts = {"kills": 0, "studies": 0, "acknowledged": 0, "lost": 0, "repeated": 0, "unreadable": 0, "different": 0}
    while counts["kills"] < kills:
        whole, name = study(filler, counts["studies"]), f"{filler}-{counts['studies']}"
        spec, broken, acks = root / f"{name}.json", root / name, root / f"{name}.acks"
        spec.write_text(whole.model_dump_json())
        while counts["kills"] < kills and not kill_one(spec, broken, acks, rng):
            counts["kills"] += 1
            try:
                if RunDir.exists(broken):
                    RunDir.open_writer(broken).close()
            except FairtrialError as error:
                counts["unreadable"] += 1
                print(f"did not open: {error}", file=sys.stderr)
        whole.run(broken)
        expected = canonical(whole.run(root / f"{name}-unbroken").path)
        with RunDir.open(broken) as run:
            stored = [str(record.key) for record in run.records()]
        seen = acknowledged(acks)
        counts["studies"] += 1
        counts["acknowledged"] += len(seen)
        counts["lost"] += len(set(seen) - set(stored))
        counts["repeated"] += len(stored) - len(set(stored)) + len(seen) - len(set(seen))
        counts["different"] += canonical(broken) != expected
        counts["unreadable"] += len(verify(broken))
    return {"filler": filler, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rng, rows = random.Random(2026), []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for filler in (0, 5600):
            rows.append(campaign(filler, options.kills // 2, rng, Path(folder)))
            print(json.dumps(rows[-1]), file=sys.stderr)
    names = ("kills", "studies", "acknowledged", "lost", "repeated", "unreadable", "different")
    lines = ["kill -9 of whole studies; compared with unbroken runs", machine(), ""]
    lines.append(f"{'record':>8}" + "".join(f"{name:>14}" for name in names))
    for row in rows:
        size = "6 kB" if row["filler"] else "200 B"
        lines.append(f"{size:>8}" + "".join(f"{row[name]:>14}" for name in names))
    text = "\n".join(lines)
    print(text)
    if options.save:
        print(f"\nsaved: {save('study-kill', text)}")
    failed = any(row[name] for row in rows for name in ("lost", "repeated", "unreadable", "different"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
