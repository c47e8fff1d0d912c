"""What benchmarks share: the line about the machine, the place of results, the command that they run."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

FAIRTRIAL = str(Path(sys.executable).parent / "fairtrial")


def machine() -> str:
    """One line: processor, cores, load, Python, kernel."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    load = os.getloadavg()[0]
    system = f"Python {platform.python_version()}, Linux {platform.release()}"
    return f"{model}, {os.cpu_count()} cores, load {load:.1f}, {system}"


def save(name: str, text: str) -> Path:
    """Write `text` to benchmarks/results/<date>-<name>.txt and return the path."""
    path = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-{name}.txt"
    path.write_text(text.rstrip() + "\n")
    return path
