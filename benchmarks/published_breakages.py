"""What the gates find in the published samples of the Agent Data Protocol, beside what was counted by hand before.

    python benchmarks/published_breakages.py [FOLDER] [--save]

FOLDER holds one folder a data set with `sample_std.json` and `sample_sft*.json` (default: ../shared/cases/adp).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from machine import save

from fairtrial.formats.gates import published

FOLDER = Path(__file__).parents[2] / "shared" / "cases" / "adp"


def rows(folder):
    """(what, data, ours, counted before) for each breakage."""

    def load(data, name):
        path = folder / data / name
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def share(function, data, name, *more):
        values = load(data, name)
        return "not stored" if values is None else "{}/{}".format(*function(values, *more))

    for data, name, before in (
        ("mind2web", "sample_sft_openhands_1.json", "58/58 in five samples, of which one is stored"),
        ("nnetnav-live", "sample_sft_openhands.json", "2/60 with nnetnav-wa, which is not stored"),
        ("go-browse-wa", "sample_sft_openhands.json", "0/22"),
    ):
        yield "element not in the page", data, share(published.ungrounded_elements, data, name), before

    total = {"syntax error": 0, "different": 0, "same": 0}
    for data in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        for verdict, count in published.python_commands(load(data, "sample_sft_sweagent.json") or []).items():
            total[verdict] += count
    ours = f"{total['syntax error']} + {total['different']} of {sum(total.values())}, {total['same']} survive"
    before = "3 + 13 of 34, 18 survive (three samples; one is not stored)"
    yield "Python: syntax error + other program", "SWE-agent form", ours, before

    leaks = [published.leaked_thoughts(json.loads(path.read_text("utf-8"))) for path in folder.glob("*/*agentlab.json")]
    ours = f"{sum(leak.broken for leak in leaks)}/{sum(leak.of for leak in leaks)}"
    yield "call syntax as thought", "AgentLab form", ours, "30/30 of six data sets, of which five are stored"

    for data, before in (
        ("agentinstruct_alfworld", "84/84"),
        ("agentinstruct_kg", "65/65"),
        ("agentinstruct_webshop", "17/17"),
        ("codeactinstruct", "11/11"),
        ("nebius_swe_agent", "49/49"),
    ):
        yield "tool output labelled user", data, share(published.mislabelled, data, "sample_std.json"), before

    db = "agentinstruct_db"
    yield "claim without action", db, share(published.failing, db, "sample_std.json", "claims without action"), "all"
    for data in sorted(path.parent.name for path in folder.glob("*/sample_std.json")):
        ours = share(published.failing, data, "sample_std.json", "synthetic tagged")
        if not ours.startswith("0/"):
            yield "made-up praise, not marked", data, ours, "in 6 of 13 sets"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    lines = [f"{'breakage':38} {'data':24} {'ours':30} counted before"]
    lines += [f"{what:38} {data:24} {ours:30} {before}" for what, data, ours, before in rows(options.folder)]
    print("\n".join(lines))
    if options.save:
        print(save("published-breakages", "\n".join(lines)))


if __name__ == "__main__":
    main()
