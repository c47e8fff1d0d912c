"""A plan carried out: files copied into a folder, programs run in a box over it."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Sequence
from pathlib import Path

from fairtrial.core.errors import UserError
from fairtrial.tasks.harbor.context import Context
from fairtrial.tasks.harbor.files import Entry
from fairtrial.tasks.harbor.plan import Action, CopyAction, FolderAction, RunAction
from fairtrial.tasks.sandbox.api import BoxLimits, BoxSpec, End, Mount, Sandbox

_MOST_LINKS = 40
_BUILD_LIMITS = BoxLimits(memory_mb=4096, disk_mb=8192, file_mb=4096, processes=512)


class ImageError(UserError):
    """The image of a task cannot be had on this machine; the message says why."""


async def carry_out(
    actions: Sequence[Action],
    files: Path,
    context: Context,
    sandbox: Sandbox,
    mounts: tuple[Mount, ...],
    path: tuple[str, ...],
    env: dict[str, str],
    timeout_s: float,
) -> None:
    """Carry out the actions of a plan over the folder `files`. Raises ImageError where one fails, InfraError."""
    for action in actions:
        if isinstance(action, CopyAction):
            _copy(action, files, context)
        elif isinstance(action, FolderAction):
            inside(files, action.target).mkdir(parents=True, exist_ok=True)
        else:
            await _run(action, files, sandbox, mounts, path, env, timeout_s)


async def _run(
    action: RunAction,
    files: Path,
    sandbox: Sandbox,
    mounts: tuple[Mount, ...],
    path: tuple[str, ...],
    env: dict[str, str],
    timeout_s: float,
) -> None:
    spec = BoxSpec(
        files=files, mounts=mounts, workdir=action.workdir, env={**env, **dict(action.env), **_paths(env, action)},
        path=path, network="none", limits=_BUILD_LIMITS,
    )  # fmt: skip
    done = await sandbox.box(spec).exec(action.argv, timeout_s=timeout_s)
    if done.end is End.EXIT and done.exit_code == 0:
        return
    how = f"exit code {done.exit_code}" if done.end is End.EXIT else done.end.value.replace("_", " ")
    output = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace").splitlines()
    last = f": {output[-1].strip()[:300]}" if output else ""
    raise ImageError(f"Dockerfile line {action.line} (RUN) fails without network ({how}){last}")


def _paths(env: dict[str, str], action: RunAction) -> dict[str, str]:
    """PYTHONPATH of the layers before the one that the Dockerfile sets."""
    parts = [env.get("PYTHONPATH", ""), dict(action.env).get("PYTHONPATH", "")]
    joined = ":".join(part for part in parts if part)
    return {"PYTHONPATH": joined} if joined else {}


def inside(files: Path, target: str) -> Path:
    """The host path of an absolute image path, links resolved as in the box; never outside of `files`."""
    done: list[str] = []
    todo = [part for part in posixpath.normpath(target).split("/") if part]
    links = 0
    while todo:
        part = todo.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        here = files.joinpath(*done, part)
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise ImageError(f"{target}: too many links on the way")
            goal = str(here.readlink())
            done = [] if goal.startswith("/") else done
            todo = [item for item in goal.split("/") if item not in ("", ".")] + todo
        else:
            done.append(part)
    return files.joinpath(*done)


def _copy(action: CopyAction, files: Path, context: Context) -> None:
    target = inside(files, action.target)
    if action.text is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(action.text)
        target.chmod(action.mode or 0o644)
        return
    for source in action.sources:
        if source in context.folders:
            _copy_folder(source, action, files, context)
            continue
        into = action.target.endswith("/") or target.is_dir()
        name = posixpath.join(action.target, posixpath.basename(source)) if into else action.target
        _copy_file(context.entries[source], inside(files, name), action.mode)


def _copy_folder(source: str, action: CopyAction, files: Path, context: Context) -> None:
    prefix = len(source) + 1 if source else 0
    inside(files, action.target).mkdir(parents=True, exist_ok=True)
    for name in context.folders_below(source):
        inside(files, posixpath.join(action.target, name[prefix:])).mkdir(parents=True, exist_ok=True)
    for entry in context.below(source):
        to = posixpath.join(action.target, entry.name[prefix:])
        if entry.link is not None:
            link = inside(files, posixpath.dirname(to)) / posixpath.basename(to)
            link.unlink(missing_ok=True)
            link.symlink_to(entry.link)
        else:
            _copy_file(entry, inside(files, to), action.mode)


def _copy_file(entry: Entry, target: Path, mode: int | None) -> None:
    if target.is_dir():
        raise ImageError(f"COPY cannot replace a folder by the file {entry.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry.path, target)
    target.chmod(mode if mode is not None else 0o755 if entry.executable else 0o644)
