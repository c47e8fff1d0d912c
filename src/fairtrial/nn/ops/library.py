"""The compiled kernels next to this file: one library for each C source, built by hatch_build.py."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = "vectors.h"
ISAS = ("base", "avx2", "avx512")  # as in hatch_build.py; "base" is what every processor of the architecture has


def load(library: Path, source: str, entries: Sequence[str], isa: str, switch: str) -> dict[str, Any] | str:
    """A library's entries for an instruction set ("": the widest that runs here), or why there are none.

    Args:
        library: the shared library, beside the sources that it was built from.
        source: the name of its C file.
        entries: names without the instruction set's.
        isa: "base", "avx2", "avx512" or "".
        switch: the environment variable that `isa` came from, for the message.
    """
    if not library.is_file():
        return (
            "it was not built: there was no C compiler when fairtrial was installed; install one, then fairtrial again"
        )
    texts = [library.with_name(name) for name in (HEADER, source)]
    try:
        opened = ctypes.CDLL(str(library))
        opened.kernel_source.restype = opened.kernel_isa.restype = ctypes.c_char_p
        if all(text.is_file() for text in texts):
            digest = hashlib.sha256(b"".join(text.read_bytes() for text in texts)).hexdigest()
            if opened.kernel_source().decode() != digest:
                return f"it was built from another version of {source}; install fairtrial again"
        widest = opened.kernel_isa().decode()
        runs = ISAS[: ISAS.index(widest) + 1]
        if isa and isa not in runs:
            return f"{switch}={isa} is not an instruction set of this processor; it may be 0 or {', '.join(runs)}"
        return {name: getattr(opened, f"{name}_{isa or widest}") for name in entries}
    except (OSError, AttributeError) as error:
        return f"the library cannot be loaded ({error})"
