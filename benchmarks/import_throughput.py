"""How fast trajectories are imported: MB per CPU second and memory, beside a loop of one pydantic object an event.

usage: python benchmarks/import_throughput.py [--save] [--mb 500] [--gb]

The file is message-shaped JSON Lines: OpenAI chat rows made from genuine coding-agent trajectories (SWE-smith samples,
../shared/cases), or from generated text of the same sizes where those are absent. `--gb` adds a file of 1 GB. CPU
seconds are user + system of one process each, as the kernel accounts them; memory is its peak resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, save

HERE = Path(__file__).parent
CASES = HERE.parents[1] / "shared" / "cases" / "adp"
PARSE = "import sys, orjson\nfor line in open(sys.argv[1], 'rb'): orjson.loads(line)"
CONVERT = """
import sys, orjson
from fairtrial.formats.reading import Options, read
with open(sys.argv[2], "wb") as out:
    for reading in read(sys.argv[1], Options(format="openai-chat")):
        out.write(orjson.dumps(reading.row, option=orjson.OPT_APPEND_NEWLINE))
"""
IMPORT = """
import sys
from pathlib import Path
from fairtrial.formats.importing import import_trajectories
from fairtrial.formats.reading import Options
summary = import_trajectories(sys.argv[1], Path(sys.argv[2]), Options(), card={card}, replace=True)[1]
assert summary.rejected == summary.flawed == 0, summary
"""


def genuine_rows() -> tuple[list[dict], str]:
    """Chat rows with tool calls, and where they are from."""
    path = CASES / "swe-smith" / "sample_raw.json"
    if not path.exists():
        pick = random.Random(0)
        text = lambda n: " ".join(pick.choice(("the", "file", "test", "return", "\n")) for _ in range(n // 4))  # noqa: E731
        turn = lambda n: [{"role": "assistant", "content": text(600)}, {"role": "user", "content": text(n)}]  # noqa: E731
        talks = [[m for _ in range(15) for m in turn(pick.choice((300, 3000, 9000)))] for _ in range(5)]
        return [{"id": str(n), "messages": with_calls(talk)} for n, talk in enumerate(talks)], "generated text"
    rows = [row["messages"] for row in json.loads(path.read_text())]
    return [{"id": str(n), "messages": with_calls(talk)} for n, talk in enumerate(rows)], "genuine SWE-smith samples"


def with_calls(talk: list[dict]) -> list[dict]:
    """The talk with each assistant turn as a tool call and the next user turn as its result."""
    out: list[dict] = []
    for message in talk:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        if message["role"] == "assistant":
            thought, _, body = text.partition("<function=")
            call = {"name": "bash", "arguments": json.dumps({"command": body})}
            calls = [{"id": f"call_{len(out)}", "type": "function", "function": call}]
            out.append({"role": "assistant", "content": thought, "tool_calls": calls})
        elif out and out[-1]["role"] == "assistant":
            out.append({"role": "tool", "tool_call_id": f"call_{len(out) - 1}", "content": text})
        else:
            out.append({"role": message["role"], "content": text})
    return out


def make(path: Path, rows: list[dict], megabytes: int) -> int:
    """Write rows again and again, each with its own id, until the file is large enough; returns messages written."""
    messages = number = 0
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            row = rows[number % len(rows)]
            file.write(json.dumps({**row, "id": f"{row['id']}-{number}"}, ensure_ascii=False) + "\n")
            number += 1
            messages += len(row["messages"])
    return messages


def cost(command: list[str]) -> tuple[float, float]:
    """CPU seconds and peak memory (MB) of a process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:3]} failed with status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def sample_sets() -> str:
    """CPU seconds for converting every sample set that is here."""
    from fairtrial.core.registry import names
    from fairtrial.formats.format import named
    from fairtrial.formats.reading import Options, read

    known = {name.replace("-", "_"): name for name in names("formats") if named(name).kind == "dataset"}
    known |= {"go_browse_wa": "go-browse", "nebius_swe_agent": "nebius-swe-agent"}
    begun, rows, folders = time.process_time(), 0, []
    for folder in sorted(CASES.iterdir()) if CASES.exists() else []:
        raw = folder / "sample_raw.json"
        name = known.get(folder.name.removeprefix("x_").replace("-", "_"))
        if raw.exists() and name is not None:
            rows += sum(reading.row is not None for reading in read(str(raw), Options(format=name)))
            folders.append(folder.name)
    spent = time.process_time() - begun
    return f"{len(folders)} sample sets of data sets, raw to trajectories: {rows} trajectories in {spent:.2f} CPU s"


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--save", action="store_true")
    options.add_argument("--mb", type=int, default=500)
    options.add_argument("--gb", action="store_true")
    chosen = options.parse_args()
    rows, origin = genuine_rows()
    lines = [f"Import of OpenAI chat rows ({origin})", machine(), ""]
    lines.append(f"{'what':52s}{'MB/CPU s':>10s}{'us/message':>12s}{'peak MB':>9s}{'ratio':>8s}")
    with tempfile.TemporaryDirectory() as name:
        folder, python = Path(name), sys.executable
        path, out = folder / "rows.jsonl", str(folder / "out")
        messages = make(path, rows, chosen.mb)
        megabytes = path.stat().st_size / 1e6
        commands = {
            "one pydantic object an event (the usual loop)": [
                python,
                str(HERE / "peers" / "pydantic_events.py"),
                str(path),
                out,
            ],
            "parsing alone (orjson.loads, the ceiling)": [python, "-c", PARSE, str(path)],
            "fairtrial: read, check, write": [python, "-c", CONVERT, str(path), out + "1"],
            "fairtrial import --no-card (ids, redaction, digests)": [
                python,
                "-c",
                IMPORT.format(card=False),
                str(path),
                out + "2",
            ],
            "fairtrial import (gates and quality card)": [python, "-c", IMPORT.format(card=True), str(path), out + "3"],
        }
        peer = 0.0
        for what, command in commands.items():
            seconds, memory = min(cost(command) for _ in range(3))
            peer = peer or seconds
            each = seconds / messages * 1e6
            lines.append(f"{what:52s}{megabytes / seconds:>10.0f}{each:>12.1f}{memory:>9.0f}{peer / seconds:>7.1f}x")
        lines.append(f"({megabytes:.0f} MB, {messages} messages; the best of three processes each)")
        if chosen.gb:
            make(path, rows, 1000)
            seconds, memory = cost([python, "-c", IMPORT.format(card=True), str(path), out + "4"])
            lines.append(f"1 GB with gates and card: {1000 / seconds:.0f} MB/CPU s, peak memory {memory:.0f} MB")
    lines += ["", sample_sets()]
    text = "\n".join(lines)
    print(text)
    if chosen.save:
        save("import-throughput", text)


if __name__ == "__main__":
    main()
