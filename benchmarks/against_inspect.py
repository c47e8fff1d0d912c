"""Fixed cost per sample, side by side with Inspect AI in one run.

usage: python benchmarks/against_inspect.py --inspect-python PATH [--save]

PATH is the Python of another virtual environment with `pip install inspect-ai`. Trivial samples (a question, a mock
answer, a scorer, a durable log), one sandboxed shell command, and memory from 1,000 to 20,000 samples (ours). Figures
are CPU seconds of the process (and of its children for the commands); wall time on a shared machine says nothing.
Inspect's "local" sandbox does not isolate; ours is bubblewrap with namespaces, no network and limits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from machine import machine, save

PEERS = Path(__file__).parent / "peers"


def measure(python: str, script: str, scenario: str, n: int) -> dict[str, float]:
    command = [python, str(PEERS / script), scenario, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} {scenario} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inspect-python", required=True)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    version = subprocess.run(
        [options.inspect_python, "-c", "import importlib.metadata as m; print(m.version('inspect-ai'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    ours, theirs = sys.executable, options.inspect_python
    plain = [measure(ours, "fairtrial_run.py", "plain", 1000), measure(theirs, "inspect_run.py", "plain", 1000)]
    boxes = [measure(ours, "fairtrial_run.py", "sandbox", 50), measure(theirs, "inspect_run.py", "sandbox", 50)]
    large = measure(ours, "fairtrial_run.py", "plain", 20_000)
    commands = 50 * 4
    rows = [
        ("CPU ms per trivial sample (1,000)", *(item["cpu_s"] for item in plain), 1.0),
        ("log bytes per trivial sample", *(item["bytes"] / 1000 for item in plain), 1.0),
        ("peak memory, MB", *(item["peak_mb"] for item in plain), 1.0),
        ("CPU ms per shell command", *(1000 * (b["cpu_s"] + b["children_s"]) / commands for b in boxes), 1.0),
    ]
    lines = [f"fairtrial against Inspect AI {version}", machine(), ""]
    lines.append(f"{'':<36}{'fairtrial':>12}{'Inspect':>12}{'ratio':>9}")
    lines += [f"{name:<36}{a:>12.2f}{b:>12.2f}{a / b:>9.3f}" for name, a, b, _ in rows]
    growth = large["peak_mb"] - plain[0]["peak_mb"]
    lines += [
        "",
        f"fairtrial, 20,000 samples: {1000 * large['cpu_s'] / 20_000:.2f} CPU ms and "
        f"{large['bytes'] / 20_000:.0f} bytes a sample, "
        f"peak {large['peak_mb']:.0f} MB ({growth:+.0f} MB against 1,000 samples)",
    ]
    text = "\n".join(lines)
    print(text)
    if options.save:
        print(f"\nsaved: {save('against-inspect', text)}")


if __name__ == "__main__":
    main()
