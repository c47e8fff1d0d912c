"""How many genuine Harbor tasks of a folder are read here, how many images can be planned, and why not the rest.

python benchmarks/harbor_import.py FOLDER [--save]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from machine import machine, save

from fairtrial.core.errors import FairtrialError, UserError, one_line
from fairtrial.core.places import cache_folder
from fairtrial.tasks.harbor.image import build_image, verifier_tools
from fairtrial.tasks.harbor.plan import plan_image
from fairtrial.tasks.harbor.read import read_task, task_folders
from fairtrial.tasks.sandbox.choose import choose
from fairtrial.tasks.task import Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build", nargs="*", default=[], metavar="GLOB")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    lines: list[str] = []
    folders = task_folders(options.folder)
    read, skills, invalid, planned = 0, 0, 0, 0
    reasons: Counter[str] = Counter()
    wanted: list[Task] = []
    start = time.process_time()
    for folder in folders:
        try:
            task = read_task(folder)
            read += 1
            skills += len(task.skills)
            invalid += sum(bool(skill.problems) for skill in task.skills)
            plan = plan_image(folder)
        except UserError as error:
            lines.append(f"  not read  {folder.name}: {one_line(error)}")
            continue
        if not plan.problems:
            planned += 1
            if any(fnmatchcase(folder.name, pattern) for pattern in options.build):
                wanted.append(task)
            packages = ", ".join(plan.layer_requirements()) or "no Python packages"
            lines.append(f"  planned   {folder.name}: {packages}")
            continue
        lines.append(f"  refused   {folder.name}: " + "; ".join(map(str, plan.problems)))
        reasons.update({kind(problem.reason) for problem in plan.problems})
    seconds = time.process_time() - start
    text = "\n".join(
        [
            f"{len(folders)} task folders: {read} read, {planned} images can be planned on this machine",
            f"{skills} skills, {invalid} with something against the specification; {seconds:.2f} s of CPU in all",
            "",
            *lines,
            "",
            "Reasons of refusal (tasks that have it; a task may have several):",
            *(f"  {count:3d}  {reason}" for reason, count in reasons.most_common()),
            *asyncio.run(build(wanted)),
            "",
            machine(),
        ]
    )
    print(text)
    if options.save:
        print(save("harbor-import", text))


async def build(tasks: list[Task]) -> list[str]:
    """A line for each task: seconds for the image and the verifier's tools, or the reason."""
    if not tasks:
        return []
    sandbox = choose()
    lines = ["", f"Built with {sandbox.name}:", f"  {'image s':>8} {'tools s':>8}  task"]
    for task in tasks:
        try:
            start = time.monotonic()
            image = await build_image(task, sandbox, cache_folder())
            middle = time.monotonic()
            for step in task.steps:
                await verifier_tools(task, step, image, cache_folder())
            lines.append(f"  {middle - start:8.2f} {time.monotonic() - middle:8.2f}  {task.id}")
        except FairtrialError as error:
            lines.append(f"  {'refused':>17}  {task.id}: {one_line(error)}")
    return lines


def kind(reason: str) -> str:
    """A reason without the names in it."""
    if match := re.match(r"the Debian package (\S+) ", reason):
        return f"Debian package missing on this machine ({match[1]})"
    if "is not in the environment folder" in reason:
        return "a file of the build context is missing"
    if "needs the network" in reason or "code that downloads" in reason:
        return "needs the network while building"
    if "from the host" in reason:
        return "wants a variable of the host"
    return re.sub(r"\S*[/$]\S*", "...", reason)


if __name__ == "__main__":
    main()
