"""Suites: where they are (registered by name, or a folder) and which of their tasks are meant."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.core.registry import load, names
from fairtrial.tasks.harbor.read import is_task, read_tasks, task_folders
from fairtrial.tasks.task import Task


def find_suite(suite: str, base: Path) -> Path:
    """The folder of a suite: a registered name, a folder of task folders, or a single task folder.

    A relative path is relative to `base`. A registered name is an entry point of the group `fairtrial.suites`, a
    function without arguments that returns the folder. Raises UserError when there is neither.
    """
    if suite in names("suites"):
        found = Path(load("suites", suite)())
        if not found.is_dir():
            raise UserError(f'suite "{suite}" points to {found}, which is no folder; install its package again')
        return found
    path = Path(suite).expanduser()
    path = path if path.is_absolute() else base / path
    if path.is_dir():
        return path
    hint = did_you_mean(suite, names("suites"))
    raise UserError(f'no suite "{suite}": neither a registered suite nor a folder ({path}){hint}')


def load_suite(
    path: Path, include: Sequence[str] = (), exclude: Sequence[str] = (), limit: int | None = None
) -> list[Task]:
    """The tasks of a suite folder in the order of their names.

    `include` and `exclude` are globs over task ids (no `include`: all); `limit` keeps the first so many. Raises
    UserError for a pattern that matches nothing, two tasks of one id, and, in one message, every broken task.
    """
    folders = [path.resolve()] if is_task(path) else task_folders(path)
    for kind, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(folder.name, pattern) for folder in folders):
                hint = did_you_mean(pattern, [folder.name for folder in folders])
                raise UserError(f'{kind} "{pattern}" matches no task of {path}{hint}')
    chosen = [
        folder
        for folder in folders
        if (not include or any(fnmatchcase(folder.name, pattern) for pattern in include))
        and not any(fnmatchcase(folder.name, pattern) for pattern in exclude)
    ]
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 (got {limit})")
    chosen = chosen[:limit]
    if not chosen:
        raise UserError(f"{path}: include and exclude leave no task")
    tasks = read_tasks(chosen)
    _refuse_duplicates(tasks)
    return tasks


def _refuse_duplicates(tasks: Sequence[Task]) -> None:
    seen: dict[str, Task] = {}
    for task in tasks:
        same = seen.setdefault(task.id.casefold(), task)
        if same is not task:
            raise UserError(f'two tasks have the id "{task.id}": {same.path} and {task.path}; rename one folder')
