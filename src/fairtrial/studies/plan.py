"""Plan: the trials of a study in the order in which they start, and the manifest that a resume is held to.

For each (task, repeat) block the arms are shuffled by the block's "order" stream, so that drift of an endpoint or of
the machine meets all arms alike.
"""

from __future__ import annotations

import json
import platform
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import fairtrial
from fairtrial.core.errors import UserError
from fairtrial.core.ids import digest, seed
from fairtrial.core.record import TrialKey
from fairtrial.core.trial import TaskInfo
from fairtrial.studies.study import BoundStudy, Study

FORMAT = 1
_PACKAGES = ("pydantic", "numpy", "scipy", "orjson", "zstandard")


def planned(study: Study, tasks: Sequence[TaskInfo]) -> Iterator[TrialKey]:
    """Every trial of the study, in starting order: repeat by repeat, block by block, arms shuffled inside a block."""
    for repeat in range(study.repeats):
        for task in tasks:
            arms = sorted(study.arms)
            random.Random(seed(study.seed, task.id, repeat, "order")).shuffle(arms)  # noqa: S311 - an order, no secret
            for arm in arms:
                yield TrialKey(arm=arm, task=task.id, repeat=repeat)


def manifest(bound: BoundStudy, tasks: Sequence[TaskInfo], created: str) -> dict[str, Any]:
    """What ran, on what, with which versions: written once at the start of a run."""
    return {
        "format": FORMAT,
        "fairtrial": fairtrial.__version__,
        "created": created,
        "study": json.loads(bound.study.model_dump_json()),
        "frozen": digest(bound.study.frozen_part()),
        "base": str(bound.base),
        "score": bound.score,
        "planned": len(tasks) * bound.study.repeats * len(bound.study.arms),
        "tasks": [{"id": task.id, "digest": task.digest, "family": task.family, "tags": task.tags} for task in tasks],
        "order": list(bound.study.arms),
        "arms": {name: dict(bound.kind.describe(bound.suite, arm, bound.base)) for name, arm in bound.arms.items()},
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "processor": platform.machine(),
            "packages": {name: _version(name) for name in _PACKAGES},
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def study_of(manifest: Mapping[str, Any], where: Path) -> tuple[Study, list[TaskInfo]]:
    """The study and the tasks that a manifest names. Raises UserError for a manifest of another format."""
    from fairtrial.core.config import parse

    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{where}: written in run format {manifest.get('format')!r}; this fairtrial reads format {FORMAT}, "
            f"install the version that wrote it ({manifest.get('fairtrial', 'unknown')})"
        )
    stated = dict(manifest["study"])
    stated["arms"] = {name: stated["arms"][name] for name in manifest["order"]}
    study = parse(Study, stated, where=f"{where}/manifest.json")
    tasks = [
        TaskInfo(task["id"], task["digest"], task.get("family"), tuple(task.get("tags", ())))
        for task in manifest["tasks"]
    ]
    return study, tasks


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], where: Path) -> None:
    """Refuse (UserError, with the difference) to continue a run with another study or with changed tasks."""
    before, _ = study_of(old, where)
    after, _ = study_of(new, where)
    changes = list(_differences(before.frozen_part(), after.frozen_part(), ""))
    changes += _differences(old["arms"], new["arms"], "arms")
    tasks_before = {task["id"]: task["digest"] for task in old["tasks"]}
    tasks_after = {task["id"]: task["digest"] for task in new["tasks"]}
    for task in sorted(tasks_before.keys() | tasks_after.keys()):
        if task not in tasks_after:
            changes.append(f"task {task}: gone")
        elif task not in tasks_before:
            changes.append(f"task {task}: new")
        elif tasks_before[task] != tasks_after[task]:
            changes.append(f"task {task}: its files changed")
    if changes:
        shown = "; ".join(changes[:8]) + (f"; and {len(changes) - 8} more" if len(changes) > 8 else "")
        raise UserError(f"{where} holds another study ({shown}); run into a new folder, or undo the change to resume")


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for key in sorted(before.keys() | after.keys()):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {json.dumps(old)} -> {json.dumps(new)}"
