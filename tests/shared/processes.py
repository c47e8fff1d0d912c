"""Living processes by a mark in their command line or environment: the test's own mark, as tests run side by side."""

import os
from pathlib import Path


def running(mark) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = b"".join(Path(f"/proc/{name}/{part}").read_bytes() for part in ("cmdline", "environ"))
        except OSError:
            continue
        if str(mark).encode() in words and int(name) != os.getpid():
            found.append(int(name))
    return found
