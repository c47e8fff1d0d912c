"""Images of tasks without a container engine: built once, kept in the cache by digest, copied for each trial.

The verifier gets its own tools on top: the Python packages that test.sh installs, and stand-ins for the installers that
it calls, so that a genuine test.sh runs unchanged and without network.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairtrial.core.ids import digest
from fairtrial.tasks.harbor.build import ImageError, carry_out
from fairtrial.tasks.harbor.context import Context
from fairtrial.tasks.harbor.files import folder_digest, read_text
from fairtrial.tasks.harbor.packages import held, layer, layer_key
from fairtrial.tasks.harbor.plan import ImagePlan, plan_image
from fairtrial.tasks.harbor.read import read_declared
from fairtrial.tasks.harbor.requirements import merged, script_installs
from fairtrial.tasks.harbor.shims import missing_packages, shims_folder
from fairtrial.tasks.sandbox.api import Mount, Sandbox
from fairtrial.tasks.task import Image, Step, Task

_VERSION = 2
"""Of the way images are built; part of their key."""
LAYERS = "/opt/packages"
"""Where boxes see Python packages: one folder for each layer."""
SHIMS = "/opt/shims"
"""Where the verifier's box sees the stand-ins for installers."""


@dataclass(frozen=True, slots=True)
class VerifierTools:
    """What the verifier's box has besides the tests and the agent's files; replaces the image's own values."""

    mounts: tuple[Mount, ...]
    path: tuple[str, ...]
    env: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """What test.sh installs and this machine lacks; where a verifier fails, this may be why."""


def refuse_unplannable(task: Task, plan: ImagePlan) -> None:
    """Raise ImageError with every reason why the task's image cannot be built here."""
    if plan.problems:
        raise ImageError(f'task "{task.id}" cannot be built here: ' + "; ".join(map(str, plan.problems)))


async def build_image(task: Task, sandbox: Sandbox, cache: Path) -> Image:
    """The task's image, built unless the cache has it.

    The skills of the task are never in it: an arm that has them mounts them at `skill_dirs`.

    Raises:
        ImageError: what the environment needs cannot be had here, or a RUN line fails without network.
        PackageError: pip cannot install what the environment needs.
        InfraError: no package index, or the sandbox failed.
    """
    plan = plan_image(task.path)
    refuse_unplannable(task, plan)
    requirements, index = plan.layer_requirements(), tuple(plan.index)
    mounts: tuple[Mount, ...] = ()
    env = dict(plan.env)
    path = tuple(plan.path)
    if requirements:
        folder = await layer(requirements, index, cache)
        mounts, path, env = _with_layer(folder, mounts, path, env)
    key = digest(
        [_VERSION, folder_digest(task.path / "environment"), layer_key(requirements, index), sandbox.name, plan.workdir]
    )
    folder = cache / "images" / key
    if not folder.is_dir():
        async with held(folder):
            if not folder.is_dir():
                await _build(task, plan, sandbox, folder, mounts, path, env)
    return Image(
        files=folder / "files",
        workdir=plan.workdir,
        env=env,
        mounts=mounts,
        path=path,
        skill_dirs=tuple(plan.skill_dirs),
        notes=tuple(plan.notes),
    )


async def _build(
    task: Task, plan: ImagePlan, sandbox: Sandbox, folder: Path, mounts: tuple[Mount, ...], path: tuple[str, ...],
    env: dict[str, str],
) -> None:  # fmt: skip
    timeout_s = read_declared(task.path).settings.environment.build_timeout_sec
    making = Path(tempfile.mkdtemp(dir=folder.parent, prefix="making-"))
    try:
        files = making / "files"
        (files / "root").mkdir(parents=True)
        run_env = {"PYTHONPATH": mounts[0].target} if mounts else {}
        context = Context(task.path / "environment")
        try:
            await carry_out(plan.actions, files, context, sandbox, mounts, path, run_env, timeout_s)
        except ImageError as error:
            raise ImageError(f'task "{task.id}" cannot be built here: {error}') from None
        (making / "image.json").write_text(json.dumps({"task": task.id, "version": _VERSION, "notes": plan.notes}))
        making.rename(folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, making, True)


def _with_layer(
    folder: Path, mounts: tuple[Mount, ...], path: tuple[str, ...], env: dict[str, str]
) -> tuple[tuple[Mount, ...], tuple[str, ...], dict[str, str]]:
    """Put a layer before what is there already."""
    target = f"{LAYERS}/{folder.name[:12]}"
    own = env.get("PYTHONPATH")
    return (
        (Mount(folder, target), *mounts),
        (f"{target}/bin", *path),
        {**env, "PYTHONPATH": f"{target}:{own}" if own else target},
    )


async def verifier_tools(task: Task, step: Step, image: Image, cache: Path) -> VerifierTools:
    """What the box of a step's verifier needs so that its test.sh runs unchanged without network.

    Packages that test.sh installs into the environment replace the image's layer by one that holds both; packages of
    `uvx` and `uv run` come before it. Raises PackageError and InfraError as `build_image` does, and ImageError for
    requirements that only a shell knows.
    """
    script = read_text(step.verifier.tests / step.verifier.script)
    installs = list(script_installs(script))
    if refused := [reason for install in installs for reason in install.refused]:
        raise ImageError(f'the verifier of task "{task.id}" cannot run without network: {"; ".join(refused)}')
    wanted = merged([text for install in installs for text in install.requirements])
    mounts, path, env = image.mounts, image.path, dict(image.env)
    if wanted:
        plan = plan_image(task.path)
        isolated = all(install.isolated for install in installs if install.requirements)
        together = wanted if isolated else merged([*plan.requirements, *wanted])
        index = [*plan.index, *(option for install in installs for option in install.index)]
        folder = await layer(together, index, cache)
        mounts, path, env = _with_layer(folder, mounts, path, env)
    shims = shims_folder(script, cache)
    mounts = (Mount(shims, SHIMS), *mounts)
    known = env.get("PYTHONPATH")
    env["PYTHONPATH"] = f"{known}:{SHIMS}/lib" if known else f"{SHIMS}/lib"
    return VerifierTools(mounts, (f"{SHIMS}/bin", *path), {**env, **step.verifier.env}, tuple(missing_packages(script)))
