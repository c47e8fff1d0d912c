"""Build hook: compiles the C kernels of src/fairtrial/nn/ops with the plain C compiler into libraries next to them.

A library holds the same code for several instruction sets and picks one at run time, so that a wheel runs on any
machine of its architecture. Without a compiler the build says so in one line and goes on: the wheel is then pure Python
and torch does the kernels' work. `python hatch_build.py` rebuilds the libraries of a checkout.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/fairtrial/nn/ops")
HEADER = "vectors.h"
KERNELS = {"kda.c": "_kda.so", "decode.c": "_decode.so"}
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-pthread", "-fno-math-errno", "-fvisibility=default", "-ffp-contract=fast"]
VARIANTS = {
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
}


class NoCompilerError(Exception):
    """The library cannot be built here; the message says why, in one line."""


def compile_kernel(source: Path, library: Path) -> None:
    """Compile `source` (beside its header) into the shared library `library`, which appears whole or not at all.

    Raises:
        NoCompilerError: if there is no C compiler (CC, else cc), or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    digest = hashlib.sha256(source.with_name(HEADER).read_bytes() + source.read_bytes()).hexdigest()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    variants = {"base": ["-DKERNEL_MAIN", f'-DKERNEL_SOURCE="{digest}"'], **(VARIANTS if x86 else {})}
    with tempfile.TemporaryDirectory(prefix=".kernel-", dir=library.parent) as folder:
        objects = [str(Path(folder) / f"{isa}.o") for isa in variants]
        for (isa, flags), made in zip(variants.items(), objects, strict=True):
            _run([*compiler, *FLAGS, f"-DKERNEL_ISA={isa}", *flags, "-c", str(source), "-o", made])
        whole = Path(folder) / library.name
        _run([*compiler, "-shared", "-pthread", *objects, "-o", str(whole)])
        whole.replace(library)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise NoCompilerError(
            f"no C compiler ({command[0]}: {error.strerror}); install one (gcc or clang) or set CC"
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise NoCompilerError(f"{command[0]} failed: {first}")


def platform_tag() -> str:
    """The wheel tag of a library that needs this system and processor, but no particular Python."""
    from packaging.tags import platform_tags

    generic = [tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux"))]
    return f"py3-none-{generic[0]}"


class CustomBuildHook(BuildHookInterface):
    """Adds the compiled kernels to a wheel (and to the checkout of an editable installation)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; on success the wheel becomes a platform wheel, otherwise it stays pure."""
        folder = Path(self.root) / FOLDER
        try:
            for source, library in KERNELS.items():
                compile_kernel(folder / source, folder / library)
        except NoCompilerError as error:
            for library in KERNELS.values():
                (folder / library).unlink(missing_ok=True)
            self.app.display_warning(f"the C kernels (KDA, decoding) are not built, torch does their work: {error}")
            return
        build_data["artifacts"].extend(str(FOLDER / library) for library in KERNELS.values())
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = platform_tag()


if __name__ == "__main__":
    here = Path(__file__).resolve().parent / FOLDER
    try:
        for kernel, made in KERNELS.items():
            compile_kernel(here / kernel, here / made)
    except NoCompilerError as error:
        sys.exit(f"the C kernels are not built: {error}")
    print(f"built {', '.join(KERNELS.values())} in {FOLDER}")  # noqa: T201
