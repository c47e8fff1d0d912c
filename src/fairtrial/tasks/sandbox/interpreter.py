"""The Python that programs in a box get as `python3` and `python`, and what of this installation they must not see.

fairtrial ships tasks with their solutions and skills, so neither its package, its checkout nor the environment that it
is installed in may be readable from a box. An interpreter outside /usr (pyenv, conda, uv) is shown under /.python, not
at its own path, which often lies in a home folder: only the executable and its libraries, with its site-packages empty.
"""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Literal

Step = tuple[Literal["ro", "tmpfs", "symlink"], str, str]
"""(kind, target, source) of a `layout.Place`."""
PREFIX = "/.python"
BIN = f"{PREFIX}/bin"
SHARED = f"{PREFIX}/shared"
"""Holds nothing but a link to libpython, for LD_LIBRARY_PATH where the interpreter needs one."""


def python_places(base_prefix: str) -> list[Step]:
    """The steps that make `python3` and `python` work in a box."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    names = ("python", "python3", f"python{version}")
    base = Path(base_prefix).resolve()
    executable = _executable(base, version)
    if executable is None:
        return []
    if base.is_relative_to("/usr"):
        links: list[Step] = [("symlink", f"{BIN}/{name}", str(executable)) for name in names]
        return links
    places: list[Step] = [("ro", f"{PREFIX}/lib", str(base / "lib"))]
    libraries = base / "lib"
    packages = [path for path in libraries.glob("python3*/*-packages") if not path.parent.is_symlink()]
    ours = [root for root in hidden_roots(libraries) if not any(path in (root, *root.parents) for path in packages)]
    for path in sorted([*packages, *ours]):
        places.append(("tmpfs", f"{PREFIX}/lib/{path.relative_to(libraries)}", ""))
    places.append(("ro", f"{BIN}/python{version}", str(executable)))
    for name in names[:2]:
        places.append(("symlink", f"{BIN}/{name}", f"python{version}"))
    if (library := shared_library(base_prefix)) is not None:
        places.append(("symlink", f"{SHARED}/{library}", f"../lib/{library}"))
    return places


@cache
def shared_library(base_prefix: str) -> str | None:
    """Name of the libpython that the interpreter would look for only at its compiled-in, absolute path; mostly None."""
    base = Path(base_prefix).resolve()
    if base.is_relative_to("/usr") or not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return None
    executable = _executable(base, f"{sys.version_info.major}.{sys.version_info.minor}")
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    if executable is None or b"$ORIGIN" in executable.read_bytes() or not (base / "lib" / name).is_file():
        return None
    return name


def _executable(base: Path, version: str) -> Path | None:
    for name in (f"python{version}", "python3", "python"):
        path = base / "bin" / name
        if path.exists():
            return path.resolve()
    return None


@cache
def hidden_roots(visible: Path) -> tuple[Path, ...]:
    """Folders below `visible` that would show fairtrial: package, checkout, environment, packages beside it."""
    package = Path(__file__).resolve().parents[2]
    roots = {package}
    if package.parent.name == "src":
        roots.add(package.parent.parent)
    if sys.prefix != sys.base_prefix:
        roots.add(Path(sys.prefix).resolve())
    for pattern in ("lib*/python3*/*-packages", "local/lib*/python3*/*-packages", "python3*/*-packages"):
        roots.update(folder for folder in visible.glob(pattern) if any(folder.glob("*fairtrial*")))
    inside = {root for root in roots if root != visible and root.is_relative_to(visible)}
    return tuple(sorted(root for root in inside if not any(parent in inside for parent in root.parents)))
