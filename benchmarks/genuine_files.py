"""Genuine task.toml and SKILL.md files: how many are read, and how many front matters get the reference verdict.

usage: python benchmarks/genuine_files.py FOLDER [--save]

FOLDER holds task folders (their programs may be missing: only declarations are read here) and skill_frontmatter.jsonl,
one line for each SKILL.md with its raw front matter and the errors that the reference validator (skills-ref) gives.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from machine import machine, save

from fairtrial.core.config import read_toml
from fairtrial.core.errors import UserError
from fairtrial.tasks.harbor.schema import parse_task_toml, strays
from fairtrial.tasks.skill import check_fields, parse_skill, read_skill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    lines: list[str] = []
    declared = sorted(options.folder.glob("*/task.toml"))
    unusual = 0
    for path in declared:
        try:
            unusual += bool(strays(parse_task_toml(read_toml(path), where=path.parent.name)))
        except UserError as error:
            lines.append(f"  not read: {error}")
    skills = sorted(path.parent for path in options.folder.glob("*/environment/skills/*/SKILL.md"))
    for folder in skills:
        try:
            read_skill(folder, lenient=True)
        except UserError as error:
            lines.append(f"  not read: {error}")
    rows = [json.loads(line) for line in (options.folder / "skill_frontmatter.jsonl").read_text("utf-8").splitlines()]
    table: Counter[tuple[bool, bool]] = Counter()
    for row in rows:
        fields, _, problems = parse_skill(f"---\n{row['frontmatter']}\n---\nbody\n")
        found = problems or check_fields(fields, row["dir_name"])
        ours, theirs = not any(problem.rejects for problem in found), not row["reference_errors"]
        table[ours, theirs] += 1
        if ours != theirs:
            lines.append(f"  differs: {row['path']}")
    text = "\n".join(
        [
            f"{len(declared)} task.toml and {len(skills)} SKILL.md, {len(lines)} not read; {unusual} have strays",
            f"{len(rows)} front matters: {table[True, True]} valid for both, {table[False, False]} rejected by both, "
            f"{table[True, False] + table[False, True]} verdicts differ from the reference",
            *lines,
            machine(),
        ]
    )
    print(text)
    if options.save:
        print(save("genuine-files", text))


if __name__ == "__main__":
    main()
