"""Where fairtrial keeps what may be lost: the user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where proofs, images and package layers are remembered: $FAIRTRIAL_CACHE or the user's cache folder."""
    root = os.environ.get("FAIRTRIAL_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairtrial"
