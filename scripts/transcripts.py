"""Regenerate the command transcripts of the README and the docs, or check that they are still what the commands print.

A transcript is a fenced block right after a marker: `<!-- transcript: fairtrial run ... -->`. All transcripts of one
file run in order in one scratch folder that holds a link to recipes/. After `<!-- result: NAME -->` stands the newest
saved result of that benchmark (`<!-- result: NAME first 40 -->`: its first 40 lines). `--check` compares with durations
and digests masked, and exits 1 with the difference.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(<!-- transcript: (?P<command>[^\n]+) -->\n```text\n)(?P<body>.*?)(```)", re.DOTALL)
_RESULT = re.compile(
    r"(<!-- result: (?P<name>[a-z-]+)(?: first (?P<first>\d+))? -->\n```text\n)(?P<body>.*?)(?P<end>```)", re.DOTALL
)
_MASKS = (
    (re.compile(r"\b\d[\d,.]*\s?(s|ms|min|h)\b"), "TIME"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "DIGEST"),
    (re.compile(r"\b\d+\.\d{2}\b(?=\s*$|\s{2,})", re.MULTILINE), "SECONDS"),
    (re.compile(r"[ \t]+"), " "),
)


def run(command: str, folder: Path) -> str:
    """What a command prints (standard output, then the lines of standard error that are not progress)."""
    environment = {**os.environ, "NO_COLOR": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    text = f"$ {command}\n" + done.stdout + done.stderr
    lines = [
        line.rstrip() for line in text.splitlines() if not line.startswith(("Planned: ", "Proving ", "Recovered: "))
    ]
    lines = [line for line in lines if not re.fullmatch(r"\d+ trials.*", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def masked(text: str) -> list[str]:
    """Lines with what may differ between two runs taken out."""
    for pattern, mark in _MASKS:
        text = pattern.sub(mark, text)
    return [line.strip() for line in text.splitlines()]


def refreshed(path: Path) -> str:
    """A file's text with every transcript run again."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "recipes").symlink_to(ROOT / "recipes")
        text = _RESULT.sub(
            lambda block: block.group(1) + newest(block["name"], block["first"]) + block["end"], path.read_text("utf-8")
        )
        return _BLOCK.sub(lambda block: block.group(1) + run(block["command"], folder) + block.group(4), text)


def newest(name: str, first: str | None = None) -> str:
    """The newest saved result of a benchmark, with its date; only its first lines where so many are asked for."""
    found = sorted((ROOT / "benchmarks" / "results").glob(f"????-??-??-{name}.txt"))
    if not found:
        raise SystemExit(f"no saved result of {name}: run the benchmark with --save")
    lines = found[-1].read_text("utf-8").rstrip().splitlines()
    shown = lines if first is None or len(lines) <= int(first) else [*lines[: int(first)], "[...]"]
    return "\n".join([found[-1].name[:10], *shown, ""])


def main() -> int:
    """Rewrite the files, or with --check compare them."""
    check, stale = "--check" in sys.argv[1:], 0
    for path in FILES:
        before = path.read_text("utf-8")
        if not _BLOCK.search(before) and not _RESULT.search(before):
            continue
        after = refreshed(path)
        if not check:
            path.write_text(after, "utf-8")
            count = len(_BLOCK.findall(after)) + len(_RESULT.findall(after))
            print(f"{path.relative_to(ROOT)}: {count} blocks")
        elif masked(before) != masked(after):
            stale += 1
            names = (str(path.relative_to(ROOT)), "what the commands print now")
            print("\n".join(difflib.unified_diff(masked(before), masked(after), *names, n=1)))
    if stale:
        print(f"{stale} files are out of date: run scripts/transcripts.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
