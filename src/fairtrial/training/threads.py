"""How torch's threads wait for each other; loads without torch, because it must be said before torch is loaded."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What a user can have set; any of them is left as it is, and then nothing is added."""


def wait_passively(environment: MutableMapping[str, str]) -> bool:
    """Let threads that wait at a barrier sleep instead of spinning; returns whether anything was set.

    By default GNU OpenMP (of torch's Linux wheels, and of the KDA kernel) spins: where other processes keep the cores
    busy, a thread burns its time slice waiting for one that is not running. Measured on 2 busy cores (their load not
    controlled), fairtrial train with 2 threads, 16 steps: 29 and 67 tokens/s spinning, 617 and 636 with
    OMP_WAIT_POLICY=passive, 1,033 with GOMP_SPINCOUNT=0; CPU time 33 to 47 s against 17 to 19 s.

    Args:
        environment: `os.environ`, before torch is loaded (OpenMP reads it once, when it is loaded).
    """
    if "torch" in sys.modules or any(name in environment for name in SETTINGS):
        return False
    environment["OMP_WAIT_POLICY"] = "passive"
    environment["GOMP_SPINCOUNT"] = "0"
    return True
