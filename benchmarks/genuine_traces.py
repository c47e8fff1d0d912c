"""Genuine traces through import, show and export, as a user types them: what was detected and what was said.

usage: python benchmarks/genuine_traces.py [--save]

Takes every trace file under ../shared/cases (data that nobody here wrote). The columns count trajectories, values that
the format's own rules leave out, rejected values, flaws, characters dropped with a reason and unaccounted for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machine import machine, save

CASES = Path(__file__).parents[2] / "shared" / "cases"


def files() -> Iterator[Path]:
    """Trace files, in order; the published training forms only where they hold turns."""
    yield from sorted(CASES.glob("adp/*/sample_raw*.json"))
    yield from sorted(CASES.glob("adp/*/sample_std.json"))
    yield from sorted(CASES.glob("adp/*/sample_sft*.json"))
    yield from sorted(CASES.glob("runtime/*.traj.json"))


def verb(*args: str | Path) -> tuple[int, str, str]:
    """Run one verb."""
    command = [sys.executable, "-m", "fairtrial.app.cli", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr.strip()


def through(path: Path, folder: Path) -> str:
    """One line of the table."""
    name = f"{path.parent.name}/{path.name}"
    collection = folder / "c"
    code, out, error = verb("import", path, "--out", collection, "--replace", "--json")
    if not out:
        return f"{name:52s}{error}"
    said = json.loads(out)
    listed, _, _ = verb("show", collection)
    first = json.loads((collection / "trajectories.jsonl").read_text().partition("\n")[0] or "{}").get("id", "")
    shown = verb("show", collection, first)[0] if first else listed
    exported, _, words = verb("export", collection, folder / "x.jsonl", "--to", "openai-chat")
    codes = f"{code} {listed} {shown} {exported}"
    format = "+".join(said["formats"])
    left, flaws = sum(said["skipped"].values()), sum(said["flaws"].values())
    dropped = sum(said["text"]["dropped"].values())
    return (
        f"{name:52s}{format:24s}{said['trajectories']:>6}{left:>6}{said['rejected']:>6}{flaws:>7}{dropped:>9}  {codes}"
        f"{'  ' + (error or words) if code or exported else ''}"
    )


def main() -> None:
    """Run and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--save", action="store_true")
    chosen = options.parse_args()
    head = f"{'file':52s}{'detected':24s}{'kept':>6}{'left':>6}{'rej.':>6}{'flaws':>7}{'dropped':>9}  exit codes"
    lines = ["Genuine traces: import, show (list), show (one), export --to openai-chat", machine(), "", head]
    with tempfile.TemporaryDirectory() as folder:
        for path in files():
            lines.append(through(path, Path(folder)))
    if len(lines) == 4:
        lines.append("no genuine traces here (expected under ../shared/cases)")
    text = "\n".join(lines)
    print(text)
    if chosen.save:
        save("genuine-traces", text)


if __name__ == "__main__":
    main()
