"""Stand-ins for apt-get, curl, pip and uv, so that a genuine test.sh runs unchanged in a box without network.

The programs are in `stand_ins/`; none of them installs anything, each succeeds only for what is there already.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fairtrial.core.ids import digest
from fairtrial.tasks.harbor.files import folder_digest
from fairtrial.tasks.harbor.runline import RunPlan, plan_run
from fairtrial.tasks.harbor.shell import split

_SOURCE = Path(__file__).parent / "stand_ins"
_NAMES = {"apt-get": ("apt-get", "apt"), "curl": ("curl", "wget"), "pip": ("pip", "pip3"), "uv": ("uv", "uvx")}


def shims_folder(script: str, cache: Path) -> Path:
    """A folder with `bin` (for PATH) and `lib` (for PYTHONPATH) for a test.sh; made once for each list of packages."""
    present = debian_packages(script)
    folder = cache / "shims" / digest([folder_digest(_SOURCE), present])
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="making-") as making:
        target = Path(making) / "shims"
        _install(target)
        (target / "packages").write_text("".join(f"{name}\n" for name in present))
        try:
            target.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _install(target: Path) -> None:
    for source, names in _NAMES.items():
        for name in names:
            program = target / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_SOURCE / source, program)
            program.chmod(0o755)
    module = target / "lib" / "pip"  # for `python3 -m pip`
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("")
    shutil.copyfile(_SOURCE / "pip", module / "__main__.py")


def debian_packages(script: str) -> list[str]:
    """The Debian packages that a script installs and this machine has, sorted."""
    return sorted({name for plan in _apt_lines(script) for name in plan.packages})


def missing_packages(script: str) -> list[str]:
    """Why Debian packages that a script installs cannot be had, one line each."""
    return list(dict.fromkeys(reason for plan in _apt_lines(script) for reason in plan.refused))


def _apt_lines(script: str) -> Iterator[RunPlan]:
    for command in split(script):
        if command.words[:1] in (("apt-get",), ("apt",)):
            yield plan_run(command.text)
